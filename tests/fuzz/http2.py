"""Generated conversations over HTTP/2: our server and the one of the library ``h2`` forward the same.

    python -m tests.fuzz.http2 --cases 1000000 --seed 1 --jobs 2

Both get the same bytes, ours cut anywhere. Where one of them sees an error the other must, too, and what was
forwarded until then is equal. Left out is where they differ on purpose: a Content-Length that does not fit
(``h2`` looks at DATA only), a cookie before a pseudo-field (``h2`` moves it), what :path may be, RST_STREAM
on an idle stream (``h2`` takes it), a WINDOW_UPDATE by nothing on a closed stream, ALTSVC and
SETTINGS_ENABLE_CONNECT_PROTOCOL (``h2`` knows them), a push that is not complete (``h2`` waits for its rest),
what follows GOAWAY (``h2`` takes nothing more), and padding of HEADERS (``hyperframe`` compares it with what
is left of the frame).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import h2.events as theirs
import hpack
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.exceptions import ProtocolError

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

from . import jobs

Fields = list[tuple[bytes, bytes]]
Said = list[tuple[Any, ...]]
Step = tuple[str, int, Any, Any]

WINDOW = 65_535
BOUNDS = Bounds(max_streams=100, stream_window=WINDOW, connection_window=WINDOW, points=10**9)
ERROR = ("error",)
LINE: Fields = [
    (b":method", b"GET"),
    (b":scheme", b"http"),
    (b":authority", b"shop.example"),
    (b":path", b"/"),
]
PLAIN: Fields = [
    (b"accept", b"*/*"), (b"cookie", b"a=b"), (b"cookie", b"c=d"), (b"te", b"trailers"),
    (b"host", b"shop.example"), (b"x-long", b"v" * 200), (b"x-empty", b""),
]  # fmt: skip
BAD: Fields = [
    (b"Upper", b"a"), (b"connection", b"close"), (b"te", b"gzip"), (b":path", b"/b"), (b"x", b" a"),
    (b"transfer-encoding", b"chunked"), (b":status", b"200"), (b"host", b"other"), (b":odd", b"a"),
    (b"x", b"a\r\nb"), (b"x", b"a\x00"), (b"upgrade", b"h2c"), (b"", b"a"), (b"a b", b"c"),
    (b"keep-alive", b"5"), (b"x", b"a\n"), (b"x", b"a\t"), (b"x: y", b"z"),
]  # fmt: skip
CONTENTS = (b"", b"a", b"abc", b"abc" * 100, b"0\r\n\r\n", bytes(4000))
KINDS = (0, 1, 2, 4, 6, 9, 11)
PATHS = (b"/", b"/a?b", b"//x/..", b"/%zz\xff", b"/" + b"a" * 300)


class Client:
    """Makes the bytes of a conversation."""

    def __init__(self) -> None:
        self._encoder = hpack.Encoder()

    def bytes_of(self, step: Step) -> bytes:
        what, number, first, second = step
        if what == "head":
            return self._headers(number, [*LINE, *first], end=second)
        if what == "request":
            return self._headers(number, first, end=bool(second[0]), parts=second[1:])
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

    def _headers(
        self, number: int, sent: Fields, *, end: bool, parts: tuple[int, ...] = ()
    ) -> bytes:
        """Return a block in HEADERS and, cut at ``parts``, in CONTINUATION frames."""
        block = self._encoder.encode(sent)
        if not parts:
            return frame(HEADERS, 4 | int(end), number, block)
        cuts = [0, *sorted(part % (len(block) + 1) for part in parts), len(block)]
        pieces = [block[a:b] for a, b in pairwise(cuts)]
        made = frame(HEADERS, int(end), number, pieces[0])
        for at, piece in enumerate(pieces[1:], 2):
            made += frame(9, 4 if at == len(pieces) else 0, number, piece)
        return made


def by_ours(events: list[Event]) -> Said:
    """Return what we forward."""
    said: Said = []
    for event in events:
        if isinstance(event, HeadReceived):
            line, *lines = event.head.text.split(b"\r\n")[:-2]
            method, target, _ = line.split(b" ")
            pairs = [one.partition(b": ")[::2] for one in lines]
            host = [value for name, value in pairs if name == b"Host"]
            rest = [pair for pair in pairs if pair[0] not in (b"Host", b"Connection", b"TE")]
            if not host:  # refused by the rules of HTTP/1
                said.append(ERROR)
                continue
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


def by_h2(events: list[theirs.Event]) -> Said:
    """Return what ``h2`` forwards."""
    said: Said = []
    for event in events:
        if isinstance(event, theirs.RequestReceived):
            pairs = [(bytes(name), bytes(value)) for name, value in event.headers]
            special = dict(pairs)
            rest = [
                pair for pair in pairs if pair[0][:1] != b":" and pair[0] not in (b"host", b"te")
            ]
            said.append(
                (
                    "head",
                    event.stream_id,
                    special[b":method"],
                    special[b":path"],
                    [special.get(b":authority") or special[b"host"]],
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

    def receive(self, received: bytes, cuts: tuple[int, ...] = ()) -> tuple[Said, Said]:
        """Return what both say to these bytes, ours in pieces; a reset stream is an error."""
        events: list[Event] = []
        at = 0
        for cut in (*cuts, len(received)):
            events += self.ours.receive(received[at:cut])
            at = cut
        said = by_ours(events)
        for event in events:
            if isinstance(event, HeadReceived):
                self.streams[event.stream.number] = event.stream
        if resets(self.ours.take()):
            said.append(ERROR)
        _ = self.theirs.open_inbound_streams  # it forgets closed streams when it is asked
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


def converse(
    conversation: list[Step],
    seen: Counter[str] | None = None,
    cut: Callable[[bytes], tuple[int, ...]] = lambda _: (),
) -> tuple[Step, Said, Said] | None:
    """Return the first step where the two differ. ``seen`` counts what was forwarded."""
    pair, client = Pair(), Client()
    for step in conversation:
        if step[0] == "respond":
            pair.respond(step[1], end=step[2])
            continue
        if step[0] == "any" and step[2][0] == HEADERS and step[2][1] & (HAS_PRIORITY | PADDED):
            continue
        if step[0] == "reset" and (step[1] > pair.ours.highest_stream or not step[1] & 1):
            continue
        received = client.bytes_of(step)
        ours, others = pair.receive(received, cut(received))
        if seen is not None:
            seen.update(one[0] for one in ours)
        if ERROR in ours or ERROR in others:
            if (ERROR in ours) != (ERROR in others):
                return step, ours, others
            return None
        if ours != others:
            return step, ours, others
    return None


# Generated conversations


class Source:
    """Makes conversations that get far: most steps are what a client may do, some are not."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)
        self._sending: list[int] = []
        """Streams on which the client has not ended its side."""
        self._waiting: list[int] = []
        """Streams that the server has not ended."""
        self._next = 1

    def conversation(self) -> list[Step]:
        source = self._random
        self._sending, self._waiting, self._next = [], [], 1
        return [self._step() for _ in range(source.choice((2, 4, 8, 16)))]

    def cut(self, received: bytes) -> tuple[int, ...]:
        """Return where the bytes of a step are cut."""
        if self._random.random() < 0.8:
            return ()
        return tuple(sorted(self._random.choices(range(len(received) + 1), k=3)))

    def _step(self) -> Step:
        source = self._random
        pick = source.choice
        if source.random() < 0.03:
            return self._odd()
        way = source.randrange(20)
        if way < 5 or not self._waiting:
            return self._request()
        used = pick(self._waiting)
        if way < 10 and self._sending:
            used = pick(self._sending)
            ends = way == 9 or source.random() < 0.2
            if ends:
                self._sending.remove(used)
            if way == 9:
                return "trailers", used, self._fields(), True
            return pick(("data", "padded")), used, pick(CONTENTS), ends
        if way < 15:
            ends = pick((True, True, False))
            if ends:
                self._waiting.remove(used)
            return "respond", used, ends, None
        if way == 15:
            self._waiting.remove(used)
            if used in self._sending:
                self._sending.remove(used)
            return "reset", used, source.randrange(15), None
        if way == 16:
            return "window", pick((0, used)), pick((1, 100, 2**16, 2**16, 2**30)), None
        if way == 17:
            return "ping", 0, None, None
        setting, values = pick(
            ((1, (0, 1, 100, 4096, 2**32 - 1)), (2, (0, 1)), (3, (0, 1, 100)), (4, (0, 1, 100, 2**16)),
             (5, (2**14, 2**24 - 1)), (6, (0, 2**16)), (7, (0, 1)))
        )  # fmt: skip
        return "settings", setting, pick(values), None

    def _odd(self) -> Step:
        """Return a step that a client may seldom do, or never."""
        source = self._random
        pick = source.choice
        number = pick(
            (0, 1, 2, 3, self._next - 2 if self._next > 2 else 1, self._next, self._next + 6)
        )
        way = source.randrange(7)
        if way == 0:
            return pick(("head", "trailers")), number or 1, self._fields(), pick((True, False))
        if way == 1:
            return "data", number, pick(CONTENTS), pick((True, False))
        if way == 2:
            return "reset", number, source.randrange(15), None
        if way == 3:
            return "window", number, pick((1, 2**31 - 1)), None
        if way == 4:
            value = pick((2**14 - 1, 2**16, 2**24, 2**31 - 1, 2**31, source.randrange(2**32)))
            return "settings", source.randrange(1, 8), value, None
        payload = source.randbytes(source.randrange(10))
        return "any", number or 1, (pick(KINDS), source.randrange(256)), payload

    def _request(self) -> Step:
        source = self._random
        number = self._next
        self._next += source.choice((2, 2, 2, 4))
        self._waiting.append(number)
        ends = source.random() < 0.5
        if not ends:
            self._sending.append(number)
        if source.random() < 0.6:
            return "head", number, self._fields(), ends
        line = list(LINE)
        if source.random() < 0.3:
            line[3] = (b":path", source.choice(PATHS))
        way = source.randrange(100)
        if way == 0:
            del line[source.randrange(4)]
        elif way == 1:
            line.append(source.choice(line))
        elif way == 2:
            line.insert(source.randrange(5), (b"accept", b"*/*"))
        source.shuffle(line)
        cuts = tuple(source.choices(range(1000), k=source.choice((0, 0, 1, 3))))
        names = {name for name, _ in line}
        fields = [one for one in self._fields() if one[0] != b":path" or b":path" in names]
        return "request", number, line + fields, (int(ends), *cuts)

    def _fields(self) -> Fields:
        source = self._random
        fields = source.choices(PLAIN, k=source.choice((0, 1, 2, 4)))
        if source.random() < 0.02:
            fields.insert(source.randrange(len(fields) + 1), source.choice(BAD))
        return fields


class Difference(AssertionError):
    """A conversation in which the two servers forward different things."""


def run(cases: int, seed: str) -> Counter[str]:
    """Run this many conversations. Raises ``Difference`` with the conversation."""
    source = Source(seed)
    seen: Counter[str] = Counter()
    for number in range(cases):
        conversation = source.conversation()
        found = converse(conversation, seen, source.cut)
        if found is not None:
            step, ours, others = found
            raise Difference(
                f"seed {seed!r}, case {number}: {conversation!r}\nat {step!r}\nours {ours!r}\nh2 {others!r}"
            )
        seen["cases"] += 1
    return seen


if __name__ == "__main__":
    jobs.main(run, __doc__, cases=1_000_000)
