"""State shared by the connections of one worker, and by the exchanges of one service."""

from __future__ import annotations

from typing import Final

from canaryproxy.config import Limits
from canaryproxy.http1.forwarding import Peer, TrustedProxies
from canaryproxy.http1.head_cache import RequestHeadCache, ResponseHeadCache
from canaryproxy.http1.propagated import Names
from canaryproxy.http1.request import Request
from canaryproxy.measure.counters import FINISHED, ROUTED, Counters, ExemplarWriter, Tally
from canaryproxy.measure.rescue import RescueRules
from canaryproxy.measure.routing import Routing
from canaryproxy.measure.service_table import ServiceTable
from canaryproxy.measure.shared_memory import ServiceCells
from canaryproxy.measure.shedding import LoadLimits
from canaryproxy.proxy.access_log import AccessLog
from canaryproxy.proxy.error_log import ErrorLog
from canaryproxy.proxy.head_ends import HeadEnds, VariantEnds
from canaryproxy.proxy.interfaces import Connection, Receiver
from canaryproxy.proxy.long_lived import LongLivedExchanges
from canaryproxy.proxy.mirror import Mirror
from canaryproxy.proxy.outbox import Outbox
from canaryproxy.proxy.pool import Pool
from canaryproxy.proxy.propagation import Propagator
from canaryproxy.proxy.routing import Router
from canaryproxy.proxy.trial_rules import TrialRules

_ASLEEP: Final[tuple[Tally, ...]] = (Tally(Counters().stable), Tally(Counters().canary))
"""In place of the counters of services that have none yet; nothing is counted here."""


class WorkerContext:
    """State of a worker that connections and exchanges read. ``DataPath`` fills it from the configuration.

    They change nothing here but ``connections``, ``in_flight`` and ``overdue``.
    """

    __slots__ = (
        "access_log",
        "body_timeout",
        "by_host",
        "connections",
        "draining",
        "error_log",
        "first_byte_timeout",
        "head_ends",
        "header_timeout",
        "idle_timeout",
        "in_flight",
        "limits",
        "max_connections",
        "max_requests",
        "only",
        "outbox",
        "overdue",
        "propagated",
        "proxy_tally",
        "request_parser",
        "services",
        "table",
        "trusted_proxies",
    )

    limits: Limits
    max_connections: int
    """Those of ``limits`` that are read with each connection and request: a look into a model is dear."""
    max_requests: int
    header_timeout: float
    first_byte_timeout: float
    body_timeout: float
    idle_timeout: float
    trusted_proxies: TrustedProxies
    """The proxies before us whose forwarding fields are believed."""
    request_parser: RequestHeadCache
    """Reads all heads first; some services have one of their own (``ServiceContext.request_parser``)."""
    only: ServiceContext | None
    """The service of all requests, if there is only one; ``None``: ``table`` says which."""
    by_host: dict[bytes, ServiceContext]
    """By Host fields that came lately: services that take all requests of such a host, as first parsed."""
    table: ServiceTable
    services: list[ServiceContext]
    """By index in ``table``."""

    def __init__(self, proxy_cells: memoryview[int], access_log: AccessLog | None) -> None:
        self.proxy_tally = Tally(proxy_cells)
        """Writes the counters that belong to no service (``WorkerCells.proxy``)."""
        self.access_log = access_log
        self.error_log = ErrorLog()
        self.head_ends = HeadEnds()
        self.connections: set[Connection] = set()
        """The clients' connections, those included whose handshake is not complete."""
        self.in_flight = 0
        """Requests being answered, tunnels included."""
        self.overdue: list[Receiver] = []
        """Exchanges whose canary has had its time to answer, found by ``mark_late``."""
        self.propagated: Names | None = None
        """The names of fields that say which version a request gets, of all services."""
        self.outbox = Outbox()
        self.draining = False
        """The worker shuts down: connections close after their current response."""

    def limit(self, limits: Limits) -> None:
        """Keep within these limits from now on."""
        self.limits = limits
        self.max_connections = limits.max_connections
        self.max_requests = limits.max_requests
        self.header_timeout = limits.header_timeout
        self.first_byte_timeout = limits.first_byte_timeout
        self.body_timeout = limits.body_timeout
        self.idle_timeout = limits.idle_timeout

    def is_full(self) -> bool:
        """Tell whether there are as many connections as there may be."""
        return len(self.connections) >= self.max_connections


