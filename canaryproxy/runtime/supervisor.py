"""Runs the proxy: sockets, processes, signals; fail-static.

**One worker** and its steering share one process and one event loop.

**Several**: this process opens the sockets and the shared block, starts a process for each worker and one
that steers, and does nothing but wait for signals and for children that end. A worker that dies is replaced:
its counts stay, and so does its listening socket with the connections that wait in it. If the steering
process dies, traffic goes on by the last table, and its successor goes on from the state file and that table.
If this process dies, the kernel asks the others to drain.

On SIGUSR2 either starts the program anew and hands everything over (``handover``).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import logging
import os
import resource
import signal
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import uvloop

from canaryproxy import config as configuration
from canaryproxy.admin.guard import Guard
from canaryproxy.config import Config
from canaryproxy.config.atomic import replace_file
from canaryproxy.config.secrets import SecretError
from canaryproxy.control.state_file import StateError, StateLock
from canaryproxy.measure import shared_memory as shared
from canaryproxy.measure.shared_memory import Block, Configured
from canaryproxy.proxy.access_log import AccessLog
from canaryproxy.runtime import allocator as memory
from canaryproxy.runtime import systemd
from canaryproxy.runtime.alive import is_alive
from canaryproxy.runtime.control_process import Steering
from canaryproxy.runtime.hot_restart import Before, HandoverError, Memory, State, Successor, layout
from canaryproxy.runtime.sockets import Given, Sockets, open_sockets
from canaryproxy.runtime.worker import Worker
from canaryproxy.tls import files as certificates
from canaryproxy.tls.files import Files

_log = logging.getLogger(__name__)

_SIGNALS = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGCHLD,
)
_NEWS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""By default they end a process: they wait while nobody takes them, at the start and at the end."""
_SHORT_LIFE = 5.0
"""Seconds; a child that ends sooner is replaced after a pause that doubles."""
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 5.0
_GRACE = 5.0
"""Seconds that a child has to end after its drain, before it is killed."""
_STEERING_GRACE = 20.0
_PR_SET_PDEATHSIG = 1
_LOOK_EVERY = 0.01
_ANOTHER_WITHIN = 5.0
"""Seconds that another proxy has to give up the state file, before this one does not start."""


class StartError(Exception):
    """The proxy cannot start; the text says why."""


@dataclass(frozen=True, slots=True)
class _Place:
    """What both ways of running need."""

    config: Config
    path: Path | None
    files: Files
    """Those of the configuration's TLS."""
    sockets: Sockets
    memory: Memory
    mark: str
    """``handover.layout`` of the code that runs."""
    before: Before | None
    pid_file: Path | None

    @property
    def block(self) -> Block:
        return self.memory.block

    def why_not_now(self) -> str | None:
        """Return why nothing can be handed over at the moment."""
        if os.getpid() == 1:
            return (
                "this is process 1, and everything here ends with it: replace the container instead"
            )
        others = [worker.status[shared.PID] for worker in self.block.others]
        if any(pid and is_alive(pid) for pid in others) or (
            self.before is not None and not self.before.is_gone
        ):
            return "the process before this one has not drained yet"
        return None

    def successor(self) -> Successor:
        """Start the next one. Raises ``HandoverError``."""
        why = self.why_not_now()
        if why is not None:
            raise HandoverError(why)
        _log.info("starting another process to go on")
        return Successor(self.sockets.given, self.memory, self.mark)

    def restore(self, before: Configured | None) -> None:
        """Let the configuration be in force that was when another process took over, and failed."""
        now = self.block.config.read()
        if before is not None and now != before:
            self.block.config.publish(before.text, before.slots, before.files)

    def serves(self) -> None:
        """Say that requests are answered."""
        self.sockets.drop()
        _say_addresses(self.sockets)
        if self.before is not None:
            self.before.ready()
        systemd.notify("READY=1")
        if self.pid_file is not None:
            _write_pid(self.pid_file)

    def leave(self, *, handed_over: bool) -> None:
        """Take away what is there for others to find, unless another process has it now."""
        if handed_over:
            return
        self.sockets.remove()
        if self.pid_file is not None:
            with contextlib.suppress(OSError, ValueError):
                if int(self.pid_file.read_text(encoding="ascii")) == os.getpid():
                    self.pid_file.unlink()


