"""One worker and the control plane, in one process and one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any

import uvloop

from canaryproxy.control.state_file import StateError
from canaryproxy.runtime import allocator, signals, systemd
from canaryproxy.runtime.context import CHILD_GRACE, CONTROL_GRACE, RunContext
from canaryproxy.runtime.control_process import ControlPlane
from canaryproxy.runtime.hot_restart import POLL_EVERY, HandoverError, State
from canaryproxy.runtime.worker import Worker

_log = logging.getLogger(__name__)


def run_single(context: RunContext) -> bool:
    """Serve and drain; return whether a successor has taken over the addresses."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(context))


async def _run(context: RunContext) -> bool:
    return await SingleProcess(context).run()


class SingleProcess:
    """The worker and the control plane, in a running loop. The worker ticks with the controller.

    Only while the control plane is handed over to a successor does the worker follow a clock of its own.
    """

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._stop_signal = signal.SIGTERM
        self._early: list[Callable[[], None]] = []
        """Handlers of signals that arrived before the proxy served."""
        self._handle_signals()
        self._hand_over = context.hand_over(self)
        self._moving: asyncio.Task[None] | None = None
        """The control plane is being stopped for a successor, or started again after its failure."""
        self._worker = Worker(context.config, context.block, 0, context.files)
        self._control = ControlPlane(
            context.config,
            context.path,
            context.block,
            self._worker.tick,
            context.files,
            takes_over=context.predecessor is not None,
        )

    async def run(self) -> bool:
        """Serve and drain; return whether a successor has taken over the addresses."""
        self._control.load()
        await self._start_control()
        await self._worker.start(self._context.sockets.workers[0], clock=False)
        if self._context.predecessor is not None:
            cause = f"process {os.getpid()} took over from process {self._context.predecessor.pid}"
            self._control.note("upgrade", cause, {})
        self._loop.add_signal_handler(signal.SIGHUP, self._reload)
        self._loop.add_signal_handler(signal.SIGUSR1, self._worker.reopen_log)
        self._loop.add_signal_handler(signal.SIGUSR2, self._begin_hand_over)
        self._feed_watchdog()
        allocator.settle()
        allocator.collect_briefly(self._loop)
        self._context.announce()
        for handler in self._early:
            handler()
        await self._stopping.wait()
        for number in (signal.SIGHUP, signal.SIGUSR2):
            self._loop.add_signal_handler(number, signals.ignore)
        self._loop.add_signal_handler(signal.SIGINT, self._worker.hurry)  # a second Ctrl-C
        await self._end()
        signal.pthread_sigmask(signal.SIG_BLOCK, signals.HANDLED)  # the exit status stays 0
        return self._handed_over

    @property
    def _handed_over(self) -> bool:
        return self._hand_over.state is State.DONE

    def _handle_signals(self) -> None:
        """Handle the signals; those that need a running proxy wait until it serves."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop, number)
        self._loop.add_signal_handler(signal.SIGHUP, self._early.append, self._reload)
        self._loop.add_signal_handler(signal.SIGUSR1, signals.ignore)
        self._loop.add_signal_handler(signal.SIGUSR2, self._early.append, self._begin_hand_over)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.QUEUED)
        if os.getpid() == 1:
            # Process 1 is given the orphans of its container; with SIGCHLD ignored, the kernel reaps them.
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)

    def _stop(self, number: signal.Signals) -> None:
        self._stop_signal = number
        self._stopping.set()

    async def _start_control(self) -> None:
        """Start the control plane on copies of the admin sockets, so that these outlive its servers."""
        sockets = self._context.sockets
        await self._control.start(
            [sock.dup() for sock in sockets.admin_unix], [sock.dup() for sock in sockets.admin_tcp]
        )

    def _reload(self) -> None:
        self._control.reload()

    def _feed_watchdog(self) -> None:
        every = systemd.watchdog_every()
        if every is not None and not self._handed_over:
            systemd.notify("WATCHDOG=1")
            self._loop.call_later(every, self._feed_watchdog)

    async def _end(self) -> None:
        worker = self._worker
        if not self._handed_over:
            systemd.stopping(worker.drain_timeout + CHILD_GRACE + CONTROL_GRACE)
            self._hand_over.cancel()
            await self._stop_moving()
        self._context.log_shutdown("upgrade" if self._handed_over else self._stop_signal.name)
        if self._handed_over:
            worker.linger()
            closing = self._loop.create_task(self._control.close())
            await worker.drain(worker.drain_timeout)
            worker.leave()
            await closing
        else:
            self._control.stop_watching()
            await worker.drain(worker.drain_timeout)
            await self._control.stop()
            worker.leave()

    # Hand-over: the control plane of this process, for ``HandOver``.

    def _begin_hand_over(self) -> None:
        is_moving = self._moving is not None and not self._moving.done()
        if self._hand_over.state is State.IDLE and not is_moving:
            self._hand_over.begin()
            self._poll_hand_over()

    def _poll_hand_over(self) -> None:
        if self._stopping.is_set() or not self._hand_over.is_active:
            return
        if self._hand_over.poll() is State.DONE:
            self._stopping.set()
        else:
            self._loop.call_later(POLL_EVERY, self._poll_hand_over)

    def release_control(self) -> None:
        """Stop the control plane; the worker follows its own clock from now on."""
        self._worker.start_clock()
        self._move(self._control.release())

    def may_go(self) -> bool:
        """Tell whether the state is saved. Raises ``HandoverError`` if it cannot be."""
        assert self._moving is not None
        if not self._moving.done():
            return False
        if (error := self._moving.exception()) is not None:
            raise HandoverError(f"the control plane could not be stopped: {error!r}")
        return True

    def take_control_back(self, cause: str) -> None:
        """Start the control plane again, from the state file."""
        self._move(self._restart_control(self._moving, cause))

    def record_failure(self, cause: str) -> None:
        """Record that the upgrade failed."""
        self._control.note("upgrade_failed", cause, {})

    def _move(self, work: Coroutine[Any, Any, None]) -> None:
        self._moving = self._loop.create_task(work)

    async def _restart_control(self, release: asyncio.Task[None] | None, cause: str) -> None:
        if release is not None:
            await asyncio.wait((release,))
        await self._control.close()
        self._worker.stop_clock()
        self._control = ControlPlane(
            self._context.config, self._context.path, self._context.block, self._worker.tick
        )
        try:
            await self._control.wait_for_lock()
        except StateError as error:
            _log.error(
                "upgrade failed: %s; the control plane cannot be started again: %s", cause, error
            )
            return
        self._control.load()
        await self._start_control()
        self.record_failure(cause)

    async def _stop_moving(self) -> None:
        if self._moving is not None and not self._moving.done():
            self._moving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._moving
