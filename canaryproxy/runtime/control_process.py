"""The control plane: the controller, the admin addresses, reloads and notifications."""

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
from canaryproxy.config.text import weight
from canaryproxy.control.controller import Controller, Status
from canaryproxy.control.gates import AskGates
from canaryproxy.control.record_reader import RecordReader
from canaryproxy.control.reload import Reloader, live
from canaryproxy.control.service import Control
from canaryproxy.control.settings import first_table
from canaryproxy.control.state_file import StateLock
from canaryproxy.control.upstream_watch import UpstreamWatch
from canaryproxy.measure import shared_memory as shared
from canaryproxy.measure.counters import Totals
from canaryproxy.measure.resolved import Addresses, names
from canaryproxy.measure.shared_memory import Block, Placement
from canaryproxy.notify import Gates, Notifier
from canaryproxy.release.circuit import State as CircuitState
from canaryproxy.runtime import systemd
from canaryproxy.runtime.health_checks import HealthChecks
from canaryproxy.runtime.resolver import Resolver
from canaryproxy.runtime.shared_plane import SharedPlane, is_alive
from canaryproxy.tls import files as certificates
from canaryproxy.tls.files import Files

_log = logging.getLogger(__name__)

_NOTIFY_WITHIN = 5.0
"""Seconds for pending notifications at the end."""
_LOCK_WITHIN = 20.0
"""Seconds for the control plane before this one to save and to end."""
_HEARTBEAT_EVERY = 0.5