def _why_given_up(error: HandoverError) -> str:
    return f"this process goes on: {error}"


class Supervisor:
    """One proxy. ``path`` is the file of its configuration, to be read again; ``files`` are its TLS's.

    ``before`` is the proxy that this one replaces; ``pid_file`` holds the process id while it serves.
    """

    def __init__(
        self,
        config: Config,
        path: Path | None = None,
        files: Files | None = None,
        *,
        before: Before | None = None,
        pid_file: Path | None = None,
    ) -> None:
        self._config = config
        self._files = certificates.read(config) if files is None else files
        self._path = path
        self._before = before
        self._pid_file = pid_file
        self.workers = config.workers or len(os.sched_getaffinity(0))

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then drain; or until another process goes on.

        Signals stay blocked afterwards: this process is to end.
        Raises ``ListenError`` if an address is taken, ``SecretError`` if the admin token cannot be one,
        ``HandoverError`` if the proxy before does not hand over, ``StartError`` for what else stands in the
        way.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, _NEWS)
        raise_file_limit()
        memory.keep_freed()
        if self._config.access_log is not None:
            _check_log(self._config.access_log)
        Guard.of_tcp(self._config.admin)
        if self._config.fleet is not None:
            _check_fleet(self._config.fleet)
        if self._before is None:
            # Before anything listens: with several workers it would be given a share of the connections.
            _check_alone(self._config)
        sockets = open_sockets(self._config, self.workers, self._given())
        mark = layout()
        try:
            if self._before is not None:
                self._before.prepared()
                room = self._before.memory(self.workers, mark)
            else:
                room = Memory(self.workers)
        except OSError as error:
            raise StartError(f"no shared memory: {error.strerror}") from None
        place = _Place(
            self._config,
            self._path,
            self._files,
            sockets,
            room,
            mark,
            self._before,
            self._pid_file,
        )
        handed_over = False
        try:
            if self.workers == 1:
                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                    handed_over = runner.run(_Single(place).run())
            else:
                handed_over = _Family(place).run()
        finally:
            place.leave(handed_over=handed_over)

    def _given(self) -> list[Given]:
        if self._before is not None:
            return self._before.sockets
        try:
            passed = systemd.passed_sockets()
        except systemd.SocketsError as error:
            raise StartError(str(error)) from None
        return [Given(one.sock, one.name, systemd=True, fresh=True) for one in passed]


