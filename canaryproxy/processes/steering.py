"""The process that steers: controller, admin addresses, reloads, notifications."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

from canaryproxy import config as configuration
from canaryproxy import shared
from canaryproxy.admin.app import AdminServer
from canaryproxy.admin.metrics import CounterCollector, EventCounts, Sources, registry
from canaryproxy.config import Config
from canaryproxy.control import Control
from canaryproxy.controller import Controller, first_table
from canaryproxy.counters import Totals
from canaryproxy.notify import Gates, Notifier
from canaryproxy.processes.plane import SharedPlane
from canaryproxy.proxy import certificates
from canaryproxy.proxy.certificates import Files
from canaryproxy.reload import Reloader, live
from canaryproxy.shared import Block

_log = logging.getLogger(__name__)

_LAST_WORDS = 5.0
"""Seconds that notifications have at the end."""


class Steering:
    """Steers the workers of a block. ``path`` is the file of the configuration, to be read again.

    ``local`` is the tick of a worker in this process, ``files`` are those of the configuration's TLS. Raises
    ``TokenError`` if the admin token cannot be one.
    """

    def __init__(
        self,
        config: Config,
        path: Path | None,
        block: Block,
        local: Callable[[], None] | None = None,
        files: Files | None = None,
    ) -> None:
        in_force = block.config.read()
        if in_force is not None:  # the one before has reloaded
            config = live(config, configuration.parse(in_force.text, file=str(path)))
            files = in_force.files
        self._config = config
        self._block = block
        self._tasks: set[asyncio.Task[None]] = set()
        totals = Totals([worker.counters for worker in block.workers])
        self._plane = SharedPlane(block, config, local)
        self._gates = _gates(config)
        self.controller = Controller(
            config,
            totals,
            self._plane,
            first_table(config),
            ask=self._ask,
            slots=None if in_force is None else in_force.slots,
        )
        self.reloader = Reloader(
            path,
            config,
            self.controller.check,
            self._reconfigure,
            self.controller.note,
            lambda: self.controller.now,
            text=None if in_force is None else in_force.text,
            files=files,
        )
        self.control = Control(self.controller, totals, self._plane, self.reloader)
        events = EventCounts()
        self.control.subscribe(events)
        self._notifier = _notifier(config)
        self.control.subscribe(self._tell)
        collector = CounterCollector(
            [worker.counters for worker in block.workers],
            lambda: self.controller.table,
            self.controller.status,
            Sources(
                document=self.control.document,
                events=events.counts,
                outcomes=lambda: self.controller.slots,
                notified=lambda: self._notifier,
                certificates=lambda: certificates.expiries(
                    self.reloader.running, self.reloader.files
                ),
                log_lines_dropped=lambda: sum(
                    worker.status[shared.LOG_DROPPED] for worker in block.workers
                ),
            ),
        )
        self._admin = AdminServer(registry(collector), self.control, config.admin)

    def load(self) -> None:
        """Go on from the state file and from what the workers route by; publishes the first table."""
        found = self._block.table.read()
        self.controller.load(None if found is None else found[1:])

    async def start(
        self, unix_sockets: Sequence[socket.socket], tcp_sockets: Sequence[socket.socket]
    ) -> None:
        """Serve the admin addresses, tick, notify."""
        self._notifier.start()
        await self._admin.start(unix_sockets, tcp_sockets)
        self.controller.start()
        self.control.start()
        self._watch()

    def _watch(self) -> None:
        if self._config.reload.watch and self.reloader.path is not None:
            self._spawn(self.reloader.watch())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ask(self, question: Mapping[str, Any]) -> tuple[bool, str]:
        answer = await self._gates.ask(question)
        return answer.passed, answer.cause

    def _tell(self, kind: str, value: dict[str, Any]) -> None:
        if kind == "record":
            self._notifier.tell(value)

    def _reconfigure(self, config: Config) -> None:
        """Go on by another configuration, which ``Controller.check`` has let pass."""
        old, self._config = self._config, config
        self._gates = _gates(config)
        if (config.notify, config.release_id) != (old.notify, old.release_id):
            self._spawn(self._notifier.stop(_LAST_WORDS))
            self._notifier = _notifier(config)
            self._notifier.start()
        self.controller.reconfigure(config, first_table(config))
        self._plane.config = config
        self._block.config.publish(self.reloader.text, self.controller.slots, self.reloader.files)
        if not old.reload.watch:
            self._watch()

    def reload(self) -> None:
        """Read the configuration again; what SIGHUP does."""
        self.reloader.try_reload()

    def stop_watching(self) -> None:
        """Take no more configurations: the proxy drains."""
        for task in tuple(self._tasks):
            task.cancel()

    async def stop(self) -> None:
        """Save, and close the admin addresses."""
        self.stop_watching()
        self.control.stop()
        await self.controller.stop()
        await self._admin.stop()
        await self._notifier.stop(_LAST_WORDS)


def _notifier(config: Config) -> Notifier:
    return Notifier(config.notify, config.release_id)


def _gates(config: Config) -> Gates:
    return Gates(() if config.release is None else config.release.gates)
