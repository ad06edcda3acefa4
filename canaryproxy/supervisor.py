"""Runs the proxy: sockets, processes, signals; fail-static.

**One worker** and its steering share one process and one event loop.

**Several**: this process opens the sockets and the shared block, starts a process for each worker and one
that steers, and does nothing but wait for signals and for children that end. A worker that dies is replaced:
its counts stay, and so does its listening socket with the connections that wait in it. If the steering
process dies, traffic goes on by the last table, and its successor goes on from the state file and that table.
If this process dies, the kernel asks the others to drain.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import mmap
import os
import resource
import signal
import socket
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

import uvloop

from canaryproxy import config as configuration
from canaryproxy.admin.guard import Guard
from canaryproxy.config import Config, TcpAddress, UnixAddress
from canaryproxy.processes import memory
from canaryproxy.processes.steering import Steering
from canaryproxy.processes.worker import Worker
from canaryproxy.proxy import certificates
from canaryproxy.proxy.access_log import AccessLog
from canaryproxy.proxy.certificates import Files
from canaryproxy.proxy.listener import listen
from canaryproxy.shared import Block

_log = logging.getLogger(__name__)

_ADMIN_SOCKET_MODE = 0o600
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD)
_SHORT_LIFE = 5.0
"""Seconds; a child that ends sooner is replaced after a pause that doubles."""
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 5.0
_GRACE = 5.0
"""Seconds that a child has to end after its drain, before it is killed."""
_STEERING_GRACE = 20.0
_PR_SET_PDEATHSIG = 1


class StartError(Exception):
    """The proxy cannot start; the text says why."""


@dataclass(slots=True)
class Sockets:
    """What the proxy listens on."""

    admin_unix: list[socket.socket] = field(default_factory=list)
    admin_tcp: list[socket.socket] = field(default_factory=list)
    workers: list[list[socket.socket]] = field(default_factory=list)
    """For each worker: its own socket of each TCP address, and the Unix sockets that all share."""
    paths: list[Path] = field(default_factory=list)

    def remove(self) -> None:
        """Remove Unix sockets from the file system."""
        for path in self.paths:
            path.unlink(missing_ok=True)


def open_sockets(config: Config, workers: int) -> Sockets:
    """Listen on everything. Raises ``ListenError``, and leaves nothing open then."""
    made = Sockets()
    with contextlib.ExitStack() as opened:

        def one(
            address: TcpAddress | UnixAddress, mode: int = 0o666, *, shared: bool = False
        ) -> socket.socket:
            sock = opened.enter_context(listen(address, mode=mode, shared=shared))
            if isinstance(address, UnixAddress):
                path = Path(address.path)
                made.paths.append(path)
                opened.callback(path.unlink, missing_ok=True)
            return sock

        if config.admin.socket is not None:
            made.admin_unix.append(one(UnixAddress(config.admin.socket), _ADMIN_SOCKET_MODE))
        if config.admin.listen is not None:
            made.admin_tcp.append(one(config.admin.listen))
        # Last, so that who can reach the proxy can also look at it.
        made.workers = [[] for _ in range(workers)]
        for address in [listener.address for listener in config.listen]:
            several = workers > 1 and isinstance(address, TcpAddress)
            first = one(address, shared=several)
            for at, mine in enumerate(made.workers):
                mine.append(one(address, shared=True) if several and at else first)
        opened.pop_all()
    return made


class Supervisor:
    """One proxy. ``path`` is the file of its configuration, to be read again; ``files`` are its TLS's."""

    def __init__(
        self, config: Config, path: Path | None = None, files: Files | None = None
    ) -> None:
        self._config = config
        self._files = certificates.read(config) if files is None else files
        self._path = path
        self.workers = config.workers or len(os.sched_getaffinity(0))

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then drain.

        Raises ``ListenError`` if an address is taken, ``TokenError`` if the admin token cannot be one,
        ``StartError`` for what else stands in the way.
        """
        raise_file_limit()
        memory.keep_freed()
        if self._config.access_log is not None:
            _check_log(self._config.access_log)
        Guard.of_tcp(self._config.admin)
        sockets = open_sockets(self._config, self.workers)
        try:
            if self.workers == 1:
                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                    runner.run(self._alone(sockets))
            else:
                _Family(self._config, self._path, self.workers, sockets, self._files).run()
        finally:
            sockets.remove()

    async def _alone(self, sockets: Sockets) -> None:
        stopping = _on_signals((signal.SIGTERM, signal.SIGINT))
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, _no_news)
        if os.getpid() == 1:
            # It starts no processes, but is given those of others; ignored, the kernel buries them.
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        block = Block(1)
        worker = Worker(self._config, block, 0, self._files)
        steering = Steering(self._config, self._path, block, worker.tick, self._files)
        steering.load()
        await steering.start(sockets.admin_unix, sockets.admin_tcp)
        await worker.start(sockets.workers[0], clock=False)
        loop.add_signal_handler(signal.SIGHUP, steering.reload)
        loop.add_signal_handler(signal.SIGUSR1, worker.reopen_log)
        memory.settle()
        _say_addresses(sockets)
        await stopping.wait()
        loop.add_signal_handler(signal.SIGHUP, _no_news)
        _log.info("draining: %d requests in flight", worker.datapath.in_flight)
        steering.stop_watching()
        await worker.drain(worker.drain_timeout)
        await steering.stop()


@dataclass(slots=True)
class _Child:
    """A place for a process: who is in it now, and when to fill it again."""

    name: str
    work: Callable[[], Awaitable[None]]
    gone: Callable[[], None]
    """Called when its process has ended."""
    pid: int = 0
    began: float = 0.0
    pause: float = _FIRST_PAUSE
    due: float = 0.0


class _Family:
    """The workers and the steering process, and this one that replaces them."""

    def __init__(
        self, config: Config, path: Path | None, workers: int, sockets: Sockets, files: Files
    ) -> None:
        self._config = config
        self._files = files
        self._path = path
        self._sockets = sockets
        self._block = Block(workers, mmap.mmap(-1, Block.size(workers)))
        self._workers = [
            _Child(
                f"worker {at}",
                lambda at=at: self._work(at),  # type: ignore[misc]
                lambda at=at: self._bury(at),  # type: ignore[misc]
            )
            for at in range(workers)
        ]
        self._steering = _Child("the steering process", self._steer, lambda: None)
        self._stopping = False

    def run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            self._fill(self._steering)
            said = False
            while not self._stopping:
                self._wait()
                if self._ready and not said:
                    said = True
                    _say_addresses(self._sockets)
            self._drain()
        finally:
            for child in (*self._workers, self._steering):
                if child.pid:
                    _kill(child, signal.SIGKILL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def _wait(self) -> None:
        """Wait for a signal or for the time to fill a place again, and act."""
        now = monotonic()
        empty = [child.due for child in (*self._workers, self._steering) if not child.pid]
        patience = min((max(due - now, 0.01) for due in empty), default=1.0)
        found = signal.sigtimedwait(_SIGNALS, patience)
        number = None if found is None else found.si_signo
        if number in (signal.SIGTERM, signal.SIGINT):
            self._stopping = True
        elif number == signal.SIGHUP:
            _kill(self._steering, signal.SIGHUP)
        elif number == signal.SIGUSR1:
            for worker in self._workers:
                _kill(worker, signal.SIGUSR1)
        self._reap()
        # The first table must be there before the first request.
        for child in (self._steering, *(self._workers if self._ready else ())):
            if not (self._stopping or child.pid) and child.due <= monotonic():
                self._fill(child)

    @property
    def _ready(self) -> bool:
        """The steering process has published a table."""
        return self._block.table.sequence[0] != 0

    def _reap(self) -> None:
        if os.getpid() == 1:
            _bury_orphans({child.pid for child in (*self._workers, self._steering)})
        for child in (*self._workers, self._steering):
            if not child.pid:
                continue
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if not pid:
                continue
            child.pid = 0
            child.gone()
            if self._stopping:
                continue
            if monotonic() - child.began >= _SHORT_LIFE:
                child.pause = _FIRST_PAUSE
            child.due = monotonic() + child.pause
            _log.error("%s %s: it is replaced in %g s", child.name, _ending(status), child.pause)
            child.pause = min(child.pause * 2, _LONGEST_PAUSE)

    def _bury(self, at: int) -> None:
        lost = self._block.workers[at].bury()
        if lost and not self._stopping:
            _log.error("%d requests were in flight there", lost)

    def _fill(self, child: _Child) -> None:
        parent = os.getpid()
        child.began = monotonic()
        child.pid = os.fork()
        if child.pid:
            return
        status = 1
        try:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() == parent:
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
                signal.signal(signal.SIGHUP, signal.SIG_IGN)
                signal.signal(signal.SIGUSR1, signal.SIG_IGN)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                    runner.run(_finished(child.work()))
                status = 0
        except Exception:  # noqa: BLE001 - whatever it was, the child ends here
            _log.exception("%s failed", child.name)
        finally:
            logging.shutdown()
            os._exit(status)

    async def _work(self, at: int) -> None:
        stopping = _on_signals((signal.SIGTERM,))
        worker = Worker(self._config, self._block, at, self._files)
        await worker.start(self._sockets.workers[at])
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, worker.reopen_log)
        memory.settle()
        await stopping.wait()
        await worker.drain(worker.drain_timeout)

    async def _steer(self) -> None:
        stopping = _on_signals((signal.SIGTERM,))
        steering = Steering(self._config, self._path, self._block, files=self._files)
        steering.load()
        await steering.start(self._sockets.admin_unix, self._sockets.admin_tcp)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, steering.reload)
        memory.settle()
        await stopping.wait()
        await steering.stop()

    def _drain(self) -> None:
        _log.info("draining")
        for worker in self._workers:
            _kill(worker, signal.SIGTERM)
        self._wait_for_end(self._workers, self._config.limits.drain_timeout + _GRACE)
        _kill(self._steering, signal.SIGTERM)
        self._wait_for_end([self._steering], _STEERING_GRACE)

    def _wait_for_end(self, children: Sequence[_Child], timeout: float) -> None:
        """Wait until they have ended; a second SIGTERM or SIGINT, or the timeout, kills them."""
        end = monotonic() + timeout
        while any(child.pid for child in children):
            left = end - monotonic()
            found = signal.sigtimedwait(_SIGNALS, max(min(left, 1.0), 0.0))
            impatient = found is not None and found.si_signo in (signal.SIGTERM, signal.SIGINT)
            if impatient or left <= 0:
                for child in children:
                    _kill(child, signal.SIGKILL)
            self._reap()


def _check_log(settings: configuration.AccessLog) -> None:
    try:
        AccessLog(settings).check()
    except OSError as error:
        raise StartError(
            f"the access log {settings.path} cannot be opened: {error.strerror}"
        ) from None


async def _finished(work: Awaitable[None]) -> None:
    await work


def _bury_orphans(own: Collection[int]) -> None:
    """Take the exit statuses of processes that the kernel gave to process 1 of a container, not of ``own``.

    What is started there beside the proxy, such as by ``docker exec``, may leave some; nobody else can.
    """
    with contextlib.suppress(ChildProcessError):  # there are no children at all
        while found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if found.si_pid in own:
                return  # the same one would be found again; the others have their turn after it
            os.waitpid(found.si_pid, 0)


def _kill(child: _Child, number: signal.Signals) -> None:
    if child.pid:
        os.kill(child.pid, number)


def _ending(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"was ended by {signal.Signals(os.WTERMSIG(status)).name}"
    return f"ended with status {os.waitstatus_to_exitcode(status)}"


def _on_signals(numbers: Sequence[signal.Signals]) -> asyncio.Event:
    """Return an event that these signals set, once."""
    stopping = asyncio.Event()
    for number in numbers:
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    return stopping


def _no_news() -> None:
    """A SIGHUP while the proxy starts or drains must not end it, as it would by default."""


def _say_addresses(sockets: Sockets) -> None:
    for sock in sockets.workers[0]:
        name = sock.getsockname()
        where = f"{name[0]}:{name[1]}" if isinstance(name, tuple) else f"unix:{name}"
        _log.info("listening on %s", where)


def raise_file_limit() -> None:
    """Allow as many open files as the system lets this process have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
