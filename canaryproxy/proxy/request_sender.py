"""The sending half of an exchange: a connection to an endpoint, the request, and its body.

``Exchange`` adds the response. The two are halves of one object because a second object in each request would
cost more than they do.
"""

from __future__ import annotations

from time import monotonic
from typing import Final

from canaryproxy.http1.response import Response
from canaryproxy.measure.counters import Reason
from canaryproxy.measure.endpoint_cells import UNTIMED
from canaryproxy.measure.histogram import bucket_index
from canaryproxy.proxy.context import ServiceContext
from canaryproxy.proxy.endpoint import Endpoint
from canaryproxy.proxy.interfaces import (
    ConnectionSource,
    LongLived,
    OwnConnection,
    ResponseSink,
    UpstreamLink,
)
from canaryproxy.proxy.replay import ReplayBuffer

WAITING: Final = 0
"""There is no connection to an endpoint yet: nothing was sent."""
SENT: Final = 1
"""The request was written to an upstream, at least in part."""
RESPONDING: Final = 2
"""The head of the final response was written to the client."""
STREAMING: Final = 3
"""The same, and the response has no end of its own."""
TUNNEL: Final = 4
"""The upstream switched protocols: both sides exchange bytes."""
FINISHED: Final = 5
"""Nothing is expected any more; a connection that comes late is for others."""


