"""Follows the addresses of endpoints that are names, in the control plane.

A task for each name looks it up every ``dns.interval`` and publishes what has changed. A look-up that fails
or finds nothing changes nothing: the last addresses stay. Before the first answer it is repeated fast.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from time import monotonic
from typing import Any, Final, NamedTuple

import uvloop

from canaryproxy.config import Dns, Endpoint
from canaryproxy.config.text import duration, plural
from canaryproxy.measure.resolved import Addresses, NameState, Place, in_use

_log: Final = logging.getLogger(__name__)

LookUp = Callable[[Endpoint, Dns], Awaitable[tuple[Place, ...]]]

_FIRST_PAUSE: Final = 0.1
"""Seconds after a first look-up without an answer; doubles up to the interval."""
_WITHIN: Final = 10.0
"""Seconds for a look-up."""
_CHECK_WITHIN: Final = 3.0
"""Seconds for a look-up by ``check``."""
_AGAIN: Final = 60.0
"""Seconds between two lines about a name that cannot be resolved."""
_LEAST_WEIGHT: Final = 0.001
_MOST: Final = 1024
"""Addresses of a name that are used."""
_FAMILIES: Final = {"all": socket.AF_UNSPEC, "ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}


class NotResolvedError(Exception):
    """A name has no addresses, or no name server said which; the message says why."""


class Resolver:
    """Looks names up, and gives ``publish`` the addresses of all of them whenever these change.

    ``found`` is what a resolver before this one has published. A name that has been looked up without an
    answer has no addresses.
    """

    def __init__(
        self,
        publish: Callable[[Addresses], None],
        found: Addresses,
        look_up: LookUp | None = None,
    ) -> None:
        self._publish = publish
        self._look_up = look_up or look_up_now
        self._found = dict(found)
        self._settings = Dns()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._look_ups: dict[str, _LookUps] = {}

    def states(self) -> list[NameState]:
        """Return how the look-ups of each name fare; of one that was not looked up yet, nothing."""
        now = monotonic()
        return [
            one.state(now, len(self._found.get(name, ()))) for name, one in self._look_ups.items()
        ]

    def failing(self) -> list[str]:
        """Say of each name whose last look-up failed what it stands for."""
        return [one.said for one in self.states() if one.why]

    def configure(self, names: Iterable[Endpoint], settings: Dns) -> None:
        """Follow these names from now on. Needs a running loop."""
        wanted = {str(one): one for one in names}
        if settings != self._settings:
            self.stop()
        self._settings = settings
        for name in self._tasks.keys() - wanted.keys():
            self._tasks.pop(name).cancel()
        for name in self._found.keys() - wanted.keys():
            del self._found[name]
        for name in self._look_ups.keys() - wanted.keys():
            del self._look_ups[name]
        loop = asyncio.get_running_loop()
        for name, one in wanted.items():
            if name not in self._tasks:
                self._tasks[name] = loop.create_task(self._follow(name, one, settings))

    def stop(self) -> None:
        """Follow no names any more; what was published stays."""
        for task in self._tasks.values():
            task.cancel()
        self._tasks.clear()

    async def _follow(self, name: str, endpoint: Endpoint, settings: Dns) -> None:
        pause = _FIRST_PAUSE
        look_ups = self._look_ups.setdefault(name, _LookUps(name, monotonic()))
        while True:
            try:
                async with asyncio.timeout(_WITHIN):
                    addresses = await self._look_up(endpoint, settings)
            except (NotResolvedError, OSError, ValueError) as error:  # TimeoutError is an OSError
                kept = self._found.get(name, ())
                why = str(error) or f"no answer within {duration(_WITHIN)}"
                look_ups.failed(monotonic(), why, len(kept))
                addresses = kept
            else:
                look_ups.succeeded(monotonic())
            self._take(name, addresses)
            await asyncio.sleep(settings.interval if addresses else min(pause, settings.interval))
            pause *= 2

    def _take(self, name: str, addresses: tuple[Place, ...]) -> None:
        before = self._found.get(name)
        if addresses == before:
            return
        self._found[name] = addresses
        try:
            self._publish(self._found)
        except ValueError as error:
            _log.error("%s: its new addresses are not used: %s", name, error)
            self._found[name] = before or ()
            return
        if addresses:
            gone, new = set(before or ()) - set(addresses), set(addresses) - set(before or ())
            fields = {"event": "endpoints_resolved", "name": name, "addresses": len(addresses)}
            changed = f" ({len(new)} new, {len(gone)} gone)" if before else ""
            _log.info(
                "%s has %s%s", name, _addresses(len(addresses)), changed, extra={"fields": fields}
            )


class _LookUps:
    """The look-ups of a name, and the log lines about those that fail."""

    def __init__(self, name: str, now: float) -> None:
        self._name = name
        self._answered = now
        """When a look-up last found addresses; at first, when this name was first looked up."""
        self._failures = 0
        self._why = ""
        self._since: float | None = None
        self._told = 0.0

    def state(self, now: float, addresses: int) -> NameState:
        return NameState(self._name, addresses, self._failures, now - self._answered, self._why)

    def failed(self, now: float, why: str, kept: int) -> None:
        self._failures += 1
        self._why = why
        if self._since is None:
            self._since = now
        elif now - self._told < _AGAIN:
            return
        self._told = now
        _log.warning(
            "%s cannot be resolved: %s; %s",
            self._name,
            why,
            in_use(kept),
            extra={"fields": {"event": "not_resolved", "name": self._name, "addresses": kept}},
        )

    def succeeded(self, now: float) -> None:
        self._answered, self._why = now, ""
        if self._since is not None:
            _log.info("%s is resolved again after %s", self._name, duration(now - self._since))
            self._since = None


def _addresses(number: int) -> str:
    return plural(number, "address", "addresses")


def look_up_all(
    names: Iterable[Endpoint], settings: Dns, within: float = _CHECK_WITHIN
) -> dict[str, tuple[tuple[Place, ...], str]]:
    """Return addresses, or none and why, by name. Needs no event loop."""

    async def one(endpoint: Endpoint) -> tuple[tuple[Place, ...], str]:
        try:
            async with asyncio.timeout(within):
                return await look_up_now(endpoint, settings), ""
        except (NotResolvedError, OSError, ValueError) as error:
            return (), str(error) or f"no answer within {duration(within)}"

    async def every() -> list[tuple[tuple[Place, ...], str]]:
        return await asyncio.gather(*map(one, wanted))

    wanted = list(names)
    # uvloop's look-ups can be given up; those in threads would be waited for at the end.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(every())
    return {str(name): result for name, result in zip(wanted, found, strict=True)}


async def look_up_now(endpoint: Endpoint, settings: Dns) -> tuple[Place, ...]:
    """Return the places of a name's endpoints in a fixed order.

    Raises ``NotResolvedError`` or ``OSError`` if there are none.
    """
    found: dict[tuple[str, int], tuple[int, float]] = {}
    targets = [_Target(endpoint.host, endpoint.port, 0, 1)]
    if endpoint.service:
        targets = await _services(f"{endpoint.service}{endpoint.host}", settings)
    missing = ""
    for target in targets:
        try:
            addresses = await _hosts(target.host, settings)
        except (NotResolvedError, OSError) as error:
            missing = missing or f"{target.host}: {error}"
            continue
        for address in addresses:
            weight = target.weight / len(addresses)
            found.setdefault((address, target.port), (target.priority, weight))
    if not found:
        raise NotResolvedError(missing.removeprefix(f"{endpoint.host}: ") or "no addresses")
    kept = sorted(found, key=lambda place: (found[place][0], place))[:_MOST]
    return _preferred({place: found[place] for place in kept})


def _preferred(found: Mapping[tuple[str, int], tuple[int, float]]) -> tuple[Place, ...]:
    """Return places with rank and weight, unless all are alike: ranks from 0, weights of a rank 1 on average.

    A weight of 0 beside others is next to none (RFC 2782).
    """
    if len(set(found.values())) == 1:
        return tuple(found)
    ranks = {priority: at for at, priority in enumerate(sorted({one for one, _ in found.values()}))}
    weights: dict[int, list[float]] = {}
    for priority, weight in found.values():
        weights.setdefault(priority, []).append(weight)
    mean = {priority: sum(some) / len(some) for priority, some in weights.items()}
    return tuple(
        (
            *place,
            ranks[priority],
            round(max(weight / mean[priority], _LEAST_WEIGHT), 4) if mean[priority] else 1.0,
        )
        for place, (priority, weight) in found.items()
    )


async def _hosts(host: str, settings: Dns) -> set[str]:
    if not settings.servers:
        # As every program of this machine: /etc/hosts, search domains, ndots.
        found = await asyncio.get_running_loop().getaddrinfo(
            host, None, family=_FAMILIES[settings.family], type=socket.SOCK_STREAM,
            flags=socket.AI_ADDRCONFIG,
        )  # fmt: skip
        return {str(one[4][0]) for one in found}
    kinds = {"all": ("A", "AAAA"), "ipv4": ("A",), "ipv6": ("AAAA",)}[settings.family]
    answers = await asyncio.gather(*(_ask(host, kind, settings) for kind in kinds))
    return {record.address for records in answers for record in records}


class _Target(NamedTuple):
    host: str
    port: int
    priority: int
    weight: int


async def _services(name: str, settings: Dns) -> list[_Target]:
    """Return the targets of the SRV records, those of the best priority first."""
    records = await _ask(name, "SRV", settings)
    found = [
        _Target(host, record.port, record.priority, record.weight)
        for record in records
        if (host := str(record.target).rstrip("."))
    ]
    return sorted(found, key=lambda target: target.priority)


async def _ask(name: str, kind: str, settings: Dns) -> list[Any]:
    """Return the records of a kind; none if the name has none of it."""
    try:
        # An optional dependency.
        import dns.asyncresolver  # noqa: PLC0415
        import dns.exception  # noqa: PLC0415
        import dns.resolver  # noqa: PLC0415
    except ImportError:
        raise NotResolvedError("this needs dnspython: pip install 'canaryproxy[dns]'") from None
    try:
        resolver = dns.asyncresolver.Resolver()
    except dns.resolver.NoResolverConfiguration:
        resolver = dns.asyncresolver.Resolver(configure=False)
    if settings.servers:
        resolver.nameservers = [_server(one.host, one.port) for one in settings.servers]
    try:
        return list(await resolver.resolve(name, kind, search=True, lifetime=_WITHIN / 2))
    except dns.resolver.NoAnswer:
        return []
    except dns.exception.DNSException as error:
        raise NotResolvedError(str(error).partition("\n")[0]) from None


def _server(host: str, port: int) -> Any:
    from dns.nameserver import Do53Nameserver  # noqa: PLC0415 - as above

    return Do53Nameserver(host, port)
