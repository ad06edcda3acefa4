"""Authorisation on the admin addresses.

A client that can open the Unix socket (mode 0600) may do everything. Over TCP any client may read, and
changes need the bearer token. A web page of another site can make a browser send requests here, so the Origin
and Sec-Fetch-Site of a change must be those of this address, and over TCP the Host must be a name that no
foreign DNS zone can point here (DNS rebinding).
"""

from __future__ import annotations

import pwd
import re
import socket
import struct
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Final, NamedTuple

from aiohttp import web
from aiohttp.http import HttpVersion10, HttpVersion11

from canaryproxy import API_HEADER, API_VERSION
from canaryproxy.admin.problem import Problem
from canaryproxy.admin.tokens import Token, Tokens
from canaryproxy.config import Admin

SAFE_METHODS: Final = ("GET", "HEAD")
ANY_HOST: Final = ("/livez", "/readyz", "/metrics")
"""Paths for probes and scrapers, served under any name."""

_PAGES: Final = re.compile(r"/|/overview|/static/.*|/services/[^/]+/")
"""Paths of the dashboard, which may load its own scripts."""

_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")
_ONCE: Final = ("Host", "Origin", "Authorization", "Content-Type", "Content-Encoding",
                "Sec-Fetch-Site", "Last-Event-ID")  # fmt: skip
_FOREIGN_PAGE: Final = "changes from pages of another site are refused; open the dashboard here"
_CREDENTIALS: Final = struct.Struct("3i")
"""Process, user and group, as SO_PEERCRED gives them."""
_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}

_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Server": "canaryproxy",
    API_HEADER: API_VERSION,
}
_NOTHING: Final = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_PAGE: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def secure(response: web.StreamResponse, path: str) -> None:
    """Set headers that identify the API, and that restrict browsers to what the dashboard needs."""
    headers = response.headers
    for name, value in _HEADERS.items():
        headers[name] = value
    headers.setdefault("Cache-Control", "no-store")
    headers["Content-Security-Policy"] = _PAGE if _PAGES.fullmatch(path) else _NOTHING


def route_of(request: web.Request) -> str | None:
    """Return the path of the route that matches the request, or ``None``."""
    resource = request.match_info.route.resource
    return None if resource is None else resource.canonical


class Known(NamedTuple):
    """The sender of a request, known without asking him, and by what: a user or a token."""

    name: str
    by: str


class Guard:
    """Rejects requests before they are handled.

    ``tokens`` is ``None`` on the Unix socket, where file permissions decide.
    """

    def __init__(self, tokens: Tokens | None, hosts: tuple[str, ...] = ()) -> None:
        self._tokens = tokens
        self._hosts = frozenset(host.lower().rstrip(".") for host in hosts)

    @classmethod
    def of_tcp(cls, admin: Admin) -> Guard:
        """Return the guard of ``admin.listen``. Raises ``SecretError``."""
        return cls(Tokens.of(admin), admin.hosts)

    def check(self, request: web.Request) -> None:
        """Raise ``Problem`` if the request must be rejected."""
        for name in _ONCE:
            if len(request.headers.getall(name, ())) > 1:
                raise Problem(400, f"duplicate header: {name}", close=True)
        if not request.raw_path.startswith("/"):
            raise Problem(400, "the request target must be a path", close=True)
        if request.version not in (HttpVersion10, HttpVersion11):
            raise Problem(400, "only HTTP/1.0 and HTTP/1.1 are supported", close=True)
        host = request.headers.get("Host", "")
        anywhere = route_of(request) in ANY_HOST and request.method in SAFE_METHODS
        if self._tokens is not None and not anywhere:
            self._check_host(host)
        if request.method in SAFE_METHODS:
            return
        _check_origin(request.headers, host)
        if self._tokens is not None:
            self._check_token(request)

    def may_change(self, request: web.Request) -> bool:
        """Return whether the client may change everything, and so may see secrets of the configuration."""
        if self._tokens is None:
            return True
        found = self._tokens.find(_bearer(request) or "")
        return found is not None and found.permits(None)

    def known(self, request: web.Request) -> Known | None:
        """Return who sends a request: the Unix user or the token's name; ``None`` if it has no name."""
        if self._tokens is None:
            return Known(unix_user(request.get_extra_info("socket")), "user")
        found = self._tokens.find(_bearer(request) or "")
        return None if found is None or found.name is None else Known(found.name, "token")

    def _check_host(self, host: str) -> None:
        found = _AUTHORITY.fullmatch(host)
        name = found[1].lower().rstrip(".") if found else ""
        if not (name and (name in self._hosts or "." not in name or _is_address(name))):
            raise Problem(
                421,
                "this Host is not served: use localhost, an IP address or a name without dots, "
                "or add the name to admin.hosts",
                close=True,
            )

    def _check_token(self, request: web.Request) -> None:
        tokens = self._tokens
        assert tokens is not None
        if not tokens.configured:
            raise Problem(
                403,
                "this address is read-only: set admin.token_file or admin.token_env, "
                "or use the Unix socket (admin.socket)",
                close=True,
            )
        if not tokens.usable:
            raise Problem(
                403,
                "this address is read-only: the configured token is missing or empty; "
                "see the proxy's log",
                close=True,
            )
        presented = _bearer(request)
        found = None if presented is None else tokens.find(presented)
        if found is None:
            raise Problem(
                401,
                "changes over TCP need the admin token (Authorization: Bearer TOKEN)"
                if presented is None
                else "wrong admin token; nothing was changed",
                headers={"WWW-Authenticate": 'Bearer realm="canaryproxy"'},
                close=True,
            )
        if not found.permits(request.match_info.get("name")):
            raise Problem(403, _limited(found), close=True)


def _limited(token: Token) -> str:
    """Return what a token that is limited to services permits."""
    names = sorted(token.services or ())
    return (
        f"the token {token.name} permits changes of {', '.join(names)} only, below"
        f" /v1/services/{names[0]}/; nothing was changed"
    )


def unix_user(sock: socket.socket) -> str:
    """Return the user at the other end of a Unix socket, as the kernel knows it."""
    with socket.fromfd(sock.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as real:
        given = real.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid = _CREDENTIALS.unpack(given)[1]
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _bearer(request: web.Request) -> str | None:
    scheme, _, presented = request.headers.get("Authorization", "").partition(" ")
    return presented.strip(" ") if scheme.lower() == "bearer" else None


def _is_address(name: str) -> bool:
    try:
        ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def _check_origin(headers: Mapping[str, str], host: str) -> None:
    origin = headers.get("Origin")
    if origin is not None and not _same(origin, host):
        raise Problem(403, _FOREIGN_PAGE, close=True)
    if headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
        raise Problem(403, _FOREIGN_PAGE, close=True)


def _same(origin: str, host: str) -> bool:
    scheme, separator, authority = origin.partition("://")
    default = _DEFAULT_PORTS.get(scheme)
    ours, theirs = _AUTHORITY.fullmatch(host), _AUTHORITY.fullmatch(authority)
    if not separator or default is None or ours is None or theirs is None:
        return False
    return (ours[1].lower(), ours[2] or default) == (theirs[1].lower(), theirs[2] or default)
