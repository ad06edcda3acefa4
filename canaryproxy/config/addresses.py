"""Addresses of listeners, endpoints and trusted networks.

Each parser takes a value from YAML and raises ``ValueError`` with what is allowed. Host names are not
resolved.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final, Literal, cast

Scheme = Literal["http", "https", "h2c", "h2", "unix"]

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?(?:\.[A-Za-z0-9_-]{1,63})*\.?")
_PORT = re.compile(r"[0-9]{1,5}")
_URL = re.compile(r"(https?|h2c?)://(\[[^\]]*\]|[^\[\]:/?#@\s]+)(?::([0-9]{1,5}))?")
_SRV_URL = re.compile(r"(dns|https?|h2c?)\+srv://((?:_[A-Za-z0-9-]{1,62}\.){2})([^\[\]:/?#@\s]+)")
_SOCKET_PATH_BYTES = 107
_DEFAULT_PORTS: Final = {"http": 80, "https": 443, "h2c": 80, "h2": 443}
_WILDCARD = ("0.0.0.0", "::")


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """``host:port``; ``str()`` puts IPv6 in brackets, as the file has it."""

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
    """``scheme://host:port`` of one process of a variant, or ``unix:/path`` without host and port.

    A host name may stand for many processes: with ``address``, it is one of them.
    """

    scheme: Scheme
    """``h2c``: HTTP/2 by prior knowledge; ``h2``: HTTP/2 over TLS; the others: HTTP/1.1."""
    host: str
    port: int
    path: str = ""
    """Path of the Unix socket; empty for TCP."""
    service: str = ""
    """Service and protocol of SRV records, such as ``_http._tcp.``; the port is theirs."""
    address: str = ""
    """One of the addresses of the host."""
    rank: int = field(default=0, compare=False)
    """By the priorities of the SRV records: requests go to the lowest one of which an endpoint is up."""
    weight: float = field(default=1.0, compare=False)
    """Share of the requests, against 1 for an endpoint without SRV records."""

    @property
    def is_http2(self) -> bool:
        """Whether it speaks HTTP/2."""
        return self.scheme in ("h2", "h2c")

    @property
    def is_tls(self) -> bool:
        """Whether it speaks TLS."""
        return self.scheme in ("h2", "https")

    @property
    def default_port(self) -> int:
        """The port of a URL without one."""
        return _DEFAULT_PORTS.get(self.scheme, 0)

    @property
    def authority(self) -> str:
        """Name in logs and for ``balance: hash``: ``host:port``, ``address:port`` or the socket's path."""
        if self.service:
            return f"{self.service}{self.host}"
        return self.path or str(TcpAddress(self.address or self.host, self.port))

    @property
    def is_name(self) -> bool:
        """Whether the host is a name that DNS resolves; not so ``localhost``."""
        if self.path or self.address:
            return False
        host = self.host.rstrip(".").lower()
        if host == "localhost" or host.endswith(".localhost"):
            return False
        try:
            ip_address(host)
        except ValueError:
            return True
        return False

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        if self.service:
            return f"{self.scheme}+srv://{self.authority}"
        url = f"{self.scheme}://{TcpAddress(self.host, self.port)}"
        return f"{url} ({self.address})" if self.address else url


def address(value: object) -> TcpAddress | UnixAddress:
    """Return the address for ``host:port``, ``[::1]:port`` or ``unix:/path``."""
    if isinstance(value, str):
        if value.startswith("unix:"):
            return UnixAddress(socket_path(value.removeprefix("unix:"), "unix:/path with a path"))
        if (found := _tcp(value)) is not None:
            return found
    raise ValueError("host:port, [::1]:port or unix:/path, with a port from 1 to 65535")