class RequestSender(LongLived):
    """Sends one request, and keeps it until it need not be sent again."""

    __slots__ = (
        "_continued",
        "_endpoint",
        "_first_byte",
        "_received",
        "_replay",
        "_request_done",
        "_sink",
        "_state",
        "_tried",
        "_upstream",
        "service",
    )

    # Set by the subclass: a constructor of its own would cost each request a call.
    service: ServiceContext
    _sink: ResponseSink
    _state: int
    _received: float
    """When the whole request had come."""
    _first_byte: float
    """Seconds from then to the head of the response, once that has come; 0 if it came before."""
    _request_done: bool
    """The whole request was read from the client."""
    _replay: ReplayBuffer | None
    """The body, if the request has one."""
    _upstream: UpstreamLink | None
    _endpoint: Endpoint | None
    _tried: tuple[Endpoint, ...]
    """Endpoints of the variant that failed."""
    _continued: bool
    """The client was sent ``100 Continue``."""

    @property
    def has_body(self) -> bool:
        """The request has content, whether it has come or not."""
        return self._replay is not None

    @property
    def request_done(self) -> bool:
        """The whole request was read from the client."""
        return self._request_done

    @property
    def finished(self) -> bool:
        """Nothing is expected any more."""
        return self._state == FINISHED

    @property
    def holds_continue(self) -> bool:
        """The client waits for a 100 that the upstream has not sent: it is not the client that is late."""
        return (
            self.request.fields.expect
            and not self._continued
            and (self._replay is None or not self._replay.size)
        )

    def _closes(self) -> bool:
        """Whether the client's connection cannot carry another request after this one."""
        return (
            not self.request.fields.keep_alive
            or not self._request_done
            or self.service.worker.draining
        )

    def _failed(self, reason: Reason, detail: str = "") -> None:
        """Act on a failed attempt; ``detail`` is for the log."""
        raise NotImplementedError

    # The connection to an endpoint

    def start(self) -> None:
        """Send the request to an endpoint of its variant."""
        own = self._sink.own
        if own is not None and self._start_on(own):
            return
        endpoint = self.service.pools[self.variant].choose(self.routing.key, self._tried)
        if endpoint is None:
            self._failed(Reason.NO_ENDPOINT)
            return
        self._endpoint = endpoint
        endpoint.active += 1
        idle = endpoint.idle
        link = idle.last
        if link is not None:  # the plain case of ``acquire``
            idle.last = None
            self.connected(link)
        else:
            endpoint.acquire(self)

    def _start_on(self, own: OwnConnection) -> bool:
        """Send the request over the connection that its client has authenticated, if it can go there."""
        if self._tried:
            return False
        for endpoint in self.service.pools[self.variant].usable:
            if endpoint is own.source:
                link = own.take()
                if link is not None:
                    self._endpoint = endpoint
                    endpoint.active += 1
                    self.connected(link)
                    return True
        return False

    def _bind(self) -> None:
        """Keep the connection to the endpoint for this client."""
        sink, upstream = self._sink, self._upstream
        if upstream is None or upstream.frames or upstream.endpoint is sink.own:
            return
        if sink.own is not None:
            sink.own.close()
        own = sink.own = OwnConnection(upstream.endpoint)
        upstream.endpoint = own

    def wants(self, source: ConnectionSource) -> bool:
        return source is self._endpoint and self._state != FINISHED

    def connected(self, link: UpstreamLink) -> None:
        self._upstream = link
        self._state = SENT
        propagator = self.service.propagator
        if propagator is None:
            link.send(self, self.request.head)
        else:
            link.send(self, propagator.head(self.request, self.routing, self.variant))
        replay = self._replay
        if replay is not None:
            if replay.size:
                self._sink.resume()
                link.write(replay.content())
                if replay.overflows:
                    replay.drop()
            if self._request_done:
                link.end_request(replay.trailers)

    def connect_failed(self, source: ConnectionSource, reason: Reason, detail: str = "") -> None:
        if source is self._endpoint:
            self._failed(reason, detail)

    def upstream_failed(
        self, reason: Reason, detail: str = "", *, stale: bool = False, unprocessed: bool = False
    ) -> None:
        self._upstream = None
        endpoint = self._endpoint
        assert endpoint is not None
        if unprocessed and self._state == SENT:
            self._state = WAITING
            stale = endpoint not in self._tried
            if stale:
                self._tried = (*self._tried, endpoint)  # once more here, then elsewhere
        if stale and self._repeatable():
            endpoint.acquire(self, fresh=True)
            return
        self._failed(reason, detail)

    def _count_on_endpoint(self, status: int, waited: float) -> None:
        """Count a response for the endpoint that sent it."""
        endpoint = self._endpoint
        if endpoint is not None:
            alone = not self._tried and self.variant == self.routing.variant
            bucket = bucket_index(waited) if alone else UNTIMED
            endpoint.marks.append(bucket)
            if alone and bucket >= endpoint.slow_from:
                endpoint.add_slow(bucket, self.routing.key)
            endpoint.add_status(status, self._is_error(status), self.routing.key)

    def _is_error(self, status: int) -> bool:
        """Tell whether the response counts as an error."""
        return self.service.trial_rules.error_statuses[status] != 0

    def _note_failure(self, reason: Reason) -> bool:  # noqa: ARG002
        """Take note that the request failed without a response; tell whether that counts as an error."""
        return True

    def _leave_endpoint(self) -> None:
        if self._endpoint is not None:
            self._endpoint.active -= 1
            self._endpoint = None

    def _drop_upstream(self) -> None:
        """Close the connection to the endpoint, if there is one."""
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.close()

    # What comes from the client

    def request_body(self, data: bytes) -> None:
        """Pass on part of the request's body."""
        upstream = self._upstream
        replay = self._replay
        if replay is not None and replay.whole:
            replay.add(data)
            if replay.overflows:
                if upstream is None:
                    self._sink.pause()  # until connected: then the body is dropped
                    return
                replay.drop()
        if upstream is not None:
            upstream.write(data)

    def request_end(self, trailers: bytes = b"") -> None:
        """Pass on the end of the request."""
        self._request_done = True
        if trailers and (names := self.service.worker.propagated) is not None:
            trailers = names.without_trailers(trailers)
        if self._replay is not None:
            self._replay.trailers = trailers
        if self._upstream is not None:
            self._upstream.end_request(trailers)
        self._received = now = monotonic()
        if self._state < RESPONDING:
            self._sink.await_response(now)
        else:
            self._first_byte = 0.0

    def interim(self, response: Response) -> None:
        """Pass on a 1xx response; 100 only once, however often the request is sent.

        Only 100 gives the upstream more time, because it makes the client send its body.
        """
        if self.request.http10 or (response.status == 100 and self._continued):
            return
        if response.status == 100:
            self._continued = True
            self._sink.write(response.head + b"\r\n")
        else:
            self._sink.write_interim(response.head + b"\r\n")

    def opens(self, response: Response) -> bool:
        return self._sink.opens(response)

    # Flow control: the side that is full stops the other from reading

    def upstream_full(self) -> None:
        self._sink.pause()

    def upstream_drained(self) -> None:
        self._sink.resume()

    def client_full(self) -> None:
        """The client reads slower than the upstream writes."""
        if self._upstream is not None:
            self._upstream.pause()

    def client_drained(self) -> None:
        """The client has read what was written."""
        if self._upstream is not None:
            self._upstream.resume()

    def _repeatable(self) -> bool:
        """Whether the request can be sent again: all of it is at hand, and nothing can happen twice."""
        return (
            self._state < RESPONDING
            and (self._replay is None or self._replay.whole)
            and (self._state == WAITING or self.request.idempotent)
        )

    def _has_another_endpoint(self) -> bool:
        pool = self.service.pools[self.variant]
        return pool.choose(self.routing.key, self._tried) is not None
