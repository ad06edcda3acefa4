"""One client connection: reads requests, one at a time and in order, and writes their answers."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import Callable
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Final, cast

from canaryproxy.http1.chunked import ChunkedDecoder, ChunkedError
from canaryproxy.http1.errors import Refusal, error_response
from canaryproxy.http1.fields import find_head_end
from canaryproxy.http1.forwarding import Peer
from canaryproxy.http1.proxy_protocol import ProxyHeader
from canaryproxy.http1.request import Request, check_partial
from canaryproxy.measure import counters
from canaryproxy.measure.routing import STABLE, RequestView
from canaryproxy.measure.trials import TICKS_PER_SECOND
from canaryproxy.proxy.exchange import Exchange
from canaryproxy.proxy.logged_exchange import LoggedExchange, refused

if TYPE_CHECKING:
    from canaryproxy.proxy.datapath import DataPath

_HEAD: Final = 0
"""Waits for a request, or for the rest of its head."""
_LENGTH: Final = 1
"""Reads a body of known length."""
_CHUNKED: Final = 2
"""Reads a chunked body."""
_ANSWER: Final = 3
"""The request is read; its answer is awaited or being written."""
_TUNNEL: Final = 4
_LINGER: Final = 5
"""The last answer is written; what still comes is thrown away, so that no reset destroys the answer."""
_CLOSED: Final = 6

_CR: Final = 13
_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER of no seconds: closing sends a reset instead of an end."""
_LINGER_SECONDS: Final = 2.0
"""How long a client may be silent then."""
_LINGER_TURNS: Final = 15
"""How many times that long it may go on sending: 30 s in all, as with nginx."""
_EMPTY_LINES = re.compile(rb"(?:\r\n)*+")
_PATHS_REMEMBERED: Final = 32
"""Methods and paths for which it is remembered what rules say of requests with the same fields."""
_LONGEST_REMEMBERED: Final = 256
"""Bytes of such a path: thousands of clients with long ones of their own would fill the memory."""
_READ_AHEAD: Final = 64 * 1024
"""Bytes of pipelined requests that are kept while one is answered; then reading stops."""