def tcp_address(value: object) -> TcpAddress:
    """Return the address for ``host:port`` or ``[::1]:port``."""
    found = _tcp(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError("host:port or [::1]:port, with a port from 1 to 65535")
    return found


def socket_path(value: object, what: str = "a path") -> str:
    """Return the path of a Unix socket: 1 to 107 bytes, the kernel's limit (unix(7))."""
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError(f"{what} of 1 to {_SOCKET_PATH_BYTES} bytes")
    if 0 < len(value.encode()) <= _SOCKET_PATH_BYTES:
        return value
    raise ValueError(f"{what} of 1 to {_SOCKET_PATH_BYTES} bytes")


def endpoint(value: object) -> Endpoint:
    """Return the endpoint for ``http://host:port`` (default ports 80 and 443) or ``unix:/path``.

    In place of ``http`` stands ``https``, ``h2c`` or ``h2``. For ``http+srv://_service._proto.name`` (or
    ``dns+srv://``) and the like it is a name of SRV records.
    """
    if isinstance(value, str) and value.startswith("unix:"):
        path = socket_path(value.removeprefix("unix:"), "unix:/path with a path")
        return Endpoint("unix", "", 0, path)
    found = _SRV_URL.fullmatch(value) if isinstance(value, str) else None
    if found is not None and (name := _host(found[3])) is not None:
        kind = "http" if found[1] == "dns" else cast(Scheme, found[1])
        return Endpoint(kind, name, 0, service=found[2].lower())
    match = _URL.fullmatch(value) if isinstance(value, str) else None
    if match is not None and (host := _host(match[2])) is not None:
        scheme = cast(Scheme, match[1])
        port = _port(match[3]) if match[3] else _DEFAULT_PORTS[scheme]
        if port is not None:
            return Endpoint(scheme, host, port)
    raise ValueError(
        "http://host:port, https://host:port, h2c://host:port or h2://host:port, without path, query and"
        " user, dns+srv://_http._tcp.name or unix:/path"
    )


def name_server(value: object) -> TcpAddress:
    """Return the address of a name server: an IP address, with ``:port`` unless that is 53."""
    if isinstance(value, str):
        text = value if value.startswith("[") or value.count(":") < 2 else f"[{value}]"
        bare = text.endswith("]") or ":" not in text
        found = _tcp(f"{text}:53" if bare else text)
        if found is not None and (":" in found.host or not found.host.strip("0123456789.")):
            return found
    raise ValueError("an IP address, with a port unless that is 53, such as 127.0.0.1:8600")


def network(value: object) -> IPv4Network | IPv6Network:
    """Return the network for ``10.0.0.0/8`` or a single address."""
    if isinstance(value, str):
        try:
            return ip_network(value)
        except ValueError as error:
            if "host bits" in str(error):
                raise ValueError("a network without host bits, such as 10.0.0.0/8") from None
    raise ValueError("a network in CIDR form, such as 10.0.0.0/8 or fd00::/8")


def is_loopback(host: str) -> bool:
    """Tell whether the host is reachable from this machine only."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def overlap(one: TcpAddress | UnixAddress, other: TcpAddress | UnixAddress) -> bool:
    """Tell whether two listeners would bind the same address.

    ``[::]`` is IPv6 only and ``0.0.0.0`` is IPv4 only, so both may be listed; ``localhost`` may be either.
    """
    if isinstance(one, UnixAddress) or isinstance(other, UnixAddress):
        return (
            isinstance(one, UnixAddress)
            and isinstance(other, UnixAddress)
            and posixpath.normpath(one.path) == posixpath.normpath(other.path)
        )
    if one.port != other.port:
        return False
    here, there = one.host.lower(), other.host.lower()
    if here == there:
        return True
    if "localhost" in (here, there):
        literal = there if here == "localhost" else here
        return literal in _WILDCARD or is_loopback(literal)
    if not {here, there} & set(_WILDCARD):
        return False
    return (":" in here) == (":" in there)


def leads_to(endpoint: Endpoint, listener: TcpAddress | UnixAddress) -> bool:
    """Tell whether requests to the endpoint would arrive at the listener."""
    if endpoint.path or isinstance(listener, UnixAddress):
        return overlap(UnixAddress(endpoint.path), listener)
    if endpoint.port != listener.port:
        return False
    host, listening = endpoint.host.lower(), listener.host.lower()
    if host == listening:
        return True
    local = host in _WILDCARD or is_loopback(host)
    return local and overlap(TcpAddress(_loopback(host), endpoint.port), listener)


def _loopback(host: str) -> str:
    """Return the loopback address for a wildcard, as connect(2) treats it."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def _tcp(text: str) -> TcpAddress | None:
    name, colon, digits = text.rpartition(":")
    host, port = _host(name), _port(digits)
    return TcpAddress(host, port) if colon and host is not None and port is not None else None


def _port(text: str) -> int | None:
    if _PORT.fullmatch(text) and 0 < int(text) < 65536:
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
