"""Mutants of valid messages, judged by h11, an independent reader: nothing is smuggled either way.

What reaches the upstream must be what a strict reader makes of the client's bytes: the same requests with
the same bodies, or fewer, because the rest was refused. What reaches the client must be well formed, and
what follows a broken answer must be the answer to the next request.
"""

from __future__ import annotations

import asyncio
import random
import re

import h11
import pytest

from .harness import DEADLINE, Client, Link, Upstream, proxy, until, variants

Message = tuple[bytes, bytes, bytes]
"""Method or status, target, body."""

HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: h\r\n\r\n"
REQUESTS = [
    b"GET /1 HTTP/1.1\r\nHost: h\r\nA: b\r\n\r\n",
    b"GET http://o/1?x HTTP/1.1\r\nHost: h\r\nAccept: */*\r\n\r\n",
    b"POST /1 HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b" % (len(HIDDEN), HIDDEN),
    b"POST /1 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
    % (len(HIDDEN), HIDDEN),
    b"PUT /1 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTrailer: T\r\n\r\n"
    b"3;a=b\r\nabc\r\n1\r\nd\r\n0\r\nT: x\r\n\r\n",
    b"GET /1 HTTP/1.1\r\nHost: h\r\nConnection: A, keep-alive\r\nA: b\r\n\r\n",
]
ANSWERS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nA: b\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n2\r\nde\r\n0\r\nT: x\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nA: b\r\nConnection: close\r\n\r\nuntil the end",
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno",
    b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nold",
]
LINES = [
    b"Content-Length: 0\r\n", b"Content-Length: 5\r\n", b"Content-Length: 33\r\n", b"Content-Length:5\r\n",
    b"Content-Length : 5\r\n", b"Content-Length: +5\r\n", b"Content-Length: 5, 5\r\n",
    b"content-length: 05\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding:chunked\r\n", b"Transfer-Encoding: Chunked \r\n",
    b"Transfer-Encoding: identity\r\n", b"Transfer-Encoding: x, chunked\r\n",
    b"Transfer-Encoding:\tchunked\r\n",
    b"Transfer-Encoding: \x0bchunked\r\n", b"Transfer_Encoding: chunked\r\n", b"Connection: close\r\n",
    b"Connection: Content-Length\r\n", b"Connection: Transfer-Encoding, Host\r\n", b" folded\r\n", b"\r\n",
    b"A: b\rTransfer-Encoding: chunked\r\n", b"A: b\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n",
]  # fmt: skip
BYTES = [
    b"\r",
    b"\n",
    b"\r\n",
    b"\0",
    b" ",
    b"\t",
    b":",
    b";",
    b",",
    b"0",
    b"1",
    b"f",
    b"\x0b",
    b"\xff",
    b"a",
]


def mutant(source: random.Random, message: bytes) -> bytes:
    for _ in range(source.choice((1, 1, 1, 2, 3))):
        at = source.randrange(len(message))
        way = source.randrange(6)
        if way == 0:
            message = message[:at] + source.choice(BYTES) + message[at:]
        elif way == 1:
            message = message[:at] + message[at + 1 :]
        elif way == 2:
            message = message[:at] + source.choice(BYTES) + message[at + 1 :]
        elif way == 3:
            lines = message.splitlines(keepends=True)
            line = source.randrange(len(lines))
            lines.insert(line + source.randrange(2), source.choice(lines))
            message = b"".join(lines)
        else:
            ends = [match.end() for match in re.finditer(rb"\r\n", message)] or [0]
            place = source.choice(ends[:3])
            message = message[:place] + source.choice(LINES) + message[place:]
    return message


def without_blanks(data: bytes) -> bytes:
    """Remove blanks before the semicolon of chunk extensions: RFC 9112 §7.1.1 allows them, h11 does not."""
    return re.sub(rb"(\r\n[0-9A-Fa-f]+)[ \t]+;", rb"\1;", data)


def requests_in(data: bytes) -> list[Message]:
    """Return the complete requests that h11 sees, up to the first error.

    Legal, but not for h11: empty lines before a request (RFC 9112 §2.2), and connections of HTTP/1.0
    clients that are kept.
    """
    found: list[Message] = []
    head, body = None, b""
    reader = h11.Connection(h11.SERVER)
    data = without_blanks(data)
    reader.receive_data(data.lstrip(b"\r\n"))
    try:
        while True:
            event = reader.next_event()
            if isinstance(event, h11.Request):
                head, body = event, b""
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                assert head is not None
                found.append((head.method, head.target, body))
                options = b",".join(value for name, value in head.headers if name == b"connection")
                kept = head.http_version == b"1.0" and b"keep-alive" in options.lower()
                if reader.their_state is h11.MUST_CLOSE and not kept:
                    return found
                rest = reader.trailing_data[0].lstrip(b"\r\n")
                reader = h11.Connection(h11.SERVER)
                reader.receive_data(rest)
            elif event is h11.NEED_DATA or event is h11.PAUSED:
                return found
    except h11.ProtocolError:
        return found


