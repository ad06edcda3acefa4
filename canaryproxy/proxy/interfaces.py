"""Interfaces between the parts of the data path, so that none has to know how another is built.

A request crosses all of them: the client's connection (``ResponseSink``) starts an exchange, the exchange
asks an endpoint (``ConnectionSource``) for a connection (``UpstreamLink``) and takes the response from it
(``Receiver``).

These are base classes and not protocols, because mypyc compiles calls to their methods to jumps through a
table.
"""

from __future__ import annotations

import asyncio
from typing import Final

from canaryproxy.http1.forwarding import Peer
from canaryproxy.http1.request import Request
from canaryproxy.http1.response import Response
from canaryproxy.measure.counters import Reason
from canaryproxy.measure.routing import Routing


class UpstreamLink:
    """A connection to an endpoint, as its pool and the exchange that holds it see it.

    Of a connection of HTTP/2 it is one stream, for one request.
    """

    __slots__ = ("endpoint", "frames", "idle_since", "transport")

    endpoint: ConnectionSource
    """Where it goes when it has served a request."""
    frames: bool
    """It is a stream of HTTP/2."""
    transport: asyncio.Transport
    idle_since: float
    """When it was put back into the pool, in monotonic seconds."""

    def send(self, receiver: Receiver, head: bytes) -> None:
        """Write a request's head; ``receiver`` takes the response."""
        raise NotImplementedError

    def write(self, data: bytes) -> None:
        """Write part of the request's content, which is not empty."""
        raise NotImplementedError

    def end_request(self, trailers: bytes) -> None:
        """Write the end of a request with content."""
        raise NotImplementedError

    def end_tunnel(self) -> None:
        """Pass on that the client sends no more to the tunnel."""
        raise NotImplementedError

    def is_stuck(self) -> bool:
        """Tell whether something waits to be written, because the upstream does not read."""
        return self.transport.get_write_buffer_size() > 0

    def finish(self, now: float, *, reusable: bool) -> None:
        """Give the connection back to its endpoint, or close it if it cannot carry another request."""
        raise NotImplementedError

    def close(self) -> None:
        """Close at once and drop what is under way."""
        raise NotImplementedError

    def end(self) -> None:
        """Close once everything is written."""
        raise NotImplementedError

    def pause(self) -> None:
        """Stop reading until ``resume``: the client is slower than the upstream."""
        raise NotImplementedError

    def resume(self) -> None:
        """Read again."""
        raise NotImplementedError


class ConnectionSource:
    """An endpoint, as its connections and those who ask for one see it."""

    __slots__ = ()

    def release(self, link: UpstreamLink) -> None:
        """Take back a connection that can carry another request."""
        raise NotImplementedError

    def lost(self, link: UpstreamLink) -> None:
        """Take note that a connection is closed."""
        raise NotImplementedError

    def failed(self, reason: Reason, errno: int = 0) -> None:  # noqa: ARG002
        """Take note that a connection failed before it had served a request."""
        return

    # Of connections of HTTP/2

    def opened(self, connection: SharedConnection) -> None:  # noqa: ARG002
        """Take note that a connection is open and takes requests."""
        return

    def has_room(self) -> None:
        """Take note that a connection can take one more request."""
        return

    def retired(self, connection: SharedConnection) -> None:  # noqa: ARG002
        """Take note that a connection takes no more requests."""
        return


class SharedConnection:
    """A connection of HTTP/2 to an endpoint, which carries many requests at a time."""

    __slots__ = ("endpoint", "transport")

    endpoint: ConnectionSource
    transport: asyncio.Transport

    async def first_link(self) -> UpstreamLink:
        """Wait until the upstream has said that it speaks HTTP/2, and return a link for a request.

        Raises ``OSError``, or ``ValueError`` with what it said instead.
        """
        raise NotImplementedError

    def link(self) -> UpstreamLink | None:
        """Return a link for a request that is sent at once, or ``None`` if the connection takes no more."""
        raise NotImplementedError

    def retire(self) -> None:
        """Take no more requests, and close with the last one."""
        raise NotImplementedError

    def sweep(self, now: float, oldest: float) -> None:
        """Close if idle since before ``oldest``; find out whether the upstream is still there."""
        raise NotImplementedError


