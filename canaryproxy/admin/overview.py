"""The overview: this proxy and those of ``admin.overview`` side by side, what needs a person first.

The other proxies are asked when someone looks, at most once a second. Reading needs no token, so none is
sent.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

import aiohttp
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from canaryproxy import API_HEADER, API_VERSION
from canaryproxy.admin.interfaces import ReleaseControl
from canaryproxy.config.addresses import Endpoint
from canaryproxy.config.model.admin import Neighbour
from canaryproxy.control.release_view import (
    CircuitState,
    Count,
    ReleaseState,
    View,
)
from canaryproxy.release.summary import Kind

DEADLINE = 3.0
"""Seconds for the response of another proxy."""
_FRESH = 1.0
"""Seconds for which a look serves everyone who asks."""
_MOST = 1 << 20
"""Bytes of a response."""

Attention = Literal[
    "tripped", "breach", "suspect", "held", "unreachable", "configuration", "waiting", "none"
]
_ORDER: tuple[Attention, ...] = (
    "tripped", "breach", "suspect", "held", "unreachable", "configuration", "waiting", "none",
)  # fmt: skip


class Proxy(View):
    """One proxy of the overview; what is not known of it is null."""

    name: str = Field(description="Its name: from admin.overview, else its host.")
    address: str | None = Field(description="Its admin address; null: this proxy.")
    dashboard: str | None = Field(description="Where its dashboard is.")
    attention: Attention = Field(
        description="Why it needs a person; proxies are in the order of these words."
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
    circuit: CircuitState | None = None
    verdict: Kind | None = None
    said: str | None = Field(None, description="The verdict in one sentence.")
    fleet: str | None = Field(
        None,
        description="Its place in a fleet, in words.",
        examples=["replica a of 3 in shop, leads"],
    )
    problems: list[str] = Field(
        default=[], description="What else is wrong: configuration, state file, fleet."
    )


class Overview(View):
    """All proxies of the overview."""

    overview: list[Proxy] = Field(description="What needs a person first.")
    missing: list[str] = Field(
        default=[], description="Fleets of which not every replica is in the overview, in words."
    )
    time: float = Field(description="Now, in seconds since the epoch.")


class _Part(BaseModel):
    """A part of a release document, as far as it is read; another version may have more in it."""

    model_config = ConfigDict(from_attributes=True, frozen=True)


class _Step(_Part):
    weight: float
    bake: float


class _Circuit(_Part):
    state: CircuitState
    since: float


class _Verdict(_Part):
    kind: Kind
    said: str


class _Config(_Part):
    error: str | None
    restart_needed: tuple[str, ...]


class _Fleet(_Part):
    group: str
    replica: str
    replicas: Count
    leads: bool
    connected: bool
    error: str | None
    conflict: str | None


class _Told(_Part):
    release: str | None
    state: ReleaseState
    since: float
    step: Count
    steps: tuple[_Step, ...]
    weight: float
    ready: bool
    circuit: _Circuit
    verdict: _Verdict
    unsaved: str | None
    config: _Config
    fleet: _Fleet | None = None
    environment: str | None = None
    host: str
    version: str


class Unread(Exception):
    """Why a proxy cannot be read."""


class Overviewer:
    """Looks at this proxy and its neighbours."""

    def __init__(
        self,
        control: ReleaseControl,
        neighbours: Sequence[Neighbour] = (),
        *,
        deadline: float = DEADLINE,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._control = control
        self._neighbours = neighbours
        self._deadline = deadline
        self._clock = clock
        self._reached: dict[int, float] = {}
        self._looking: asyncio.Task[list[_Told | Unread]] | None = None
        self._looked = -_FRESH

    async def look(self) -> Overview:
        """Return all proxies, what needs a person first."""
        loop = asyncio.get_running_loop()
        found = self._looking
        if found is None or (found.done() and loop.time() - self._looked >= _FRESH):
            found = self._looking = loop.create_task(self._ask_all())
        told = await asyncio.shield(found)
        here = _Told.model_validate(self._control.release_view())
        now = self._clock()
        seen: list[_Told | Unread] = [here, *told]
        odd = differing(seen)
        rows = [proxy(here.host, None, "./", now, here, odd.get(0))]
        for at, (each, one) in enumerate(zip(self._neighbours, told, strict=True)):
            reached, differs = self._reached.get(at), odd.get(at + 1)
            rows.append(proxy(each.name, str(each.address), each.link, reached, one, differs))
        return Overview(overview=ordered(rows), missing=missing(seen), time=now)

    async def _ask_all(self) -> list[_Told | Unread]:
        try:
            return await asyncio.gather(*map(self._ask, range(len(self._neighbours))))
        finally:
            self._looked = asyncio.get_running_loop().time()

    async def _ask(self, at: int) -> _Told | Unread:
        try:
            async with asyncio.timeout(self._deadline):
                found = await _read(self._neighbours[at].address)
        except TimeoutError:
            return Unread(f"no response within {self._deadline:g} s")
        except Unread as error:
            return error
        except (aiohttp.ClientError, OSError) as error:
            return Unread(_words(error))
        self._reached[at] = self._clock()
        return found


async def _read(address: Endpoint) -> _Told:
    """Return the release of the proxy at an address. Raises ``Unread`` if it is none, or says none."""
    connector = aiohttp.UnixConnector(address.path) if address.path else None
    base = "http://localhost" if address.path else str(address)
    headers = {"Accept": "application/json", "User-Agent": "canaryproxy"}
    async with (
        aiohttp.ClientSession(connector=connector, headers=headers) as session,
        session.get(f"{base}/v1/release", allow_redirects=False) as response,
    ):
        version = response.headers.get(API_HEADER)
        if version is None:
            raise Unread("not an admin address of canaryproxy (is it the traffic port?)")
        if version != API_VERSION:
            raise Unread(f"another version of the admin API: {version[:20]}, not {API_VERSION}")
        if response.status == 421:
            raise Unread("it does not serve this name: add the name to admin.hosts there")
        if response.status != 200:
            raise Unread(f"it responds with {response.status}")
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > _MOST:
                raise Unread("its response is too large")
    try:
        return _Told.model_validate_json(bytes(body))
    except ValidationError:
        raise Unread("its release document is not understood") from None


def _words(error: Exception) -> str:
    """Return what an exception of aiohttp means."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "its certificate is not trusted"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "unknown host name"
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return "TLS handshake failed (is it plain HTTP?)"
    number = getattr(error, "errno", None)
    if isinstance(number, int) and number > 0:
        return os.strerror(number).lower()
    if isinstance(error, aiohttp.ServerDisconnectedError | ConnectionError):
        return "the connection was closed"
    return "it does not speak HTTP"


