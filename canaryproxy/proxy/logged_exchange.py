"""Exchanges that are written to the access log. Without a log nothing here is used."""

from __future__ import annotations

from time import monotonic
from typing import Final

from canaryproxy.http1.errors import Refusal
from canaryproxy.http1.forwarding import Peer, TrustedProxies
from canaryproxy.http1.request import Request
from canaryproxy.http1.response import Response
from canaryproxy.measure.counters import Reason
from canaryproxy.measure.routing import VARIANTS, Routing
from canaryproxy.proxy.access_log import CLIENT_CLOSED, PROXY, Entry, id_and_size
from canaryproxy.proxy.context import ServiceContext
from canaryproxy.proxy.exchange import Exchange
from canaryproxy.proxy.interfaces import ResponseSink
from canaryproxy.proxy.request_sender import FINISHED, TUNNEL

_LOGGED: Final = frozenset((b"user-agent", b"referer", b"x-request-id"))
_LONGEST_FIELD: Final = 1024
"""Bytes of a field that are kept, so that the queue of the log is bounded in bytes too."""


class LoggedExchange(Exchange):
    """An exchange that adds its entry to the access log when it ends, in whatever way."""

    __slots__ = ("_body_size", "_failed_endpoint", "_reason", "_refusal", "_rescue_reason")

    def __init__(
        self,
        service: ServiceContext,
        sink: ResponseSink,
        request: Request,
        routing: Routing,
        outcomes: tuple[int, ...],
        now: float,
        has_body: bool,
    ) -> None:
        super().__init__(service, sink, request, routing, outcomes, now, has_body)
        self._body_size = 0
        """Bytes of the response's body so far."""
        self._failed_endpoint = ""
        """The endpoint of the last attempt, if it failed."""
        self._reason = ""
        """Why the last attempt failed, or what the last response was."""
        self._rescue_reason = ""
        """Why the other variant was asked."""
        self._refusal: Refusal | None = None

    def response_head(
        self, response: Response, body: bytes, *, complete: bool, trailers: bytes = b""
    ) -> None:
        self._body_size = len(body)
        self._reason = f"status_{response.status}"  # if the request is rescued
        super().response_head(response, body, complete=complete, trailers=trailers)

    def response_body(self, data: bytes, *, complete: bool, trailers: bytes = b"") -> None:
        self._body_size += len(data)
        super().response_body(data, complete=complete, trailers=trailers)

    def body_relayed(self, size: int, *, complete: bool) -> None:
        self._body_size += size
        super().body_relayed(size, complete=complete)

    def switched(self, response: Response, data: bytes) -> None:
        self._body_size = len(data)
        super().switched(response, data)

    def tunnel_data(self, data: bytes) -> None:
        self._body_size += len(data)
        super().tunnel_data(data)

    def _failed(self, reason: Reason, detail: str = "") -> None:
        self._reason = reason.label
        if self._endpoint is not None:
            self._failed_endpoint = self._endpoint.authority
        super()._failed(reason, detail)

    def _ask_other(self, cell: int) -> None:
        self._rescue_reason = self._reason
        self._failed_endpoint = ""
        super()._ask_other(cell)

    # The end

    def _complete(self, now: float) -> None:
        self._log(now, self._status, self._rescue_reason)
        super()._complete(now)

    def _end_tunnel(self) -> None:
        if self._state != FINISHED:
            self._log(monotonic(), self._status, self._rescue_reason)
        super()._end_tunnel()

    def note_refusal(self, refusal: Refusal) -> None:
        self._refusal = refusal

    def client_gone(self) -> None:
        if self._state < TUNNEL:
            refusal = self._refusal
            if refusal is not None:
                self._log(monotonic(), self._status or refusal.status, refusal.reason)
            else:
                self._log(monotonic(), self._status or CLIENT_CLOSED, "client_closed")
        super().client_gone()

    def note_end(self, status: int, now: float, response: bytes) -> None:
        request_id, size = id_and_size(response)
        self._body_size += size
        self._log(now, status, self._reason, request_id)

    def _grpc_name(self) -> str | None:
        """Return the name of the status of gRPC that the log has."""
        return None

    def _log(self, now: float, status: int, reason: str, request_id: bytes = b"") -> None:
        log = self.service.worker.access_log
        if log is None:  # of gRPC
            return
        request = self.request
        fields = request.fields
        logged = fields.logged
        if logged is None:
            logged = _logged_fields(request)
            if fields.own.isdisjoint(_LOGGED):
                fields.logged = logged
        user_agent, referer, client_id = logged
        peer, routing = self._sink.peer, self.routing
        responded = self._responded_at
        by: str | None = None
        if responded:
            by = VARIANTS[self.variant]
        elif request_id or self._refusal is not None:
            by = PROXY
        endpoint = self._endpoint
        log.add(
            Entry(
                self._started,
                now,
                max(responded - self._received, 0.0) if responded else None,
                peer.address,
                _client(self.service.worker.trusted_proxies, request, peer),
                request.method,
                request.target,
                _protocol(request, http2=peer.http2),
                status,
                self._body_size,
                routing.variant,
                by,
                self._rescued != 0,
                routing.forced,
                None if routing.key is None else routing.bucket,
                self._failed_endpoint if endpoint is None else endpoint.authority,
                reason,
                request_id or client_id,
                request.trace_id,
                user_agent,
                referer,
                self._grpc_name(),
                self.service.name,
            )
        )


def _protocol(request: Request, *, http2: bool) -> bytes:
    if http2:
        return b"HTTP/2.0"
    return b"HTTP/1.0" if request.http10 else b"HTTP/1.1"


def _logged_fields(request: Request) -> tuple[bytes | None, bytes | None, bytes]:
    """Return User-Agent, Referer and X-Request-Id (``_LOGGED``)."""
    agent, referer = request.field(b"user-agent"), request.field(b"referer")
    return (
        None if agent is None else agent[:_LONGEST_FIELD],
        None if referer is None else referer[:_LONGEST_FIELD],
        (request.field(b"x-request-id") or b"")[:_LONGEST_FIELD],
    )


def _client(proxies: TrustedProxies, request: Request, peer: Peer) -> bytes:
    """Return the client's address according to trusted proxies, empty if they name none."""
    return proxies.client_of(request.forwarding, "").encode() if peer.trusted else b""
