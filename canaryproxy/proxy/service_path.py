"""One service in one worker: builds what its exchanges share, and looks after its endpoints."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import inf
from time import monotonic
from typing import Final

from canaryproxy.config import Config, Sticky, Variant
from canaryproxy.config import Endpoint as EndpointConfig
from canaryproxy.config import Service as ServiceSection
from canaryproxy.config.secrets import signing_keys
from canaryproxy.http1.head_cache import ResponseHeadCache
from canaryproxy.measure import counters
from canaryproxy.measure.cohorts import CohortRules
from canaryproxy.measure.conditions import MatchRules
from canaryproxy.measure.endpoint_cells import Entry, LocalState
from canaryproxy.measure.rescue import Patience, RescueRules
from canaryproxy.measure.resolved import Addresses, expand, names
from canaryproxy.measure.route_names import RouteNames
from canaryproxy.measure.routing import CANARY, STABLE, VARIANTS, RouteTable
from canaryproxy.measure.shared_memory import OutCell, ServiceCells, TableCell
from canaryproxy.proxy.body_sampler import BodySampler
from canaryproxy.proxy.context import ServiceContext, WorkerContext
from canaryproxy.proxy.endpoint import Endpoint
from canaryproxy.proxy.http2_upstream import Http2Upstream
from canaryproxy.proxy.interfaces import (
    Connection,
    ConnectionSource,
    SharedConnection,
    UpstreamLink,
)
from canaryproxy.proxy.mirror import Mirror
from canaryproxy.proxy.outbox import Outbox
from canaryproxy.proxy.pool import Pool
from canaryproxy.proxy.probes import ProbeRules
from canaryproxy.proxy.propagation import Follower, follower_of, propagator_of
from canaryproxy.proxy.routing import Router
from canaryproxy.proxy.sharing import Sharing
from canaryproxy.proxy.signing import Signer
from canaryproxy.proxy.sticky import CookieJar, key_reader
from canaryproxy.proxy.trial_rules import TrialRules
from canaryproxy.proxy.upstream_connection import UpstreamConnection
from canaryproxy.tls.contexts import ContextCache
from canaryproxy.tls.files import Files

_UNREAD: Final = -1
_CLOSE_EVERY: Final = 0.02
"""Seconds between two connections that are closed because their users have moved."""


@dataclass(frozen=True, slots=True)
class Service:
    """A service as a worker gets it."""

    name: str
    """As in ``Config.by_service``."""
    config: Config
    """Its own (``Config.by_service``)."""
    place: ServiceSection | None
    """Its hosts and paths; ``None`` in a configuration of one service."""
    outcomes: Mapping[str, int]
    """``counters.slots`` of its outcomes."""
    cells: ServiceCells
    """Where the worker counts and leaves records."""
    table: TableCell
    """Where its route tables are published, perhaps by another process: each holds from then on."""
    outs: OutCell
    """Where the endpoints are published that are out of service."""


class ServicePath:
    """Carries the requests of one service, by a configuration that can be replaced while it runs."""

    __slots__ = (
        "_addresses",
        "_closer",
        "_files",
        "_follower",
        "_loop",
        "_mirror",
        "_names",
        "_outs_sequence",
        "_patience",
        "_records",
        "_rescue_after",
        "_routed",
        "_routes",
        "_sampler",
        "_sharing",
        "_tls_contexts",
        "context",
        "end_at",
        "service",
    )

    def __init__(
        self,
        service: Service,
        worker: WorkerContext,
        loop: asyncio.AbstractEventLoop,
        sampler: BodySampler,
        addresses: Addresses,
    ) -> None:
        """It can be used once it is configured."""
        self.service = service
        self._loop = loop
        self._sampler = sampler
        cells = service.cells
        self._sharing = sharing = Sharing()
        self.context = ServiceContext(
            worker,
            service.config.service,
            cells,
            Router(service.table, cells.counters.service, sharing),
            sharing.parsers,
        )
        self._records = cells.records
        self._routes = RouteNames(cells.names)
        self._mirror = Mirror(cells.counters)
        self._patience = Patience()
        self._rescue_after: float | None = None
        """Seconds, ``None``: those of ``_patience``."""
        self._closer: asyncio.TimerHandle | None = None
        """Closes long-lived connections whose users have moved, while there are any."""
        self._addresses = addresses
        self._names: list[str] = []
        """The host names among its endpoints."""
        self._files: Files = {}
        self._follower: Follower | None = None
        self._tls_contexts = ContextCache()
        self._routed = 0
        """Requests routed before the last tick."""
        self._outs_sequence = _UNREAD
        self.end_at = inf
        """When its long-lived connections are ended, if the configuration has dropped it."""

    # Configuration

    def configure(self, service: Service, files: Files, tls_contexts: ContextCache) -> None:
        """Serve by another configuration from the next request on; requests in flight are not affected.

        ``files`` are those of TLS; ``tls_contexts`` keeps what is made of them.
        """
        context, config = self.context, service.config
        self._names = [str(one) for one in names(config.endpoints)]
        self.service, self._files, self._tls_contexts = service, files, tls_contexts
        context.load.configure(config.limits.shed_after)
        context.rescue = RescueRules(
            config.rescue, reversible=config.reversible, workers=config.worker_count
        )
        self._rescue_after = config.rescue.after
        context.rescue_after = inf
        context.head_ends = context.worker.head_ends.of(config.split.variant_header)
        context.response_ends = context.head_ends.responses
        self._sharing.configure(
            config.split,
            config.circuit,
            has_canary=config.variants.canary is not None,
            table=context.router.table,
        )
        context.long_lived.configure(config.circuit)
        context.trial_rules = TrialRules(
            config, service.outcomes, self._sampler, self._records, self._routes
        )
        context.propagator = self._mirror.propagator = propagator_of(config, files)
        self._follower = follower_of(config, files, context.counters.service)
        self._configure_router(config, signer_of(config.split.sticky, files))
        self._fill_pools()

    def _configure_router(self, config: Config, signer: Signer | None) -> None:
        sticky = config.split.sticky
        mints = sticky.cookie is not None and sticky.set_
        probes, proxies = config.split.probes, self.context.worker.trusted_proxies
        self.context.router.configure(
            key_reader(sticky, proxies, signer),
            CookieJar(sticky, signer) if mints else None,
            MatchRules(config.split.rules, tuple(config.variants.others)),
            self.context.trial_rules.outcomes,
            CohortRules(config.split.cohorts.items()),
            probes=None if probes is None else ProbeRules(probes, proxies),
            proxies=proxies,
            key_is_in_headers=not sticky.address,
            follower=self._follower,
        )

    # Endpoints

    def resolve(self, addresses: Addresses) -> None:
        """Make these the endpoints behind names, from the next request on.

        Requests at addresses that are gone end as they would have.
        """
        before, self._addresses = self._addresses, addresses
        if any(before.get(name) != addresses.get(name) for name in self._names):
            self._fill_pools()

    def _fill_pools(self) -> None:
        context, config = self.context, self.service.config
        context.pools = (
            self._pool(STABLE, config.variants.stable),
            self._pool(CANARY, config.variants.canary),
        )
        self._refresh_pools()
        self._outs_sequence = _UNREAD
        timeout = context.worker.first_byte_timeout
        self._mirror.configure(config.mirror.percent, context.pools[1], timeout)
        mirrors = config.mirror.percent > 0 and context.pools[1].endpoints
        context.mirror = self._mirror if mirrors else None
        context.settle()

    def _pool(self, which: int, variant: Variant | None) -> Pool:
        """Return the variant's pool; endpoints that it had before keep their connections and their state."""
        known = {endpoint.config: endpoint for endpoint in self.context.pools[which].endpoints}
        wanted = expand(variant.endpoints, self._addresses) if variant is not None else ()
        limits, parser = self.context.worker.limits, self.context.response_parsers[which]
        outbox = self.context.worker.outbox
        endpoints = [
            known[one]
            if one in known
            else Endpoint(one, limits, self._loop, _protocol(one, parser, outbox))
            for one in wanted
        ]
        for one, endpoint in known.items():
            if one not in wanted:
                endpoint.close()
        by_hash = variant is not None and variant.balance == "hash"
        slow_start = 0.0 if variant is None else variant.slow_start
        pool = Pool(endpoints, by_hash=by_hash, slow_start=slow_start)
        tls = None if variant is None else variant.tls
        for one, endpoint in zip(wanted, endpoints, strict=True):
            endpoint.standing.was_up &= not known or one in known
            endpoint.config = one  # with the rank and the weight of now
            endpoint.limit(limits)
            endpoint.standing.by_hash = by_hash
            context = self._tls_contexts.client(endpoint.config, tls, self._files)
            endpoint.secure(context, None if tls is None else tls.server_name)
            endpoint.on_change = self._refresh_pools
        return pool

    def _refresh_pools(self) -> None:
        """Look again at which endpoints are up.

        Stable answers for a canary without any: it is tried all the same only if stable has none either. When
        stable is back, the canary may be, too; until its next probe its requests would count as failures.
        """
        now = monotonic()
        stable, canary = self.context.pools
        is_over = stable.panic
        stable.refresh(now, may_panic=True)
        is_over = is_over and not stable.panic
        canary.refresh(now, may_panic=stable.panic)
        if is_over:
            for endpoint in canary.endpoints:
                endpoint.probe_soon()

    def follow_outs(self) -> None:
        """Take out of service what the control plane wants out, as far as this worker can know."""
        cell = self.service.outs
        sequence = cell.sequence[0]
        if sequence == self._outs_sequence:
            return
        found = cell.read() if sequence else {}
        if found is not None:
            self._outs_sequence = sequence
            self.take_out(found)

    def take_out(self, outs: Mapping[tuple[int, int], int]) -> None:
        """Take these endpoints, as ``OutCell.read`` returns them, out of service and all others back in."""
        changed = False
        for variant, pool in enumerate(self.context.pools):
            for endpoint in pool.endpoints:
                why, standing = outs.get((variant, endpoint.identity), 0), endpoint.standing
                changed |= why != standing.out
                standing.out = why
        if changed:
            self._refresh_pools()

    def report(self) -> None:
        """Write the states and counts of the endpoints into shared memory."""
        for variant in range(len(VARIANTS)):
            self.service.cells.endpoints.write(
                variant,
                [
                    Entry(
                        one.identity,
                        LocalState(
                            not one.ejected,
                            one.active,
                            one.reason,
                            one.errno,
                            one.standing.share < 1.0,
                        ),
                        one.marks,
                    )
                    for one in self.context.pools[variant].endpoints
                ],
            )

    # The clock

    def is_idle(self) -> bool:
        """Tell whether nothing was routed since the last call, and nothing is in flight."""
        context = self.context
        if not context.is_awake:
            return True
        stable, canary = (tally.values for tally in context.tallies)
        before, self._routed = self._routed, stable[counters.ROUTED] + canary[counters.ROUTED]
        return (
            before == self._routed == stable[counters.FINISHED] + canary[counters.FINISHED]
            and context.long_lived.is_empty
            and not self._records.has_pending
        )

    def publish(self, table: RouteTable) -> None:
        """Route by this table from the next request on."""
        self.context.router.publish(table)

    def begin_tick(self, now: float) -> None:
        """Look at load and endpoints, before late requests are counted."""
        slow = self.context.router.current().slow
        for pool, slow_from in zip(self.context.pools, slow, strict=True):
            pool.tick(now, slow_from)
        self._renew_rescue(now)
        self.context.observe_load(now)

    def flush(self) -> None:
        """Show the judge what is recorded by now."""
        if self._follower is not None:
            self._follower.announce(self._records, self.service.cells.names)
        self._records.flush()

    def end_tick(self, now: float) -> None:
        """Let long-lived connections follow their users."""
        if self.context.long_lived.look(self.context.router.current(), now) and not self._closer:
            self._close_due()

    def _close_due(self) -> None:
        """Close the long-lived connections whose turn it is."""
        more = self.context.long_lived.close_due(monotonic())
        self._closer = self._loop.call_later(_CLOSE_EVERY, self._close_due) if more else None

    def _renew_rescue(self, now: float) -> None:
        """Update what rescue derives from stable's requests."""
        context = self.context
        stable = context.tallies[STABLE].values
        context.rescue.budget.observe(now, stable[counters.ROUTED])
        self._patience.observe(now, stable)
        after = self._patience.seconds if self._rescue_after is None else self._rescue_after
        context.rescue_after = after if after < context.worker.first_byte_timeout else inf

    def sweep(self, now: float) -> None:
        """End copies that take too long, and close connections that have been idle for too long."""
        self._mirror.sweep(now)
        for pool in self.context.pools:
            for endpoint in pool.endpoints:
                endpoint.sweep(now)

    # The end

    def revive(self) -> None:
        """Make it usable again after ``close``: the configuration has it again."""
        self.end_at = inf
        self.context.pools = (Pool((), by_hash=False), Pool((), by_hash=False))

    def is_over(self, connections: Iterable[Connection]) -> bool:
        """Tell whether nothing of it is in flight any more; ``connections`` are those of the worker."""
        return not (
            self._mirror.copies
            or self._sampler.waiting
            or any(one.carries(self.context) for one in connections)
        )

    def dispose(self) -> None:
        """Let go of everything: nothing is in flight any more.

        What refers to it would keep its slot mapped until the garbage collector runs.
        """
        self.close()
        for pool in self.context.pools:
            for endpoint in pool.endpoints:
                endpoint.on_change = _ignore

    def end_long_lived(self) -> None:
        """End all long-lived connections at once, at a boundary where there is one."""
        self.context.long_lived.end_all()

    def close(self) -> None:
        """End what has no client, and close idle connections; those in use close when they are released."""
        self._records.flush()
        self._mirror.end()
        for pool in self.context.pools:
            for endpoint in pool.endpoints:
                endpoint.close()
        if self._closer is not None:
            self._closer.cancel()
            self._closer = None


def _protocol(
    endpoint: EndpointConfig, parser: ResponseHeadCache, outbox: Outbox
) -> Callable[[ConnectionSource], UpstreamLink | SharedConnection]:
    """Return what makes the protocol of a connection to an endpoint."""
    if endpoint.is_http2:
        return lambda source: Http2Upstream(source, parser, outbox)
    return lambda source: UpstreamConnection(source, parser)


def _ignore() -> None:
    """Ignore a change of an endpoint whose service is gone."""


def signer_of(sticky: Sticky, files: Files) -> Signer | None:
    """Return what signs the sticky cookie, if it is to be signed."""
    if sticky.sign is None:
        return None
    return Signer(
        signing_keys(files.get(sticky.sign.key_file, b"")), (sticky.cookie or "").encode()
    )
