"""Several workers and the control plane, each a process, and this process, which replaces those that die.

This process opens the sockets and the shared memory, forks the others, and then only waits for signals and
for children that end. When a worker dies, its counts stay, and so do its listening socket and the connections
that wait in it. When the control plane dies, workers route by the last published table, and the next one
starts from the state file and that table. When this process dies, the kernel sends the others SIGTERM, and
they drain (PR_SET_PDEATHSIG, prctl(2)).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import logging
import os
import signal
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from time import monotonic, time
from typing import Any

import uvloop

from canaryproxy.measure import shared_memory as shared
from canaryproxy.runtime import allocator, logs, signals, systemd
from canaryproxy.runtime.context import CHILD_GRACE, CONTROL_GRACE, RunContext
from canaryproxy.runtime.control_process import ControlPlane
from canaryproxy.runtime.hot_restart import POLL_EVERY, State
from canaryproxy.runtime.worker import Worker
from canaryproxy.tls.tickets import SECRET

_log = logging.getLogger(__name__)

_SHORT_LIFE = 5.0
"""Seconds; a child that ends sooner is replaced after a pause that doubles each time."""
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 5.0
_WAIT_AT_MOST = 1.0
_PR_SET_PDEATHSIG = 1


def run_multi(context: RunContext) -> bool:
    """Serve and drain; return whether a successor has taken over the addresses."""
    return MultiProcess(context).run()


@dataclass(slots=True)
class Child:
    """A process to be kept running: what it does, its pid, and when to start it again."""

    name: str
    work: Callable[[], Coroutine[Any, Any, None]]
    on_exit: Callable[[], None]
    pid: int = 0
    """0 while it does not run."""
    started: float = 0.0
    pause: float = _FIRST_PAUSE
    due: float = 0.0

    def kill(self, number: signal.Signals) -> None:
        """Send it a signal, if it runs."""
        if self.pid:
            os.kill(self.pid, number)


class MultiProcess:
    """The parent of the workers and of the control plane."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._block = context.block
        self._workers = [
            Child(f"worker {at}", partial(self._work, at), partial(self._settle, at))
            for at in range(len(self._block.workers))
        ]
        self._control = Child("the control plane", self._run_control, lambda: None)
        self._stopping = False
        self._stop_signal = "SIGTERM"
        self._announced = False
        self._has_configured = context.predecessor is None
        """The configuration in the block is the one of this program, not of its predecessor."""
        self._reload_due = False
        self._hand_over = context.hand_over(self)
        self._notes_read, self._notes_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        """Records that this process asks the control plane to write into the history."""
        self._watchdog_every = systemd.watchdog_every()
        self._watchdog_due = 0.0

    def run(self) -> bool:
        """Serve and drain; return whether a successor has taken over the addresses."""
        signal.pthread_sigmask(signal.SIG_BLOCK, signals.HANDLED)
        allocator.settle()  # children share what the collector does not touch
        try:
            self._start(self._control)
            while not self._stopping:
                self._handle(self._next_signal())
                self._reap()
                self._start_due()
                self._announce()
                self._reload()
                self._feed_watchdog()
                if not self._stopping and self._hand_over.poll() is State.DONE:
                    self._stopping = True
            self._drain()
        finally:
            for child in self._children:
                child.kill(signal.SIGKILL)
        return self._handed_over

    @property
    def _handed_over(self) -> bool:
        return self._hand_over.state is State.DONE

    @property
    def _children(self) -> Sequence[Child]:
        return (self._control, *self._workers)

    @property
    def _wanted(self) -> Sequence[Child]:
        """The children that should run now.

        The first table must exist before the first request, so workers start after the control plane. While
        the control plane is handed over, a successor has one.
        """
        workers = self._workers if self._control_is_up else []
        return workers if self._hand_over.control_is_released else [self._control, *workers]

    @property
    def _control_is_up(self) -> bool:
        """Whether the control plane has published a table and serves its addresses, now or before."""
        return self._block.heartbeats[self._block.side] != 0

    @property
    def _all_serve(self) -> bool:
        pairs = zip(self._workers, self._block.workers, strict=True)
        return all(child.pid and cells.status[shared.PID] == child.pid for child, cells in pairs)

    def _next_signal(self) -> signal.Signals | None:
        """Wait for a signal until something is due; return it, or None."""
        longest = _WAIT_AT_MOST
        if self._watchdog_every is not None:
            longest = min(longest, self._watchdog_every / 2)
        if self._hand_over.is_active or not self._announced:
            longest = min(longest, POLL_EVERY)
        now = monotonic()
        due = [max(child.due - now, 0.01) for child in self._wanted if not child.pid]
        return _wait_for_signal(min([*due, longest]))

    def _handle(self, number: signal.Signals | None) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            assert number is not None
            self._stopping, self._stop_signal = True, number.name
        elif number == signal.SIGHUP:
            self._reload_due = True
        elif number == signal.SIGUSR1:
            for worker in self._workers:
                worker.kill(signal.SIGUSR1)
        elif number == signal.SIGUSR2:
            self._hand_over.begin()

    def _announce(self) -> None:
        """Once all workers accept and the admin addresses respond, report that the proxy serves."""
        if self._announced or not (self._control_is_up and self._all_serve):
            return
        self._announced = self._has_configured = True
        self._context.announce()
        if self._context.predecessor is not None:
            before = self._context.predecessor.pid
            self._note("upgrade", f"process {os.getpid()} took over from process {before}")

    def _reload(self) -> None:
        if self._reload_due and self._announced:
            self._reload_due = False
            self._control.kill(signal.SIGHUP)

    def _feed_watchdog(self) -> None:
        """Tell systemd that the proxy is alive: every process runs, and its loop came round lately."""
        every, now = self._watchdog_every, monotonic()
        if every is None or self._handed_over or now < self._watchdog_due or not self._announced:
            return
        self._watchdog_due = now + every
        heartbeats = [cells.status[shared.HEARTBEAT] for cells in self._block.workers]
        children = self._workers
        if not self._hand_over.control_is_released:
            heartbeats.append(self._block.heartbeats[self._block.side])
            children = [*children, self._control]
        fresh = all(now - beat / 1000 < max(every, 2.0) for beat in heartbeats)
        if fresh and all(child.pid for child in children):
            systemd.notify("WATCHDOG=1")

    def _note(self, what: str, cause: str) -> None:
        line = json.dumps({"what": what, "cause": cause}) + "\n"
        try:
            os.write(self._notes_write, line.encode())
        except BlockingIOError:
            _log.warning("not recorded in the history: %s", cause)

    # Hand-over: the control plane, for ``HandOver``.

    def release_control(self) -> None:
        """Stop the control plane: it saves the state and releases the state file."""
        self._control.kill(signal.SIGTERM)

    def may_go(self) -> bool:
        """Always true: the successor waits for the lock on the state file."""
        return True

    def take_control_back(self, cause: str) -> None:
        """Record that the upgrade failed; the control plane is started again because it is wanted again."""
        self._note("upgrade_failed", cause)

    def record_failure(self, cause: str) -> None:
        """Record that the upgrade failed."""
        self._note("upgrade_failed", cause)

    # Children

    def _start_due(self) -> None:
        for child in self._wanted:
            if not (self._stopping or child.pid) and child.due <= monotonic():
                self._start(child)

    def _reap(self) -> None:
        """Collect children that have ended, and decide when they are started again."""
        if os.getpid() == 1:
            _reap_orphans({child.pid for child in self._children})
        for child in self._children:
            if not child.pid:
                continue
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if not pid:
                continue
            child.pid = 0
            child.on_exit()
            if self._stopping or (child is self._control and self._hand_over.control_is_released):
                continue
            if monotonic() - child.started >= _SHORT_LIFE:
                child.pause = _FIRST_PAUSE
            child.due = monotonic() + child.pause
            _log.error("%s %s; restarting in %g s", child.name, _describe_exit(status), child.pause)
            child.pause = min(child.pause * 2, _LONGEST_PAUSE)

    def _settle(self, at: int) -> None:
        """Settle the counts of a worker that has ended; a successor does so after a hand-over."""
        if self._handed_over:
            return
        lost = self._block.settle_dead_worker(self._block.workers[at])
        if lost and not self._stopping:
            _log.error("worker %d died with %d requests in flight", at, lost)

    def _start(self, child: Child) -> None:
        parent = os.getpid()
        SECRET.advance(time())
        child.started = monotonic()
        child.pid = os.fork()
        if child.pid:
            return
        status = 1
        try:
            logs.name_process(child.name.removeprefix("the "))
            self._enter_child()
            if os.getppid() == parent:  # it may have died before the call of prctl
                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                    runner.run(child.work())
            status = 0
        finally:  # a forked child never returns into the parent's code
            if status:
                _log.error("%s failed", child.name, exc_info=True)
            logging.shutdown()
            os._exit(status)

    def _enter_child(self) -> None:
        """Undo in a forked child what belongs to its parent."""
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        for number in (signal.SIGINT, *signals.QUEUED):  # Ctrl-C is for the parent
            signal.signal(number, signal.SIG_IGN)
        self._hand_over.close_after_fork()
        if self._context.predecessor is not None:
            self._context.predecessor.close()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.HANDLED)

    async def _work(self, at: int) -> None:
        """Run a worker until SIGTERM, in its own process."""
        stopping = signals.event_on(signal.SIGTERM)
        worker = Worker(self._context.config, self._block, at, self._context.files)
        await worker.start(self._context.sockets.workers[at])
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, worker.reopen_log)
        allocator.settle()
        allocator.collect_briefly(asyncio.get_running_loop())
        await stopping.wait()
        await worker.drain(worker.drain_timeout)

    async def _run_control(self) -> None:
        """Run the control plane until SIGTERM, in its own process."""
        context = self._context
        stopping = signals.event_on(signal.SIGTERM)
        control = ControlPlane(
            context.config,
            context.path,
            self._block,
            files=context.files,
            takes_over=not self._has_configured,
            main_pid=os.getppid(),
        )
        control.load()
        await control.start(context.sockets.admin_unix, context.sockets.admin_tcp)
        control.record_notes(self._notes_read)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, control.reload)
        allocator.settle()
        allocator.collect_briefly(asyncio.get_running_loop())
        await stopping.wait()
        await control.stop()

    # The end

    def _drain(self) -> None:
        self._context.log_shutdown("upgrade" if self._handed_over else self._stop_signal)
        longest = self._context.config.limits.drain_timeout + CHILD_GRACE
        if self._handed_over:
            for cells in self._block.workers:
                cells.status[shared.LINGER] = 1
        else:
            systemd.stopping(longest + CONTROL_GRACE)
            self._hand_over.cancel()
        for worker in self._workers:
            worker.kill(signal.SIGTERM)
        self._wait_for_end(self._workers, longest)
        self._control.kill(signal.SIGTERM)
        self._wait_for_end([self._control], CONTROL_GRACE)

    def _wait_for_end(self, children: Sequence[Child], timeout: float) -> None:
        """Wait until the children have ended. SIGINT (a second Ctrl-C) or the timeout kills them."""
        deadline = monotonic() + timeout
        while any(child.pid for child in children):
            left = deadline - monotonic()
            number = _wait_for_signal(max(min(left, _WAIT_AT_MOST), 0.0))
            if number == signal.SIGINT or left <= 0:
                for child in children:
                    child.kill(signal.SIGKILL)
            self._reap()


def _wait_for_signal(seconds: float) -> signal.Signals | None:
    found = signal.sigtimedwait(signals.HANDLED, seconds)
    return None if found is None else signal.Signals(found.si_signo)


def _reap_orphans(own: Collection[int]) -> None:
    """Collect processes that the kernel gave to process 1 of a container, and that are not in ``own``.

    A process started beside the proxy, for instance by ``docker exec``, may leave orphans; only process 1 can
    collect them.
    """
    with contextlib.suppress(ChildProcessError):  # there are no children at all
        while found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if found.si_pid in own:
                return  # the same one would be found again; the others have their turn after it
            os.waitpid(found.si_pid, 0)


def _describe_exit(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"was killed by {signal.Signals(os.WTERMSIG(status)).name}"
    return f"ended with status {os.waitstatus_to_exitcode(status)}"
