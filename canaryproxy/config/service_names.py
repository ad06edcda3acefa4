"""Names of services, and of versions beside a canary as services of their own: ``NAME.VERSION``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from canaryproxy.config.errors import Path
    from canaryproxy.config.model import Config

SERVICE_NAME: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
"""A service's name, and a version's: a label of DNS in small letters."""

_SEPARATOR: Final = "."


def other_name(service: str, version: str) -> str:
    """Return the name of a version as a service of its own."""
    return f"{service}{_SEPARATOR}{version}"


def is_other(name: str) -> bool:
    """Tell whether a service is a version beside the canary of another one."""
    return _SEPARATOR in name


def service_of(name: str) -> str:
    """Return the name of the service that a version belongs to; of any other service its own."""
    return name.partition(_SEPARATOR)[0]


def version_of(name: str) -> str:
    """Return the name of a version beside the canary from that of its service; empty for other services."""
    return name.partition(_SEPARATOR)[2]


def release_path(config: Config, name: str) -> Path:
    """Return where in a file the release of a service, or of a version beside its canary, is."""
    service, _, version = name.partition(_SEPARATOR)
    section = "variants" if version else "release"
    own = service in config.services and getattr(config.services[service], section) is not None
    at: Path = ("services", service, section) if own else (section,)
    return (*at, "others", version, "release") if version else at
