"""One connection to an endpoint: reads answers, one at a time, and hands them to its exchange."""

from __future__ import annotations

import asyncio
from ssl import SSLError
from typing import TYPE_CHECKING, Final, cast

from canaryproxy.http1.chunked import ChunkedDecoder, ChunkedError
from canaryproxy.http1.errors import InvalidResponse
from canaryproxy.http1.fields import find_head_end, tokens
from canaryproxy.http1.head_cache import ResponseHeadCache
from canaryproxy.http1.response import Response, is_hopeless
from canaryproxy.measure.counters import Reason
from canaryproxy.proxy.pool import Caller

if TYPE_CHECKING:
    from canaryproxy.http1.request import Request
    from canaryproxy.proxy.pool import Endpoint

_IDLE: Final = 0
_HEAD: Final = 1
_LENGTH: Final = 2
_CHUNKED: Final = 3
_UNTIL_CLOSE: Final = 4
_TUNNEL: Final = 5
_CLOSED: Final = 6

_UNKNOWN_LENGTH: Final = -1
_MOST_INTERIM: Final = 100
"""1xx answers before a final one. More are a flood that a client would have to read."""


def _agreed(chosen: bytes, asked: bytes) -> bool:
    """Tell whether an upstream switches to protocols that the client asked for (RFC 9110 §7.8)."""
    names = {one.partition(b"/")[0] for one in tokens(asked)}
    return bool(chosen) and all(one.partition(b"/")[0] in names for one in tokens(chosen))


class Receiver(Caller):
    """Who has sent a request and takes what comes back: an ``Exchange``, or a copy that nobody waits for.

    What does nothing here is left alone by those that need not know.
    """

    __slots__ = ("request",)

    request: Request

    def interim(self, response: Response) -> None:  # noqa: ARG002
        """Take a 1xx answer."""
        return

    def answer(
        self, response: Response, body: bytes, *, complete: bool, trailers: bytes = b""
    ) -> None:
        """Take the head of the final answer and what came of its body with it."""
        raise NotImplementedError

    def body(self, data: bytes, *, complete: bool, trailers: bytes = b"") -> None:
        """Take more of the body."""
        raise NotImplementedError

    def upstream_failed(self, reason: Reason, *, stale: bool = False) -> None:
        """The connection is of no more use, and the answer is not complete."""
        raise NotImplementedError

    def upstream_full(self) -> None:
        """Write no more until ``upstream_drained``."""
        return

    def upstream_drained(self) -> None:
        """Write again."""
        return

    def switched(self, response: Response, data: bytes) -> None:  # noqa: ARG002
        """Take a 101 answer; from here on there are the four below."""
        return

    def tunnel_data(self, data: bytes) -> None:  # noqa: ARG002
        """Take bytes."""
        return

    def tunnel_eof(self) -> None:
        """No more bytes come."""
        return

    def tunnel_closed(self) -> None:
        """The connection is closed."""
        return


