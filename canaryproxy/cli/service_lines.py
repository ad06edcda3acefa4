"""The services of a configuration, a line each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from canaryproxy.config.service_names import service_of
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

    @property
    def places(self) -> tuple[str, str]:
        """Hosts and paths, for people."""
        if not self.hosts and not self.paths:
            return "everything else", ""
        return _some(self.hosts or ("any host",)), _some(self.paths)

    @property
    def split(self) -> str:
        """How its users get the canary, for people."""
        if self.release is None:
            return f"no release, {self.weight:g}% canary" if self.weight else "no release"
        first = f", first {' and '.join(self.cohorts)}" if self.cohorts else ""
        return f"{self.release} ({self.steps} step{'s' if self.steps != 1 else ''}{first})"


def services_of(config: Config) -> tuple[ServiceLine, ...]:
    """Return the services of a configuration by name, versions beside a canary included."""
    services = config.by_service()
    if len(services) == 1 and not config.services:
        return ()
    return tuple(_line(config, name, one) for name, one in services.items())


def _line(config: Config, name: str, own: Config) -> ServiceLine:
    service = config.services.get(service_of(name))
    steps = () if own.release is None else own.release.steps
    cohorts = dict.fromkeys(one.cohort for one in steps if one.cohort is not None)
    return ServiceLine(
        name,
        () if service is None else service.hosts,
        () if service is None else service.paths,
        own.release_id,
        len(steps),
        tuple(cohorts),
        0.0 if own.variants.canary is None else own.split.weight,
    )


def table(services: Sequence[ServiceLine], most: int = 50) -> Iterator[str]:
    """Yield a line for each service, and one for those beyond ``most``."""
    rows = [(one.name, *one.places, one.split) for one in services[:most]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(
            f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)
        ).rstrip()
    if (more := len(services) - most) > 0:
        yield f"and {count(more)} more services"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
