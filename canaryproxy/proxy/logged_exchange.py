"""Requests as the access log tells them. Without a log nothing here is used."""

from __future__ import annotations

import re
from time import monotonic
from typing import Final

from canaryproxy.http1.errors import Refusal
from canaryproxy.http1.forwarding import Peer
from canaryproxy.http1.request import MAX_REQUEST_LINE, RequestFields
from canaryproxy.http1.response import Response
from canaryproxy.measure.counters import Reason
from canaryproxy.measure.routing import CANARY, VARIANTS, RouteTable
from canaryproxy.proxy.access_log import CLIENT_CLOSED, Entry, without_user
from canaryproxy.proxy.exchange import Exchange

_LONGEST_FIELD: Final = 1024
"""Bytes of a field that are kept: what waits in the queue is bounded."""
_PROXY: Final = "proxy"
_REQUEST_LINE = re.compile(rb"(\S+) (\S+) (HTTP/\S+)")
_REQUEST_ID = re.compile(rb"\r\nX-Request-Id: (\S+)\r\n")


class LoggedExchange(Exchange):
    """An exchange that adds its entry to the access log when it ends, in whatever way."""

    __slots__ = ("_asked", "_body_size", "_bucket", "_forced", "_reason", "_refusal", "_why")

    # What is known from the start

    def enroll(self, table: RouteTable, bucket: int, tick: int) -> None:
        self._bucket = bucket
        self._forced = False
        self._begin()
        super().enroll(table, bucket, tick)

    def note_forced(self, bucket: int) -> None:
        self._bucket = bucket
        self._forced = True
        self._begin()

    def _begin(self) -> None:
        self._body_size = 0
        self._asked = ""
        self._reason = self._why = ""
        self._refusal: Refusal | None = None

    # What passes

    def answer(
        self, response: Response, body: bytes, *, complete: bool, trailers: bytes = b""
    ) -> None:
        self._body_size = len(body)
        self._reason = f"status_{response.status}"  # if the request is rescued
        super().answer(response, body, complete=complete, trailers=trailers)

    def body(self, data: bytes, *, complete: bool, trailers: bytes = b"") -> None:
        self._body_size += len(data)
        super().body(data, complete=complete, trailers=trailers)

    def switched(self, response: Response, data: bytes) -> None:
        self._body_size = len(data)
        super().switched(response, data)

    def tunnel_data(self, data: bytes) -> None:
        self._body_size += len(data)
        super().tunnel_data(data)

    def _failed(self, reason: Reason) -> None:
        self._reason = reason.label
        if self._endpoint is not None:
            self._asked = self._endpoint.authority
        super()._failed(reason)

    def _rescue(self) -> None:
        self._why = self._reason
        self._asked = ""
        super()._rescue()

    # The end

    def _complete(self, now: float) -> None:
        self._tell(now, self._status, self._why)
        super()._complete(now)

    def _end_tunnel(self) -> None:
        if not self.cancelled:
            self._tell(monotonic(), self._status, self._why)
        super()._end_tunnel()

    def note_refusal(self, refusal: Refusal) -> None:
        self._refusal = refusal

    def client_gone(self) -> None:
        if not self.cancelled and self._status != 101:
            refusal = self._refusal
            if refusal is not None:
                self._tell(monotonic(), self._status or refusal.status, refusal.reason)
            else:
                self._tell(monotonic(), self._status or CLIENT_CLOSED, "client_closed")
        super().client_gone()

    def note_end(self, status: int, now: float, answer: bytes) -> None:
        request_id, size = _said(answer)
        self._body_size += size
        self._tell(now, status, self._reason, request_id)

    def _tell(self, now: float, status: int, reason: str, request_id: bytes = b"") -> None:
        log = self._datapath.access_log
        if log is None:  # it was there when this began, and stays
            return
        request = self.request
        fields = request.fields
        noted = fields.logged
        if noted is None:
            noted = fields.logged = _noted(fields)
        user_agent, referer, client_id = noted
        peer = self._down.peer
        answered = self._answered_at
        by: str | None = None
        if answered:
            by = VARIANTS[self.variant]
        elif request_id or self._refusal is not None:
            by = _PROXY
        endpoint = self._endpoint
        log.add(
            Entry(
                self._started,
                now,
                max(answered - self._received, 0.0) if answered else None,
                peer.address,
                _client(fields, peer),
                request.method,
                request.target,
                b"HTTP/1.0" if request.http10 else b"HTTP/1.1",
                status,
                self._body_size,
                CANARY if self._rescued else self.variant,
                by,
                self._rescued,
                self._forced,
                None if self._key is None else self._bucket,
                self._asked if endpoint is None else endpoint.authority,
                reason,
                request_id or client_id,
                request.trace_id,
                user_agent,
                referer,
            )
        )


def refused(peer: Peer, head: bytes, refusal: Refusal, answer: bytes, now: float) -> Entry:
    """Return the entry of a request that was refused before it was routed.

    ``head`` is what came of it, ``answer`` what it was told.
    """
    method, target, protocol = _line(head.partition(b"\r\n")[0][:MAX_REQUEST_LINE])
    request_id, size = _said(answer)
    return Entry(
        started=now,
        ended=now,
        first_byte=None,
        peer=peer.address,
        client=b"",
        method=method,
        target=target,
        protocol=protocol,
        status=refusal.status,
        sent=size,
        variant=None,
        answered_by=_PROXY,
        rescued=False,
        forced=False,
        bucket=None,
        endpoint="",
        reason=refusal.reason,
        request_id=request_id,
        trace_id=b"",
        user_agent=None,
        referer=None,
    )


def _line(line: bytes) -> tuple[bytes, bytes, bytes]:
    """Split a request line that may be anything; what cannot be told is in the target."""
    match = _REQUEST_LINE.fullmatch(line)
    if match is not None:
        return match[1], without_user(match[2]), match[3]
    method, _, rest = line.rpartition(b" ") if line.count(b" ") == 1 else (b"", b"", line)
    return method, without_user(rest), b""


def _said(answer: bytes) -> tuple[bytes, int]:
    """Return the request id and the size of the body of an answer made by ``error_response``."""
    match = _REQUEST_ID.search(answer)
    return match[1] if match else b"", len(answer.partition(b"\r\n\r\n")[2])


def _noted(fields: RequestFields) -> tuple[bytes | None, bytes | None, bytes]:
    """Return User-Agent, Referer and X-Request-Id."""
    agent, referer = fields.field(b"user-agent"), fields.field(b"referer")
    return (
        None if agent is None else agent[:_LONGEST_FIELD],
        None if referer is None else referer[:_LONGEST_FIELD],
        (fields.field(b"x-request-id") or b"")[:_LONGEST_FIELD],
    )


def _client(fields: RequestFields, peer: Peer) -> bytes:
    """Return what a trusted proxy says of the client's address: the last one of the last X-Forwarded-For."""
    return fields.forwarded_for[:_LONGEST_FIELD] if peer.trusted else b""
