"""``services``: several services behind one proxy, each with hosts, paths and a release of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final

from pydantic import Field, model_validator

from canaryproxy.config import types
from canaryproxy.config.model.circuit import Circuit
from canaryproxy.config.model.judge import Judge
from canaryproxy.config.model.notify import Webhook
from canaryproxy.config.model.propagation import Propagate
from canaryproxy.config.model.release import Release
from canaryproxy.config.model.resilience import Mirror, Rescue
from canaryproxy.config.model.section import Mistake, Section, optional, report, without_default
from canaryproxy.config.model.split import Split, Sticky
from canaryproxy.config.model.variants import Variants

SECTIONS: Final = (
    *("variants", "split", "propagate", "release", "judge", "circuit", "rescue", "mirror"),
    "notify",
)
"""The sections that a service may have of its own, in place of those at the top level."""
MOST: Final = 1024
"""Services of a proxy: its shared memory has a slot for each."""
MOST_PLACES: Final = 20_000
"""Pairs of a host and a path, over all services."""
ANY_HOST: Final = ""
"""The host of services without ``hosts``."""
ANY_PATH: Final = "/"
"""The path of services without ``paths``."""

_COOKIE: Final = ("sign", "forward", "domain", "same_site", "partitioned")
"""Settings of a cookie in which services that share it must agree."""


class Service(Section):
    """One service: the requests that are its own, and the sections in which it differs from the top level.

    A section replaces the one of the top level as a whole. Without hosts and paths it is the default: it gets
    what no other service takes.
    """

    hosts: Annotated[
        Annotated[tuple[types.HostPattern, ...], Field(min_length=1)],
        types.one_or_more(types.HostPattern),
    ] = Field(
        default_factory=tuple,
        description="Host names without port, or one; *.example.com: every name below; default: any host.",
    )
    paths: Annotated[
        Annotated[tuple[types.PathPrefix, ...], Field(min_length=1)],
        types.one_or_more(types.PathPrefix),
    ] = Field(
        default_factory=tuple,
        description="Prefixes of paths, or one: /cart is /cart and all below it; default: every path.",
    )
    variants: Annotated[Variants | None, optional(Variants)] = Field(
        None, description="The two versions of this service.", json_schema_extra=without_default
    )
    split: Annotated[Split | None, optional(Split)] = Field(
        None, description="Which users get its canary.", json_schema_extra=without_default
    )
    propagate: Propagate | None = Field(
        None,
        description="Tell its upstreams which version a request gets; null: do not, whatever the top level"
        " says.",
    )
    release: Release | None = Field(
        None, description="Its release; null: none, whatever the top level has."
    )
    judge: Annotated[Judge | None, optional(Judge)] = Field(
        None,
        description="How its canary is compared with its stable.",
        json_schema_extra=without_default,
    )
    circuit: Annotated[Circuit | None, optional(Circuit)] = Field(
        None,
        description="What happens to its long-lived connections of users who change variants.",
        json_schema_extra=without_default,
    )
    rescue: Annotated[Rescue | None, optional(Rescue)] = Field(
        None,
        description="Retry its failed canary requests on its stable.",
        json_schema_extra=without_default,
    )
    mirror: Annotated[Mirror | None, optional(Mirror)] = Field(
        None, description="Copy requests to its canary.", json_schema_extra=without_default
    )
    notify: tuple[Webhook, ...] = Field((), description="Webhooks about its events.")

    @property
    def is_default(self) -> bool:
        """Whether it gets what no other service takes."""
        return not self.hosts and not self.paths

    def own(self) -> dict[str, Any]:
        """Return the sections of its own, by name."""
        return {name: getattr(self, name) for name in SECTIONS if name in self.model_fields_set}

    def places(self) -> Iterator[tuple[str, str, str, int]]:
        """Yield host, path, and the field and index that names them, for all that it takes."""
        for host_at, host in enumerate(self.hosts or (ANY_HOST,)):
            for path_at, path in enumerate(self.paths or (ANY_PATH,)):
                yield (
                    (host, path, "paths", path_at) if self.paths else (host, path, "hosts", host_at)
                )

    @model_validator(mode="after")
    def _distinct(self) -> Service:
        report(self._mistakes())
        return self

    def _mistakes(self) -> Iterator[Mistake]:
        for name, values in (("hosts", self.hosts), ("paths", self.paths)):
            seen: set[str] = set()
            for at, value in enumerate(values):
                if value in seen:
                    yield Mistake(f"{value} is listed twice", (name, at))
                seen.add(value)


Services = Mapping[str, Service]


def mistakes(services: Services, *, has_variants: bool, split: Split) -> Iterator[Mistake]:
    """Yield the mistakes across services; ``has_variants`` and ``split`` are the top level's."""
    if len(services) > MOST:
        yield Mistake(
            f"found {len(services):,} services, at most {MOST:,} are allowed", ("services",)
        )
        return
    places = sum(max(len(one.hosts), 1) * max(len(one.paths), 1) for one in services.values())
    if places > MOST_PLACES:
        message = (
            f"found {places:,} pairs of a host and a path, at most {MOST_PLACES:,} are allowed"
        )
        yield Mistake(message, ("services",))
        return
    if not has_variants:
        for name, service in services.items():
            if service.variants is None:
                yield Mistake(
                    "required key 'variants' is missing: neither the service nor the top level has it",
                    ("services", name),
                    (("services", name, "variants"), ("variants",)),
                )
    yield from _taken_twice(services)
    yield from _Cookies(services, split).mistakes()