class Versions:
    """Chooses among the versions of a service; ``OtherVersions`` does it."""

    __slots__ = ()

    def choose(
        self, service: ServiceContext, request: Request, peer: Peer, routing: Routing
    ) -> tuple[ServiceContext, Routing]:
        """Return what carries a request that ``service`` has routed, and its routing there."""
        raise NotImplementedError


class ServiceContext:
    """State of a service in a worker that its exchanges read. ``ServicePath`` fills it.

    They change nothing here but ``long_lived``. It lasts as long as its last exchange, even if the
    configuration has dropped the service meanwhile.
    """

    __slots__ = (
        "cells",
        "counters",
        "exemplars",
        "head_ends",
        "is_awake",
        "is_plain",
        "load",
        "long_lived",
        "mirror",
        "name",
        "others",
        "pools",
        "propagator",
        "request_parser",
        "rescue",
        "rescue_after",
        "response_ends",
        "response_parsers",
        "router",
        "tallies",
        "trial_rules",
        "worker",
    )

    trial_rules: TrialRules
    """Which requests count for the judge."""
    mirror: Mirror | None
    """Copies requests for the canary, if that is configured."""
    rescue: RescueRules
    """Which requests the other variant may answer, and how many."""
    rescue_after: float
    """Seconds to the first byte after which the canary has failed, if stable can answer; may be ``inf``."""
    request_parser: RequestHeadCache
    head_ends: VariantEnds
    response_ends: list[bytes]
    """``head_ends.responses``, read with each response."""

    def __init__(
        self,
        worker: WorkerContext,
        name: str | None,
        cells: ServiceCells,
        router: Router,
        response_parsers: tuple[ResponseHeadCache, ResponseHeadCache],
    ) -> None:
        self.worker = worker
        self.name = name
        """In a configuration of one service that has no name, ``None``."""
        self.others: Versions | None = None
        """Chooses among versions beside the canary, if there are any."""
        self.cells = cells
        self.counters = cells.counters
        self.is_plain = False
        """Nothing is to be done between the routing of a request and its sending (``settle``)."""
        self.is_awake = False
        """It has had a request. Until then, no memory is spent on its counters."""
        # Tuples of any length: a compiled pair would be made anew to take one of it by number.
        self.tallies: tuple[Tally, ...] = _ASLEEP
        """Writes the counters of each variant, once it is awake."""
        self.exemplars = tuple(map(ExemplarWriter, self.counters.exemplars))
        """Writes those of each variant."""
        self.long_lived = LongLivedExchanges(self.tallies)
        """The tunnels and endless responses, which follow their users."""
        self.router = router
        self.response_parsers = response_parsers
        """By variant, as what caches may keep of its responses differs."""
        self.pools: tuple[Pool, ...] = (Pool((), by_hash=False), Pool((), by_hash=False))
        """The endpoints of stable and of the canary."""
        self.propagator: Propagator | None = None
        """Tells upstreams which version a request gets, if that is configured."""
        self.load = LoadLimits()
        """How many requests stable and the canary may have in flight."""

    def wake(self) -> None:
        """Get ready for requests."""
        self.cells.mark_used()
        self.is_awake = True
        self.tallies = (Tally(self.counters.stable), Tally(self.counters.canary))
        self.long_lived.count_in(self.tallies)

    def settle(self) -> None:
        """Take note that shedding, copies or versions beside the canary may have been switched on or off."""
        self.is_plain = not self.load.sheds and self.mirror is None and self.others is None

    def observe_load(self, now: float) -> None:
        """Look at what both variants have in flight and answer; ``now`` in monotonic seconds."""
        cells = [tally.values for tally in self.tallies]
        self.load.observe(now, cells, [len(pool.usable) for pool in self.pools])
        self.settle()

    def in_flight_of(self, variant: int) -> int:
        """Return the requests of one variant that are being answered, tunnels left out."""
        values = self.tallies[variant].values
        return values[ROUTED] - values[FINISHED]
