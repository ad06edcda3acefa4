"""The differential test: what clients send, what the proxy forwards, and what three readers make of it.

    python -m tests.fuzz.differential --cases 1000000 --seed 1 --jobs 2

Each case is one connection with one to three requests of ``grammar``, most of them mutated, cut anywhere. It
holds that

- what is forwarded means the same to ``recorder`` and to h11: as many requests, the same methods, targets,
  bodies;
- those are the client's requests as h11 reads them, from the first on: none is invented, none is changed;
- requests that were not mutated all arrive;
- there is one answer for each, in order, and at the end perhaps the proxy's own: a 4xx (501 for a transfer
  coding and 505 for an HTTP version that it does not know), after which the connection is closed and nothing
  more is forwarded;
- the counters balance and nothing is left over.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter

import h11

from canaryproxy.measure.counters import CLIENT_CLOSED, FINISHED, ROUTED
from canaryproxy.proxy.interfaces import Caller

from . import jobs
from .grammar import PROBE, Meant, mutant, request
from .memory import MemoryEndpoint, MemoryProxy, MemoryTransport
from .recorder import Recorder

CONFIG = 'variants: {stable: {endpoints: ["http://127.0.0.1:9"]}}\n'
ANSWERS = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
)
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
_ABSOLUTE = re.compile(rb"(?i:https?)://[^/?]*([^?]*)(.*)", re.DOTALL)
# RFC 9112 §7.1.1 allows blanks before the extension of a chunk, h11 does not.
h11._readers.chunk_header_re = re.compile(
    h11._abnf.chunk_header.replace("(?P<chunk_ext>", r"[ \t]*(?P<chunk_ext>").encode("ascii")
)


class Case:
    """One client's connection."""

    def __init__(self, source: random.Random) -> None:
        self.meant: list[Meant] = []
        data = b""
        self.mutated = source.random() < 0.8
        for _ in range(source.choice((1, 1, 2, 3))):
            one, meaning = request(source)
            data += one
            self.meant.append(meaning)
        if self.mutated:
            data = mutant(source, data) + PROBE
        self.data = data
        self.pieces = [data]
        if source.random() < 0.5:
            cuts = sorted(source.randrange(len(data) + 1) for _ in range(source.choice((1, 3, 20))))
            self.pieces = [
                data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if a < b
            ]
        elif source.random() < 0.04:
            self.pieces = [data[at : at + 1] for at in range(len(data))]
        self.answer = source.choice(ANSWERS)


class Difference(AssertionError):
    """A case in which something does not hold."""


