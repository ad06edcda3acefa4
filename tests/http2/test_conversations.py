"""Generated conversations: our server and the one of the library ``h2`` forward the same.

Both get the same bytes. Where one of them sees an error the other must, too, and what was forwarded until
then is equal. Left out is where they differ on purpose: a Content-Length that does not fit (``h2`` looks at
DATA only), RST_STREAM on an idle stream (``h2`` takes it), a WINDOW_UPDATE by nothing on a closed stream,
ALTSVC and SETTINGS_ENABLE_CONNECT_PROTOCOL (``h2`` knows them), a push that is not complete (``h2`` waits
for its rest), and what follows GOAWAY (``h2`` takes nothing more), and padding of HEADERS (``hyperframe``
compares it with what is left of the frame).
"""

from __future__ import annotations

from typing import Any

import h2.events as theirs
import hpack
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.exceptions import ProtocolError
from hypothesis import given, settings
from hypothesis import strategies as st

from canaryproxy.http2.connection import Connection
from canaryproxy.http2.events import (
    ConnectionFailed,
    DataReceived,
    Event,
    HeadReceived,
    StreamReset,
    TrailersReceived,
)
from canaryproxy.http2.frames import HAS_PRIORITY, HEADERS, PADDED, PREFACE, RST_STREAM, frame
from canaryproxy.http2.settings import Bounds
from canaryproxy.http2.streams import ENDED
from tests.http2.peer import GET, Fields

WINDOW = 65_535
BOUNDS = Bounds(max_streams=100, stream_window=WINDOW, connection_window=WINDOW, points=10**9)

ERROR = ("error",)

plain = st.sampled_from(
    [
        (b"accept", b"*/*"), (b"cookie", b"a=b"), (b"cookie", b"c=d"), (b"te", b"trailers"),
        (b"host", b"shop.example"), (b"x-long", b"v" * 200), (b"x-empty", b""),
    ]
)  # fmt: skip
bad = st.sampled_from(
    [
        (b"Upper", b"a"), (b"connection", b"close"), (b"te", b"gzip"), (b":path", b"/b"), (b"x", b" a"),
        (b"transfer-encoding", b"chunked"), (b":status", b"200"), (b"host", b"other"), (b":odd", b"a"),
        (b"x", b"a\r\nb"), (b"x", b"a\x00"), (b"upgrade", b"h2c"),
    ]
)  # fmt: skip
fields = st.lists(plain, max_size=4) | st.lists(plain | bad, max_size=4)
numbers = st.sampled_from([1, 3, 5, 7, 9])
contents = st.sampled_from([b"", b"a", b"abc", b"abc" * 100])
kinds = st.tuples(st.sampled_from([0, 1, 2, 4, 6, 9, 11]), st.integers(0, 255))

steps = st.one_of(
    st.tuples(st.just("head"), numbers, fields, st.booleans()), st.tuples(st.just("data"), numbers,
    contents, st.booleans()), st.tuples(st.just("padded"), numbers, contents, st.booleans()),
    st.tuples(st.just("trailers"), numbers, st.lists(plain | bad, max_size=2), st.just(True)),
    st.tuples(st.just("reset"), numbers, st.integers(0, 14), st.none()), st.tuples(st.just("window"),
    st.just(0) | numbers, st.integers(1, 2**31 - 1), st.none()), st.tuples(st.just("ping"), st.just(0),
    st.none(), st.none()), st.tuples(st.just("respond"), numbers, st.booleans(), st.none()),
    st.tuples(st.just("settings"), st.integers(1, 7), st.integers(0, 2**32 - 1), st.none()),
    st.tuples(st.just("any"), numbers, st.tuples(st.sampled_from([0, 1, 2, 4, 6, 9, 11]), st.integers(0,
    255)), st.binary(max_size=9)),
)  # fmt: skip
Step = tuple[str, int, Any, Any]


class Client:
    """Makes the bytes of a conversation."""

    def __init__(self) -> None:
        self._encoder = hpack.Encoder()

    def bytes_of(self, step: Step) -> bytes:
        what, number, first, second = step
        if what == "head":
            return self._headers(number, [*GET, *first], end=second)
        if what == "trailers":
            return self._headers(number, first, end=second)
        if what == "data":
            return frame(0, int(second), number, first)
        if what == "padded":
            return frame(0, 8 | int(second), number, b"\x05" + first + bytes(5))
        if what == "reset":
            return frame(3, 0, number, first.to_bytes(4, "big"))
        if what == "window":
            return frame(8, 0, number, first.to_bytes(4, "big"))
        if what == "ping":
            return frame(6, 0, 0, bytes(8))
        if what == "settings":
            return frame(4, 0, 0, number.to_bytes(2, "big") + first.to_bytes(4, "big"))
        return frame(first[0], first[1], number, second)

    def _headers(self, number: int, sent: Fields, *, end: bool) -> bytes:
        return frame(1, 4 | int(end), number, self._encoder.encode(sent))


