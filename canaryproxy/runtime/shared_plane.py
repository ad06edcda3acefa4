"""The workers as the controller sees them: through shared memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from canaryproxy.config import Config, Endpoint
from canaryproxy.config.text import plural
from canaryproxy.control.endpoint_figures import EndpointReading
from canaryproxy.control.outs import Outs
from canaryproxy.control.upstream_watch import EndpointState, VariantState
from canaryproxy.measure import shared_memory as shared
from canaryproxy.measure.counters import ERRORS, Reason
from canaryproxy.measure.endpoint_cells import (
    MOST_ENDPOINTS,
    NONE,
    OTHERS,
    EndpointCounts,
    LocalState,
    identity,
    total,
)
from canaryproxy.measure.resolved import Addresses, expand
from canaryproxy.measure.routing import CANARY, STABLE, VARIANTS, RouteTable
from canaryproxy.measure.shared_memory import AddressCell, ServiceBlock, ServiceCells
from canaryproxy.runtime.workers import Workers

_NAMED = 3
"""Endpoints that are named in words."""


def _reading(
    url: str, states: list[tuple[LocalState, int]], counts: list[EndpointCounts], out: str
) -> EndpointReading:
    """Sum an endpoint over the workers; the reason is that of one that has ejected it, if there is one."""
    worst, _ = min(
        states, key=lambda one: (one[0].usable, -one[1]), default=(LocalState(True, 0), 0)
    )
    return EndpointReading(
        url,
        workers=len(states),
        ejected_by=sum(not state.usable for state, _ in states),
        in_flight=sum(state.in_flight for state, _ in states),
        errors=sum(errors for _, errors in states),
        reason=Reason(worst.reason),
        errno=worst.errno,
        counts=total(counts) if counts else NONE,
        starting=any(state.starting for state, _ in states),
        out=out,
    )


@dataclass(frozen=True, slots=True)
class _Rows:
    """The endpoints of a variant."""

    own: tuple[tuple[int, str], ...]
    """Identity and URL of those with cells of their own."""
    others: tuple[str, ...]
    """URLs of those that share cells."""
    ranks: Mapping[str, int]
    """Priorities by URL, unless all are the same."""

    @classmethod
    def of(cls, endpoints: Sequence[Endpoint]) -> _Rows:
        urls = tuple(map(str, endpoints))
        ranks = {url: one.rank for url, one in zip(urls, endpoints, strict=True)}
        own = urls[:MOST_ENDPOINTS]
        differ = len(set(ranks.values())) > 1
        return cls(
            tuple(zip(map(identity, own), own, strict=True)),
            urls[MOST_ENDPOINTS:],
            ranks if differ else {},
        )

    @property
    def number(self) -> int:
        return len(self.own) + len(self.others)


class SharedPlane:
    """Publishes the route tables of a service to all workers, and reads how they fare with it."""

    def __init__(
        self, config: Config, block: ServiceBlock, workers: Workers, addresses: AddressCell
    ) -> None:
        self._block = block
        self._workers = workers
        self._counting = workers.counting(block)
        self._detached = False
        self.outs = Outs(block.outs)
        """The endpoints that the control plane has taken out of service."""
        self._config = config
        self._cell = addresses
        self._addresses: tuple[int, Addresses] = (0, {})
        """Those behind names, as they were last read, and their sequence number."""
        self._rows: list[_Rows | None] = [None] * len(VARIANTS)
        """What follows from configuration and addresses; ``None``: it is not known yet."""

    @property
    def config(self) -> Config:
        """The configuration in force, which names the endpoints."""
        return self._config

    @config.setter
    def config(self, config: Config) -> None:
        self._config = config
        self._rows = [None] * len(VARIANTS)

    @property
    def is_used(self) -> bool:
        """Whether any worker has counted something of this service."""
        return any(one.is_used for one in self._counting)

    def detach(self) -> None:
        """Write no more into the slot: it may be given to another service."""
        self._detached = True

    # For the controller

    def publish(self, table: RouteTable, version: int) -> None:
        """Make every worker route by this table from its next request on."""
        if not self._detached:
            self._block.table.publish(table, version)

    def eject(self, variant: int, causes: Mapping[str, str]) -> None:
        """Make every worker send no requests to these outliers of a variant: causes by URL."""
        if not self._detached:
            self.outs.put(shared.OUTLIER, variant, causes)

    def holds(self) -> tuple[str, ...]:
        """Return why the canary's endpoints hold the step: what is left of it says nothing of what is out."""
        causes = self.outs.causes(shared.CHECK, CANARY)
        if not causes:
            return ()
        named = [f"{url} ({cause})" for url, cause in list(causes.items())[:_NAMED]]
        more = f" and {len(causes) - _NAMED} more" if len(causes) > _NAMED else ""
        verb = "is" if len(causes) == 1 else "are"
        return (
            f"{len(causes)} of {plural(self._row(CANARY).number, 'canary endpoint')} {verb} out of service:"
            f" {', '.join(named)}{more}",
        )

    # For operators

    @property
    def draining(self) -> bool:
        """Whether no worker accepts new requests."""
        return self._workers.draining

    def endpoints(self, variant: int) -> list[EndpointReading]:
        """Return each endpoint of a variant; those without cells of their own are one.

        Counts are found by the endpoint's identity, so those of a worker that has not yet taken a new
        configuration, or has ended, count too.
        """
        counts = [worker.endpoints.counts(variant) for worker in self._counting if worker.is_used]
        found = [
            _reading(
                url,
                states,
                [one[key] for one in counts if key in one],
                out,
            )
            for key, url, states, out in self._endpoint_states(variant)
        ]
        all_lost = bool(found) and all(one.lost for one in found)
        if all_lost and (variant == STABLE or self._all_lost(STABLE)):
            return [replace(one, panic=True) for one in found]
        ranks = self._row(variant).ranks
        if not ranks:
            return found
        best = min([ranks.get(one.url, 0) for one in found if not one.lost], default=0)
        return [
            replace(one, standby=True) if ranks.get(one.url, 0) > best else one for one in found
        ]

    def _all_lost(self, variant: int) -> bool:
        found = [
            _reading(url, states, [], out).lost
            for _, url, states, out in self._endpoint_states(variant)
        ]
        return bool(found) and all(found)

    def _endpoint_states(
        self, variant: int
    ) -> Iterator[tuple[int, str, list[tuple[LocalState, int]], str]]:
        """Yield each endpoint's identity, its name, its state in the workers that run, and why it is out.

        Those that share a row are out if all of them are.
        """
        known = self._row(variant)
        rows = [(key, url, self.outs.cause(variant, url)) for key, url in known.own]
        if known.others:
            causes = [self.outs.cause(variant, url) for url in known.others]
            others = f"{len(known.others)} more endpoints"
            rows.append((OTHERS, others, causes[0] if all(causes) else ""))
        workers = [
            worker.endpoints.states(variant, counted=worker.is_used) for worker in self._running()
        ]
        for key, url, out in rows:
            yield key, url, [states[key] for states in workers if key in states], out

    def _row(self, variant: int) -> _Rows:
        """Return the endpoints of a variant, with the addresses of names in their place."""
        if self._cell.sequence[0] != self._addresses[0]:
            addresses = self._cell.read()
            if addresses is not None:
                self._addresses = addresses
                self._rows = [None] * len(VARIANTS)
        known = self._rows[variant]
        if known is None:
            which = (self.config.variants.stable, self.config.variants.canary)[variant]
            endpoints = () if which is None else expand(which.endpoints, self._addresses[1])
            known = self._rows[variant] = _Rows.of(endpoints)
        return known

    def _running(self) -> list[ServiceCells]:
        return [one for one in self._block.workers if one.worker.status[shared.PID]]

    # For the log

    @property
    def known(self) -> tuple[object, ...]:
        """All that ``upstreams`` depends on for a service that no worker has used."""
        return self._row(STABLE), self._row(CANARY), self.outs.version, self._workers.have_adopted

    def upstreams(self) -> dict[str, VariantState] | None:
        """Return the endpoints by variant; ``None`` while a worker takes a new configuration."""
        if not self._workers.have_adopted:
            return None
        running = self._running()
        found = [
            [
                _reading(url, states, [], out)
                for _, url, states, out in self._endpoint_states(variant)
            ]
            for variant in range(len(VARIANTS))
        ]
        lost = [bool(readings) and all(one.lost for one in readings) for readings in found]
        return {
            name: VariantState(
                [
                    EndpointState(one.url, one.up, one.errors, one.reason, one.errno, one.out)
                    for one in found[variant]
                ],
                sum(
                    worker.counters.variants[variant][ERRORS + Reason.NO_ENDPOINT]
                    for worker in running
                    if worker.is_used
                ),
                panic=lost[variant] and lost[STABLE],  # the canary's only if stable has none either
            )
            for variant, name in enumerate(VARIANTS)
        }

    # For reloads

    async def adopted(self) -> None:
        """Wait until every worker serves by the newest configuration (``Workers.adopted``)."""
        await self._workers.adopted()
