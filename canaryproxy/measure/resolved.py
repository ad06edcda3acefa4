"""The endpoints behind names: what look-ups have found, and what a pool is made of.

The control plane looks the names up and publishes the addresses (``shared_memory.AddressCell``); every worker
puts them in the place of their names, and so does the table of endpoints, so all agree on identities. A name
without an address yet stays an endpoint itself: it is dialled as the system resolves it then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from canaryproxy.config.addresses import Endpoint
from canaryproxy.config.text import duration, plural

Place = tuple[str, int] | tuple[str, int, int, float]
"""Address and port of an endpoint behind a name; of SRV records that differ in it, rank and weight, too."""
Addresses = Mapping[str, tuple[Place, ...]]
"""Places of the endpoints behind a name, by ``str()`` of the name's endpoint."""


@dataclass(frozen=True, slots=True)
class NameState:
    """How the look-ups of a name fare."""

    name: str
    addresses: int
    """In use."""
    failures: int
    """Look-ups that failed or found nothing, since the control plane started."""
    age: float
    """Seconds since the last one that found addresses; since the first one if none has."""
    why: str
    """Why the last one failed; empty: it did not."""

    @property
    def said(self) -> str:
        """The failure in words; empty if the last look-up found addresses."""
        if not self.why:
            return ""
        since = f"{self.name} has not been resolved for {duration(self.age)}"
        return f"{since}: {self.why}; {in_use(self.addresses)}"


def in_use(addresses: int) -> str:
    """Say what a name that cannot be resolved stands for."""
    if not addresses:
        return "it has no address yet"
    return f"{plural(addresses, 'address', 'addresses')} of its last answer in use"


def names(endpoints: Iterable[Endpoint]) -> tuple[Endpoint, ...]:
    """Return the endpoints that DNS resolves, each once."""
    return tuple({str(one): one for one in endpoints if one.is_name or one.service}.values())


def expand(endpoints: Iterable[Endpoint], found: Addresses) -> tuple[Endpoint, ...]:
    """Return the endpoints with the addresses of names in place of the names, each once."""
    return tuple(dict.fromkeys(each for one in endpoints for each in _behind(one, found)))


def _behind(endpoint: Endpoint, found: Addresses) -> Iterable[Endpoint]:
    addresses = found.get(str(endpoint))
    if not addresses:
        return (endpoint,)
    return [_at(endpoint, *place) for place in addresses]


def _at(
    endpoint: Endpoint, address: str, port: int, rank: int = 0, weight: float = 1.0
) -> Endpoint:
    return replace(
        endpoint,
        service="",
        port=port or endpoint.port,
        address=address,
        rank=rank,
        weight=weight,
    )