class OwnConnection(ConnectionSource):
    """A connection to an endpoint that one client has authenticated (``http1.fields.binds``).

    Its server takes every request on it for that client's, so no other client gets it.
    """

    __slots__ = ("_closed", "_link", "source")

    def __init__(self, source: ConnectionSource) -> None:
        self.source = source
        """The endpoint."""
        self._link: UpstreamLink | None = None
        """The connection while it is idle."""
        self._closed = False

    def release(self, link: UpstreamLink) -> None:
        if self._closed:
            link.close()
        else:
            self._link = link

    def lost(self, link: UpstreamLink) -> None:
        self._link = None
        self.source.lost(link)

    def failed(self, reason: Reason, errno: int = 0) -> None:
        self.source.failed(reason, errno)

    def take(self) -> UpstreamLink | None:
        """Return the connection for the client's next request, if it is idle."""
        link, self._link = self._link, None
        return link

    def close(self) -> None:
        """Close it as soon as it is idle: the client is gone."""
        self._closed = True
        link = self.take()
        if link is not None:
            link.close()


class Caller:
    """Asks an endpoint for a connection."""

    __slots__ = ()

    def wants(self, source: ConnectionSource) -> bool:
        """Tell whether a connection of ``source`` is still wanted."""
        raise NotImplementedError

    def connected(self, link: UpstreamLink) -> None:
        """Take the connection, which is the caller's until it finishes or closes it."""
        raise NotImplementedError

    def connect_failed(self, source: ConnectionSource, reason: Reason, detail: str = "") -> None:
        """Take note that ``source`` has no connection to give; ``detail`` is for the log."""
        raise NotImplementedError


class Receiver(Caller):
    """Sends a request and takes the response: an ``Exchange``, or a mirrored copy.

    Methods that do nothing here are for exchanges only.
    """

    __slots__ = ("request",)

    request: Request

    def interim(self, response: Response) -> None:  # noqa: ARG002
        """Take a 1xx response."""
        return

    def opens(self, response: Response) -> bool:  # noqa: ARG002
        """Tell whether a 101 response is one to the request's handshake, as far as the proxy has to know."""
        return True

    def response_head(
        self, response: Response, body: bytes, *, complete: bool, trailers: bytes = b""
    ) -> None:
        """Take the head of the final response and the part of its body that came with it."""
        raise NotImplementedError

    def response_body(self, data: bytes, *, complete: bool, trailers: bytes = b"") -> None:
        """Take more of the body."""
        raise NotImplementedError

    def relay_body(self, source: asyncio.Transport, size: int) -> None:  # noqa: ARG002
        """Let the rest of the body, ``size`` bytes, go from ``source`` to the client, if nothing reads it."""
        return

    def body_relayed(self, size: int, *, complete: bool) -> None:
        """Take note that ``size`` more bytes of the body went to the client."""
        raise NotImplementedError

    def upstream_failed(
        self, reason: Reason, detail: str = "", *, stale: bool = False, unprocessed: bool = False
    ) -> None:
        """Take note that the connection failed before the response was complete.

        ``detail`` says for the log how it failed.
        ``stale``: it was closed while it waited in the pool, so the request was most likely not read.
        ``unprocessed``: the upstream says that it has not looked at the request.
        """
        raise NotImplementedError

    def wait_no_longer(self) -> None:
        """Give up on the canary: it has had its time, and stable can answer."""
        return

    def upstream_full(self) -> None:
        """Write no more until ``upstream_drained``."""
        return

    def upstream_drained(self) -> None:
        """Write again."""
        return

    def switched(self, response: Response, data: bytes) -> None:  # noqa: ARG002
        """Take a 101 response: the connection is a tunnel from here on."""
        return

    def tunnel_data(self, data: bytes) -> None:  # noqa: ARG002
        """Take bytes from the upstream's end of the tunnel."""
        return

    def tunnel_eof(self) -> None:
        """Take note that the upstream sends no more."""
        return

    def tunnel_closed(self, *, reset: bool) -> None:  # noqa: ARG002
        """Take note that the upstream closed the tunnel, in order or not."""
        return


STAYS: Final = 0
"""A long-lived exchange whose user is still on its variant."""
MOVED: Final = 1
"""Its user is on the other variant; its turn to be closed has not come."""
TOLD: Final = 2
"""Its turn has come: it ends at the next boundary."""
CLOSED: Final = 3
"""The client has got its end and gets no more bytes."""