class Trial:
    """One proxy, and cases sent through it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.proxy = MemoryProxy(CONFIG, loop)
        self.seen: Counter[str] = Counter()

    def run(self, case: Case) -> tuple[list[Meant], list[int]]:
        """Run one case; return the requests that came whole, and the final answers' statuses.

        Raises ``Difference`` or ``Malformed``.
        """
        proxy = self.proxy
        endpoint = proxy.endpoints[0]
        for upstream in tuple(endpoint.idle):
            upstream.close()  # each case has connections of its own
        proxy.wires.settle()
        recorders: list[tuple[Recorder, MemoryTransport, bytearray]] = []
        got = bytearray()
        client = proxy.client()

        def connect(endpoint: MemoryEndpoint, caller: Caller) -> None:
            proxy.wires.later.append(
                lambda: recorders.append(
                    (Recorder(), endpoint.connect(proxy.wires, caller), bytearray())
                )
            )

        def turn() -> None:
            while True:
                proxy.wires.settle()
                moved = False
                for recorder, transport, raw in recorders:
                    data = transport.take()
                    if data:
                        raw += data
                        moved = True
                        for _ in range(recorder.feed(data)):
                            transport.feed(_answer(case.answer, recorder.requests[-1].method))
                got.extend(client.take())
                if not moved and not proxy.wires.later:
                    return

        endpoint.on_open = connect
        for piece in case.pieces:
            client.feed(piece)
            turn()
        statuses = finals(bytes(got))
        links = [(recorder, bytes(raw)) for recorder, _, raw in recorders]
        forwarded = self._check(case, bytes(got), statuses, client, links)
        client.eof()
        if not client.closed:
            client.lose()
        turn()
        self._balance()
        return forwarded, statuses

    def _check(
        self,
        case: Case,
        got: bytes,
        statuses: list[int],
        client: MemoryTransport,
        links: list[tuple[Recorder, bytes]],
    ) -> list[Meant]:
        forwarded: list[Meant] = []
        for recorder, raw in links:
            mine = [Meant(one.method, one.target, one.body) for one in recorder.requests]
            theirs = requests_in(raw)
            if mine != theirs:
                raise Difference(f"h11 reads {theirs!r}, the recorder {mine!r}")
            forwarded += mine
        refused = len(statuses) - len(forwarded)
        if refused not in (0, 1):
            raise Difference(f"{len(forwarded)} requests, answers {statuses!r}")
        if refused:
            status = statuses[-1]
            own = status == 200 and b"Max-Forwards is 0" in got
            if not (400 <= status < 500 or status in (501, 505) or own):
                raise Difference(f"refused with {status}")
            if not (client.ended or client.closed):
                raise Difference("refused and not closed")
            self.seen[str(status)] += 1
        if not case.mutated:
            if forwarded != case.meant or refused:
                raise Difference(f"{got!r}: meant {case.meant!r}, forwarded {forwarded!r}")
        else:
            blind: list[str] = []
            expected = [_origin(one) for one in requests_in(case.data, client=True, blind=blind)]
            if blind and expected == forwarded[: len(expected)]:
                self.seen["not read to the end by h11"] += 1
            elif forwarded != expected[: len(forwarded)]:
                raise Difference(f"h11 reads {expected!r}, forwarded {forwarded!r}")
        self.seen["cases"] += 1
        self.seen["requests"] += len(forwarded)
        self.seen["refused"] += refused
        return forwarded

    def _balance(self) -> None:
        datapath = self.proxy.datapath
        cells = self.proxy.counters.stable
        if cells[ROUTED] != cells[FINISHED]:
            raise Difference(f"routed {cells[ROUTED]}, finished {cells[FINISHED]}")
        if datapath.context.in_flight or datapath.context.connections:
            raise Difference("something is left over")
        endpoint = self.proxy.endpoints[0]
        if endpoint.active or endpoint.open != len(endpoint.idle):
            raise Difference(f"{endpoint.active} requests, {endpoint.open} connections left over")
        if cells[CLIENT_CLOSED] > self.seen["cases"]:
            raise Difference("more clients closed than there were")


def _answer(answer: bytes, method: bytes) -> bytes:
    if method == b"HEAD":
        answer = answer[
            : answer.rindex(b"\r\n\r\n" if b"chunked" not in answer else b"\r\n\r\n2") + 4
        ]
    return answer


def finals(got: bytes) -> list[int]:
    """Return the statuses of the final answers: all bodies here are free of status lines."""
    return [int(status) for status in _STATUS.findall(got) if status >= b"200"]


def _origin(one: Meant) -> Meant:
    """Return a request with its target in the form in which it is forwarded."""
    absolute = _ABSOLUTE.fullmatch(one.target)
    if absolute is None:
        return one
    if one.method == b"OPTIONS" and not absolute[1] and not absolute[2]:
        return one._replace(target=b"*")
    return one._replace(target=(absolute[1] or b"/") + absolute[2])


def requests_in(
    data: bytes, *, client: bool = False, blind: list[str] | None = None
) -> list[Meant]:
    """Return the complete requests that h11 sees, up to the first error.

    ``blind`` gets the error if it is about framing fields among trailers: these are legal, and dropped.

    ``client``: bytes of a client, with what is legal but not for h11: empty lines before a request,
    connections of HTTP/1.0 clients that are kept.
    """
    if client:
        data = data.lstrip(b"\r\n")
    found: list[Meant] = []
    head: h11.Request | None = None
    body = b""
    reader = h11.Connection(h11.SERVER)
    reader.receive_data(data)
    try:
        while True:
            event = reader.next_event()
            if isinstance(event, h11.Request):
                head, body = event, b""
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                assert head is not None
                found.append(Meant(head.method, head.target, body))
                options = b",".join(value for name, value in head.headers if name == b"connection")
                kept = head.http_version == b"1.0" and b"keep-alive" in options.lower()
                if reader.their_state is h11.MUST_CLOSE and not kept:
                    return found
                head = None
                rest = reader.trailing_data[0]
                reader = h11.Connection(h11.SERVER)
                reader.receive_data(rest.lstrip(b"\r\n") if client else rest)
            else:  # more is needed, or nothing more will come
                return found
    except h11.ProtocolError as error:
        if (
            blind is not None
            and head is not None
            and re.search("Content-Length|Transfer-Encoding", str(error))
        ):
            blind.append(str(error))
        return found


def run(cases: int, seed: str) -> Counter[str]:
    """Run this many cases. Raises ``Difference`` with the case."""
    source = random.Random(seed)
    loop = asyncio.new_event_loop()
    trial = Trial(loop)
    try:
        for _ in range(cases):
            case = Case(source)
            try:
                trial.run(case)
            except AssertionError as error:
                error.add_note(f"seed {seed!r}, case {trial.seen['cases']}: {case.pieces!r}")
                raise
    finally:
        loop.close()
    return trial.seen


if __name__ == "__main__":
    jobs.main(run, __doc__, cases=1_000_000)
