"""Durations, sizes, ratios, addresses and the like, as people write them.

Each parser takes the value as it stands in YAML, returns it in the unit that the code uses, and raises
``ValueError`` with what is allowed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from math import isfinite
from urllib.parse import urlsplit

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"(\d+)(B|kB|KB|KiB|MB|MiB|GB|GiB)?")
_BYTES = {
    None: 1, "B": 1, "kB": 10**3, "KB": 10**3, "KiB": 1 << 10,
    "MB": 10**6, "MiB": 1 << 20, "GB": 10**9, "GiB": 1 << 30,
}  # fmt: skip
_RATIO = re.compile(r"(\d+(?:\.\d+)?)%")
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9_-]+)*\.?")
TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
"""A token of RFC 9110 §5.6.2: the name of a header, a cookie or a method."""

DURATION_PATTERN = r"^(0|\d+(\.\d+)?(ms|s|m|h|d))$"
SIZE_PATTERN = r"^\d+(B|kB|KB|KiB|MB|MiB|GB|GiB)?$"
RATIO_PATTERN = r"^\d+(\.\d+)?%$"


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """``host:port``; IPv6 in brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """``unix:/path``."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """``scheme://host:port`` of one process of a variant."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.scheme}://{TcpAddress(self.host, self.port)}"


def duration(value: object) -> float:
    """Return seconds for ``250ms``, ``5s``, ``5m``, ``1h``, ``30d`` or ``0``."""
    if value == 0 and not isinstance(value, bool):
        return 0.0
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("a duration with its unit, such as 250ms, 5s, 5m, 1h or 30d")
    return float(match[1]) * _SECONDS[match[2]]


def size(value: object) -> int:
    """Return bytes for ``64KiB``, ``1MiB``, ``10kB`` or ``512``."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("a size, such as 64KiB, 1MiB, 10kB or 512 (bytes)")
    return int(match[1]) * _BYTES[match[2]]


def ratio(value: object) -> float:
    """Return a fraction 0..1 for ``1%`` or ``0.01``."""
    found = _number(value)
    if isinstance(value, str) and (match := _RATIO.fullmatch(value)):
        found = float(match[1]) / 100
    if found is None or not 0 <= found <= 1:
        raise ValueError("a ratio from 0 to 1, such as 1% or 0.01")
    return found


def weight(value: object) -> float:
    """Return a percentage 0..100 with at most two decimals."""
    found = _number(value)
    if found is None or not 0 <= found <= 100:
        raise ValueError("a percentage from 0 to 100, such as 5 or 0.25")
    if abs(found * 100 - round(found * 100)) > 1e-6:
        raise ValueError("a percentage with at most two decimals (a step is 0.01)")
    return found


def _number(value: object) -> float | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value):
        return float(value)
    return None


def address(value: object) -> TcpAddress | UnixAddress:
    """Return the address for ``host:port``, ``[::1]:port`` or ``unix:/path``."""
    if isinstance(value, str):
        if value.startswith("unix:"):
            path = value.removeprefix("unix:")
            if path and "\0" not in path and len(path.encode()) < 108:
                return UnixAddress(path)
            raise ValueError("unix:/path with a path of 1 to 107 bytes")
        host, colon, port = value.rpartition(":")
        if colon and (number := _port(port)) is not None and (name := _host(host)) is not None:
            return TcpAddress(name, number)
    raise ValueError("host:port, [::1]:port or unix:/path, with a port from 1 to 65535")


def tcp_address(value: object) -> TcpAddress:
    """Return the address for ``host:port`` or ``[::1]:port``."""
    found = address(value) if not (isinstance(value, str) and value.startswith("unix:")) else None
    if not isinstance(found, TcpAddress):
        raise ValueError("host:port or [::1]:port, with a port from 1 to 65535")
    return found


def endpoint(value: object) -> Endpoint:
    """Return the endpoint for ``http://host:port`` (default ports 80 and 443)."""
    allowed = "http://host:port or https://host:port, without path, query or user"
    if not isinstance(value, str) or value != value.strip():
        raise ValueError(allowed)
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise ValueError(allowed) from None
    bare = parts.path in ("", "/") and not (parts.query or parts.fragment or "@" in parts.netloc)
    if parts.scheme not in ("http", "https") or not bare or "?" in value or "#" in value:
        raise ValueError(allowed)
    netloc = parts.netloc
    host = _host(netloc.rpartition(":")[0] if port is not None else netloc.rstrip(":"))
    if host is None or port == 0:
        raise ValueError(allowed)
    return Endpoint(parts.scheme, host, port or (443 if parts.scheme == "https" else 80))


def network(value: object) -> IPv4Network | IPv6Network:
    """Return the network for ``10.0.0.0/8`` or a single address."""
    if isinstance(value, str):
        try:
            return ip_network(value)
        except ValueError as error:
            if "host bits" in str(error):
                raise ValueError("a network without host bits, such as 10.0.0.0/8") from None
    raise ValueError("a network in CIDR form, such as 10.0.0.0/8 or fd00::/8")


def token(value: object) -> str:
    """Return a name that can be a header, a cookie or a method."""
    if isinstance(value, str) and TOKEN.fullmatch(value):
        return value
    raise ValueError("a name of letters, digits and !#$%&'*+-.^_`|~")


def regex(value: object) -> str:
    """Return a regular expression of at most 512 characters that compiles."""
    if not isinstance(value, str) or len(value) > 512:
        raise ValueError("a regular expression of at most 512 characters")
    try:
        re.compile(value)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"a regular expression that compiles ({error})") from None
    return value


def _port(text: str) -> int | None:
    if re.fullmatch(r"[0-9]{1,5}", text) and 0 < int(text) < 65536:
        return int(text)
    return None


def _host(text: str) -> str | None:
    if text.startswith("[") and text.endswith("]"):
        try:
            found = ip_address(text[1:-1])
        except ValueError:
            return None
        return str(found) if found.version == 6 else None
    if re.fullmatch(r"[0-9.]+", text):
        try:
            return str(ip_address(text))
        except ValueError:
            return None
    return text if len(text) <= 253 and _NAME.fullmatch(text) else None
