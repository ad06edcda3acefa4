"""The process that steers: controller, admin addresses, reloads, notifications."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import socket
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

from canaryproxy import config as configuration
from canaryproxy.admin.app import AdminServer
from canaryproxy.admin.collector import CounterCollector, EventCounts
from canaryproxy.admin.exposition import registry
from canaryproxy.admin.readers import Sources
from canaryproxy.config import Config
from canaryproxy.control.controller import Controller
from canaryproxy.control.gates import AskGates
from canaryproxy.control.reload import Reloader, live
from canaryproxy.control.service import Control
from canaryproxy.control.settings import first_table
from canaryproxy.control.state_file import StateLock
from canaryproxy.measure import shared_memory as shared
from canaryproxy.measure.counters import Totals
from canaryproxy.measure.shared_memory import Block
from canaryproxy.notify import Gates, Notifier
from canaryproxy.release.circuit import State as CircuitState
from canaryproxy.runtime import systemd
from canaryproxy.runtime.alive import is_alive
from canaryproxy.runtime.shared_plane import SharedPlane
from canaryproxy.tls import files as certificates
from canaryproxy.tls.files import Files

_log = logging.getLogger(__name__)

_LAST_WORDS = 5.0
"""Seconds that notifications have at the end."""
_LOCK_WITHIN = 20.0
"""Seconds that whoever steered before has to save and to end."""
_BEAT_EVERY = 0.5


class Steering:
    """Steers the workers of a block. ``path`` is the file of the configuration, to be read again.

    ``local`` is the tick of a worker in this process, ``files`` are those of the configuration's TLS.
    ``takes_over``: another program steered by this block until now, and the configuration here is newer than
    the one in it. ``main_pid`` is the process that takes signals. Raises ``SecretError`` if the admin token
    cannot be one.
    """

    def __init__(
        self,
        config: Config,
        path: Path | None,
        block: Block,
        local: Callable[[], None] | None = None,
        files: Files | None = None,
        *,
        takes_over: bool = False,
        main_pid: int | None = None,
    ) -> None:
        in_force = block.config.read()
        if in_force is not None and not takes_over:  # the one before has reloaded
            config = live(config, configuration.parse(in_force.text, file=str(path)))
            files = in_force.files
        self._config = config
        self._block = block
        self._tasks: set[asyncio.Task[None]] = set()
        self._lock = StateLock(Path(config.state))
        self._told = ""
        self._beat: asyncio.TimerHandle | None = None
        totals = Totals([worker.counters for worker in block.all_workers])
        self._plane = SharedPlane(block, config, local)
        self._gates = _gates(config)
        slots = None if in_force is None else in_force.slots
        self.controller = _controller(config, totals, self._plane, self._ask, slots)
        self.reloader = Reloader(
            path,
            config,
            self.controller.check,
            self._reconfigure,
            self.controller.note,
            lambda: self.controller.now,
            text=None if in_force is None or takes_over else in_force.text,
            files=files,
        )
        self.control = Control(self.controller, totals, self._plane, self.reloader, main_pid)
        events = EventCounts()
        self.control.subscribe(events)
        self._notifier = _notifier(config)
        self.control.subscribe(self._tell)
        collector = CounterCollector(
            [worker.counters for worker in block.all_workers],
            Sources(
                table=lambda: self.controller.table,
                status=self.controller.status,
                view=self.control.release_view,
                events=events.counts,
                outcomes=lambda: self.controller.slots,
                notified=lambda: self._notifier,
                certificates=lambda: certificates.expiries(
                    self.reloader.running, self.reloader.files
                ),
                tasks=lambda: sum(worker.status[shared.TASKS] for worker in block.all_workers),
                log_lines_dropped=lambda: sum(
                    worker.status[shared.LOG_DROPPED] for worker in block.all_workers
                ),
            ),
        )
        self._admin = AdminServer(registry(collector), self.control, config.admin)

    def load(self) -> None:
        """Go on from the state file and from what the workers route by; publishes the first table.

        Waits for whoever steered before. Raises ``StateError`` if another process goes on steering by the
        file.
        """
        self._lock.acquire(_LOCK_WITHIN)
        found = self._block.table.read()
        self.controller.load(None if found is None else found[1:])
        in_force = self._block.config.read()
        ours = (self.reloader.text, self.controller.slots, self.reloader.files)
        if ours[0] and (
            in_force is None or (in_force.text, in_force.slots, in_force.files) != ours
        ):
            self._block.config.publish(*ours)

    async def wait_for_turn(self) -> None:
        """Wait for whoever steered before, while the loop does other things. Raises ``StateError``."""
        await asyncio.to_thread(self._lock.acquire, _LOCK_WITHIN)

    async def start(
        self, unix_sockets: Sequence[socket.socket], tcp_sockets: Sequence[socket.socket]
    ) -> None:
        """Serve the admin addresses, tick, notify."""
        self._notifier.start()
        await self._admin.start(unix_sockets, tcp_sockets)
        self.controller.start()
        self.control.start()
        self._watch()
        self._came_round()

    def _came_round(self) -> None:
        """Twice a second: say that the loop lives, how the release fares, and bury who is gone."""
        self._beat = asyncio.get_running_loop().call_later(_BEAT_EVERY, self._came_round)
        self._block.heartbeats[self._block.side] = int(monotonic() * 1000)
        self._bury_others()
        told = _in_a_line(self.controller)
        if told != self._told:
            self._told = told
            systemd.notify(f"STATUS={told}")

    def _bury_others(self) -> None:
        """Settle the accounts of a proxy that was here before, or failed to be the next one."""
        for worker in self._block.others:
            pid = worker.status[shared.PID]
            if pid and not is_alive(pid):
                lost = worker.settle_dead_worker()
                if lost:
                    _log.error(
                        "%d requests were in flight in process %d, which has ended", lost, pid
                    )

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
        if kind == "record" and self.controller.authority.is_mine(value):
            self._notifier.notify(value)

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
        systemd.reloading()
        self.reloader.try_reload()
        self._spawn(self._reloaded())

    async def _reloaded(self) -> None:
        await self._plane.adopted()
        systemd.notify("READY=1")

    def hear(self, pipe: int) -> None:
        """Write into the history what another process of this proxy says: ``{"what", "cause"}`` a line."""
        loop = asyncio.get_running_loop()

        def said() -> None:
            for line in os.read(pipe, 65536).splitlines():
                note = json.loads(line)
                self.controller.note(note["what"], note["cause"], {})

        loop.add_reader(pipe, said)

    def stop_watching(self) -> None:
        """Take no more configurations: the proxy drains."""
        for task in tuple(self._tasks):
            task.cancel()

    async def let_go(self) -> None:
        """Save, and steer no more: another process may. Operators are refused from now on."""
        self.stop_watching()
        self._admin.stop_accepting()
        self.control.stop()
        if self._beat is not None:
            self._beat.cancel()
            self._beat = None
        await self.controller.stop()
        self._lock.release()

    async def close(self) -> None:
        """After ``let_go``: close the admin addresses, end notifications."""
        await self._admin.stop()
        await self._notifier.stop(_LAST_WORDS)

    async def stop(self) -> None:
        """Both."""
        await self.let_go()
        await self.close()


def _in_a_line(controller: Controller) -> str:
    status = controller.status()
    here, steps = status.rollout, status.plan.steps
    parts = [f"{status.weight:g} % of users on the canary"]
    if steps:
        step = min(here.step, len(steps) - 1) + 1
        parts.append(f"{status.release} is {here.state.value} on step {step} of {len(steps)}")
    if status.circuit.state is not CircuitState.CLOSED:
        parts.append(f"circuit {status.circuit.state.value}: {status.circuit.cause}")
    else:
        parts.append("circuit closed")
    return "; ".join(parts).replace("\n", " ")[:500]


def _controller(
    config: Config,
    totals: Totals,
    plane: SharedPlane,
    ask: AskGates,
    slots: Mapping[str, int] | None,
) -> Controller:
    table = first_table(config)
    if config.fleet is None:
        return Controller(config, totals, plane, table, ask=ask, slots=slots)
    # Only a fleet needs redis, which is an extra.
    from canaryproxy.fleet.authority import FleetAuthority  # noqa: PLC0415
    from canaryproxy.fleet.redis_store import RedisStore  # noqa: PLC0415

    name = config.fleet.replica or f"{socket.gethostname().partition('.')[0]}-{os.getpid()}"
    me = f"{name}:{secrets.token_hex(4)}"
    authority = partial(
        FleetAuthority, fleet=config.fleet, store=RedisStore(config.fleet, me), me=me
    )
    return Controller(config, totals, plane, table, ask=ask, slots=slots, authority=authority)


def _notifier(config: Config) -> Notifier:
    return Notifier(config.notify, config.release_id)


def _gates(config: Config) -> Gates:
    return Gates(() if config.release is None else config.release.gates)
