"""The sticky key of a request: read from a cookie, a header or the client's address; minted if absent."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator
from typing import Final

from canaryproxy.config import Sticky
from canaryproxy.http1.forwarding import Peer, TrustedProxies
from canaryproxy.http1.request import Request
from canaryproxy.measure import native
from canaryproxy.measure.routing import Headers, RouteTable
from canaryproxy.proxy.signing import Signer

_plain_cookie: Final = native.plain_cookie
_RANDOM_BYTES: Final = 16
_TAB: Final = 0x09
_BLANK: Final = 0x20
_QUOTE: Final = 0x22
_SEMICOLON: Final = 0x3B
_SAFE: Final = frozenset((b"GET", b"HEAD"))
"""Methods by which a link or a redirect opens a page."""
_ADDRESS: Final = re.compile(rb"[0-9.]+|\[.*\]?")


class CookieFinder:
    """Finds the cookie with this name in the value of a Cookie field."""

    __slots__ = ("_begin", "_pattern")

    def __init__(self, name: str) -> None:
        self._begin = name.encode("latin-1") + b"="
        self._pattern = re.compile(rb"(?:^|;)[ \t]*" + re.escape(self._begin) + rb"([^;]*)")

    def find(self, cookies: bytes) -> bytes | None:
        """Return the cookie's value, ``None`` if it is not there.

        The first one wins (RFC 6265 §5.4 puts the most specific first). The value goes to the semicolon, as
        browsers send it: quotes, commas and blanks inside are part of it, as in a cookie that holds JSON.
        Blanks and a pair of quotes around it are not. An empty value counts as absent.
        """
        begin = self._begin
        if _plain_cookie is not None:
            plain = _plain_cookie(cookies, begin)
            return self._search(cookies) if plain is not None and len(plain) == 0 else plain
        if cookies.startswith(begin):
            value = cookies[len(begin) :]
        else:
            before, found, value = cookies.partition(begin)
            if not found:
                return None
            if not before.endswith(b"; "):
                return self._search(cookies)
        if _SEMICOLON in value:
            value = value.partition(b";")[0]
        # Anything unusual is left to the regular expression: the same meaning, several times slower.
        if not value or _BLANK in value or _QUOTE in value or _TAB in value:
            return self._search(cookies)
        return value

    def all(self, cookies: bytes) -> Iterator[bytes]:
        """Yield the values of all cookies with this name: browsers send one for each path and domain."""
        for match in self._pattern.finditer(cookies):
            value = match[1].strip(b" \t")
            if len(value) > 1 and value[0] == value[-1] == _QUOTE:
                value = value[1:-1]
            if value:
                yield value

    def _search(self, cookies: bytes) -> bytes | None:
        return next(self.all(cookies), None)


class KeyReader:
    """Reads the sticky key of a request."""

    __slots__ = ()

    def read(self, request: Request, peer: Peer) -> bytes | None:
        """Return the key, ``None`` if the request carries none."""
        raise NotImplementedError


class _FromCookie(KeyReader):
    __slots__ = ("_finder",)

    def __init__(self, name: str) -> None:
        self._finder = CookieFinder(name)

    def read(self, request: Request, peer: Peer) -> bytes | None:  # noqa: ARG002
        return self._finder.find(request.headers.cookie)


class _FromSignedCookie(KeyReader):
    """A cookie without a valid signature counts as absent: the next one of that name may have one."""

    __slots__ = ("_finder", "_signer")

    def __init__(self, name: str, signer: Signer) -> None:
        self._finder = CookieFinder(name)
        self._signer = signer

    def read(self, request: Request, peer: Peer) -> bytes | None:  # noqa: ARG002
        headers = request.headers
        for value in self._finder.all(headers.cookie) if headers.cookie else ():
            key = self._signer.verify(value)
            if key is not None:
                return key
        return None


class _FromHeader(KeyReader):
    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name.lower().encode("latin-1")

    def read(self, request: Request, peer: Peer) -> bytes | None:  # noqa: ARG002
        return request.headers.field(self._name) or None


class _FromAddress(KeyReader):
    """The client's address: according to trusted proxies, else the connection's."""

    __slots__ = ("_proxies",)

    def __init__(self, proxies: TrustedProxies) -> None:
        self._proxies = proxies

    def read(self, request: Request, peer: Peer) -> bytes | None:
        return self._proxies.client_at(peer, request.forwarding).encode() or None


def key_reader(sticky: Sticky, proxies: TrustedProxies, signer: Signer | None = None) -> KeyReader:
    """Return the reader of the configured sticky key; with a ``signer`` it reads signed cookies only."""
    if sticky.header is not None:
        return _FromHeader(sticky.header)
    if sticky.address:
        return _FromAddress(proxies)
    name = sticky.cookie or ""
    return _FromCookie(name) if signer is None else _FromSignedCookie(name, signer)


class CookieJar:
    """Mints sticky cookies and writes them as ``Set-Cookie`` lines (RFC 6265 §4.1)."""

    __slots__ = (
        "_attributes",
        "_finder",
        "_name",
        "_partitioned",
        "_same_site",
        "_secure",
        "_signer",
        "rotates",
    )

    def __init__(self, sticky: Sticky, signer: Signer | None = None) -> None:
        self._signer = signer
        self._finder = CookieFinder(sticky.cookie or "")
        self.rotates = signer is not None and signer.rotates
        """Cookies may have to be signed again, by the first key."""
        self._name = (sticky.cookie or "").encode("latin-1")
        attributes = (
            f"; Path=/; Max-Age={int(sticky.max_age)}; HttpOnly; SameSite={sticky.same_site}"
        )
        if sticky.domain:
            attributes += f"; Domain={sticky.domain}"
        if sticky.partitioned:
            attributes += "; Partitioned"
        self._attributes = attributes.encode("latin-1")
        self._secure = sticky.needs_https
        self._same_site = sticky.same_site
        self._partitioned = sticky.partitioned

    def mint(self, table: RouteTable) -> bytes:
        """Return a new key: 128 random bits in hex, with the release's tag if only new users are admitted."""
        key = secrets.token_hex(_RANDOM_BYTES).encode()
        return key + b"." + table.tag if table.new_sessions_only else key

    def is_withheld(self, request: Request) -> bool:
        """Tell whether a browser may have the cookie and not have sent it with this request, which has none.

        Then the user may be known: a new cookie would replace the one that the browser keeps. Requests from
        another site come without a ``SameSite=Lax`` cookie unless they open a page by a safe method, and so
        do all requests in a frame of another site.
        """
        seen = _fetch_metadata(request.fields.raw)
        storage = seen.get(b"sec-fetch-storage-access", b"")
        if self._same_site == "None":
            return storage in (b"none", b"inactive") and not self._partitioned
        if storage:
            return True  # sent in frames of another site only
        site = seen.get(b"sec-fetch-site", b"")
        is_safe = request.method in _SAFE
        if not site:  # plain HTTP, or a browser of before 2023
            origin = seen.get(b"origin", b"")
            return bool(origin) and not is_safe and not _same_site(origin, request.fields.host)
        if site != b"cross-site":
            return False
        opens_page = is_safe and seen.get(b"sec-fetch-dest", b"") == b"document"
        return self._same_site == "Strict" or not opens_page

    def is_old(self, cookies: bytes) -> bool:
        """Tell whether the sticky cookie among these that is valid was not signed by the first key."""
        signer = self._signer
        if signer is None:
            return False
        valid = (one for one in self._finder.all(cookies) if signer.verify(one) is not None)
        value = next(valid, None)
        return value is not None and signer.is_old(value)

    def set_cookie(self, key: bytes, *, secure: bool) -> bytes:
        """Return the ``Set-Cookie`` line with CRLF; ``secure``: the client speaks https."""
        if self._signer is not None:
            key = self._signer.sign(key)
        flag = b"; Secure" if secure or self._secure else b""
        return b"Set-Cookie: " + self._name + b"=" + key + self._attributes + flag + b"\r\n"


