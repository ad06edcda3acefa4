"""The control of one service: its release, and all that watches over it."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Callable, Coroutine, Iterator, Mapping
from functools import partial
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any

from canaryproxy.admin.collector import EventCounts
from canaryproxy.admin.readers import Sources
from canaryproxy.config import Config, Tell
from canaryproxy.config.model.service import SECTIONS
from canaryproxy.config.secrets import SecretError
from canaryproxy.control import release_view as view
from canaryproxy.control.controller import Controller, Origin, Status
from canaryproxy.control.gates import AskGates
from canaryproxy.control.record_reader import RecordReader
from canaryproxy.control.reload import Reloader
from canaryproxy.control.service import Control
from canaryproxy.control.settings import first_table
from canaryproxy.control.upstream_watch import UpstreamWatch
from canaryproxy.measure.counters import Totals
from canaryproxy.measure.shared_memory import AddressCell, Placement, ServiceBlock
from canaryproxy.notify import Gates, Notifier
from canaryproxy.release.circuit import Record
from canaryproxy.runtime.health_checks import HealthChecks
from canaryproxy.runtime.shared_plane import SharedPlane
from canaryproxy.runtime.status_line import status_line
from canaryproxy.runtime.ticker import IDLE_TICKS, QUIET_TICKS
from canaryproxy.runtime.workers import Workers
from canaryproxy.tls.files import Files

if TYPE_CHECKING:  # redis is an optional dependency
    from canaryproxy.fleet.teller import FrontTeller

_log = logging.getLogger(__name__)

_SAMPLE_EVERY = 0.95
_IDLE_SAMPLE_EVERY = 4.95
"""Seconds between points of the traffic; a little less than a whole number of ticks."""
_LOG_EVERY = 0.45
_NOTIFY_WITHIN = 5.0
"""Seconds for pending notifications at the end."""


class ServiceControl:
    """Controls the release of one service in all workers.

    ``config`` is the service's, ``block`` its slot, and ``outcomes`` are the cells of outcomes that are in
    use already. ``main_pid`` is the process that handles signals; ``unresolved`` says which names do not
    resolve.
    """

    def __init__(
        self,
        config: Config,
        block: ServiceBlock,
        workers: Workers,
        reloader: Reloader,
        addresses: AddressCell,
        *,
        outcomes: Mapping[str, int] | None = None,
        main_pid: int | None = None,
        unresolved: Callable[[], list[str]] = list,
    ) -> None:
        self.config = config
        """The configuration in force."""
        cells = workers.counting(block)
        totals = Totals([worker.counters for worker in cells])
        self.plane = SharedPlane(config, block, workers, addresses)
        known = addresses.read()
        self.health = HealthChecks(self.plane.outs, {} if known is None else known[1])
        self._block = block
        self._watch_upstreams = UpstreamWatch()
        self._gates = _gates(config)
        reader = RecordReader(
            [worker.records for worker in cells],
            [worker.names for worker in cells],
            [worker.records.written if worker.is_used else 0 for worker in cells],
        )
        self.controller = _controller(config, totals, self.plane, self._ask, outcomes, reader)
        self.control = Control(
            self.controller,
            totals,
            self.plane,
            reloader,
            main_pid,
            unresolved,
            used=self.plane.is_used,
        )
        self._events = EventCounts()
        self._notifier = _notifier(config)
        self._has_changed = True
        """It has a new configuration since the last tick."""
        self._sampled_at = self._logged_at = 0.0
        self._logged: object = None
        """The endpoints as they were at ``_logged_at`` (``SharedPlane.known``)."""
        self._endings: set[asyncio.Task[None]] = set()
        """Notifiers that a reload has replaced, while they deliver what is left, and tellers."""
        self._teller = _teller(config, self.controller.status)
        self._is_started = False
        self.controller.subscribe(self._recorded)
        self.sources = Sources(
            service=config.service,
            workers=lambda: [worker.counters for worker in cells if worker.is_used],
            table=lambda: self.controller.table,
            status=self.controller.status,
            view=self.control.release_view,
            endpoints=lambda: self.control.endpoints().endpoints,
            checks=lambda: self.health.counts,
            events=self._events.counts,
            records=lambda: self.controller.sampler.record_counts,
            outcomes=lambda: self.controller.slots,
            notified=lambda: self._notifier,
        )
        """The inputs of a scrape that belong to this service."""

    # Life

    def load(self) -> Origin:
        """Restore the release from the state file and the table in force, and publish the first table.

        Returns what became of the state file.
        """
        found = self._block.table.read()
        return self.controller.load(None if found is None else found[1:])

    @property
    def has_table(self) -> bool:
        """Whether a control plane before this one has published a table."""
        return self._block.table.read() is not None

    def start_notifier(self) -> None:
        """Deliver notifications from now on, also those about the start."""
        self._notifier.start()

    def start(self, files: Files) -> None:
        """Run the release; ``files`` are those of TLS."""
        self.controller.start()
        self._is_started = True
        if self._teller is not None:
            self._teller.start()
        self.health.configure(self.config, files)

    def stop(self) -> None:
        """Check and sample no more."""
        self.control.stop()
        self.health.stop()

    def remove(self, by: str | None = None) -> None:
        """Save and write no more into the slot: the configuration no longer names the service.

        The state file stays: the service continues from it if it comes back. ``leave`` follows.
        """
        status = self.controller.status()
        cause = f"the service has been removed from the configuration ({status_line(status)})"
        self.controller.note("reload", cause if by is None else f"{cause} (by {by})", {})
        self.plane.detach()
        self.stop()
        self.controller.retire()

    async def leave(self) -> None:
        """End what takes its time after ``remove``."""
        await self.controller.authority.stop()
        await self.close()

    async def close(self) -> None:
        """End the notifications, and say nothing more to a front."""
        if self._teller is not None:
            await self._teller.stop()
        await self._notifier.stop(_NOTIFY_WITHIN)

    # Configurations

    def differs(self, config: Config) -> bool:
        """Tell whether a configuration of this service concerns its control."""
        return _own(config) != _own(self.config)

    def reconfigure(self, config: Config) -> None:
        """Continue under a configuration that ``Controller.check`` has accepted.

        ``HealthChecks.configure`` is to follow, once the workers can read the configuration.
        """
        old, self.config = self.config, config
        self._has_changed = True
        self._gates = _gates(config)
        if _named(config) != _named(old):
            self._end(self._notifier.stop(_NOTIFY_WITHIN))
            self._notifier = _notifier(config)
            self._notifier.start()
        if _tell(config) != _tell(old):
            if self._teller is not None:
                self._end(self._teller.stop())
            self._teller = _teller(config, self.controller.status)
            if self._teller is not None and self._is_started:
                self._teller.start()
        self.controller.reconfigure(config, first_table(config))
        self.plane.config = config

    def _end(self, work: Coroutine[Any, Any, None]) -> None:
        ending = asyncio.get_running_loop().create_task(work)
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)

    def keep(self, config: Config) -> None:
        """Take a configuration that does not differ (``differs``), so that the former one can be freed."""
        self.config = self.controller.config = self.plane.config = config

    @property
    def placement(self) -> Placement:
        """Its slot and what the workers need to know of it, for the published configuration."""
        promoted = self.controller.capacity.follows_promotion
        return Placement(self._block.slot, self.controller.slots, promoted)

    # What the release asks for

    async def _ask(self, question: Mapping[str, Any]) -> tuple[bool, str]:
        if self.config.service is not None:
            question = {"service": self.config.service, **question}
        result = await self._gates.ask(question)
        return result.passed, result.cause

    def _recorded(self, number: int, entry: Record) -> None:
        value = view.record(number, entry)
        self._events("record", value)
        if self.controller.authority.is_mine(value):
            self._notifier.notify(value)

    # The tick

    @property
    def period(self) -> int:
        """Of how many ticks it needs one: each that brings something to judge, or follows a change."""
        if self._has_changed:
            return 1
        if self._is_idle:
            return IDLE_TICKS
        may_wait = self.controller.ledger.service is not None and self.config.fleet is None
        return QUIET_TICKS if may_wait and not self.controller.sampler.has_news else 1

    @property
    def _is_idle(self) -> bool:
        """Whether no release is under way, no users are on the canary and the circuit is closed.

        One that follows a front is not, once it has requests: the front's users may be on its canary. The one
        service of a configuration without ``services`` never is.
        """
        controller = self.controller
        return (
            controller.table.weight == 0
            and not controller.ledger.is_active
            and controller.ledger.service is not None
            and not (self.config.split.follow is not None and self.plane.is_used)
        )

    def parts(self) -> Iterator[None]:
        """Read the counters and act on the verdict, or look after an idle service; in parts."""
        now, idle, used = monotonic(), self._is_idle, self.plane.is_used
        self._has_changed = False
        if idle and self.config.fleet is None:
            self.controller.idle_tick(used=used)
        else:  # other replicas go by the records of this one
            yield from self.controller.parts()
        if now - self._sampled_at >= self._sample_every(idle=idle, used=used):
            yield
            self._sampled_at = now
            self.control.sample()
        if now - self._logged_at >= _LOG_EVERY:
            self._logged_at = now
            if used or self._has_news:
                yield
                self._log_upstreams()

    def _sample_every(self, *, idle: bool, used: bool) -> float:
        """Return the seconds between two points of the traffic: none of an idle service without requests."""
        if not idle or self.control.is_watched:
            return _SAMPLE_EVERY
        return _IDLE_SAMPLE_EVERY if used else inf

    @property
    def _has_news(self) -> bool:
        """Whether the log may have something to say of the endpoints of a service without requests."""
        return self.plane.known != self._logged or not self._watch_upstreams.is_calm

    def _log_upstreams(self) -> None:
        """Log what has happened to the endpoints."""
        self._logged = self.plane.known
        variants = self.plane.upstreams()
        if variants is None or self.plane.draining:
            return
        for line in self._watch_upstreams.observe(monotonic(), variants):
            extra = {"fields": line.fields, "service": self.config.service}
            _log.log(line.level, "%s", line.text, extra=extra)


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


def _tell(config: Config) -> Tell | None:
    """Return the front's fleet that learns of trips here."""
    return None if config.split.follow is None else config.split.follow.tell


def _teller(config: Config, status: Callable[[], Status]) -> FrontTeller | None:
    """Return what tells the front's fleet; without it, a log line says why nothing is said."""
    settings = _tell(config)
    if settings is None:
        return None
    try:
        from canaryproxy.fleet.teller import FrontTeller  # noqa: PLC0415 - see TYPE_CHECKING

        return FrontTeller(settings, status)
    except (ImportError, SecretError) as error:  # after a reload; a start checks this before
        _log.error("split.follow.tell: %s; a trip here is not told to the front", error)
        return None


def _own(config: Config) -> tuple[object, ...]:
    """Return the parts of a configuration by which a service is controlled."""
    return config.environment, *(getattr(config, name) for name in SECTIONS)


def _named(config: Config) -> tuple[object, ...]:
    """Return what notifications are made from."""
    return config.notify, config.release_id, config.environment, config.service


def _notifier(config: Config) -> Notifier:
    return Notifier(
        config.notify,
        config.release_id,
        environment=config.environment,
        service=config.service,
    )


def _gates(config: Config) -> Gates:
    return Gates(() if config.release is None else config.release.gates)
