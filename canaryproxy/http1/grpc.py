"""gRPC as a proxy sees it: its content type, deadlines, statuses and errors. Pure.

https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md. A gRPC response is always a 200 of HTTP; its
outcome is ``grpc-status``, in the trailers, or in the head where there is nothing else (trailers-only).
"""

from __future__ import annotations

import re
import secrets
from typing import Final

from canaryproxy.config.grpc import GrpcStatus
from canaryproxy.http1.endless import ENDS, BoundaryReader
from canaryproxy.http1.response import Response
from canaryproxy.measure.records import STATUS_SHIFT
from canaryproxy.measure.routing import Headers

_CONTENT_TYPE = re.compile(rb"application/grpc(?:[+;].*)?", re.IGNORECASE)
"""Not gRPC-Web, which is HTTP/1.1 with its trailers in the body."""
_IN_HEAD = re.compile(
    rb"\r\ncontent-type:[ \t]*application/grpc[ \t]*(?:[+;][^\r\n]*)?\r\n", re.IGNORECASE
)
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_TIMEOUT_LINE = re.compile(rb"\r\ngrpc-timeout:[^\r\n]*(?=\r\n)", re.IGNORECASE)
_STATUS_LINE = re.compile(rb"(?:^|\n)grpc-status:[ \t]*([0-9]{1,10})[ \t]*\r\n", re.IGNORECASE)
_SECONDS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_UNITS: Final = ((b"n", 1_000_000_000), (b"u", 1_000_000), (b"m", 1000), (b"S", 1))
_MOST_DIGITS: Final = 8
_PREFIX: Final = 5
"""Bytes before a message: whether it is compressed, and its length."""
_UNSAFE = re.compile(rb"[^ -$&-~]")

_STATUSES: Final = tuple(GrpcStatus)
"""By their codes."""

OK: Final = 200
HTTP_STATUS: Final = {
    GrpcStatus.OK: OK,
    GrpcStatus.CANCELLED: 499,
    GrpcStatus.UNKNOWN: 500,
    GrpcStatus.INVALID_ARGUMENT: 400,
    GrpcStatus.DEADLINE_EXCEEDED: 504,
    GrpcStatus.NOT_FOUND: 404,
    GrpcStatus.ALREADY_EXISTS: 409,
    GrpcStatus.PERMISSION_DENIED: 403,
    GrpcStatus.RESOURCE_EXHAUSTED: 429,
    GrpcStatus.FAILED_PRECONDITION: 400,
    GrpcStatus.ABORTED: 409,
    GrpcStatus.OUT_OF_RANGE: 400,
    GrpcStatus.UNIMPLEMENTED: 404,
    GrpcStatus.INTERNAL: 500,
    GrpcStatus.UNAVAILABLE: 503,
    GrpcStatus.DATA_LOSS: 500,
    GrpcStatus.UNAUTHENTICATED: 401,
}
"""The status of HTTP under which one of gRPC is counted: that of google.rpc.Code, but 404 for UNIMPLEMENTED.

It tells the client about its request, and nothing about the health of the service."""
_OF_HTTP: Final = {
    400: GrpcStatus.INTERNAL,
    401: GrpcStatus.UNAUTHENTICATED,
    403: GrpcStatus.PERMISSION_DENIED,
    404: GrpcStatus.UNIMPLEMENTED,
    429: GrpcStatus.UNAVAILABLE,
    502: GrpcStatus.UNAVAILABLE,
    503: GrpcStatus.UNAVAILABLE,
    504: GrpcStatus.UNAVAILABLE,
}
"""https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md."""


def is_grpc(content_type: bytes) -> bool:
    """Tell whether a request with this Content-Type is one of gRPC."""
    return _CONTENT_TYPE.fullmatch(content_type) is not None


def is_grpc_head(head: bytes) -> bool:
    """Tell the same of a head as it came, which need not be valid."""
    return _IN_HEAD.search(head) is not None


def of_http(status: int) -> GrpcStatus:
    """Return the gRPC status that clients make of a status of HTTP without a ``grpc-status``."""
    return _OF_HTTP.get(status, GrpcStatus.UNKNOWN)


def _status(value: bytes) -> GrpcStatus:
    code = int(value)
    return _STATUSES[code] if code < len(_STATUSES) else GrpcStatus.UNKNOWN


def status_in(trailers: bytes) -> GrpcStatus | None:
    """Return the ``grpc-status`` of trailers, given as lines; ``None`` without one that is a number.

    A number without a name is UNKNOWN, as for clients.
    """
    found = _STATUS_LINE.search(trailers)
    return None if found is None else _status(found[1])


def status_of(fields: Headers) -> GrpcStatus | None:
    """Return the ``grpc-status`` of a head, as ``status_in`` does."""
    for name, value in fields:
        if name.lower() == b"grpc-status" and value.isdigit() and len(value) <= 10:
            return _status(value)
    return None


def status_of_response(response: Response, trailers: bytes) -> GrpcStatus | None:
    """Return the ``grpc-status`` of a complete response: of its trailers, or else of its head."""
    status = status_in(trailers) if trailers else None
    return status_of(response.fields) if status is None else status


# Deadlines