# Pure


def proxy(
    name: str | None,
    address: str | None,
    dashboard: str | None,
    reached: float | None,
    told: _Told | Unread,
    differs: str | None = None,
) -> Proxy:
    """Return the row of a proxy."""
    if isinstance(told, Unread):
        return Proxy(
            name=name or address or "",
            address=address,
            dashboard=dashboard,
            attention="unreachable",
            error=str(told),
            reached=reached,
        )
    problems = _problems(told) + ([differs] if differs else [])
    opened = told.state == "tripped"
    return Proxy(
        name=name or told.host,
        address=address,
        dashboard=dashboard,
        attention=_attention(told, problems),
        reached=reached,
        environment=told.environment,
        host=told.host,
        version=told.version,
        release=told.release,
        state=told.state,
        since=(told.circuit.since if opened else told.since) or None,
        step=told.step,
        steps=len(told.steps),
        weight=told.weight,
        circuit=told.circuit.state,
        verdict=told.verdict.kind,
        said=told.verdict.said,
        fleet=None if told.fleet is None else _place(told.fleet),
        problems=problems,
    )


def ordered(rows: Sequence[Proxy]) -> list[Proxy]:
    """Return the rows with what needs a person first, else as they are."""
    return sorted(rows, key=lambda row: _ORDER.index(row.attention))


def differing(told: Sequence[_Told | Unread]) -> dict[int, str]:
    """Return by position which proxies of one release and environment have other steps than most."""
    plans: dict[tuple[str | None, str], Counter[tuple[_Step, ...]]] = {}
    for one in told:
        if isinstance(one, _Told) and one.release is not None:
            key = (one.environment, one.release)
            plans.setdefault(key, Counter())[one.steps] += 1
    found: dict[int, str] = {}
    for at, one in enumerate(told):
        if isinstance(one, Unread) or one.release is None:
            continue
        plan = plans[one.environment, one.release]
        usual, number = plan.most_common(1)[0]
        if len(plan) > 1 and (one.steps != usual or number == 1):
            found[at] = f"other proxies of {one.release} have other steps"
    return found


def missing(told: Sequence[_Told | Unread]) -> list[str]:
    """Return, in words, the fleets of which the overview does not have every replica."""
    fleets: dict[str, list[_Fleet]] = {}
    for one in told:
        if isinstance(one, _Told) and one.fleet is not None:
            fleets.setdefault(one.fleet.group, []).append(one.fleet)
    found = []
    for group, seen in fleets.items():
        here, there = len({one.replica for one in seen}), max(one.replicas for one in seen)
        if here < there:
            found.append(
                f"{here} of {there} replicas of {group}: name the others in admin.overview"
            )
    return found


def _place(fleet: _Fleet) -> str:
    """Return where a replica is in its fleet."""
    of = f" of {fleet.replicas}" if fleet.replicas else ""
    return f"replica {fleet.replica}{of} in {fleet.group}{', leads' if fleet.leads else ''}"


def _attention(told: _Told, problems: Sequence[str]) -> Attention:
    kind = told.verdict.kind
    if told.state in ("tripped", "probing"):
        return "tripped"
    if kind in ("breach", "suspect", "held"):
        return kind
    if problems:
        return "configuration"
    return "waiting" if told.state == "paused" or told.ready else "none"


def _problems(told: _Told) -> list[str]:
    config, fleet = told.config, told.fleet
    found = []
    if told.unsaved:
        found.append(f"state not saved: {told.unsaved}")
    if config.error is not None:
        found.append(f"configuration invalid, the previous one stays in force: {config.error}")
    if config.restart_needed:
        found.append(f"restart needed to apply {', '.join(config.restart_needed)}")
    if fleet is not None and not fleet.connected:
        found.append(f"no connection to Redis: {fleet.error or 'unknown cause'}")
    if fleet is not None and fleet.conflict:
        found.append(fleet.conflict)
    return found