def by_ours(events: list[Event]) -> list[tuple[Any, ...]]:
    """Return what we forward."""
    said: list[tuple[Any, ...]] = []
    for event in events:
        if isinstance(event, HeadReceived):
            line, *lines = event.head.text.split(b"\r\n")[:-2]
            method, target, _ = line.split(b" ")
            pairs = [one.partition(b": ")[::2] for one in lines]
            host = [value for name, value in pairs if name == b"Host"]
            rest = [pair for pair in pairs if pair[0] not in (b"Host", b"Connection", b"TE")]
            said.append(("head", event.stream.number, method, target, host, sorted(rest)))
            if event.ends:
                said.append(("end", event.stream.number))
        elif isinstance(event, DataReceived):
            if event.data:
                said.append(("data", event.stream.number, event.data))
            if event.ends:
                said.append(("end", event.stream.number))
        elif isinstance(event, TrailersReceived):
            said += [("trailers", event.stream.number), ("end", event.stream.number)]
        elif isinstance(event, StreamReset):
            said.append(ERROR if event.reason else ("reset", event.stream.number, event.code))
        elif isinstance(event, ConnectionFailed):
            said.append(ERROR)
    return said


def by_h2(events: list[theirs.Event]) -> list[tuple[Any, ...]]:
    """Return what ``h2`` forwards."""
    said: list[tuple[Any, ...]] = []
    for event in events:
        if isinstance(event, theirs.RequestReceived):
            pairs = [(bytes(name), bytes(value)) for name, value in event.headers]
            special = dict(pairs)
            rest = [
                pair for pair in pairs if pair[0][:1] != b":" and pair[0] not in (b"host", b"te")
            ]
            host = [special[b":authority"]]
            said.append(
                (
                    "head",
                    event.stream_id,
                    special[b":method"],
                    special[b":path"],
                    host,
                    sorted(rest),
                )
            )
        elif isinstance(event, theirs.DataReceived):
            if event.data:
                said.append(("data", event.stream_id, event.data))
        elif isinstance(event, theirs.TrailersReceived):
            said.append(("trailers", event.stream_id))
        elif isinstance(event, theirs.StreamEnded):
            said.append(("end", event.stream_id))
        elif isinstance(event, theirs.StreamReset):
            said.append(
                ("reset", event.stream_id, int(event.error_code or 0))
                if event.remote_reset
                else ERROR
            )
    return said


class Pair:
    """Our server and that of ``h2``, which get the same bytes."""

    def __init__(self) -> None:
        self.ours = Connection(bounds=BOUNDS)
        self.theirs = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        self.theirs.initiate_connection()
        begin = PREFACE + frame(4, 0, 0)
        self.ours.receive(begin)
        self.theirs.receive_data(begin)
        self.streams: dict[int, Any] = {}

    def receive(self, received: bytes) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
        """Return what both say to these bytes; errors of ours that reset a stream count as such."""
        events = self.ours.receive(received)
        said = by_ours(events)
        for event in events:
            if isinstance(event, HeadReceived):
                self.streams[event.stream.number] = event.stream
        if resets(self.ours.take()):
            said.append(ERROR)
        try:
            other = by_h2(self.theirs.receive_data(received))
        except ProtocolError:
            other = [ERROR]
        if resets(self.theirs.data_to_send()):
            other.append(ERROR)
        return said, other

    def respond(self, number: int, *, end: bool) -> None:
        """Respond to a request, if it waits for that."""
        stream = self.streams.pop(number, None)
        if stream is not None and stream.state < ENDED:
            self.ours.respond(stream, b"HTTP/1.1 200 OK\r\n", ends=end)
            self.theirs.send_headers(number, [(b":status", b"200")], end_stream=end)
            self.ours.take()
            self.theirs.data_to_send()


def resets(output: bytes) -> bool:
    """Tell whether a stream is reset in what a server has written."""
    while output:
        if output[3] == RST_STREAM:
            return True
        output = output[9 + int.from_bytes(output[:3], "big") :]
    return False


def converse(conversation: list[Step]) -> tuple[Step, Any, Any] | None:
    """Return the first step where the two differ."""
    pair, client = Pair(), Client()
    for step in conversation:
        if step[0] == "respond":
            pair.respond(step[1], end=step[2])
            continue
        if step[0] == "any" and step[2][0] == HEADERS and step[2][1] & (HAS_PRIORITY | PADDED):
            continue
        if step[0] == "reset" and step[1] > pair.ours.highest_stream:
            continue
        received = client.bytes_of(step)
        ours, others = pair.receive(received)
        if ERROR in ours or ERROR in others:
            if (ERROR in ours) != (ERROR in others):
                return step, ours, others
            return None
        if ours != others:
            return step, ours, others
    return None


@settings(max_examples=150, deadline=None)
@given(st.lists(steps, min_size=1, max_size=10))
def test_we_forward_what_h2_forwards(conversation: list[Step]) -> None:
    assert converse(conversation) is None