class UpstreamConnection:
    """An HTTP/1.x client connection: an ``asyncio.Protocol`` without its name, so that it can be compiled.

    Life: idle, then ``send`` makes it read an answer's head and body for one exchange, then it goes back to
    its endpoint's pool, or is closed if anything about it is in doubt.
    """

    __slots__ = (
        "_buffer",
        "_chunks",
        "_exchange",
        "_head_length",
        "_heads",
        "_left",
        "_reading",
        "_reusable",
        "_spoke",
        "_state",
        "endpoint",
        "idle_since",
        "served",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(self, endpoint: Endpoint, heads: ResponseHeadCache) -> None:
        self.endpoint = endpoint
        self._heads = heads
        self._exchange: Receiver | None = None
        self._state = _IDLE
        self._buffer = b""
        self._head_length = 0
        """Bytes of the last head: the next is often as long, and known."""
        self._left = 0
        self._chunks: ChunkedDecoder | None = None
        self._reusable = True
        self._reading = True
        self._spoke = 0
        """How many 1xx of the current answer came already."""
        self.served = 0
        """Answers that came over this connection: above zero it may turn out to be stale."""
        self.idle_since = 0.0

    # The exchange's side

    def send(self, exchange: Receiver, head: bytes) -> None:
        """Begin an exchange: write the request's head (and what is known of its body)."""
        self._exchange = exchange
        self._state = _HEAD
        self._spoke = 0
        self.transport.write(head)

    def finish(self, now: float, *, reusable: bool) -> None:
        """End the exchange: back to the pool if the answer was read whole and ``reusable``, else close."""
        exchange_over = self._state == _IDLE
        self._exchange = None
        self.served += 1
        if reusable and exchange_over and self._reusable and not self.transport.is_closing():
            self.resume()
            self.idle_since = now
            self.endpoint.release(self)
        else:
            self.close()

    def close(self) -> None:
        """Close, dropping what is under way."""
        self._exchange = None
        self._state = _CLOSED
        self.transport.abort()

    def end(self) -> None:
        """Close once everything is written."""
        self._exchange = None
        self._state = _CLOSED
        self.transport.close()

    def pause(self) -> None:
        """Read no more until ``resume``: the client is slower than the upstream."""
        if self._reading:
            self._reading = False
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if not self._reading:
            self._reading = True
            self.transport.resume_reading()

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        exchange, state = self._exchange, self._state
        self._exchange = None
        self._state = _CLOSED
        self.endpoint.lost(self)
        if exchange is None:
            return
        if state == _UNTIL_CLOSE and exc is None:
            exchange.body(b"", complete=True)
        elif state == _TUNNEL:
            exchange.tunnel_closed()
        elif state == _HEAD:
            stale = self.served > 0 and not self._buffer and not self._spoke
            # With TLS 1.3 a server refuses our certificate after the handshake.
            reason = Reason.TLS if isinstance(exc, SSLError) else Reason.RESET
            exchange.upstream_failed(reason, stale=stale)
        else:
            exchange.upstream_failed(Reason.INCOMPLETE_ANSWER)

    def eof_received(self) -> bool:
        if self._state == _TUNNEL and self._exchange is not None:
            self._exchange.tunnel_eof()
            return True
        return False

    def pause_writing(self) -> None:
        if self._exchange is not None:
            self._exchange.upstream_full()

    def resume_writing(self) -> None:
        if self._exchange is not None:
            self._exchange.upstream_drained()

    def data_received(self, data: bytes) -> None:
        state = self._state
        exchange = self._exchange
        if exchange is None:
            self.close()  # an answer that nobody asked for
        elif state == _HEAD:
            self._head(exchange, data)
        elif state == _LENGTH:
            self._length_body(exchange, data)
        elif state == _CHUNKED:
            self._chunked_body(exchange, data)
        elif state == _UNTIL_CLOSE:
            exchange.body(data, complete=False)
        else:
            exchange.tunnel_data(data)

    def _head(self, exchange: Receiver, data: bytes) -> None:
        searched = len(self._buffer)
        if searched:
            data = self._buffer + data
        while True:
            end = self._head_length
            head = data[:end]
            response = self._heads.get(head) if head.endswith(b"\r\n\r\n") else None
            if response is None:
                end = find_head_end(data, searched)
                if end < 0:
                    self._buffer = data
                    if is_hopeless(data, searched):
                        self._fail(exchange, Reason.BROKEN_ANSWER)
                    return
                self._head_length = end
                try:
                    response = self._heads.parse(data[:end])
                except InvalidResponse:
                    self._fail(exchange, Reason.BROKEN_ANSWER)
                    return
            rest = data[end:]
            status = response.status
            if status >= 200:
                break
            if status == 101:
                if not _agreed(response.upgrade, exchange.request.fields.upgrade):
                    self._fail(exchange, Reason.BROKEN_ANSWER)
                    return
                self._state = _TUNNEL
                exchange.switched(response, rest)
                return
            self._spoke += 1
            if self._spoke > _MOST_INTERIM:
                self._fail(exchange, Reason.BROKEN_ANSWER)
                return
            exchange.interim(response)
            self._buffer = data = rest
            searched = 0
            if not data:
                return
        self._buffer = b""
        if not response.keep_alive:
            self._reusable = False
        length = response.length
        if status in (204, 304) or exchange.request.method == b"HEAD":
            length = 0
        elif response.chunked:
            self._chunked_answer(exchange, response, rest)
            return
        elif length == _UNKNOWN_LENGTH:
            self._state = _UNTIL_CLOSE
            self._reusable = False
            exchange.answer(response, rest, complete=False)
            return
        left = length - len(rest)
        if left > 0:
            self._left = left
            self._state = _LENGTH
            exchange.answer(response, rest, complete=False)
            return
        if left < 0:
            rest = rest[:length]
            self._reusable = False
        self._state = _IDLE
        exchange.answer(response, rest, complete=True)

    def _chunked_answer(self, exchange: Receiver, response: Response, rest: bytes) -> None:
        chunks = self._chunks = ChunkedDecoder()
        self._state = _CHUNKED
        try:
            payload = chunks.feed(rest) if rest else rest
        except ChunkedError:
            self._fail(exchange, Reason.BROKEN_ANSWER)
            return
        if chunks.done:
            self._end_of_chunks(chunks)
        exchange.answer(response, payload, complete=chunks.done, trailers=chunks.trailers)

    def _length_body(self, exchange: Receiver, data: bytes) -> None:
        self._left -= len(data)
        if self._left > 0:
            exchange.body(data, complete=False)
            return
        if self._left < 0:
            data = data[: self._left]
            self._reusable = False
        self._state = _IDLE
        exchange.body(data, complete=True)

    def _chunked_body(self, exchange: Receiver, data: bytes) -> None:
        chunks = self._chunks
        assert chunks is not None
        try:
            payload = chunks.feed(data)
        except ChunkedError:
            self._fail(exchange, Reason.BROKEN_ANSWER)
            return
        if chunks.done:
            self._end_of_chunks(chunks)
        exchange.body(payload, complete=chunks.done, trailers=chunks.trailers)

    def _end_of_chunks(self, chunks: ChunkedDecoder) -> None:
        self._chunks = None
        self._state = _IDLE
        if chunks.rest:
            self._reusable = False

    def _fail(self, exchange: Receiver, reason: Reason) -> None:
        self.close()
        exchange.upstream_failed(reason)