class LongLived(Receiver):
    """A tunnel or an endless response: it goes on while its user moves to the other variant."""

    __slots__ = ("leaving", "routing", "variant")

    routing: Routing
    variant: int
    """The variant that answers: of a rescued request stable, whatever it was routed to."""
    leaving: int
    """``STAYS``, ``MOVED``, ``TOLD`` or ``CLOSED``, once the exchange is long-lived."""

    def leave(self) -> None:
        """End at the next boundary."""
        raise NotImplementedError

    def leave_now(self) -> None:
        """End, wherever that is; ``leave`` was called before."""
        raise NotImplementedError


class Connection:
    """A client's connection, as the worker's clock sees it."""

    __slots__ = ("deadline",)

    deadline: float
    """When ``sweep`` is to be called, in monotonic seconds."""

    def sweep(self, now: float) -> None:
        """Act on the deadline, which has passed."""
        raise NotImplementedError

    def drain(self, until: float | None) -> None:
        """Prepare for shutdown: close if idle, now or at ``until``; else after the current response."""
        raise NotImplementedError

    def abort(self) -> None:
        """Close at once."""
        raise NotImplementedError

    def mark_late(self, now: float) -> None:  # noqa: ARG002
        """Count the request in flight if it is past a threshold of the judge."""
        return

    def carries(self, service: object) -> bool:  # noqa: ARG002
        """Tell whether a request of a service (``ServiceContext``) is in flight on it."""
        return False

    def renew_peer(self) -> None:
        """Evaluate the client's address again, because the configuration of trusted proxies changed."""
        return


class ResponseSink(Connection):
    """A client's connection, as the exchange that answers its request sees it."""

    __slots__ = ("own", "peer")

    peer: Peer
    """The client, as the forwarding fields describe it."""
    own: OwnConnection | None
    """The connection to an endpoint that it has authenticated, if there is one."""

    def drop_own(self) -> None:
        """Close the client's own connection to an endpoint: the client is gone."""
        if self.own is not None:
            self.own.close()

    def write(self, data: bytes, *, ends: bool = False) -> None:
        """Write part of the response; ``ends``: the last one.

        To a peer of HTTP/2, which has frames, content is written without framing of its own.
        """
        raise NotImplementedError

    def write_head(self, head: bytes, end: bytes, body: bytes, *, ends: bool) -> None:
        """Write the head of the final response, its end with the empty line, and what came of its body."""
        raise NotImplementedError

    def relay(self, source: asyncio.Transport, size: int) -> None:  # noqa: ARG002
        """Let the next ``size`` bytes of ``source`` go to the client as they come, if that is possible."""
        return

    def keep_trailers(self, lines: bytes) -> None:
        """Write these trailers after the last part; only to a peer of HTTP/2."""
        raise NotImplementedError

    def write_interim(self, data: bytes) -> None:
        """Write a 1xx response that gives the upstream no more time."""
        raise NotImplementedError

    def pause(self) -> None:
        """Stop reading until ``resume``: the upstream is slower than the client."""
        raise NotImplementedError

    def resume(self) -> None:
        """Read again."""
        raise NotImplementedError

    def await_response(self, now: float) -> None:
        """Give the upstream ``limits.first_byte_timeout`` from now: the request was sent, or sent again."""
        raise NotImplementedError

    def stream_response(self, now: float, *, event_stream: bool) -> None:
        """Watch that the body follows the head, which is written. An event stream may be silent."""
        raise NotImplementedError

    def exchange_done(self, now: float, *, close: bool) -> None:
        """Close, or go on with the next request: the response is written."""
        raise NotImplementedError

    def break_off(self, *, framed: bool) -> None:
        """Close so that the client cannot take the response for complete.

        A response that is not ``framed`` by a length or chunks needs a reset for that.
        """
        raise NotImplementedError

    def opens(self, response: Response) -> bool:  # noqa: ARG002
        """Tell whether a 101 response accepts the handshake, if that is the proxy's own."""
        return True

    def switch(self) -> None:
        """Become a tunnel."""
        raise NotImplementedError

    def tunnel_eof(self) -> None:
        """Pass on that the upstream sends no more."""
        raise NotImplementedError

    def tunnel_reset(self) -> None:
        """Pass on that the upstream broke the tunnel off."""
        self.close()

    def close(self) -> None:
        """Close once everything is written."""
        raise NotImplementedError

    def linger(self) -> None:
        """Close once everything is written, and let nothing that the client still sends prevent that."""
        raise NotImplementedError