def _taken_twice(services: Services) -> Iterator[Mistake]:
    """Yield what two services take: a host and a path, or the place of the default."""
    owners: dict[tuple[str, str], str] = {}
    for name, service in services.items():
        reported: set[tuple[str, int]] = set()
        for host, path, field, at in service.places():
            owner = owners.setdefault((host, path), name)
            if owner == name or (field, at) in reported:
                continue
            reported.add((field, at))
            # An invalid list gives way to none, which stands for every host or path.
            because_of = tuple(
                ("services", one, key) for one in (owner, name) for key in ("hosts", "paths")
            )
            if service.is_default:
                yield Mistake(_two_defaults(services, owner, name), ("services", name), because_of)
                continue
            where = f"{host or 'any host'}, path {path}" if path != ANY_PATH else host or "any host"
            message = f"services.{owner} takes {where} already"
            yield Mistake(message, ("services", name, field, at), because_of)


def _two_defaults(services: Services, owner: str, name: str) -> str:
    both = f"{owner} and {name} both" if services[owner].is_default else f"{owner}, too,"
    return f"{both} would get what no other service takes: give one of them hosts or paths"


class _Cookies:
    """The sticky cookies of services that browsers send to the same host: settings by host and name."""

    def __init__(self, services: Services, split: Split) -> None:
        self._services = services
        self._split = split
        self._first: dict[tuple[str, str], str] = {}
        """The first service of a host that has a cookie."""
        self._whole: set[str] = {
            host for one in services.values() if not one.paths for host in one.hosts
        }
        """Hosts with a service that takes every path: services of wider hosts get nothing of them."""

    def _sticky(self, name: str) -> Sticky:
        return (self._services[name].split or self._split).sticky

    def mistakes(self) -> Iterator[Mistake]:
        """Yield one mistake for each service whose cookie another service's contradicts."""
        for name, service in self._services.items():
            sticky = self._sticky(name)
            if sticky.cookie is None:
                continue
            for host in service.hosts or (ANY_HOST,):
                self._first.setdefault((host, sticky.cookie), name)
            if sticky.domain is not None:
                domain = f"domain {sticky.domain.lower().removeprefix('.')}"
                self._first.setdefault((domain, sticky.cookie), name)
        for name in self._services:
            yield from self._contradicted(name)

    def _contradicted(self, name: str) -> Iterator[Mistake]:
        service, sticky = self._services[name], self._sticky(name)
        if sticky.cookie is None:
            return
        for host in self._shared(service, sticky):
            other = self._first.get((host, sticky.cookie), name)
            theirs = self._sticky(other)
            differ = [key for key in _COOKIE if getattr(sticky, key) != getattr(theirs, key)]
            if not differ:
                continue
            at = ("split", "sticky") if service.split is not None else ()
            where = host or "the same hosts"
            yield Mistake(
                f"services.{other} uses the cookie {sticky.cookie} on {where}, too, with another"
                f" {' and '.join(differ)}: give both the same settings, or one of them another cookie",
                ("services", name, *at),
                (
                    *(("services", one, "split", "sticky") for one in (name, other)),
                    ("split", "sticky"),
                ),
            )
            return

    def _shared(self, service: Service, sticky: Sticky) -> Iterator[str]:
        """Yield the hosts, and wider ones, under which browsers send a service's cookie to others."""
        if sticky.domain is not None:
            yield f"domain {sticky.domain.lower().removeprefix('.')}"
        for host in service.hosts or (ANY_HOST,):
            yield from self._up(host)

    def _up(self, host: str) -> Iterator[str]:
        """Yield a host and the wider ones whose services get requests for it."""
        yield host
        if host in self._whole:
            return
        labels = host.removeprefix("*.").split(".")
        for at in range(1, len(labels)):
            wider = "*." + ".".join(labels[at:])
            yield wider
            if wider in self._whole:
                return
        if host:
            yield ANY_HOST
