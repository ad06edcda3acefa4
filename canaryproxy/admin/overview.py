"""The overview: the services of this proxy and of those of ``admin.overview``, what needs a person first.

The other proxies are asked when someone looks, at most once a second. Reading needs no token, so none is
sent.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import aiohttp
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from canaryproxy.admin.interfaces import ProxyControl
from canaryproxy.admin.neighbours import (
    ProxyReport,
    ReplicaReport,
    ServiceReport,
    StepReport,
    Unread,
    in_words,
    read,
)
from canaryproxy.admin.services import listing
from canaryproxy.config.model.admin import Neighbour
from canaryproxy.control.brief_view import ATTENTION, Attention
from canaryproxy.control.process import DEFAULT
from canaryproxy.control.release_view import (
    CircuitState,
    CohortShare,
    Count,
    ReleaseState,
    View,
)
from canaryproxy.release.summary import Kind

DEADLINE = 3.0
"""Seconds for the response of another proxy."""
_FRESH = 1.0
"""Seconds for which a look serves everyone who asks."""


class Proxy(View):
    """One service of a proxy of the overview; what is not known of it is null."""

    name: str = Field(description="Name of the proxy: from admin.overview, else its host.")
    service: str | None = Field(
        None, description="Name of the service; absent: the proxy has one, or cannot be read."
    )
    address: str | None = Field(description="Its admin address; null: this proxy.")
    dashboard: str | None = Field(description="Where its dashboard is.")
    attention: Attention = Field(
        description="Why it needs a person; services are in the order of these words."
    )
    error: str | None = Field(None, description="Why it cannot be read.")
    reached: float | None = Field(
        description="When it last responded, in seconds since the epoch; null: not since this proxy started."
    )
    environment: str | None = Field(None, description="Name of its environment.")
    host: str | None = Field(None, description="Name of its machine.")
    version: str | None = Field(None, description="Its version of canaryproxy.")
    release: str | None = Field(None, description="Id of its release.")
    state: ReleaseState | None = None
    since: float | None = Field(
        None, description="When its state or step began, or its circuit opened."
    )
    step: Count | None = Field(None, description="Number of the step, from 1.")
    steps: Count | None = Field(None, description="Number of steps.")
    weight: float | None = Field(None, description="Percent of its users on the canary.")
    cohorts: list[CohortShare] = Field(
        default=[], description="The cohorts with users on the canary besides."
    )
    share: str | None = Field(
        None,
        description="The users on the canary, in words; null: its version does not say so.",
        examples=["1% of users, 50% of staff"],
    )
    circuit: CircuitState | None = None
    verdict: Kind | None = None
    said: str | None = Field(None, description="The verdict in one sentence.")
    fleet: str | None = Field(
        None,
        description="Its source in a fleet, in words.",
        examples=["replica a of 3 in shop, leads"],
    )
    problems: list[str] = Field(
        default=[], description="What else is wrong: configuration, state file, fleet."
    )

    @model_serializer(mode="wrap")
    def _without_no_service(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        shown: dict[str, Any] = serialize(self)
        if self.service is None:
            del shown["service"]
        return shown


class Overview(View):
    """All services of all proxies of the overview."""

    overview: list[Proxy] = Field(description="What needs a person first.")
    missing: list[str] = Field(
        default=[], description="Fleets of which not every replica is in the overview, in words."
    )
    time: float = Field(description="Now, in seconds since the epoch.")


class Overviewer:
    """Looks at this proxy and its neighbours."""

    def __init__(
        self,
        proxy: ProxyControl,
        neighbours: Sequence[Neighbour] = (),
        *,
        deadline: float = DEADLINE,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._proxy = proxy
        self._neighbours = neighbours
        self._deadline = deadline
        self._clock = clock
        self._reached: dict[int, float] = {}
        self._looking: asyncio.Task[list[ProxyReport | Unread]] | None = None
        self._looked = -_FRESH

    async def look(self) -> Overview:
        """Return all proxies, what needs a person first."""
        loop = asyncio.get_running_loop()
        found = self._looking
        if found is None or (found.done() and loop.time() - self._looked >= _FRESH):
            found = self._looking = loop.create_task(self._ask_all())
        told = await asyncio.shield(found)
        here = ProxyReport.model_validate(listing(self._proxy))
        now = self._clock()
        seen: list[ProxyReport | Unread] = [here, *told]
        odd = differing(seen)
        rows = _rows(_Source(here.host, None, "./", now), here, odd.get(0, {}))
        for at, (each, one) in enumerate(zip(self._neighbours, told, strict=True)):
            source = _Source(each.name, str(each.address), each.link, self._reached.get(at))
            rows += _rows(source, one, odd.get(at + 1, {}))
        return Overview(overview=ordered(rows), missing=missing(seen), time=now)

    async def _ask_all(self) -> list[ProxyReport | Unread]:
        try:
            return await asyncio.gather(*map(self._ask, range(len(self._neighbours))))
        finally:
            self._looked = asyncio.get_running_loop().time()

    async def _ask(self, at: int) -> ProxyReport | Unread:
        try:
            async with asyncio.timeout(self._deadline):
                found = await read(self._neighbours[at].address)
        except TimeoutError:
            return Unread(f"no response within {self._deadline:g} s")
        except Unread as error:
            return error
        except (aiohttp.ClientError, OSError) as error:
            return Unread(in_words(error))
        self._reached[at] = self._clock()
        return found


# Pure


class _Source(NamedTuple):
    """Where a proxy is."""

    name: str | None
    address: str | None
    dashboard: str | None
    reached: float | None


def _rows(source: _Source, told: ProxyReport | Unread, differs: Mapping[str, str]) -> list[Proxy]:
    """Return the rows of a proxy: one for each service.

    With several, one more if the proxy itself needs a person. ``differs`` says by the name of a service how
    its steps are others than elsewhere.
    """
    if isinstance(told, Unread):
        row = Proxy(
            name=source.name or source.address or "",
            address=source.address,
            dashboard=source.dashboard,
            attention="unreachable",
            error=str(told),
            reached=source.reached,
        )
        return [row]
    alone = len(told.services) == 1
    rows = []
    if told.problems and not alone:
        rows.append(_row(source, told, None, told.problems))
    for one in told.services:
        problems = (*one.problems, *(told.problems if alone else ()))
        if one.name in differs:
            problems += (differs[one.name],)
        rows.append(_row(source, told, one, problems))
    return rows


def _row(
    source: _Source, told: ProxyReport, one: ServiceReport | None, problems: Sequence[str]
) -> Proxy:
    """Return the row of a service, or of the proxy itself."""
    wanted: Attention = "none" if one is None else one.attention
    if problems and wanted in ("waiting", "none"):
        wanted = "configuration"
    row = Proxy(
        name=source.name or told.host,
        address=source.address,
        dashboard=source.dashboard,
        attention=wanted,
        reached=source.reached,
        environment=told.environment,
        host=told.host,
        version=told.version,
        problems=list(problems),
    )
    if one is None:
        return row
    shown = {
        "service": None if len(told.services) == 1 and one.name == DEFAULT else one.name,
        "fleet": None if one.fleet is None else _in_fleet(one.fleet),
        "cohorts": [CohortShare(name=it.name, weight=it.weight) for it in one.cohorts],
        **{name: getattr(one, name) for name in _SHOWN},
    }
    return row.model_copy(update=shown)


_SHOWN = (
    "release", "state", "since", "step", "steps", "weight", "share", "circuit", "verdict", "said",
)  # fmt: skip


def ordered(rows: Sequence[Proxy]) -> list[Proxy]:
    """Return the rows with what needs a person first, else as they are."""
    return sorted(rows, key=lambda row: ATTENTION.index(row.attention))


def differing(told: Sequence[ProxyReport | Unread]) -> dict[int, dict[str, str]]:
    """Return, by position and name, the services whose steps are others than most of their release have."""
    found = [
        (at, proxy.environment, one)
        for at, proxy in enumerate(told)
        if isinstance(proxy, ProxyReport)
        for one in proxy.services
        if one.release is not None
    ]
    plans: dict[tuple[str | None, str | None], Counter[tuple[StepReport, ...]]] = {}
    for _, environment, one in found:
        plans.setdefault((environment, one.release), Counter())[one.plan] += 1
    odd: dict[int, dict[str, str]] = {}
    for at, environment, one in found:
        plan = plans[environment, one.release]
        usual, number = plan.most_common(1)[0]
        if len(plan) > 1 and (one.plan != usual or number == 1):
            said = f"other proxies of {one.release} have other steps"
            odd.setdefault(at, {})[one.name] = said
    return odd


def missing(told: Sequence[ProxyReport | Unread]) -> list[str]:
    """Return, in words, the fleets of which the overview does not have every replica.

    The services of a proxy are one fleet here: they have their replicas in common.
    """
    fleets: dict[str, list[ReplicaReport]] = {}
    for proxy in told:
        for one in () if isinstance(proxy, Unread) else proxy.services:
            if one.fleet is not None:
                group = one.fleet.group.removesuffix(f"/{one.name}")
                fleets.setdefault(group, []).append(one.fleet)
    found = []
    for group, seen in fleets.items():
        here, there = len({one.replica for one in seen}), max(one.replicas for one in seen)
        if here < there:
            found.append(
                f"{here} of {there} replicas of {group}: name the others in admin.overview"
            )
    return found


def _in_fleet(fleet: ReplicaReport) -> str:
    """Return where a replica is in its fleet."""
    of = f" of {fleet.replicas}" if fleet.replicas else ""
    return f"replica {fleet.replica}{of} in {fleet.group}{', leads' if fleet.leads else ''}"