class Recorder:
    """An upstream that reads with h11 and keeps complete requests, and what is not HTTP."""

    def __init__(self) -> None:
        self.requests: list[Message] = []
        self.errors: list[str] = []

    async def serve(self, link: Link) -> None:
        reader = h11.Connection(h11.SERVER)
        head, body, fed = None, b"", 0
        try:
            while True:
                event = reader.next_event()
                if event is h11.NEED_DATA:
                    if not await link.read():
                        return
                    reader.receive_data(link.got[fed:])
                    fed = len(link.got)
                elif isinstance(event, h11.Request):
                    head, body = event, b""
                elif isinstance(event, h11.Data):
                    body += event.data
                elif isinstance(event, h11.EndOfMessage):
                    assert head is not None
                    self.requests.append((head.method, head.target, body))
                    reader.send(h11.Response(status_code=200, headers=[("Content-Length", "2")]))
                    reader.send(h11.Data(data=b"ok"))
                    reader.send(h11.EndOfMessage())
                    await link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                    reader.start_next_cycle()
        except h11.ProtocolError as error:
            self.errors.append(f"{error}: {link.got!r}")


def origin(message: Message) -> Message:
    method, target, body = message
    absolute = re.fullmatch(rb"(?i:https?)://[^/?]*(/[^?]*)?(\?.*)?", target)
    if absolute:
        target = (absolute[1] or b"/") + (absolute[2] or b"")
    return method, target, body


MUTANTS = 250
LIMITS = (
    "limits: {header_timeout: 100ms, idle_timeout: 100ms, body_timeout: 100ms,"
    " first_byte_timeout: 5s}"
)


@pytest.mark.parametrize("lane", range(4))
async def test_no_request_is_smuggled(lane: int) -> None:
    source = random.Random(f"requests {lane}")
    forwarded = refused = 0
    recorder = Recorder()
    async with (
        Upstream(recorder.serve).serving() as upstream,
        proxy(variants(upstream.port, more=LIMITS)) as running,
    ):
        for _ in range(MUTANTS):
            last = b"GET /last HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
            data = mutant(source, source.choice(REQUESTS)) + last
            recorder.requests.clear()
            client = await running.connect()
            await client.send(data)
            await client.to_end()
            client.close()
            await until(lambda: not running.context.connections)
            assert not recorder.errors
            expected = [origin(one) for one in requests_in(data)]
            got = recorder.requests
            assert got == expected[: len(got)], (data, got, expected)
            # One answer for each request, and one more for what was refused.
            answers = len(re.findall(rb"HTTP/1\.1 [2-5]\d\d ", client.got))
            assert len(got) <= answers <= len(got) + 1, (data, client.got)
            forwarded += len(got)
            refused += answers - len(got)
    assert forwarded > 30  # the mutants are not all dead on arrival
    assert refused > 30


def answer_in(data: bytes) -> Message | None:
    """Return the final answer to a GET that h11 sees in what an upstream sends before it closes."""
    reader = h11.Connection(h11.CLIENT)
    reader.send(h11.Request(method="GET", target="/", headers=[("Host", "h")]))
    reader.send(h11.EndOfMessage())
    reader.receive_data(without_blanks(data))
    reader.receive_data(b"")
    status, body = b"", b""
    try:
        while True:
            event = reader.next_event()
            if isinstance(event, h11.Response):
                status = b"%d" % event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                return status, b"", body
            elif event is h11.NEED_DATA or isinstance(event, h11.ConnectionClosed):
                return None
    except h11.ProtocolError:
        return None


async def next_answer(reader: h11.Connection, client: Client) -> Message | None:
    """Read one answer; ``None`` if the connection ends before it is complete."""
    reader.send(h11.Request(method="GET", target="/", headers=[("Host", "h")]))
    reader.send(h11.EndOfMessage())
    status, body = b"", b""
    while True:
        event = reader.next_event()
        if event is h11.NEED_DATA:
            client.got = b""
            await asyncio.wait_for(client.read_or_end(), DEADLINE)
            if client.eof:
                return None
            reader.receive_data(client.got)
        elif isinstance(event, h11.Response):
            status = b"%d" % event.status_code
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            reader.start_next_cycle()
            return status, b"", body


@pytest.mark.parametrize("lane", range(4))
async def test_no_answer_is_taken_for_another(lane: int) -> None:
    source = random.Random(f"answers {lane}")
    broken: bytes = b""
    passed = replaced = ended = 0

    async def serve(link: Link) -> None:
        answered = 0
        while True:
            await link.take(b"\r\n\r\n", answered + 1)
            answered += 1
            if b"GET /broken " in link.got.split(b"\r\n\r\n")[answered - 1]:
                await link.send(broken)
                link.close()
                return
            await link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntrue")

    async with (
        Upstream(serve).serving() as upstream,
        proxy(variants(upstream.port, more="limits: {body_timeout: 5s}")) as running,
    ):
        for _ in range(MUTANTS):
            broken = mutant(source, source.choice(ANSWERS))
            client = await running.connect()
            reader = h11.Connection(h11.CLIENT)
            await client.send(b"GET /broken HTTP/1.1\r\nHost: h\r\n\r\n")
            first = await next_answer(reader, client)
            expected = answer_in(broken)
            if first is None:
                ended += 1
            elif first[0] == b"502" and b"Request ID: " in first[2]:
                replaced += 1
            else:
                passed += 1
                assert expected is not None, (broken, first)
                assert first == expected, (broken, first)
            if first is not None:
                await client.send(b"GET /next HTTP/1.1\r\nHost: h\r\n\r\n")
                assert await next_answer(reader, client) == (b"200", b"", b"true"), broken
            client.close()
            await until(lambda: not running.context.connections)
    assert passed > 30
    assert replaced > 30
    assert passed + replaced + ended == MUTANTS
