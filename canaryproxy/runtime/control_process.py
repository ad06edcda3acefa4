"""The control plane: the services, the admin addresses, names and reloads."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from time import monotonic, time
from typing import Any

from prometheus_client.registry import CollectorRegistry

from canaryproxy import config as configuration
from canaryproxy.admin.app import AdminServer
from canaryproxy.admin.collector import CounterCollector
from canaryproxy.admin.exposition import registry
from canaryproxy.admin.readers import ProcessSources
from canaryproxy.config import Config
from canaryproxy.config.text import weight
from canaryproxy.control.controller import Status
from canaryproxy.control.reload import Reloader, live
from canaryproxy.control.state_file import StateLock
from canaryproxy.measure.resolved import Addresses, names
from canaryproxy.measure.shared_memory import Block, Placement
from canaryproxy.release.circuit import State as CircuitState
from canaryproxy.runtime import systemd
from canaryproxy.runtime.resolver import Resolver
from canaryproxy.runtime.service_control import ServiceControl
from canaryproxy.runtime.ticker import Ticker
from canaryproxy.runtime.workers import Workers
from canaryproxy.tls import files as certificates
from canaryproxy.tls.files import Files

_log = logging.getLogger(__name__)

DEFAULT = "default"
"""The name of the one service of a configuration without ``services``."""
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
        self._workers = Workers(block, local_tick)
        found = block.addresses.read()
        self._resolver = Resolver(self._resolved, {} if found is None else found[1])
        epoch_offset = time() - monotonic()
        self.reloader = Reloader(
            path,
            config,
            self._check,
            self._reconfigure,
            self.note,
            lambda: monotonic() + epoch_offset,
            text=None if in_force is None or takes_over else in_force.text,
            files=files,
        )
        self.services = {
            DEFAULT: ServiceControl(
                config,
                block.service(0),
                self._workers,
                self.reloader,
                block.addresses,
                outcomes=None if in_force is None else in_force.services[DEFAULT].outcomes,
                main_pid=main_pid,
                unresolved=self._resolver.failing,
            )
        }
        """By name."""
        self._ticker = Ticker(
            self._workers.tick, lambda: [one.controller for one in self.services.values()]
        )
        self._admin = AdminServer(self._registry(), self._only.control, config.admin)

    def _registry(self) -> CollectorRegistry:
        process = ProcessSources(
            proxy=[worker.proxy for worker in self._block.all_workers],
            names=self._resolver.states,
            certificates=lambda: certificates.expiries(self.reloader.running, self.reloader.files),
            tasks=lambda: self._workers.tasks,
            log_lines_dropped=lambda: self._workers.log_lines_dropped,
        )
        return registry(
            CounterCollector(process, lambda: [one.sources for one in self.services.values()])
        )

    @property
    def _only(self) -> ServiceControl:
        (only,) = self.services.values()
        return only

    def load(self) -> None:
        """Restore the release from the state file and the table in force, and publish the first table.

        Blocks while the control plane before this one saves. Raises ``StateError`` if another process keeps
        the state file.
        """
        self._lock.acquire(_LOCK_WITHIN)
        had_table = self._block.service(0).table.read() is not None
        controller = self._only.controller
        origin = self._only.load()
        in_force = self._block.config.read()
        ours = (self.reloader.text, self._placements(), self.reloader.files)
        if ours[0] and (
            in_force is None or (in_force.text, in_force.services, in_force.files) != ours
        ):
            self._block.config.publish(*ours)
        if origin == "restored" and not self._takes_over:
            what = "the control plane" if had_table else "the proxy"
            self._restarted = f"{what} runs again as process {os.getpid()}, from the state file"
        if origin != "refused":  # the trip that follows from that says it all
            from_file = f"restored from {self._config.state}"
            said = from_file if origin == "restored" else "new: no state file yet"
            _log.info("%s (%s)", status_line(controller.status()), said)

    async def wait_for_lock(self) -> None:
        """Wait until no other process holds the state file. Raises ``StateError`` as ``load`` does."""
        await asyncio.to_thread(self._lock.acquire, _LOCK_WITHIN)

    async def start(
        self, unix_sockets: Sequence[socket.socket], tcp_sockets: Sequence[socket.socket]
    ) -> None:
        """Serve the admin addresses, and start the services."""
        self._resolver.configure(names(self._config.endpoints), self._config.dns)
        for service in self.services.values():
            service.start_notifier()
        await self._admin.start(unix_sockets, tcp_sockets)
        for service in self.services.values():
            service.start(self.reloader.files, self._restarted)
        self._restarted = None
        self._ticker.start()
        self._watch()
        self._beat()

    def _beat(self) -> None:
        """Twice a second: heartbeat, dead workers, the log about endpoints, the status for systemd."""
        self._heartbeat = asyncio.get_running_loop().call_later(_HEARTBEAT_EVERY, self._beat)
        self._block.heartbeats[self._block.side] = int(monotonic() * 1000)
        self._workers.settle_other_side()
        for service in self.services.values():
            service.log_upstreams()
        line = status_line(self._only.controller.status())
        if line != self._status_line:
            self._status_line = line
            systemd.notify(f"STATUS={line}")

    def _resolved(self, addresses: Addresses) -> None:
        self._block.addresses.publish(addresses)
        for service in self.services.values():
            service.health.resolve(addresses)

    def _watch(self) -> None:
        if self._config.reload.watch and self.reloader.path is not None:
            self._spawn(self.reloader.watch())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def note(self, what: str, cause: str, figures: dict[str, Any]) -> None:
        """Record in the history what has happened to the proxy."""
        self._only.controller.note(what, cause, figures)

    def _check(self, config: Config) -> None:
        self._only.controller.check(config)

    def _reconfigure(self, config: Config) -> None:
        """Put a configuration in force that ``_check`` has accepted."""
        old, self._config = self._config, config
        service = self._only
        service.reconfigure(config)
        self._resolver.configure(names(config.endpoints), config.dns)
        self._block.config.publish(self.reloader.text, self._placements(), self.reloader.files)
        service.health.configure(config, self.reloader.files)
        if not old.reload.watch:
            self._watch()

    def _placements(self) -> dict[str, Placement]:
        return {name: one.placement for name, one in self.services.items()}

    def reload(self) -> None:
        """Read the configuration file again, as SIGHUP demands."""
        systemd.reloading()
        self.reloader.try_reload()
        self._spawn(self._reloaded())

    async def _reloaded(self) -> None:
        await self._workers.adopted()
        systemd.notify("READY=1")

    def record_notes(self, pipe: int) -> None:
        """Record in the history what the parent writes into a pipe, ``{"what": …, "cause": …}`` a line."""
        loop = asyncio.get_running_loop()

        def record() -> None:
            for line in os.read(pipe, 65536).splitlines():
                note = json.loads(line)
                self.note(note["what"], note["cause"], {})

        loop.add_reader(pipe, record)

    def stop_watching(self) -> None:
        """Stop watching the configuration file: the proxy drains."""
        for task in tuple(self._tasks):
            task.cancel()

    async def release(self) -> None:
        """Save the state, stop the services and release the state file. Changes are refused from now on."""
        self.stop_watching()
        self._resolver.stop()
        self._admin.stop_accepting()
        self._ticker.stop()
        for service in self.services.values():
            service.stop()
        if self._heartbeat is not None:
            self._heartbeat.cancel()
            self._heartbeat = None
        await asyncio.gather(*(one.controller.stop() for one in self.services.values()))
        self._lock.release()

    async def close(self) -> None:
        """Close the admin addresses and end the notifications; call ``release`` before."""
        await self._admin.stop()
        await asyncio.gather(*(one.close() for one in self.services.values()))

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
