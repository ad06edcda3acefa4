"""How the end of a response's body is marked for the client, and that of a WebSocket."""

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


_CLOSE_FRAME: Final = 0x88
"""First byte of a WebSocket frame that is final and has the opcode Close (RFC 6455 §5.2)."""
_LONGEST_CLOSE_FRAME: Final = 2 + 4 + 125


def is_close_frame(data: bytes) -> bool:
    """Tell whether bytes of a tunnel are one WebSocket Close frame and nothing else, as they usually come."""
    size = len(data)
    if size < 2 or size > _LONGEST_CLOSE_FRAME or data[0] != _CLOSE_FRAME:
        return False
    return size == (2 + data[1] if data[1] < 128 else 6 + data[1] - 128)


def _is_bodiless(request: Request, response: Response) -> bool:
    return response.status in (204, 304) or request.method == b"HEAD"
