"""The sticky key of a request: read from a cookie, a header or the client's address; minted if absent."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable

from canaryproxy.config import Sticky
from canaryproxy.proxy.forwarding import Peer
from canaryproxy.proxy.request_head import RequestFields
from canaryproxy.proxy.signing import Signer
from canaryproxy.routing import RouteTable

KeyReader = Callable[[RequestFields, Peer], bytes | None]
"""Returns the sticky key of a request, or ``None`` if it carries none."""

_RANDOM_BYTES = 16
_UNQUOTED = re.compile(rb'[^" \t]+')


def cookie_finder(name: str) -> Callable[[bytes], bytes | None]:
    """Return a function that takes the value of a Cookie field and returns that of cookie ``name``.

    The first one wins (RFC 6265 §5.4 puts the most specific first); surrounding quotes are not part of
    the value; an empty value counts as absent.
    """
    begin = name.encode("latin-1") + b"="
    pattern = re.compile(rb"(?:^|;)[ \t]*" + re.escape(begin) + rb'"?([^;" \t]+)')

    def find(cookies: bytes) -> bytes | None:
        before, found, after = cookies.partition(begin)
        if not found:
            return None
        if not before or before.endswith(b"; "):
            value, _, _ = after.partition(b";")
            if value.isalnum() or _UNQUOTED.fullmatch(value):
                return value
        match = pattern.search(cookies)  # several times as slow, and means the same
        return match[1] if match else None

    return find


def key_reader(sticky: Sticky, signer: Signer | None = None) -> KeyReader:
    """Return the function that reads the sticky key as configured.

    With a ``signer`` a cookie without a valid signature is none.
    """
    if sticky.header is not None:
        header = sticky.header.lower().encode("latin-1")
        return lambda fields, _: fields.field(header) or None
    if sticky.address:
        return _client_address
    find = cookie_finder(sticky.cookie or "")
    if signer is not None:
        return _signed_reader(find, signer)
    return lambda fields, _: find(fields.cookie) if fields.cookie else None


def _signed_reader(find: Callable[[bytes], bytes | None], signer: Signer) -> KeyReader:
    def read(fields: RequestFields, _: Peer) -> bytes | None:
        value = find(fields.cookie) if fields.cookie else None
        return None if value is None else signer.verify(value)

    return read


def _client_address(fields: RequestFields, peer: Peer) -> bytes | None:
    """Return the client's address: what a trusted proxy says it is, else the connection's."""
    named = fields.forwarded_for if peer.trusted else b""
    return named or peer.address.encode() or None


class CookieJar:
    """Mints sticky cookies and writes them as ``Set-Cookie`` lines (RFC 6265 §4.1)."""

    __slots__ = ("_attributes", "_find", "_name", "_secure", "_signer", "rotates")

    def __init__(self, sticky: Sticky, signer: Signer | None = None) -> None:
        self._signer = signer
        self._find = cookie_finder(sticky.cookie or "")
        self.rotates = signer is not None and signer.rotates
        """Cookies may have to be signed anew."""
        self._name = (sticky.cookie or "").encode("latin-1")
        attributes = (
            f"; Path=/; Max-Age={int(sticky.max_age)}; HttpOnly; SameSite={sticky.same_site}"
        )
        if sticky.domain:
            attributes += f"; Domain={sticky.domain}"
        self._attributes = attributes.encode("latin-1")
        self._secure = sticky.same_site == "None"  # browsers drop SameSite=None without Secure

    def mint(self, table: RouteTable) -> bytes:
        """Return a new key: 128 random bits in hex, marked with the release if only new users enter."""
        key = secrets.token_hex(_RANDOM_BYTES).encode()
        return key + b"." + table.tag if table.new_sessions_only else key

    def is_old(self, cookies: bytes) -> bool:
        """Tell whether the sticky cookie among these, which was valid, was signed by a key that is to go."""
        value = self._find(cookies)
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