def _fetch_metadata(fields: Headers) -> dict[bytes, bytes]:
    """Return Origin and the Sec-Fetch fields (https://www.w3.org/TR/fetch-metadata/), names in lower case."""
    found = {}
    for name, value in fields:
        if name[:1] in b"OoSs":
            lower = name.lower()
            if lower == b"origin" or lower.startswith(b"sec-fetch-"):
                found[lower] = value
    return found


def _same_site(origin: bytes, host: bytes) -> bool:
    """Tell whether an origin and a host end in the same two labels: nearly what browsers call a site."""
    return _site(origin.rpartition(b"//")[2]) == _site(host)


def _site(host: bytes) -> list[bytes]:
    name = host.lower() if host.endswith(b"]") else host.lower().rpartition(b":")[0] or host.lower()
    return [name] if _ADDRESS.fullmatch(name) else name.split(b".")[-2:]


def cookie_stripper(name: str) -> Callable[[bytes], bytes]:
    """Return a function that takes field lines and returns them without cookie ``name``."""
    pair = re.compile(rb"(?:^|;)[ \t]*" + re.escape(name.encode("latin-1")) + rb"=[^;]*")
    field = re.compile(rb"\r\n(?i:cookie):[ \t]*([^\r\n]*)")

    def cut(match: re.Match[bytes]) -> bytes:
        rest = pair.sub(b"", match[1]).lstrip(b"; \t")
        return b"\r\nCookie: " + rest if rest else b""

    return lambda lines: field.sub(cut, lines)
