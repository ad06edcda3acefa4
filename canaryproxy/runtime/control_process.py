"""The control plane: the services, the admin addresses, names and reloads."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
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
from canaryproxy.config.service_names import service_of
from canaryproxy.control.controller import Origin
from canaryproxy.control.ended import refuse_ended
from canaryproxy.control.process import ProcessControl, Service
from canaryproxy.control.reload import Change, Reloader, live
from canaryproxy.control.state_file import StateError
from canaryproxy.control.state_lock import StateLocks
from canaryproxy.measure.resolved import Addresses, names
from canaryproxy.measure.shared_memory import Block, Configured, Placement
from canaryproxy.release.rollout import Refused
from canaryproxy.runtime import systemd
from canaryproxy.runtime.resolver import Resolver
from canaryproxy.runtime.service_control import ServiceControl
from canaryproxy.runtime.slots import Slots
from canaryproxy.runtime.status_line import overall_line, status_line
from canaryproxy.runtime.ticker import Ticker
from canaryproxy.runtime.workers import Workers
from canaryproxy.tls import files as certificates
from canaryproxy.tls.files import Files

_log = logging.getLogger(__name__)

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
        self._leaving: set[asyncio.Task[None]] = set()
        """Services that have been removed, until they have ended."""
        self._locks = StateLocks(config)
        self._status_line = ""
        self._touched: list[str] = []
        """Services that the reload of now concerns."""
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
            reloaded=self._note_reload,
        )
        self._main_pid = main_pid
        self._slots = Slots(block, in_force)
        services = config.by_service()
        self._lost = self._slots.take(services)
        """Slots of services that the next configuration to be published does not have."""
        self.services: dict[str, ServiceControl] = {
            name: self._made(name, own, in_force) for name, own in services.items()
        }
        """Those in force, by name."""
        self._ticker = Ticker(self._workers.tick, self._ticking)
        self._operated = self._served()
        process = ProcessControl(self._workers, self.reloader, lambda: self._operated)
        self._admin = AdminServer(self._registry(), process, config.admin)

    def _ticking(self) -> Iterable[ServiceControl]:
        return self.services.values()

    def _registry(self) -> CollectorRegistry:
        process = ProcessSources(
            proxy=[worker.proxy for worker in self._block.all_workers],
            names=self._resolver.states,
            certificates=lambda: certificates.expiries(self.reloader.running, self.reloader.files),
            tasks=lambda: self._workers.tasks,
            log_lines_dropped=lambda: self._workers.log_lines_dropped,
            tick=lambda: self._ticker.seconds,
            late_ticks=lambda: self._ticker.late,
        )
        return registry(
            CounterCollector(process, lambda: [one.sources for one in self.services.values()])
        )

    @property
    def _first(self) -> ServiceControl:
        return next(iter(self.services.values()))

    def _made(self, name: str, config: Config, in_force: Configured | None) -> ServiceControl:
        """Return the control of a service in its slot; ``in_force`` may know the cells of its outcomes."""
        known = None if in_force is None else in_force.services.get(name)
        return ServiceControl(
            config,
            self._block.service(self._slots.by_name[name]),
            self._workers,
            self.reloader,
            self._block.addresses,
            outcomes=None if known is None else known.outcomes,
            main_pid=self._main_pid,
            unresolved=self._resolver.failing,
        )

    def _served(self) -> dict[str, Service]:
        """Return the services as operators see them."""
        configured = self._config.services
        found = {}
        for name, one in self.services.items():
            own = configured.get(service_of(name))
            hosts, paths = ((), ()) if own is None else (own.hosts, own.paths)
            found[name] = Service(tuple(map(str, hosts)), tuple(map(str, paths)), one.control)
        return found

    def load(self) -> None:
        """Restore the releases from the state files and the tables in force, and publish the first tables.

        Blocks while the control plane before this one saves. Raises ``StateError`` if another process keeps
        the state file.
        """
        self._locks.acquire(_LOCK_WITHIN)
        before = any(service.has_table for service in self.services.values())
        origins = {name: service.load() for name, service in self.services.items()}
        in_force = self._block.config.read()
        ours = (self.reloader.text, self._placements(), self.reloader.files)
        if ours[0] and (
            in_force is None or (in_force.text, in_force.services, in_force.files) != ours
        ):
            self._publish()
        if "restored" in origins.values() and not self._takes_over:
            what = "the control plane" if before else "the proxy"
            files = "the state file" if len(origins) == 1 else "the state files"
            self._restarted = f"{what} runs again as process {os.getpid()}, from {files}"
        self._log_origins(origins)

    def _log_origins(self, origins: Mapping[str, Origin]) -> None:
        if self._is_single:
            ((name, origin),) = origins.items()
            if origin != "refused":  # the trip that follows from that says it all
                from_file = f"restored from {self._config.state}"
                said = from_file if origin == "restored" else "new: no state file yet"
                _log.info("%s (%s)", status_line(self.services[name].controller.status()), said)
            return
        _log.info("%s", self._line())
        for name in self._awake:
            _log.info("%s: %s", name, status_line(self.services[name].controller.status()))

    @property
    def _is_single(self) -> bool:
        """Whether there is one service, without a name."""
        return not self._config.services and len(self.services) == 1

    @property
    def _awake(self) -> list[str]:
        """The services whose release is under way, or whose circuit is not closed."""
        return [name for name, one in self.services.items() if one.controller.ledger.is_active]

    async def wait_for_lock(self) -> None:
        """Wait until no other process holds the state file. Raises ``StateError`` as ``load`` does."""
        await asyncio.to_thread(self._locks.acquire, _LOCK_WITHIN)

    async def start(
        self, unix_sockets: Sequence[socket.socket], tcp_sockets: Sequence[socket.socket]
    ) -> None:
        """Serve the admin addresses, and start the services."""
        self._resolver.configure(names(self._config.endpoints), self._config.dns)
        for service in self.services.values():
            service.start_notifier()
        await self._admin.start(unix_sockets, tcp_sockets)
        for service in self.services.values():
            service.start(self.reloader.files)
        if self._restarted is not None:
            self.note("restart", self._restarted, {})
            self._restarted = None
        self._ticker.start()
        self._watch()
        self._beat()

    def _beat(self) -> None:
        """Twice a second: heartbeat, dead workers, the log about endpoints, the status for systemd."""
        self._heartbeat = asyncio.get_running_loop().call_later(_HEARTBEAT_EVERY, self._beat)
        self._block.heartbeats[self._block.side] = int(monotonic() * 1000)
        self._workers.settle_other_side()
        line = self._line()
        if line != self._status_line:
            self._status_line = line
            systemd.notify(f"STATUS={line}")

    def _line(self) -> str:
        if self._is_single:
            return status_line(self._first.controller.status())
        statuses = {name: self.services[name].controller.status() for name in self._awake}
        return overall_line(len(self.services), statuses)

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
        """Record what has happened to the proxy in the history of each service that it may matter to.

        Those are the services whose release is under way; if there is none, it is the first one.
        """
        for name in self._awake or list(self.services)[:1]:
            self.services[name].controller.note(what, cause, figures)

    def _note_reload(self, change: Change, by: str | None) -> None:
        """Record a reload in the history of the services that it concerns."""
        if self._is_single:
            self.note("reload", change.sentence(by), change.to_dict())
            return
        for name in self._touched or self._awake or list(self.services)[:1]:
            mine = change.of(name)
            if mine.changed or mine.restart_needed or not self._touched:
                self.services[name].controller.note("reload", mine.sentence(by), mine.to_dict())
        _log.info("reload: %s", change.sentence(by))

    # Reloads

    def _check(self, config: Config) -> None:
        """Raise ``Refused`` if a release cannot continue under this configuration."""
        self._touched = []
        wanted = config.by_service()
        self._slots.plan(wanted)
        try:
            self._locks.extend(config)
        except StateError as error:
            raise Refused(str(error)) from None
        for name, own in wanted.items():
            known = self.services.get(name)
            try:
                if known is None:
                    refuse_ended(own)
                else:
                    known.controller.check(own)
            except Refused as error:
                if config.services:
                    raise Refused(f"services.{name}: {error}") from None
                raise

    def _reconfigure(self, config: Config) -> None:
        """Put a configuration in force that ``_check`` has accepted. What it does not change goes on."""
        old, self._config = self._config, config
        wanted = config.by_service()
        for name in self.services.keys() - wanted.keys():
            self._remove(name)
        self._lost |= self._slots.take(wanted)
        added = [name for name in wanted if name not in self.services]
        changed = [name for name, one in self.services.items() if one.differs(wanted[name])]
        self._touched = [*changed, *added]
        for name, service in self.services.items():
            if name in changed:
                service.reconfigure(wanted[name])
            else:
                service.keep(wanted[name])
        new = {name: self._made(name, wanted[name], None) for name in added}
        for service in new.values():
            service.load()
        self.services = {name: self.services.get(name) or new[name] for name in wanted}
        self._resolver.configure(names(config.endpoints), config.dns)
        self._publish()
        for name, service in self.services.items():
            if name in new:
                service.start_notifier()
                service.start(self.reloader.files)
            else:
                service.health.configure(service.config, self.reloader.files)
        self._operated = self._served()
        if not old.reload.watch:
            self._watch()

    def _remove(self, name: str) -> None:
        service = self.services.pop(name)
        self._ticker.drop(service)
        service.remove()
        self._leave(service)

    def _leave(self, service: ServiceControl) -> None:
        task = asyncio.get_running_loop().create_task(service.leave())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    def _publish(self) -> None:
        """Publish the configuration and where its services are."""
        lost, self._lost = self._lost, {}
        generation = self._block.config.publish(
            self.reloader.text, self._placements(), self.reloader.files
        )
        self._slots.published(lost, generation)

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
        self._locks.release()

    async def close(self) -> None:
        """Close the admin addresses and end the notifications; call ``release`` before."""
        await self._admin.stop()
        await asyncio.gather(*(one.close() for one in self.services.values()), *self._leaving)

    async def stop(self) -> None:
        """Call ``release``, then ``close``."""
        await self.release()
        await self.close()
