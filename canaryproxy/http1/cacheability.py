"""Limits on what shared caches before the proxy may do with a response. Pure.

A cache does not know of variants: what it keeps of one user's response it gives to all. It must not keep a
response that sets a user's sticky cookie, nor one that another user would get from the other variant.

``Cache-Control: private`` forbids it (RFC 9111 §5.2.2.7). That field alone is not enough: CDNs and nginx have
fields of their own that take precedence (RFC 9213, ``Surrogate-Control``, ``X-Accel-Expires``), so these go.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from canaryproxy.http1.fields import tokens
from canaryproxy.measure.routing import Headers

UNSHARED: Final = 0
"""No shared cache may keep it: ``private`` or ``no-store``."""
SHARED: Final = 1
"""Shared caches may keep it. Without ``Cache-Control``, too: some do so for a while (RFC 9111 §4.2.2)."""
IMMUTABLE: Final = 2
"""The same, and its content never changes (RFC 8246): its URL has a hash, so both variants would send the
same."""

_CACHE_CONTROL: Final = b"cache-control"
_VARY: Final = b"vary"
_TARGETED: Final = frozenset((b"surrogate-control", b"x-accel-expires", b"edge-control"))
_TARGETED_END: Final = b"cdn-cache-control"
"""``CDN-Cache-Control`` itself, and those of a vendor: ``Cloudflare-CDN-Cache-Control``."""
_FOR_SHARED: Final = (b"public", b"private", b"s-maxage", b"proxy-revalidate")


def kind_of(fields: Headers) -> int:
    """Return ``UNSHARED``, ``SHARED`` or ``IMMUTABLE``."""
    directives = {
        one for name, value in fields if name.lower() == _CACHE_CONTROL for one in tokens(value)
    }
    targeted = any(_is_targeted(name.lower()) for name, _ in fields)
    if not targeted and (b"private" in directives or b"no-store" in directives):
        return UNSHARED
    return IMMUTABLE if b"immutable" in directives else SHARED


def made_private(lines: bytes, fields: Headers) -> bytes:
    """Return header lines (each with its CRLF) that no shared cache may keep; browsers may, as before.

    ``fields`` are those of the response as received.
    """
    kept = [b"private"]
    for name, value in fields:
        if name.lower() == _CACHE_CONTROL:
            kept += [
                one
                for part in value.split(b",")
                if (one := part.strip(b" \t"))
                and one.lower().partition(b"=")[0].rstrip(b" \t") not in _FOR_SHARED
            ]
    return _without(lines, _is_for_caches) + b"Cache-Control: " + b", ".join(kept) + b"\r\n"


def varying(lines: bytes, fields: Headers, names: tuple[bytes, ...]) -> bytes:
    """Return header lines whose response depends on these request headers, too (RFC 9110 §12.5.5)."""
    given = [value for name, value in fields if name.lower() == _VARY]
    found = [one for value in given for one in tokens(value)]
    added = [name for name in names if name.lower() not in found]
    if b"*" in found or not added:
        return lines
    # One line, as some caches read the first one only.
    return _without(lines, _is_vary) + b"Vary: " + b", ".join([*given, *added]) + b"\r\n"


def _without(lines: bytes, is_removed: Callable[[bytes], bool]) -> bytes:
    """Remove lines by the names of their fields (in lower case)."""
    return b"".join(
        [
            line + b"\r\n"
            for line in lines.split(b"\r\n")[:-1]
            if not is_removed(line.partition(b":")[0].lower())
        ]
    )


def _is_vary(name: bytes) -> bool:
    return name == _VARY


def _is_for_caches(name: bytes) -> bool:
    return name == _CACHE_CONTROL or _is_targeted(name)


def _is_targeted(name: bytes) -> bool:
    return name in _TARGETED or name.endswith(_TARGETED_END)
