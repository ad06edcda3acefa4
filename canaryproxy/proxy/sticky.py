"""The sticky key of a request: read from a cookie, a header or the client's address; minted if absent."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from typing import Final

from canaryproxy.config import Sticky
from canaryproxy.http1.forwarding import Peer
from canaryproxy.http1.request import ParsedHeaders
from canaryproxy.measure.routing import RouteTable
from canaryproxy.proxy.signing import Signer

_RANDOM_BYTES: Final = 16
_TAB: Final = 0x09
_BLANK: Final = 0x20
_QUOTE: Final = 0x22
_SEMICOLON: Final = 0x3B


class CookieFinder:
    """Finds the cookie with this name in the value of a Cookie field."""

    __slots__ = ("_begin", "_pattern")

    def __init__(self, name: str) -> None:
        self._begin = name.encode("latin-1") + b"="
        self._pattern = re.compile(rb"(?:^|;)[ \t]*" + re.escape(self._begin) + rb'"?([^;" \t]+)')

    def find(self, cookies: bytes) -> bytes | None:
        """Return the cookie's value, ``None`` if it is not there.

        The first one wins (RFC 6265 §5.4 puts the most specific first); surrounding quotes are not part of
        the value; an empty value counts as absent.
        """
        begin = self._begin
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

    def _search(self, cookies: bytes) -> bytes | None:
        match = self._pattern.search(cookies)
        return match[1] if match else None


class KeyReader:
    """Reads the sticky key of a request."""

    __slots__ = ()

    def read(self, headers: ParsedHeaders, peer: Peer) -> bytes | None:
        """Return the key, ``None`` if the request carries none."""
        raise NotImplementedError


class _FromCookie(KeyReader):
    __slots__ = ("_finder",)

    def __init__(self, name: str) -> None:
        self._finder = CookieFinder(name)

    def read(self, headers: ParsedHeaders, peer: Peer) -> bytes | None:  # noqa: ARG002
        return self._finder.find(headers.cookie) if headers.cookie else None


class _FromSignedCookie(KeyReader):
    """A cookie without a valid signature counts as absent."""

    __slots__ = ("_finder", "_signer")

    def __init__(self, name: str, signer: Signer) -> None:
        self._finder = CookieFinder(name)
        self._signer = signer

    def read(self, headers: ParsedHeaders, peer: Peer) -> bytes | None:  # noqa: ARG002
        value = self._finder.find(headers.cookie) if headers.cookie else None
        return None if value is None else self._signer.verify(value)


class _FromHeader(KeyReader):
    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name.lower().encode("latin-1")

    def read(self, headers: ParsedHeaders, peer: Peer) -> bytes | None:  # noqa: ARG002
        return headers.field(self._name) or None


class _FromAddress(KeyReader):
    """The client's address: according to a trusted proxy, else the connection's."""

    __slots__ = ()

    def read(self, headers: ParsedHeaders, peer: Peer) -> bytes | None:
        named = headers.fields.forwarded_for if peer.trusted else b""
        return named or peer.address.encode() or None


def key_reader(sticky: Sticky, signer: Signer | None = None) -> KeyReader:
    """Return the reader of the configured sticky key; with a ``signer`` it reads signed cookies only."""
    if sticky.header is not None:
        return _FromHeader(sticky.header)
    if sticky.address:
        return _FromAddress()
    name = sticky.cookie or ""
    return _FromCookie(name) if signer is None else _FromSignedCookie(name, signer)


class CookieJar:
    """Mints sticky cookies and writes them as ``Set-Cookie`` lines (RFC 6265 §4.1)."""

    __slots__ = ("_attributes", "_finder", "_name", "_secure", "_signer", "rotates")

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
        self._attributes = attributes.encode("latin-1")
        self._secure = sticky.same_site == "None"  # browsers drop SameSite=None without Secure

    def mint(self, table: RouteTable) -> bytes:
        """Return a new key: 128 random bits in hex, with the release's tag if only new users are admitted."""
        key = secrets.token_hex(_RANDOM_BYTES).encode()
        return key + b"." + table.tag if table.new_sessions_only else key

    def is_old(self, cookies: bytes) -> bool:
        """Tell whether the (valid) sticky cookie among these was not signed by the first key."""
        value = self._finder.find(cookies)
        return self._signer is not None and value is not None and self._signer.is_old(value)

    def set_cookie(self, key: bytes, *, secure: bool) -> bytes:
        """Return the ``Set-Cookie`` line with CRLF; ``secure``: the client speaks https."""
        if self._signer is not None:
            key = self._signer.sign(key)
        flag = b"; Secure" if secure or self._secure else b""
        return b"Set-Cookie: " + self._name + b"=" + key + self._attributes + flag + b"\r\n"


def cookie_stripper(name: str) -> Callable[[bytes], bytes]:
    """Return a function that takes field lines and returns them without cookie ``name``."""
    pair = re.compile(rb"(?:^|;)[ \t]*" + re.escape(name.encode("latin-1")) + rb"=[^;]*")
    field = re.compile(rb"\r\n(?i:cookie):[ \t]*([^\r\n]*)")

    def cut(match: re.Match[bytes]) -> bytes:
        rest = pair.sub(b"", match[1]).lstrip(b"; \t")
        return b"\r\nCookie: " + rest if rest else b""

    return lambda lines: field.sub(cut, lines)
