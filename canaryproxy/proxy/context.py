"""State shared by the connections of one worker."""

from __future__ import annotations

from canaryproxy.config import Limits
from canaryproxy.http1.forwarding import TrustedProxies
from canaryproxy.http1.head_cache import RequestHeadCache, ResponseHeadCache
from canaryproxy.measure.counters import Counters, Tally
from canaryproxy.measure.rescue import Budget, RescueRules
from canaryproxy.proxy.access_log import AccessLog
from canaryproxy.proxy.error_log import ErrorLog
from canaryproxy.proxy.head_ends import HeadEnds
from canaryproxy.proxy.interfaces import Connection, Receiver
from canaryproxy.proxy.long_lived import LongLivedExchanges
from canaryproxy.proxy.mirror import Mirror
from canaryproxy.proxy.pool import Pool
from canaryproxy.proxy.routing import Router
from canaryproxy.proxy.trial_rules import TrialRules


class WorkerContext:
    """State that connections and exchanges read. ``DataPath`` fills it from the configuration.

    They change nothing here but ``connections``, ``long_lived``, ``in_flight`` and ``overdue``.
    """

    __slots__ = (
        "access_log",
        "budget",
        "connections",
        "counters",
        "draining",
        "error_log",
        "first_byte_timeout",
        "head_ends",
        "idle_timeout",
        "in_flight",
        "limits",
        "long_lived",
        "max_requests",
        "mirror",
        "overdue",
        "pools",
        "request_parser",
        "rescue",
        "rescue_after",
        "response_ends",
        "response_parsers",
        "router",
        "tallies",
        "trial_rules",
        "trusted_proxies",
    )

    limits: Limits
    max_requests: int
    """``limits.max_requests`` and two of its timeouts, read with each request."""
    first_byte_timeout: float
    idle_timeout: float
    trusted_proxies: TrustedProxies
    """The proxies before us whose forwarding fields are believed."""
    request_parser: RequestHeadCache
    trial_rules: TrialRules
    """Which requests count for the judge."""
    mirror: Mirror | None
    """Copies requests for the canary, if that is configured."""
    pools: tuple[Pool, Pool]
    """The endpoints of stable and of the canary."""
    rescue: RescueRules
    """Which requests the other variant may answer."""
    budget: Budget
    """How many requests of the canary stable may take over."""
    rescue_after: float
    """Seconds to the first byte after which the canary has failed, if stable can answer; may be ``inf``."""

    def __init__(
        self,
        counters: Counters,
        access_log: AccessLog | None,
        router: Router,
        response_parsers: tuple[ResponseHeadCache, ResponseHeadCache],
    ) -> None:
        self.counters = counters
        self.tallies = (Tally(counters.stable), Tally(counters.canary))
        """Writes the counters of each variant."""
        self.long_lived = LongLivedExchanges(self.tallies)
        """The tunnels and endless responses, which follow their users."""
        self.access_log = access_log
        self.error_log = ErrorLog()
        self.head_ends = HeadEnds()
        self.response_ends = self.head_ends.responses
        """``head_ends.responses``, read with each response."""
        self.router = router
        self.response_parsers = response_parsers
        """By variant, as what caches may keep of its responses differs."""
        self.connections: set[Connection] = set()
        """The clients' connections, those included whose handshake is not complete."""
        self.in_flight = 0
        """Requests being answered, tunnels included."""
        self.overdue: list[Receiver] = []
        """Exchanges whose canary has had its time to answer, found by ``mark_late``."""
        self.draining = False
        """The worker shuts down: connections close after their current response."""

    def is_full(self) -> bool:
        """Tell whether there are as many connections as there may be."""
        return len(self.connections) >= self.limits.max_connections