class ControlPlane:
    """Controls the workers of a block.

    ``path`` is the configuration file, to be read again on a reload. ``local_tick`` is the tick of a worker
    in this process. ``files`` are the files that the configuration names. ``takes_over``: the block is that
    of a predecessor, so this configuration is newer than the one in the block. ``main_pid`` is the process
    that handles signals. Raises ``SecretError`` for an unusable admin token.
    """

    def __init__(
        self,
        config: Config,
        path: Path | None,
        block: Block,
        local_tick: Callable[[], None] | None = None,
        files: Files | None = None,
        *,
        takes_over: bool = False,
        main_pid: int | None = None,
    ) -> None:
        in_force = block.config.read()
        if (
            in_force is not None and not takes_over
        ):  # after a reload, or after a restart of this process
            config = live(config, configuration.parse(in_force.text, file=str(path)))
            files = in_force.files
        self._config = config
        self._block = block
        self._tasks: set[asyncio.Task[None]] = set()
        self._lock = StateLock(Path(config.state))
        self._status_line = ""
        self._takes_over = takes_over
        self._restarted: str | None = None
        self._heartbeat: asyncio.TimerHandle | None = None
        service = block.service(0)
        totals = Totals([worker.counters for worker in service.all_workers])
        self._plane = SharedPlane(block, config, local_tick)
        found = block.addresses.read()
        addresses = {} if found is None else found[1]
        self._resolver = Resolver(self._resolved, addresses)
        self._health = HealthChecks(self._plane.outs, addresses)
        self._watch_upstreams = UpstreamWatch()
        self._gates = _gates(config)
        slots = None if in_force is None else in_force.services["default"].outcomes
        reader = RecordReader(
            [worker.records for worker in service.all_workers],
            [worker.names for worker in service.all_workers],
        )
        self.controller = _controller(config, totals, self._plane, self._ask, slots, reader)
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
        self.control = Control(
            self.controller, totals, self._plane, self.reloader, main_pid, self._resolver.failing
        )
        events = EventCounts()
        self.control.subscribe(events)
        self._notifier = _notifier(config)
        self.control.subscribe(self._notify)
        collector = CounterCollector(
            [worker.counters for worker in service.all_workers],
            Sources(
                table=lambda: self.controller.table,
                status=self.controller.status,
                view=self.control.release_view,
                endpoints=lambda: self.control.endpoints().endpoints,
                checks=lambda: self._health.counts,
                names=self._resolver.states,
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
        """Restore the release from the state file and the table in force, and publish the first table.

        Blocks while the control plane before this one saves. Raises ``StateError`` if another process keeps
        the state file.
        """
        self._lock.acquire(_LOCK_WITHIN)
        found = self._block.service(0).table.read()
        origin = self.controller.load(None if found is None else found[1:])
        in_force = self._block.config.read()
        services = {"default": Placement(0, self.controller.slots)}
        ours = (self.reloader.text, services, self.reloader.files)
        if ours[0] and (
            in_force is None or (in_force.text, in_force.services, in_force.files) != ours
        ):
            self._block.config.publish(*ours)
        if origin == "restored" and not self._takes_over:
            what = "the proxy" if found is None else "the control plane"
            self._restarted = f"{what} runs again as process {os.getpid()}, from the state file"
        if origin != "refused":  # the trip that follows from that says it all
            from_file = f"restored from {self._config.state}"
            said = from_file if origin == "restored" else "new: no state file yet"
            _log.info("%s (%s)", status_line(self.controller.status()), said)

    async def wait_for_lock(self) -> None:
        """Wait until no other process holds the state file. Raises ``StateError`` as ``load`` does."""
        await asyncio.to_thread(self._lock.acquire, _LOCK_WITHIN)

    async def start(
        self, unix_sockets: Sequence[socket.socket], tcp_sockets: Sequence[socket.socket]
    ) -> None:
        """Serve the admin addresses, and start the controller and the notifications."""
        self._resolver.configure(names(self._config.endpoints), self._config.dns)
        self._notifier.start()
        await self._admin.start(unix_sockets, tcp_sockets)
        self.controller.start()
        if self._restarted is not None:
            self.controller.note("restart", self._restarted, {})
            self._restarted = None
        self.control.start()
        self._health.configure(self.reloader.running, self.reloader.files)
        self._watch()
        self._beat()

    def _beat(self) -> None:
        """Twice a second: heartbeat, dead workers, the log about endpoints, the status for systemd."""
        self._heartbeat = asyncio.get_running_loop().call_later(_HEARTBEAT_EVERY, self._beat)
        self._block.heartbeats[self._block.side] = int(monotonic() * 1000)
        self._settle_other_side()
        self._log_upstreams()
        line = status_line(self.controller.status())
        if line != self._status_line:
            self._status_line = line
            systemd.notify(f"STATUS={line}")

    def _log_upstreams(self) -> None:
        variants = self._plane.upstreams()
        if variants is None or self._plane.draining:
            return
        for line in self._watch_upstreams.observe(monotonic(), variants):
            _log.log(line.level, "%s", line.text, extra={"fields": line.fields})

    def _settle_other_side(self) -> None:
        """Settle the counts of a predecessor that has ended, or of a successor that has failed."""
        for worker in self._block.others:
            pid = worker.status[shared.PID]
            if pid and not is_alive(pid):
                lost = self._block.settle_dead_worker(worker)
                if lost:
                    _log.error("process %d ended with %d requests in flight", pid, lost)

    def _resolved(self, addresses: Addresses) -> None:
        self._block.addresses.publish(addresses)
        self._health.resolve(addresses)

    def _watch(self) -> None:
        if self._config.reload.watch and self.reloader.path is not None:
            self._spawn(self.reloader.watch())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ask(self, question: Mapping[str, Any]) -> tuple[bool, str]:
        result = await self._gates.ask(question)
        return result.passed, result.cause

    def _notify(self, kind: str, value: dict[str, Any]) -> None:
        if kind == "record" and self.controller.authority.is_mine(value):
            self._notifier.notify(value)

    def _reconfigure(self, config: Config) -> None:
        """Put a configuration in force that ``Controller.check`` has accepted."""
        old, self._config = self._config, config
        self._gates = _gates(config)
        if _named(config) != _named(old):
            self._spawn(self._notifier.stop(_NOTIFY_WITHIN))
            self._notifier = _notifier(config)
            self._notifier.start()
        self.controller.reconfigure(config, first_table(config))
        self._plane.config = config
        self._resolver.configure(names(config.endpoints), config.dns)
        self._block.config.publish(
            self.reloader.text,
            {
                "default": Placement(
                    0,
                    self.controller.slots,
                    promoted=self.controller.capacity.follows_promotion,
                )
            },
            self.reloader.files,
        )
        self._health.configure(config, self.reloader.files)
        if not old.reload.watch:
            self._watch()

    def reload(self) -> None:
        """Read the configuration file again, as SIGHUP demands."""
        systemd.reloading()
        self.reloader.try_reload()
        self._spawn(self._reloaded())

    async def _reloaded(self) -> None:
        await self._plane.adopted()
        systemd.notify("READY=1")

    def record_notes(self, pipe: int) -> None:
        """Record in the history what the parent writes into a pipe, ``{"what": …, "cause": …}`` a line."""
        loop = asyncio.get_running_loop()

        def record() -> None:
            for line in os.read(pipe, 65536).splitlines():
                note = json.loads(line)
                self.controller.note(note["what"], note["cause"], {})

        loop.add_reader(pipe, record)

    def stop_watching(self) -> None:
        """Stop watching the configuration file: the proxy drains."""
        for task in tuple(self._tasks):
            task.cancel()

    async def release(self) -> None:
        """Save the state, stop the controller and release the state file. Changes are refused from now on."""
        self.stop_watching()
        self._resolver.stop()
        self._admin.stop_accepting()
        self.control.stop()
        self._health.stop()
        if self._heartbeat is not None:
            self._heartbeat.cancel()
            self._heartbeat = None
        await self.controller.stop()
        self._lock.release()

    async def close(self) -> None:
        """Close the admin addresses and end the notifications; call ``release`` before."""
        await self._admin.stop()
        await self._notifier.stop(_NOTIFY_WITHIN)

    async def stop(self) -> None:
        """Call ``release``, then ``close``."""
        await self.release()
        await self.close()


def status_line(status: Status) -> str:
    """Return the state of the release in a line, for ``systemctl status`` and the log."""
    here, steps = status.rollout, status.plan.steps
    parts = [f"{weight(status.weight)} of users on the canary"]
    if steps:
        step = min(here.step, len(steps) - 1) + 1
        at = "before step" if here.learning else "on step"
        parts.append(f"{status.release} is {here.state.value} {at} {step} of {len(steps)}")
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
    reader: RecordReader,
) -> Controller:
    table = first_table(config)
    if config.fleet is None:
        return Controller(config, totals, plane, table, ask=ask, slots=slots, reader=reader)
    # redis is an optional dependency, for fleets only.
    from canaryproxy.fleet.authority import FleetAuthority  # noqa: PLC0415
    from canaryproxy.fleet.redis_store import RedisStore  # noqa: PLC0415

    name = config.fleet.replica or f"{socket.gethostname().partition('.')[0]}-{os.getpid()}"
    me = f"{name}:{secrets.token_hex(4)}"
    authority = partial(
        FleetAuthority, fleet=config.fleet, store=RedisStore(config.fleet, me), me=me
    )
    return Controller(
        config, totals, plane, table, ask=ask, slots=slots, reader=reader, authority=authority
    )


def _named(config: Config) -> tuple[object, ...]:
    """Return what notifications are made from."""
    return config.notify, config.release_id, config.environment


def _notifier(config: Config) -> Notifier:
    return Notifier(config.notify, config.release_id, environment=config.environment)


def _gates(config: Config) -> Gates:
    return Gates(() if config.release is None else config.release.gates)
