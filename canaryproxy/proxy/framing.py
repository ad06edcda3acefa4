"""How the end of a response's body is marked for the client."""

from __future__ import annotations

from typing import Final

from canaryproxy.http1.request import Request
from canaryproxy.http1.response import Response

AS_RECEIVED: Final = 0
"""By what the upstream sent, a Content-Length or chunks; or there is no body."""
CHUNKED: Final = 1
"""By chunks that we make, as the upstream ends the body by closing or sends chunks."""
BY_CLOSE: Final = 2
"""By closing, as HTTP/1.0 has no chunks."""


def framing_of(request: Request, response: Response) -> int:
    """Return ``AS_RECEIVED``, ``CHUNKED`` or ``BY_CLOSE``."""
    if response.length >= 0 or _is_bodiless(request, response):
        return AS_RECEIVED
    return BY_CLOSE if request.http10 else CHUNKED


def framing_line(request: Request, response: Response, framing: int) -> bytes:
    """Return the header line that this framing adds, or nothing."""
    chunked = framing == CHUNKED or (
        response.chunked and not request.http10 and _is_bodiless(request, response)
    )
    return b"Transfer-Encoding: chunked\r\n" if chunked else b""


def connection_line(request: Request, *, close: bool) -> bytes:
    """Return the Connection header line for the client, or nothing where the default is meant."""
    if close:
        return b"Connection: close\r\n"
    return b"Connection: keep-alive\r\n" if request.http10 else b""


def _is_bodiless(request: Request, response: Response) -> bool:
    return response.status in (204, 304) or request.method == b"HEAD"