class _Single:
    """The one worker and its steering, in this process."""

    def __init__(self, place: _Place) -> None:
        self._place = place
        self._stopping = asyncio.Event()
        self._handed_over = False
        self._successor: Successor | None = None
        self._handing: asyncio.Task[None] | None = None

    async def run(self) -> bool:
        """Serve and drain; return whether another process has the addresses now."""
        place, loop = self._place, asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        early: list[Callable[[], None]] = []  # what was asked for while the proxy starts
        loop.add_signal_handler(signal.SIGHUP, early.append, self._reload)
        loop.add_signal_handler(signal.SIGUSR1, _no_news)
        loop.add_signal_handler(signal.SIGUSR2, early.append, self._hand_over)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _NEWS)
        if os.getpid() == 1:
            # It starts no processes, but is given those of others; ignored, the kernel buries them.
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        self._worker = Worker(place.config, place.block, 0, place.files)
        self._steering = Steering(
            place.config,
            place.path,
            place.block,
            self._worker.tick,
            place.files,
            takes_over=place.before is not None,
        )
        self._steering.load()
        await self._start_steering()
        await self._worker.start(place.sockets.workers[0], clock=False)
        if place.before is not None:
            self._note("upgrade", f"process {os.getpid()} goes on for {place.before.pid}")
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        loop.add_signal_handler(signal.SIGUSR1, self._worker.reopen_log)
        loop.add_signal_handler(signal.SIGUSR2, self._hand_over)
        self._feed_watchdog()
        memory.settle()
        place.serves()
        for asked in early:
            asked()
        await self._stopping.wait()
        for number in (signal.SIGHUP, signal.SIGUSR2):
            loop.add_signal_handler(number, _no_news)
        loop.add_signal_handler(signal.SIGINT, self._worker.hurry)  # Ctrl-C once more
        await self._end()
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # who has ended well says so
        return self._handed_over

    async def _start_steering(self) -> None:
        """The admin sockets stay open here, whatever becomes of their servers."""
        sockets = self._place.sockets
        await self._steering.start(
            [sock.dup() for sock in sockets.admin_unix], [sock.dup() for sock in sockets.admin_tcp]
        )

    def _reload(self) -> None:
        self._steering.reload()

    def _note(self, what: str, cause: str) -> None:
        self._steering.controller.note(what, cause, {})

    def _feed_watchdog(self) -> None:
        every = systemd.watchdog_every()
        if every is not None and not self._handed_over:
            systemd.notify("WATCHDOG=1")
            asyncio.get_running_loop().call_later(every, self._feed_watchdog)

    async def _end(self) -> None:
        worker = self._worker
        if not self._handed_over:
            systemd.stopping(worker.drain_timeout + _GRACE + _STEERING_GRACE)
        if self._handing is not None and not self._handing.done():
            self._handing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._handing
        _log.info("draining: %d requests in flight", worker.datapath.in_flight)
        if self._handed_over:
            worker.linger()
            closing = asyncio.get_running_loop().create_task(self._steering.close())
            await worker.drain(worker.drain_timeout)
            worker.leave()
            await closing
        else:
            self._steering.stop_watching()
            await worker.drain(worker.drain_timeout)
            await self._steering.stop()
            worker.leave()

    # Hand-over

    def _hand_over(self) -> None:
        if self._handing is None or self._handing.done():
            self._handing = asyncio.get_running_loop().create_task(self._try_hand_over())

    async def _try_hand_over(self) -> None:
        place = self._place
        let_go = False
        in_force: Configured | None = None
        successor: Successor | None = None
        try:
            successor = self._successor = place.successor()
            await _until(successor, "prepared")
            in_force = place.block.config.read()
            self._worker.start_clock()
            let_go = True
            await self._steering.let_go()
            successor.go()
            await _until(successor, "ready")
        except HandoverError as error:
            if successor is not None:
                await asyncio.to_thread(successor.abandon)
            _log.error("%s", _why_given_up(error))
            if let_go:
                await self._steer_again(in_force)
            self._note("upgrade_failed", _why_given_up(error))
            return
        except asyncio.CancelledError:  # SIGTERM: nobody goes on
            if successor is not None:
                successor.abandon()
            raise
        systemd.notify(f"MAINPID={successor.pid}")
        _log.info("process %d goes on", successor.pid)
        self._handed_over = True
        self._stopping.set()

    async def _steer_again(self, in_force: Configured | None) -> None:
        await self._steering.close()
        self._place.restore(in_force)
        self._worker.stop_clock()
        self._steering = Steering(
            self._place.config, self._place.path, self._place.block, self._worker.tick
        )
        await self._steering.wait_for_turn()
        self._steering.load()
        await self._start_steering()


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

    def __init__(self, place: _Place) -> None:
        self._place = place
        self._block = place.block
        self._workers = [
            _Child(
                f"worker {at}",
                lambda at=at: self._work(at),  # type: ignore[misc]
                lambda at=at: self._bury(at),  # type: ignore[misc]
            )
            for at in range(len(self._block.workers))
        ]
        self._steering = _Child("the steering process", self._steer, lambda: None)
        self._stopping = False
        self._took_over = place.before is None
        """Whether the configuration in the block is ours."""
        self._said = False
        self._reload_due = False
        self._successor: Successor | None = None
        self._let_go = False
        """The successor may steer."""
        self._handed_over = False
        self._in_force: Configured | None = None
        self._hears, self._says = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        """What the steering process is to write into the history."""
        self._watchdog_every = systemd.watchdog_every()
        self._watchdog_due = 0.0

    def run(self) -> bool:
        """Serve and drain; return whether another process has the addresses now."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            self._fill(self._steering)
            while not self._stopping:
                self._wait()
                if self._ready and not self._said and self._all_serve:
                    self._said = self._took_over = True
                    self._place.serves()
                    if self._place.before is not None:
                        before = self._place.before.pid
                        self._note("upgrade", f"process {os.getpid()} goes on for {before}")
                if self._reload_due and self._said:
                    self._reload_due = False
                    _kill(self._steering, signal.SIGHUP)
                self._feed_watchdog()
                self._follow_successor()
            self._drain()
        finally:
            for child in (*self._workers, self._steering):
                if child.pid:
                    _kill(child, signal.SIGKILL)
        return self._handed_over

    @property
    def _all_serve(self) -> bool:
        pairs = zip(self._workers, self._block.workers, strict=True)
        return all(child.pid and cells.status[shared.PID] == child.pid for child, cells in pairs)

    def _feed_watchdog(self) -> None:
        """Tell systemd that all live: each process is there, and its loop came round lately."""
        every, now = self._watchdog_every, monotonic()
        if every is None or self._handed_over or now < self._watchdog_due or not self._said:
            return
        self._watchdog_due = now + every
        beats = [cells.status[shared.HEARTBEAT] for cells in self._block.workers]
        steers = self._successor is None or not self._let_go
        if steers:
            beats.append(self._block.heartbeats[self._block.side])
        children = (*self._workers, self._steering) if steers else self._workers
        fresh = all(now - beat / 1000 < max(every, 2.0) for beat in beats)
        if fresh and all(child.pid for child in children):
            systemd.notify("WATCHDOG=1")

    def _note(self, what: str, cause: str) -> None:
        line = json.dumps({"what": what, "cause": cause}) + "\n"
        try:
            os.write(self._says, line.encode())
        except BlockingIOError:
            _log.warning("not in the history: %s", cause)

    # Hand-over

    def _hand_over(self) -> None:
        if self._successor is not None:
            return
        try:
            self._successor = self._place.successor()
        except HandoverError as error:
            self._give_up(error)

    def _follow_successor(self) -> None:
        successor = self._successor
        if successor is None or self._stopping:
            return
        try:
            state = successor.poll()
            if state == "prepared" and not self._let_go:
                self._in_force = self._block.config.read()
                self._let_go = True
                _kill(self._steering, signal.SIGTERM)  # it saves, and gives the lock back
                successor.go()
        except HandoverError as error:
            self._give_up(error)
            return
        if state == "ready":
            systemd.notify(f"MAINPID={successor.pid}")
            _log.info("process %d goes on", successor.pid)
            self._handed_over = self._stopping = True

    def _give_up(self, error: HandoverError) -> None:
        if self._successor is not None:
            self._successor.abandon()
            self._successor = None
        _log.error("%s", _why_given_up(error))
        if self._let_go:
            self._place.restore(self._in_force)
            self._let_go = False
        self._note("upgrade_failed", _why_given_up(error))

    def _wait(self) -> None:
        """Wait for a signal or for the time to fill a place again, and act."""
        now = monotonic()
        empty = [child.due for child in (*self._workers, self._steering) if not child.pid]
        if self._let_go:  # another process steers, or is about to
            empty = [child.due for child in self._workers if not child.pid]
        longest = 1.0 if self._watchdog_every is None else min(1.0, self._watchdog_every / 2)
        patience = min((max(due - now, 0.01) for due in empty), default=longest)
        if self._successor is not None or not self._said:
            patience = min(patience, _LOOK_EVERY)
        found = signal.sigtimedwait(_SIGNALS, patience)
        number = None if found is None else found.si_signo
        if number in (signal.SIGTERM, signal.SIGINT):
            self._stopping = True
        elif number == signal.SIGHUP:
            self._reload_due = True
        elif number == signal.SIGUSR1:
            for worker in self._workers:
                _kill(worker, signal.SIGUSR1)
        elif number == signal.SIGUSR2:
            self._hand_over()
        self._reap()
        # The first table must be there before the first request.
        for child in (self._steering, *(self._workers if self._ready else ())):
            if child is self._steering and self._let_go:
                continue
            if not (self._stopping or child.pid) and child.due <= monotonic():
                self._fill(child)

    @property
    def _ready(self) -> bool:
        """The steering process has published a table, and can be reached."""
        return self._block.heartbeats[self._block.side] != 0

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
            if self._stopping or (child is self._steering and self._let_go):
                continue
            if monotonic() - child.began >= _SHORT_LIFE:
                child.pause = _FIRST_PAUSE
            child.due = monotonic() + child.pause
            _log.error("%s %s: it is replaced in %g s", child.name, _ending(status), child.pause)
            child.pause = min(child.pause * 2, _LONGEST_PAUSE)

    def _bury(self, at: int) -> None:
        if self._handed_over:
            return  # whoever goes on reads these counters, and buries
        lost = self._block.workers[at].settle_dead_worker()
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
                signal.signal(signal.SIGUSR2, signal.SIG_IGN)
                for other in (self._successor, self._place.before):
                    if other is not None:
                        other.forget()
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
        worker = Worker(self._place.config, self._block, at, self._place.files)
        await worker.start(self._place.sockets.workers[at])
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, worker.reopen_log)
        memory.settle()
        await stopping.wait()
        await worker.drain(worker.drain_timeout)

    async def _steer(self) -> None:
        place = self._place
        stopping = _on_signals((signal.SIGTERM,))
        steering = Steering(
            place.config,
            place.path,
            self._block,
            files=place.files,
            takes_over=not self._took_over,
            main_pid=os.getppid(),
        )
        steering.load()
        await steering.start(place.sockets.admin_unix, place.sockets.admin_tcp)
        steering.hear(self._hears)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, steering.reload)
        memory.settle()
        await stopping.wait()
        await steering.stop()

    def _drain(self) -> None:
        _log.info("draining")
        longest = self._place.config.limits.drain_timeout + _GRACE
        if self._handed_over:
            for cells in self._block.workers:
                cells.status[shared.LINGER] = 1
        else:
            systemd.stopping(longest + _STEERING_GRACE)
            if self._successor is not None:
                self._successor.abandon()
        for worker in self._workers:
            _kill(worker, signal.SIGTERM)
        self._wait_for_end(self._workers, longest)
        _kill(self._steering, signal.SIGTERM)
        self._wait_for_end([self._steering], _STEERING_GRACE)

    def _wait_for_end(self, children: Sequence[_Child], timeout: float) -> None:
        """Wait until they have ended; SIGINT (Ctrl-C once more), or the timeout, kills them."""
        end = monotonic() + timeout
        while any(child.pid for child in children):
            left = end - monotonic()
            found = signal.sigtimedwait(_SIGNALS, max(min(left, 1.0), 0.0))
            impatient = found is not None and found.si_signo == signal.SIGINT
            if impatient or left <= 0:
                for child in children:
                    _kill(child, signal.SIGKILL)
            self._reap()


def _check_alone(config: Config) -> None:
    """Raise ``StartError`` if another proxy steers by this state file, and goes on doing so."""
    lock = StateLock(Path(config.state))
    try:
        lock.acquire(_ANOTHER_WITHIN)
    except StateError as error:
        raise StartError(str(error)) from None
    lock.release()


def _write_pid(path: Path) -> None:
    try:
        replace_file(path, b"%d\n" % os.getpid(), durable=False)
    except OSError as error:
        _log.error("the pid file %s cannot be written: %s", path, error.strerror)


def _check_log(settings: configuration.AccessLog) -> None:
    try:
        AccessLog(settings).check()
    except OSError as error:
        raise StartError(
            f"the access log {settings.path} cannot be opened: {error.strerror}"
        ) from None


def _check_fleet(settings: configuration.Fleet) -> None:
    try:
        # Only a fleet needs redis, which is an extra.
        from canaryproxy.fleet import redis_store as link  # noqa: PLC0415
    except ImportError:
        raise StartError("fleet needs redis: pip install 'canaryproxy[redis]'") from None
    try:
        link.password(settings)
    except SecretError as error:
        raise StartError(f"fleet: {error}") from None


async def _until(successor: Successor, state: State) -> None:
    """Wait for it. Raises ``HandoverError`` if it cannot come."""
    while True:
        if successor.poll() == state:
            return
        await asyncio.sleep(_LOOK_EVERY)


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
    for _, sock in sockets.workers[0]:
        name = sock.getsockname()
        where = f"{name[0]}:{name[1]}" if isinstance(name, tuple) else f"unix:{name}"
        _log.info("listening on %s", where)


def raise_file_limit() -> None:
    """Allow as many open files as the system lets this process have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