def timeout_of(value: bytes | None) -> float | None:
    """Return the seconds of a ``grpc-timeout``; ``None`` without one, or if it is malformed.

    What a malformed one means is the server's to say: it is passed on as it is.
    """
    found = None if value is None else _TIMEOUT.fullmatch(value)
    return None if found is None else int(found[1]) * _SECONDS[found[2]]


def timeout_text(seconds: float) -> bytes:
    """Return a ``grpc-timeout`` of at most so many seconds, in the finest unit that has room, at least 1n."""
    for unit, in_second in _UNITS:
        count = int(seconds * in_second)
        if count < 10**_MOST_DIGITS:
            return b"%d%b" % (max(count, 1), unit)
    return b"%dH" % min(int(seconds / 3600), 10**_MOST_DIGITS - 1)


def with_timeout(head: bytes, seconds: float) -> bytes:
    """Return a head to forward with this ``grpc-timeout`` in place of its own."""
    line = b"\r\ngrpc-timeout: " + timeout_text(seconds)
    return _TIMEOUT_LINE.sub(line, head, count=1)


# Responses


def counted_as(response: Response, status: GrpcStatus) -> Response:
    """Return the head by which a response with this gRPC status is counted and judged."""
    equivalent = HTTP_STATUS[status]
    if response.status == equivalent:
        return response
    counted = Response(equivalent, response.fields)
    counted.is_event_stream = response.is_event_stream
    counted.word = response.word & ~(0x3FF << STATUS_SHIFT) | equivalent << STATUS_SHIFT
    return counted


def percent_encoded(text: str) -> bytes:
    """Return the value of ``grpc-message`` for a text."""
    return _UNSAFE.sub(lambda found: b"%%%02X" % found[0][0], text.encode())


def status_lines(status: GrpcStatus, message: str) -> bytes:
    """Return the trailers that end a response of gRPC."""
    return b"grpc-status: %d\r\ngrpc-message: %b\r\n" % (status, percent_encoded(message))


def grpc_error(
    status: GrpcStatus,
    reason: str,
    date: bytes,
    *,
    close: bool,
    label: str = "",
    extra: bytes = b"",
) -> bytes:
    """Return a trailers-only response of the proxy itself. ``http1.errors.error_response`` has the others."""
    request_id = secrets.token_hex(8)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\n" + status_lines(
        status, f"{reason} (request ID {request_id})"
    )
    head += b"Content-Length: 0\r\nX-Request-Id: %b\r\n" % request_id.encode()
    if label:
        head += b"X-Canaryproxy-Reason: %b\r\n" % label.encode()
    if close:
        head += b"Connection: close\r\n"
    return head + date + extra + b"\r\n"


class MessageReader(BoundaryReader):
    """Reads where messages begin and end in content as it is forwarded, in pieces of any size."""

    __slots__ = ("_left", "_prefix", "begun")

    def __init__(self) -> None:
        super().__init__(ENDS)
        self.begun = 0
        """Messages of which at least a byte has come."""
        self._prefix = b""
        """The beginning of a message, less than what says how long it is."""
        self._left = 0
        """Bytes of the message that are to come."""

    @property
    def at_boundary(self) -> bool:
        return not self._left and not self._prefix

    def feed(self, data: bytes) -> None:
        at, size = 0, len(data)
        while at < size:
            if self._left:
                step = min(self._left, size - at)
                self._left -= step
                at += step
                continue
            if not self._prefix:
                self.begun += 1
            missing = _PREFIX - len(self._prefix)
            self._prefix += data[at : at + missing]
            at += missing
            if len(self._prefix) == _PREFIX:
                self._left = int.from_bytes(self._prefix[1:], "big")
                self._prefix = b""

    def feed_record(self, data: bytes) -> int:
        if self.at_boundary:
            return 0
        had = len(self._prefix)
        end = self._left
        if had:
            prefix = self._prefix + data[: _PREFIX - had]
            whole = len(prefix) == _PREFIX
            end = _PREFIX - had + int.from_bytes(prefix[1:], "big") if whole else len(data) + 1
        self.feed(data)
        return end if end <= len(data) else -1


# Health checks


def health_request(service: str) -> bytes:
    """Return the message of a ``grpc.health.v1.HealthCheckRequest``, with its length before it."""
    name = service.encode()
    message = b"\x0a" + _varint(len(name)) + name if name else b""
    return b"\0" + len(message).to_bytes(4, "big") + message


def _varint(number: int) -> bytes:
    data = b""
    while number > 0x7F:
        data += bytes((number & 0x7F | 0x80,))
        number >>= 7
    return data + bytes((number,))


SERVING: Final = 1
SERVING_NAMES: Final = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")


def serving_status(data: bytes) -> int:
    """Return the status in a ``grpc.health.v1.HealthCheckResponse``, an index of ``SERVING_NAMES``.

    Raises ``ValueError`` for anything but one whole message that is not compressed, with that field alone.
    """
    message = data[5:]
    if data[:1] != b"\0" or int.from_bytes(data[1:5], "big") != len(message):
        raise ValueError("not one message")
    if not message:
        return 0
    if len(message) != 2 or message[0] != 0x08 or message[1] >= len(SERVING_NAMES):
        raise ValueError("not a HealthCheckResponse")
    return message[1]
