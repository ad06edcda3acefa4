"""Requests that the proxy refuses itself, before they are routed or in the middle of their body."""

from __future__ import annotations

import re
from http import HTTPStatus
from time import monotonic
from typing import Final

from canaryproxy.http1.errors import Refusal, error_response
from canaryproxy.http1.forwarding import Peer
from canaryproxy.http1.grpc import OK, grpc_error, is_grpc_head, of_http
from canaryproxy.http1.request import MAX_REQUEST_LINE, Request
from canaryproxy.measure import counters
from canaryproxy.proxy.access_log import PROXY, Entry, id_and_size, without_user
from canaryproxy.proxy.context import WorkerContext
from canaryproxy.proxy.framing import connection_line
from canaryproxy.proxy.interfaces import ResponseSink

_REQUEST_LINE: Final = re.compile(rb"(\S+) (\S+) (HTTP/\S+)")


def refuse(
    context: WorkerContext,
    sink: ResponseSink,
    refusal: Refusal,
    head: bytes,
    kept_for: Request | None = None,
) -> None:
    """Count and log a request that was not routed, and write the proxy's own error.

    ``head`` is what came of the request. The caller closes the connection, or keeps it after this request.
    """
    is_grpc = is_grpc_head(head)
    to_head = head.startswith(b"HEAD ")
    response = _respond(context, sink, refusal, to_head=to_head, is_grpc=is_grpc, kept_for=kept_for)
    log = context.access_log
    if log is not None:
        entry = refused_entry(sink.peer, head, refusal, response, monotonic())
        if is_grpc:
            entry = entry._replace(status=OK, grpc_status=of_http(refusal.status).name)
        log.add(entry)


def refuse_body(
    context: WorkerContext, sink: ResponseSink, refusal: Refusal, request: Request
) -> None:
    """Count a request whose body is refused, and write the proxy's own error; its exchange logs it."""
    to_head, is_grpc = request.method == b"HEAD", request.fields.grpc
    _respond(context, sink, refusal, to_head=to_head, is_grpc=is_grpc)


def _respond(
    context: WorkerContext,
    sink: ResponseSink,
    refusal: Refusal,
    *,
    to_head: bool,
    is_grpc: bool,
    kept_for: Request | None = None,
) -> bytes:
    context.proxy_tally.add(counters.REFUSED + refusal.status)
    date = context.head_ends.date
    close = kept_for is None
    line = b"" if kept_for is None else connection_line(kept_for, close=False)
    if is_grpc:
        status = of_http(refusal.status)
        response = grpc_error(status, refusal.reason, date, close=close, extra=line)
    else:
        response = error_response(
            refusal.status, refusal.reason, date, close=close, head_only=to_head, extra=line
        )
    sink.write(response, ends=True)
    if refusal.status >= HTTPStatus.BAD_REQUEST:
        request_id, _ = id_and_size(response)
        context.error_log.refused(
            monotonic(), request_id, refusal.status, refusal.reason, sink.peer.address
        )
    return response


def refused_entry(peer: Peer, head: bytes, refusal: Refusal, response: bytes, now: float) -> Entry:
    """Return the entry of a request that was refused before it was routed.

    ``head`` is what came of it, ``response`` what the proxy sent back.
    """
    method, target, protocol = _line(head.partition(b"\r\n")[0][:MAX_REQUEST_LINE])
    if peer.http2:
        protocol = b"HTTP/2.0"
    request_id, size = id_and_size(response)
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
        answered_by=PROXY,
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
    """Split a request line that may be anything; a malformed one is all target."""
    match = _REQUEST_LINE.fullmatch(line)
    if match is not None:
        return match[1], without_user(match[2]), match[3]
    method, _, rest = line.rpartition(b" ") if line.count(b" ") == 1 else (b"", b"", line)
    return method, without_user(rest), b""
