"""One connection to an endpoint: reads responses, one at a time, and hands them to its receiver."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from ssl import SSLError
from typing import Final, cast

from canaryproxy.http1.chunked import ChunkedDecoder, ChunkedError, encode_chunk, last_chunk
from canaryproxy.http1.errors import InvalidResponse
from canaryproxy.http1.fields import find_head_end, tokens
from canaryproxy.http1.head_cache import ResponseHeadCache
from canaryproxy.http1.response import MAX_HEAD, Response, is_hopeless
from canaryproxy.measure.counters import Reason
from canaryproxy.proxy.failures import how_closed
from canaryproxy.proxy.interfaces import ConnectionSource, Receiver, UpstreamLink

_IDLE: Final = 0
_HEAD: Final = 1
_LENGTH: Final = 2
_CHUNKED: Final = 3
_UNTIL_CLOSE: Final = 4
_TUNNEL: Final = 5
_CLOSED: Final = 6

_UNKNOWN_LENGTH: Final = -1
_LONG_BODY: Final = 32 * 1024
"""Bytes that are worth being relayed without being read."""
_MOST_INTERIM: Final = 100
"""1xx responses before a final one. More are a flood that a client would have to read."""


def _agreed(chosen: bytes, asked: bytes) -> bool:
    """Tell whether an upstream switches to protocols that the client asked for (RFC 9110 §7.8)."""
    names = {one.partition(b"/")[0] for one in tokens(asked)}
    return bool(chosen) and all(one.partition(b"/")[0] in names for one in tokens(chosen))


class UpstreamConnection(UpstreamLink):
    """An HTTP/1.x client connection: an ``asyncio.Protocol`` by its methods only, so that it can be compiled.

    It is idle in the pool until ``send`` makes it read one response for a receiver. Then it goes back to the
    pool, or is closed if anything about it is in doubt.
    """

    __slots__ = (
        "_buffer",
        "_chunks",
        "_head_length",
        "_interim_count",
        "_is_closing",
        "_left",
        "_parser",
        "_reading",
        "_receiver",
        "_reusable",
        "_state",
        "_write",
        "served",
    )

    # Methods of ``transport``: where this is compiled, to find one costs a third of what it does.
    _is_closing: Callable[[], bool]
    _write: Callable[[bytes], None]

    def __init__(self, endpoint: ConnectionSource, parser: ResponseHeadCache) -> None:
        self.endpoint = endpoint
        self.frames = False
        self._parser = parser
        self._receiver: Receiver | None = None
        self._state = _IDLE
        self._buffer = b""
        self._head_length = 0
        """Bytes of the last head: the next one is often the same, and cached."""
        self._left = 0
        """Bytes of the body that are to come, if its length is known."""
        self._chunks: ChunkedDecoder | None = None
        self._reusable = True
        self._reading = True
        self._interim_count = 0
        """1xx responses to the current request so far."""
        self.served = 0
        """Responses that came over this connection: above zero it may turn out to be stale."""
        self.idle_since = 0.0

    # The receiver's side

    def send(self, receiver: Receiver, head: bytes) -> None:
        self._receiver = receiver
        self._state = _HEAD
        self._interim_count = 0
        write = self._write  # which is dear to call in plain Python
        write(head)

    def write(self, data: bytes) -> None:
        receiver = self._receiver
        if receiver is not None and receiver.request.fields.chunked:
            data = encode_chunk(data)
        self.transport.write(data)

    def end_request(self, trailers: bytes) -> None:
        receiver = self._receiver
        if receiver is not None and receiver.request.fields.chunked:
            self.transport.write(last_chunk(trailers))

    def end_tunnel(self) -> None:
        self.transport.write_eof()

    def finish(self, now: float, *, reusable: bool) -> None:
        """Go back to the pool if the response was read whole and ``reusable``, else close."""
        was_read, is_closing = self._state == _IDLE, self._is_closing
        self._receiver = None
        self.served += 1
        if reusable and was_read and self._reusable and not is_closing():
            if not self._reading:
                self.resume()
            self.idle_since = now
            self.endpoint.release(self)
        else:
            self.close()

    def close(self) -> None:
        """Close at once and drop what is under way."""
        self._receiver = None
        self._state = _CLOSED
        self.transport.abort()

    def end(self) -> None:
        """Close once everything is written."""
        self._receiver = None
        self._state = _CLOSED
        self.transport.close()

    def pause(self) -> None:
        """Stop reading until ``resume``: the client is slower than the upstream."""
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
        self._write, self._is_closing = self.transport.write, self.transport.is_closing

    def connection_lost(self, exc: Exception | None) -> None:
        receiver, state = self._receiver, self._state
        self._receiver = None
        self._state = _CLOSED
        self.endpoint.lost(self)
        if receiver is None:
            return
        if state == _UNTIL_CLOSE and exc is None:
            receiver.response_body(b"", complete=True)
        elif state == _TUNNEL:
            receiver.tunnel_closed(reset=exc is not None)
        elif state == _HEAD:
            stale = self.served > 0 and not self._buffer and not self._interim_count
            # With TLS 1.3 a server refuses our certificate after the handshake.
            reason = Reason.TLS if isinstance(exc, SSLError) else Reason.RESET
            seen = f" after {len(self._buffer)} bytes of its head" if self._buffer else ""
            if not stale:
                self.endpoint.failed(reason)
            receiver.upstream_failed(reason, how_closed(exc) + seen, stale=stale)
        else:
            left = f", {self._left} bytes before its end" if state == _LENGTH else ""
            within = " within a chunked body" if state == _CHUNKED else ""
            receiver.upstream_failed(Reason.INCOMPLETE_ANSWER, how_closed(exc) + left + within)

    def eof_received(self) -> bool:
        if self._state == _TUNNEL and self._receiver is not None:
            self._receiver.tunnel_eof()
            return True
        return False

    def pause_writing(self) -> None:
        if self._receiver is not None:
            self._receiver.upstream_full()

    def resume_writing(self) -> None:
        if self._receiver is not None:
            self._receiver.upstream_drained()

    def data_received(self, data: bytes) -> None:
        state = self._state
        receiver = self._receiver
        if receiver is None:
            self.close()  # bytes that no request asked for
        elif state == _HEAD:
            self._head(receiver, data)
        elif state == _LENGTH:
            self._length_body(receiver, data)
        elif state == _CHUNKED:
            self._chunked_body(receiver, data)
        elif state == _UNTIL_CLOSE:
            receiver.response_body(data, complete=False)
        else:
            receiver.tunnel_data(data)

    def relayed(self, count: int, follows: bool) -> None:
        """Take note that so many bytes of the body went to the client without being read.

        ``follows``: behind the last of them is something that no request asked for.
        """
        self._left -= count
        if follows:
            self._reusable = False
        complete = self._left == 0
        if complete:
            self._state = _IDLE
        receiver = self._receiver
        if receiver is not None:
            receiver.body_relayed(count, complete=complete)

    def _head(self, receiver: Receiver, data: bytes) -> None:
        searched = len(self._buffer)
        if searched:
            data = self._buffer + data
        parser = self._parser
        while True:
            response = parser.last
            if response is not None and data.startswith(parser.last_head):
                end = len(parser.last_head)
            else:
                end = self._head_length
                head = data[:end]
                response = parser.get(head) if head.endswith(b"\r\n\r\n") else None
                if response is None:
                    end = find_head_end(data, searched)
                    if end < 0:
                        self._buffer = data
                        if is_hopeless(data, searched):
                            large = len(data) > MAX_HEAD
                            self._fail(receiver, "head too large" if large else "not HTTP/1.x")
                        return
                    if end != self._head_length:
                        self._head_length = end
                        head = data[:end]
                    try:
                        response = parser.parse(head)
                    except InvalidResponse as error:
                        self._fail(receiver, str(error))
                        return
            rest = data[end:]
            status = response.status
            if status >= 200:
                break
            if status == 101:
                if not _agreed(response.upgrade, receiver.request.fields.upgrade):
                    self._fail(receiver, "101 for a protocol that was not asked for")
                    return
                if not receiver.opens(response):
                    self._fail(receiver, "101 with a Sec-WebSocket-Accept for another key")
                    return
                self._state = _TUNNEL
                receiver.switched(response, rest)
                return
            self._interim_count += 1
            if self._interim_count > _MOST_INTERIM:
                self._fail(receiver, f"more than {_MOST_INTERIM} interim responses")
                return
            receiver.interim(response)
            self._buffer = data = rest
            searched = 0
            if not data:
                return
        self._buffer = b""
        if not response.keep_alive:
            self._reusable = False
        length = response.length
        if status in (204, 304) or receiver.request.method == b"HEAD":
            length = 0
        elif response.chunked:
            self._chunked_response(receiver, response, rest)
            return
        elif length == _UNKNOWN_LENGTH:
            self._state = _UNTIL_CLOSE
            self._reusable = False
            receiver.response_head(response, rest, complete=False)
            return
        left = length - len(rest)
        if left > 0:
            self._left = left
            self._state = _LENGTH
            receiver.response_head(response, rest, complete=False)
            if left >= _LONG_BODY and self._receiver is receiver:
                receiver.relay_body(self.transport, left)
            return
        if left < 0:
            rest = rest[:length]
            self._reusable = False
        self._state = _IDLE
        receiver.response_head(response, rest, complete=True)

    def _chunked_response(self, receiver: Receiver, response: Response, rest: bytes) -> None:
        chunks = self._chunks = ChunkedDecoder(response.nominated, mends=True)
        self._state = _CHUNKED
        try:
            payload = chunks.feed(rest) if rest else rest
        except ChunkedError as error:
            self._fail(receiver, str(error))
            return
        if chunks.done:
            self._end_of_chunks(chunks)
        receiver.response_head(response, payload, complete=chunks.done, trailers=chunks.trailers)

    def _length_body(self, receiver: Receiver, data: bytes) -> None:
        self._left -= len(data)
        if self._left > 0:
            receiver.response_body(data, complete=False)
            return
        if self._left < 0:
            data = data[: self._left]
            self._reusable = False
        self._state = _IDLE
        receiver.response_body(data, complete=True)

    def _chunked_body(self, receiver: Receiver, data: bytes) -> None:
        chunks = self._chunks
        assert chunks is not None
        try:
            payload = chunks.feed(data)
        except ChunkedError as error:
            self._fail(receiver, str(error))
            return
        if chunks.done:
            self._end_of_chunks(chunks)
        receiver.response_body(payload, complete=chunks.done, trailers=chunks.trailers)

    def _end_of_chunks(self, chunks: ChunkedDecoder) -> None:
        self._chunks = None
        self._state = _IDLE
        if chunks.rest:
            self._reusable = False

    def _fail(self, receiver: Receiver, detail: str) -> None:
        """The response is not valid HTTP/1.x, as ``detail`` says."""
        self.close()
        receiver.upstream_failed(Reason.BROKEN_ANSWER, detail)