class ClientConnection:
    """An HTTP/1.x server connection: an ``asyncio.Protocol`` without its name, so that it can be compiled."""

    __slots__ = (
        "_active",
        "_buffer",
        "_chunks",
        "_datapath",
        "_exchange",
        "_full",
        "_half_closed",
        "_left",
        "_processing",
        "_reading",
        "_state",
        "_unsent",
        "deadline",
        "header",
        "peer",
        "transport",
    )

    transport: asyncio.Transport
    peer: Peer
    """What is known of the client."""

    def __init__(self, datapath: DataPath) -> None:
        self._datapath = datapath
        self.header: ProxyHeader | None = None
        """What the proxy before us said of the client, by PROXY protocol."""
        self._exchange: Exchange | None = None
        self._state = _HEAD
        self._buffer = b""
        self._left = 0
        self._chunks: ChunkedDecoder | None = None
        self._reading = True
        self._full = False
        """The client reads slower than we write."""
        self._half_closed = False
        self._processing = False
        self._active = False
        """Something moved since the deadline was last looked at."""
        self._unsent = 0
        """Bytes that waited to be written when the deadline was last looked at."""
        self.deadline = inf
        """When ``timed_out`` is to be called, in monotonic seconds."""

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        datapath = self._datapath
        self.peer = datapath.peer_of(self.transport, self.header)
        datapath.counters.proxy[counters.CONNECTIONS_OPENED] += 1
        full = datapath.is_full()
        datapath.connections.add(self)
        self.deadline = monotonic() + datapath.limits.header_timeout
        if full:
            datapath.counters.proxy[counters.CONNECTIONS_REFUSED] += 1
            self._refuse(Refusal(503, "too many connections"), b"")

    def renew_peer(self) -> None:
        """Look at the client anew: what we trust has changed."""
        if not self.transport.is_closing():
            self.peer = self._datapath.peer_of(self.transport, self.header)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        datapath = self._datapath
        datapath.connections.discard(self)
        datapath.counters.proxy[counters.CONNECTIONS_CLOSED] += 1
        self._state = _CLOSED
        self.deadline = inf
        self._buffer = b""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            datapath.in_flight -= 1
            exchange.client_gone()

    def eof_received(self) -> bool:
        """The client sends no more: as HTTP has no half-closed connections, it is gone."""
        if self._state == _TUNNEL and self._exchange is not None:
            if self._half_closed:
                self._exchange.tunnel_over()
                self.close()
            else:
                self._half_close()
                self._exchange.tunnel_client_eof()
            return True
        return False

    def pause_writing(self) -> None:
        self._full = True
        if self._exchange is not None:
            self._exchange.downstream_full()

    def resume_writing(self) -> None:
        self._full = False
        self._active = True
        if self._exchange is not None:
            self._exchange.downstream_drained()
        elif self._state == _HEAD:
            self.resume()
            self._process()

    def data_received(self, data: bytes) -> None:
        state = self._state
        if state == _HEAD or state == _ANSWER:
            if (
                state == _HEAD
                and data.endswith(b"\r\n\r\n")
                and data[0] != _CR
                and not self._buffer
                and not self._full
            ):
                # One whole head and nothing else is the plain case, with nothing to keep.
                try:
                    request = self._datapath.requests.parse_single(data, self.peer)
                    if request is not None:
                        self._begin(request)
                        return
                except Refusal as refusal:
                    self._refuse(refusal, data)
                    return
            self._buffer = self._buffer + data if self._buffer else data
            if state == _HEAD:
                self._process(len(self._buffer) - len(data))
            if len(self._buffer) > _READ_AHEAD:
                self.pause()
        elif state == _TUNNEL:
            self._active = True
            if self._exchange is not None:
                self._exchange.tunnel_send(data)
        elif state == _LENGTH or state == _CHUNKED:
            self._active = True
            self._body(data)
        elif state == _LINGER:
            self._active = True

    # Requests

    def _process(self, searched: int = 0) -> None:
        """Take requests from the buffer until one has to be waited for."""
        if self._processing:
            return
        self._processing = True
        try:
            while self._buffer and self._state == _HEAD and not self._full:
                if not self._take_head(searched):
                    break
                searched = 0
        except Refusal as refusal:
            self._refuse(refusal, self._buffer)
        finally:
            self._processing = False

    def _take_head(self, searched: int) -> bool:
        data = self._buffer
        if data[0] in b"\r\n":  # RFC 9112 §2.2: an empty line before the request line is ignored
            lines = _EMPTY_LINES.match(data)
            self._buffer = data = data[lines.end() if lines else 0 :]
            searched = 0
            if not data or data == b"\r":
                return False
        end = find_head_end(data, searched)
        if end < 0:
            check_partial(data, searched)
            if not searched:
                self.deadline = monotonic() + self._datapath.limits.header_timeout
            return False
        if end == len(data):
            self._buffer = b""
        else:
            self._buffer = data[end:]
            data = data[:end]
        try:
            self._begin(self._datapath.requests.parse(data, self.peer))
        except Refusal as refusal:
            self._refuse(refusal, data)
        return True

    def _begin(self, request: Request) -> None:
        """Route one request and start its exchange. Raises ``Refusal``."""
        datapath = self._datapath
        if datapath.in_flight >= datapath.max_requests:
            raise Refusal(503, "too many requests in flight")
        now = monotonic()
        if datapath.sequence[0] != datapath.seen:
            datapath.look()
        table, epoch = datapath.table, datapath.seen
        fields, user = request.fields, request.headers
        cookie = b""
        if user.table_version == epoch:
            key, bucket, variant = user.key, user.bucket, user.variant
        else:
            key = datapath.key_reader.read(user, self.peer)
            if key is None and datapath.jar is not None:
                key = datapath.jar.mint(table)
                cookie = datapath.jar.set_cookie(key, secure=self._secure(fields.field))
            elif (
                datapath.jar is not None
                and datapath.jar.rotates
                and key is not None
                and datapath.jar.is_old(user.cookie)
            ):
                cookie = datapath.jar.set_cookie(key, secure=self._secure(fields.field))
            bucket, variant = table.place(key)
            if not cookie and datapath.key_is_in_fields:
                user.key, user.bucket, user.variant = key, bucket, variant
                user.table_version = epoch
        forced: int | None = None
        watching: tuple[int, ...] = ()
        if datapath.looks:
            forced, watching = self._look_at(request)
            if forced is not None:
                variant = forced
                datapath.tallies[forced].add(counters.FORCED)
        length = fields.length
        has_body = length > 0 or fields.chunked
        datapath.in_flight += 1
        exchange = self._exchange = (
            Exchange(datapath, self, request, key, cookie, variant, now, has_body)
            if datapath.access_log is None
            else LoggedExchange(datapath, self, request, key, cookie, variant, now, has_body)
        )
        if forced is None:  # who was not drawn by lot cannot be compared
            tick = int(now * TICKS_PER_SECOND)
            exchange.enroll(table, bucket, tick)
            if watching or datapath.witness.exposes:
                exchange.inspection = datapath.witness.inspection(watching, bucket, tick)
        else:
            exchange.note_forced(bucket)
        if not has_body:
            self._state = _ANSWER
            self.deadline = now + datapath.first_byte_timeout
            exchange.start()
            if datapath.mirror is not None and variant == STABLE and forced is None:
                datapath.mirror.offer(request, key, table, now)
            return
        limits = datapath.limits
        self.deadline = now + (limits.first_byte_timeout if fields.expect else limits.body_timeout)
        if fields.chunked:
            self._state = _CHUNKED
            self._chunks = ChunkedDecoder()
        else:
            self._state = _LENGTH
            self._left = length
        exchange.start()
        if self._buffer and self._exchange is exchange:
            data, self._buffer = self._buffer, b""
            self._body(data)

    def _look_at(self, request: Request) -> tuple[int | None, tuple[int, ...]]:
        """Return the variant that a match rule forces, and the outcomes that watch the answer."""
        user = request.headers
        asked = request.rule_key
        looks = user.rule_cache
        if looks is not None and (known := looks.get(asked)) is not None:
            return known
        datapath = self._datapath
        view = RequestView(
            request.method.decode(),
            asked[1].decode("latin-1"),
            user.raw,
            lambda name: datapath.cookie(request, name),
        )
        found = datapath.rules.variant_of(view), datapath.witness.outcomes.watching(view)
        if len(asked[1]) > _LONGEST_REMEMBERED:
            return found
        if looks is None:
            user.rule_cache = looks = {}
        elif len(looks) >= _PATHS_REMEMBERED:
            looks.clear()
        looks[asked] = found
        return found

    def _secure(self, field: Callable[[bytes], bytes | None]) -> bool:
        """Tell whether the client speaks https, to us or to a trusted proxy."""
        if self.peer.proto == b"https":
            return True
        return self.peer.trusted and (field(b"x-forwarded-proto") or b"").lower() == b"https"

    def _body(self, data: bytes) -> None:
        exchange = self._exchange
        assert exchange is not None
        if self._state == _LENGTH:
            left = self._left
            if len(data) > left:
                self._buffer = data[left:]
                data = data[:left]
            self._left = left = left - len(data)
            if not left:
                self._state = _ANSWER
            exchange.request_body(data)
            if not left and not exchange.cancelled:
                exchange.request_end()
            return
        chunks = self._chunks
        assert chunks is not None
        try:
            payload = chunks.feed(data)
        except ChunkedError as error:
            self._give_up(exchange, Refusal(400, str(error)))
            return
        if chunks.done:
            self._chunks = None
            self._buffer = chunks.rest
            self._state = _ANSWER
        if payload:
            exchange.request_body(payload)
        if chunks.done and not exchange.cancelled:
            exchange.request_end(chunks.trailers)

    def _refuse(self, refusal: Refusal, head: bytes | None, method: bytes = b"") -> None:
        """Answer with the proxy's own error and close.

        ``head`` is what came of the request; ``None`` if its exchange has logged it, with its ``method``.
        """
        self._datapath.counters.proxy[counters.REFUSED + refusal.status] += 1
        to_head = method == b"HEAD" if head is None else head.startswith(b"HEAD ")
        answer = error_response(refusal.status, refusal.reason, close=True, head_only=to_head)
        log = self._datapath.access_log
        if log is not None and head is not None:
            log.add(refused(self.peer, head, refusal, answer, monotonic()))
        self.write(answer)
        self._linger()

    # The exchange's side

    def write(self, data: bytes) -> None:
        """Write to the client."""
        self._active = True
        self.transport.write(data)

    def pause(self) -> None:
        """Read no more until ``resume``."""
        if self._reading:
            self._reading = False
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if not self._reading:
            self._reading = True
            self.transport.resume_reading()

    def await_answer(self, now: float) -> None:
        """The request is sent, or sent anew: the upstream has ``first_byte_timeout`` from now on."""
        self._active = False
        self.deadline = now + self._datapath.limits.first_byte_timeout

    def stream_answer(self, now: float, *, event_stream: bool) -> None:
        """The head of the answer is written, its body will follow: watch that it does.

        A stream of events may be silent for as long as it likes.
        """
        self.deadline = inf if event_stream else now + self._datapath.limits.body_timeout

    def exchange_done(self, now: float, *, close: bool) -> None:
        """The answer is written whole: close, or go on with the next request."""
        self._exchange = None
        datapath = self._datapath
        datapath.in_flight -= 1
        if close or datapath.draining:
            if self._state == _ANSWER and not self._buffer:
                self.close()
            else:
                self._linger()
            return
        self._state = _HEAD
        self._active = False
        self.deadline = now + datapath.idle_timeout
        if not self._reading:
            self.resume()
        if self._buffer:
            self._process()

    def break_off(self, *, framed: bool) -> None:
        """The answer cannot be completed: close so that the client cannot take it for complete.

        If it is not ``framed`` by length or chunks, only a reset can tell the client.
        """
        self._exchange = None
        self._datapath.in_flight -= 1
        self._break(framed=framed)

    def _break(self, *, framed: bool) -> None:
        if not framed:
            sock = self.transport.get_extra_info("socket")
            if sock is not None and sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.transport.abort()
        self.close()

    def close(self) -> None:
        """Close once everything is written, however slowly the client reads."""
        if self.transport.get_write_buffer_size() and not self.transport.is_closing():
            self._linger()
            return
        self._state = _CLOSED
        self.deadline = monotonic() + self._datapath.limits.body_timeout
        self.transport.close()

    def _linger(self) -> None:
        """Send no more, and throw away what the client still sends, for a short while."""
        self._state = _LINGER
        self._left = _LINGER_TURNS
        self._active = False
        self._buffer = b""
        self._chunks = None
        self.deadline = monotonic() + _LINGER_SECONDS
        if self.transport.can_write_eof() and not self.transport.is_closing():
            self.transport.write_eof()
        self.resume()

    # Tunnels

    def switch(self) -> None:
        """Become a tunnel; what the client sent too early goes first."""
        self._state = _TUNNEL
        self.deadline = inf
        data, self._buffer = self._buffer, b""
        if data and self._exchange is not None:
            self._exchange.tunnel_send(data)
        self.resume()

    def tunnel_eof(self) -> None:
        """The upstream sends no more."""
        if self._half_closed and self._exchange is not None:
            self._exchange.tunnel_over()
            self.close()
        else:
            self._half_close()
            self.transport.write_eof()

    def _half_close(self) -> None:
        """One side sends no more: the other may go on, but not be silent for ever."""
        self._half_closed = True
        self.deadline = monotonic() + self._datapath.limits.idle_timeout

    # Time

    def sweep(self, now: float) -> None:
        """Look at the deadline, which has passed: go on waiting if something moved, else time out."""
        exchange = self._exchange
        unsent = self.transport.get_write_buffer_size()
        if unsent != self._unsent:
            # The client reads what it got: slowly, but it does.
            self._unsent = unsent
            self._active = self._active or exchange is None or self._full
        if self._active and (exchange is not None or unsent):
            self._active = False
            self.deadline = now + self._datapath.limits.body_timeout
            return
        state = self._state
        if self._active and state == _LINGER and self._left:
            self._active = False
            self._left -= 1
            self.deadline = now + _LINGER_SECONDS
            return
        self.deadline = inf
        if state == _TUNNEL or (exchange is None and unsent):
            self.transport.abort()
        elif exchange is not None:
            if state in (_LENGTH, _CHUNKED) and self._reading and not exchange.holds_continue:
                self._give_up(exchange, Refusal(408, "the request's body did not arrive in time"))
            elif self._full:
                self.transport.abort()  # the client does not read
            else:
                exchange.timed_out()
        elif state == _HEAD and self._buffer:
            self._refuse(Refusal(408, "the request's head did not arrive in time"), self._buffer)
        elif state == _HEAD:
            self.transport.close()
        else:
            self.transport.abort()

    def _give_up(self, exchange: Exchange, refusal: Refusal) -> None:
        """End a request that the client broke off or spoilt after its head."""
        self._exchange = None
        self._datapath.in_flight -= 1
        exchange.note_refusal(refusal)
        exchange.client_gone()
        if (
            exchange.answering
        ):  # an answer is under way: an error in its middle would be taken for it
            self._break(framed=exchange.framed)
        else:
            self._refuse(refusal, None, exchange.request.method)

    def mark_late(self, now: float) -> None:
        """Count the request in flight if it is past a threshold."""
        if self._exchange is not None:
            self._exchange.mark_late(now)

    def drain(self, until: float | None = None) -> None:
        """The proxy is going away: close if idle, now or at a time; else after the answer under way."""
        if self._state == _HEAD and not self._buffer:
            if until is None:
                self.close()
            else:
                self.deadline = min(self.deadline, until)
