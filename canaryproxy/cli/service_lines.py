"""The services of a configuration for people: hosts, paths, and who gets the canary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from canaryproxy.cli.plan_text import drawn, identity, split_text
from canaryproxy.config.service_names import service_of, version_of
from canaryproxy.config.text import count

if TYPE_CHECKING:
    from canaryproxy.config import Config

_LISTED = 3
"""Hosts and paths of a service in its line."""


@dataclass(frozen=True, slots=True)
class ServiceLine:
    """A service: what it takes, and how its users get the canary."""

    name: str
    hosts: tuple[str, ...]
    paths: tuple[str, ...]
    release: str | None
    """Its release, if it has one."""
    steps: int
    """Steps of the release."""
    cohorts: tuple[str, ...]
    """The cohorts that its first steps are for, in their order."""
    weight: float
    """Percent of users without a release."""
    split: str
    """How its users get the canary, for people."""
    users: str
    """What identifies a user."""
    drawn: tuple[tuple[str, str], ...]
    """Groups of users with their conditions, for people; of a version, those of its service."""

    @property
    def places(self) -> tuple[str, str]:
        """Hosts and paths, for people."""
        if not self.hosts and not self.paths:
            return "everything else", ""
        return _some(self.hosts or ("any host",)), _some(self.paths)


def services_of(config: Config) -> tuple[ServiceLine, ...]:
    """Return the services of a configuration by name, versions beside a canary included."""
    services = config.by_service()
    return tuple(_line(config, services, name) for name in services)


def _line(config: Config, services: Mapping[str, Config], name: str) -> ServiceLine:
    own = services[name]
    service = config.services.get(service_of(name))
    steps = () if own.release is None else own.release.steps
    cohorts = dict.fromkeys(one.cohort for one in steps if one.cohort is not None)
    version = version_of(name)
    share = services[service_of(name)].variants.others[version].share if version else None
    return ServiceLine(
        name,
        () if service is None else service.hosts,
        () if service is None else service.paths,
        own.release_id,
        len(steps),
        tuple(cohorts),
        0.0 if own.variants.canary is None else own.split.weight,
        split_text(own, share),
        identity(own),
        () if version else tuple(drawn(own)),
    )


def table(services: Sequence[ServiceLine], most: int = 50) -> Iterator[str]:
    """Yield a line for each service, with the groups of its users, and one for those beyond ``most``."""
    rows = [(one.name, *one.places, one.split) for one in services[:most]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row, one in zip(rows, services, strict=False):
        yield "  ".join(
            f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for name, words in one.drawn:
            yield f"{'':{widths[0]}}  {name}: {words}"
    if (more := len(services) - most) > 0:
        yield f"and {count(more)} more services"


def summary(services: Sequence[ServiceLine]) -> Iterator[str]:
    """Yield what a file with one service does with its users; versions beside its canary come last."""
    first, *others = services
    rows = [
        ("release", first.split),
        ("users", first.users),
        *first.drawn,
        *((version_of(one.name), one.split) for one in others),
    ]
    width = max(len(name) for name, _ in rows)
    for name, words in rows:
        yield f"{name:<{width}}  {words}"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
