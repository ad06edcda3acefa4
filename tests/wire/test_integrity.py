"""No answer is taken for another or for complete: odd endings, errors in the middle, arbitrary splits."""

from __future__ import annotations

import asyncio
import random
import socket

import h11
import pytest

from canaryproxy.measure.counters import CODES, ERRORS, FINISHED, RESCUED, ROUTED, Reason

from .harness import (
    COOKIE,
    OK,
    VIA,
    Link,
    Upstream,
    always,
    proxy,
    status_of,
    undated,
    until,
    variants,
)

HOST = b"Host: h\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST + COOKIE + b"\r\n"
CHUNKED_PUT = b"PUT / HTTP/1.1\r\n" + HOST + COOKIE + b"Transfer-Encoding: chunked\r\n\r\n"


# Answers that end badly


async def test_an_answer_without_length_that_ends_with_a_reset_is_not_complete() -> None:
    go = asyncio.Event()

    async def cut(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(b"HTTP/1.1 200 OK\r\n\r\nabc")
        await go.wait()  # the proxy has it all, so that the reset destroys nothing
        link.reset()

    async with Upstream(cut).serving() as upstream, proxy(variants(upstream.port)) as running:
        client = await running.connect()
        await client.send(GET)
        await client.take(b"abc")
        go.set()
        while not client.eof:
            await client.read_or_end()
            assert not client.got.endswith(b"0\r\n\r\n"), "the client takes it for complete"
        cells = running.counters.stable
        assert cells[CODES + 502] == cells[FINISHED] == 1
        assert cells[ERRORS + Reason.INCOMPLETE_ANSWER] == 1


async def test_chunks_that_turn_bad_in_the_middle_are_not_complete() -> None:
    go = asyncio.Event()

    async def turn(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await go.wait()
        await link.send(b"3\r\ndefg\r\n0\r\n\r\n")

    async with Upstream(turn).serving() as upstream, proxy(variants(upstream.port)) as running:
        client = await running.connect()
        await client.send(GET)
        await client.take(b"3\r\nabc\r\n")
        go.set()
        got = await client.to_end()
        assert b"0\r\n" not in got.partition(b"\r\n\r\n")[2]
        assert running.counters.stable[CODES + 502] == 1
        assert running.counters.stable[ERRORS + Reason.BROKEN_ANSWER] == 1


@pytest.mark.parametrize(
    ("request_", "bad"),
    [
        (CHUNKED_PUT + b"3\r\nabc\r\n", b"zz\r\n"),
        (CHUNKED_PUT + b"3\r\nabc\r\n", b""),  # nothing more: body_timeout
    ],
)
async def test_a_request_that_turns_bad_does_not_write_into_the_answer_under_way(
    request_: bytes, bad: bytes
) -> None:
    async def early(link: Link) -> None:
        await link.take(b"abc")
        await link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nbegun")
        await link.to_end()

    async with (
        Upstream(early).serving() as upstream,
        proxy(variants(upstream.port, more="limits: {body_timeout: 200ms}")) as running,
    ):
        client = await running.connect()
        await client.send(request_)
        await client.take(b"begun")
        await client.send(bad)
        got = await client.to_end()
        assert got.count(b"HTTP/1.1 ") == 1
        assert got.endswith(b"\r\n\r\nbegun")
        await until(lambda: upstream.links[0].closed)
        assert running.context.in_flight == 0


async def test_an_interim_answer_and_then_nothing_is_not_a_stale_connection() -> None:
    """Something of the answer came: the connection was alive, and the upstream failed."""
    requests = 0

    async def answer(link: Link) -> None:
        nonlocal requests
        while True:
            requests += 1
            await link.take(b"\r\n\r\n", link.got.count(b"\r\n\r\n") + 1)
            if requests == 1:
                await link.send(OK)
                continue
            await link.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
            link.close()
            return

    async with Upstream(answer).serving() as upstream, proxy(variants(upstream.port)) as running:
        client = await running.connect()
        await client.send(GET)
        await client.take(b"ok")
        await client.send(GET)
        await client.take(b"Request ID")
        assert status_of(client.got.partition(b"ok")[2].partition(b"\r\n\r\n")[2]) == 502
        assert running.counters.stable[ERRORS + Reason.RESET] == 1


@pytest.mark.parametrize("size", [100, 1 << 20])
async def test_an_early_answer_with_a_closed_connection_is_passed_on(size: int) -> None:
    """The upstream refuses an upload, closes, and leaves what we send unread: a reset is on its way."""
    answer = b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno"

    async def refuse(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(answer)
        link.close()

    async with Upstream(refuse).serving() as upstream, proxy(variants(upstream.port)) as running:
        for _ in range(20):
            client = await running.connect()
            head = b"PUT / HTTP/1.1\r\n" + HOST + COOKIE + b"Content-Length: %d\r\n\r\n" % size
            await client.send(head + bytes(size - 1))
            await client.take(b"\r\n\r\nno")
            assert status_of(client.got) == 413
        assert running.counters.stable[CODES + 413] == 20


# Connections that must not be used again


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nConnection: foo, Close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ],
)
async def test_a_connection_that_the_upstream_ends_is_not_used_again(answer: bytes) -> None:
    async with (
        Upstream(always(answer)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        client = await running.connect()
        for count in (1, 2):
            await client.send(GET)
            await client.take(b"ok", count)
        assert len(upstream.links) == 2
        assert b"Connection" not in client.got


async def test_an_http_1_0_upstream_that_keeps_alive_is_used_again() -> None:
    answer = b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok"
    async with (
        Upstream(always(answer)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        client = await running.connect()
        for count in (1, 2):
            await client.send(GET)
            await client.take(b"ok", count)
        assert len(upstream.links) == 1
        via = VIA.replace(b"1.1", b"1.0")
        expected = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + via + b"\r\nok"
        assert undated(client.got) == 2 * expected


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\nevil"),
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\nevil"),
        (b"GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nevil"),
        (b"GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nevil"),
    ],
)
async def test_bytes_after_an_answer_are_for_nobody(method: bytes, answer: bytes) -> None:
    async with (
        Upstream(always(answer)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        client = await running.connect()
        for count in (1, 2):
            await client.send(method + b" / HTTP/1.1\r\n" + HOST + COOKIE + b"\r\n")
            await client.take(b"HTTP/1.1 ", count)
        await until(lambda: running.counters.stable[FINISHED] == 2)
        assert b"evil" not in client.got
        assert len(upstream.links) == 2


@pytest.mark.parametrize("framing", [b"Transfer-Encoding: chunked\r\n", b"Content-Length: 5\r\n"])
async def test_a_204_has_no_framing_fields(framing: bytes) -> None:
    """RFC 9112 §6.1, RFC 9110 §8.6: neither Transfer-Encoding nor Content-Length in a 204."""
    async with (
        Upstream(
            always(b"HTTP/1.1 204 No Content\r\nA: b\r\n" + framing + b"\r\n")
        ).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        client = await running.connect()
        await client.send(GET)
        await client.take(b"\r\n\r\n")
        assert undated(client.got) == b"HTTP/1.1 204 No Content\r\nA: b\r\n" + VIA + b"\r\n"


@pytest.mark.parametrize(
    "name", [b"Content-Length", b"Transfer-Encoding", b"Connection", b"Upgrade", b"A"]
)
async def test_a_blank_before_the_colon_of_an_answers_field_is_not_passed_on(name: bytes) -> None:
    """RFC 9112 §5.1: a proxy removes it, or refuses: readers disagree on what such a field means."""
    value = b"chunked" if name == b"Transfer-Encoding" else b"2"
    bad = b"HTTP/1.1 200 OK\r\n" + name + b" : " + value + b"\r\n\r\n2\r\nok\r\n0\r\n\r\n"

    async def answer(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(bad)
        link.close()

    async with Upstream(answer).serving() as upstream, proxy(variants(upstream.port)) as running:
        client = await running.connect()
        await client.send(GET)
        await until(lambda: running.counters.stable[FINISHED])
        await client.take(b"\r\n\r\n")
        assert name + b" :" not in client.got


# Arbitrary splits


@pytest.mark.parametrize("seed", range(4))
async def test_an_answer_is_the_same_however_it_is_cut(seed: int) -> None:
    source = random.Random(seed)
    answer = (
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n"
        b"4;ext=1\r\n\r\n\r\n\r\n1\r\nx\r\n1F\r\n"
        + bytes(range(31))
        + b"\r\n000\r\nX-T: end\r\n\r\n"
    )
    body = b"\r\n\r\nx" + bytes(range(31))

    async def dribble(link: Link) -> None:
        for count in range(1, 6):
            await link.take(b"\r\n\r\n", count)
            at = 0
            while at < len(answer):
                cut = source.choice((1, 1, 2, 3, 10, 40))
                await link.send(answer[at : at + cut])
                await asyncio.sleep(0)
                at += cut

    async with Upstream(dribble).serving() as upstream, proxy(variants(upstream.port)) as running:
        client = await running.connect()
        reader = h11.Connection(h11.CLIENT)
        fed = 0
        for _ in range(5):
            reader.send(h11.Request(method="GET", target="/", headers=[("Host", "h")]))
            reader.send(h11.EndOfMessage())
            await client.send(GET)
            got = b""
            seen: list[object] = []
            while True:
                event = reader.next_event()
                if event is h11.NEED_DATA:
                    if fed == len(client.got):
                        assert await client.read()
                    reader.receive_data(client.got[fed:])
                    fed = len(client.got)
                    continue
                seen.append(type(event))
                if isinstance(event, h11.Data):
                    got += event.data
                if isinstance(event, h11.EndOfMessage):
                    assert list(event.headers) == [(b"x-t", b"end")]
                    break
            assert got == body
            assert seen[:2] == [h11.InformationalResponse, h11.Response]
            reader.start_next_cycle()
        assert len(upstream.links) == 1


@pytest.mark.parametrize("seed", range(4))
async def test_requests_are_the_same_however_they_are_cut(seed: int) -> None:
    source = random.Random(seed)
    bodies = [source.randbytes(source.randrange(1, 400)) for _ in range(8)]
    wire = b""
    for body in bodies:
        head = b"POST /x HTTP/1.1\r\n" + HOST + COOKIE
        if source.random() < 0.5:
            wire += head + b"Content-Length: %d\r\n\r\n" % len(body) + body
        else:
            middle = source.randrange(len(body))
            chunks = b"".join(
                b"%x;e\r\n%b\r\n" % (len(part), part)
                for part in (body[:middle], body[middle:])
                if part
            )
            wire += head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\nX-T: 1\r\n\r\n"
    got: list[bytes] = []

    async def serve(link: Link) -> None:
        """Read with h11, an independent reader of what the proxy writes."""
        reader = h11.Connection(h11.SERVER)
        fed, body = 0, b""
        while True:
            event = reader.next_event()
            if event is h11.NEED_DATA:
                if fed == len(link.got) and not await link.read():
                    return
                reader.receive_data(link.got[fed:])
                fed = len(link.got)
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                got.append(body)
                body = b""
                reader.send(h11.Response(status_code=200, headers=[("Content-Length", "2")]))
                reader.send(h11.Data(data=b"ok"))
                reader.send(h11.EndOfMessage())
                await link.send(OK)
                reader.start_next_cycle()

    async with Upstream(serve).serving() as upstream, proxy(variants(upstream.port)) as running:
        client = await running.connect()
        at = 0
        while at < len(wire):
            cut = source.choice((1, 2, 3, 50, 700))
            await client.send(wire[at : at + cut])
            await asyncio.sleep(0)
            at += cut
        await client.take(b"ok", len(bodies))
        assert got == bodies
        assert running.counters.stable[CODES + 200] == len(bodies)


# Interim answers


async def test_interim_answers_of_every_kind_pass_but_for_http_1_0() -> None:
    interim = (
        b"HTTP/1.1 102 Processing\r\n\r\n"
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\nConnection: x\r\nX: y\r\n\r\n"
        b"HTTP/1.1 103 Early Hints\r\nLink: </b>\r\n\r\n"
    )
    async with (
        Upstream(always(interim + OK)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        client = await running.connect()
        await client.send(GET)
        await client.take(b"ok")
        final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + VIA + b"\r\nok"
        assert undated(client.got) == (
            b"HTTP/1.1 102 Processing\r\n\r\n"
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n"
            b"HTTP/1.1 103 Early Hints\r\nLink: </b>\r\n\r\n" + final
        )
        old = await running.ask(b"GET / HTTP/1.0\r\n" + COOKIE + b"\r\n")
        assert (
            undated(old)
            == b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + VIA + b"Connection: close\r\n\r\nok"
        )


async def test_continue_is_said_once_though_stable_answers_in_the_end() -> None:
    async def canary(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await link.take(b"body")
        link.reset()

    async def stable(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await link.take(b"body")
        await link.send(OK)

    async with (
        Upstream(stable).serving() as one,
        Upstream(canary).serving() as two,
        proxy(variants(one.port, two.port, "split: {weight: 100}")) as running,
    ):
        client = await running.connect()
        await client.send(
            b"PUT / HTTP/1.1\r\n" + HOST + COOKIE
            + b"Expect: 100-continue\r\nContent-Length: 4\r\n\r\n"
        )  # fmt: skip
        await client.take(b"100 Continue\r\n\r\n")
        await client.send(b"body")
        await client.take(b"ok")
        assert client.got.count(b"100 Continue") == 1
        assert running.counters.canary[RESCUED] == 1
        assert one.got == two.got


async def test_http_1_0_has_no_expectations() -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        await running.ask(
            b"POST / HTTP/1.0\r\nHost: h\r\n" + COOKIE
            + b"Expect: 100-continue\r\nContent-Length: 4\r\n\r\nbody"
        )  # fmt: skip
        assert b"xpect" not in upstream.got
        assert upstream.got.endswith(b"\r\n\r\nbody")


# HTTP/1.0


async def test_an_http_1_0_client_gets_no_trailers_and_no_chunks() -> None:
    answer = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;e\r\nab\r\n0\r\nX-T: 1\r\n\r\n"
    )
    async with (
        Upstream(always(answer)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        got = await running.ask(b"GET / HTTP/1.0\r\n" + COOKIE + b"\r\n")
        assert undated(got) == b"HTTP/1.1 200 OK\r\n" + VIA + b"Connection: close\r\n\r\nab"


async def test_an_http_1_0_client_that_keeps_alive_is_told_so_by_errors_too() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        async with proxy(variants(nobody.getsockname()[1])) as running:
            client = await running.connect()
            await client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n" + COOKIE + b"\r\n")
            await client.take(b"Request ID")
            assert status_of(client.got) == 502
            head = client.got.partition(b"\r\n\r\n")[0] + b"\r\n"
            if b"\r\nConnection: keep-alive\r\n" not in head:
                # What is not said to be kept is taken for closed: so it has to be.
                await client.to_end()


async def test_a_cut_answer_to_an_http_1_0_client_ends_with_a_reset() -> None:
    """Without length or chunks, only a reset tells that it is not complete."""
    go = asyncio.Event()

    async def cut(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await go.wait()
        link.close()

    async with Upstream(cut).serving() as upstream, proxy(variants(upstream.port)) as running:
        client = await running.connect()
        await client.send(b"GET / HTTP/1.0\r\n" + COOKIE + b"\r\n")
        await client.take(b"abc")
        go.set()
        with pytest.raises(ConnectionResetError):
            await client.read()
        assert running.counters.stable[ROUTED] == running.counters.stable[CODES + 502] == 1


async def test_responses_with_values_of_their_own_keep_them() -> None:
    """Each with its own length, validator, cookies and id, on one connection; some with an odd value."""

    def response(number: int) -> tuple[bytes, bytes]:
        body = b"%d," % number * (number % 7)
        length = b"%d" % len(body) if number % 5 else b"0%d" % len(body)
        identifier = b"\xe4%d" % number if number % 3 == 0 else b"%d" % number
        lines = b'ETag: "%d"\r\nSet-Cookie: a=%d\r\nSet-Cookie: b=%d\r\nX-Request-Id: %b\r\n'
        own = lines % (number, number, number * 10, identifier)
        sent = b"HTTP/1.1 200 OK\r\nContent-Length: " + length + b"\r\n" + own + b"\r\n" + body
        return sent, own

    async def answer(link: Link) -> None:
        for number in range(60):
            await link.take(b"\r\n\r\n", number + 1)
            await link.send(response(number)[0])

    async with Upstream(answer).serving() as upstream, proxy(variants(upstream.port)) as running:
        client = await running.connect()
        for number in range(60):
            client.got = b""
            await client.send(GET)
            sent, own = response(number)
            body = sent.partition(b"\r\n\r\n")[2]
            head, end, got = (await client.take(b"\r\n\r\n")).partition(b"\r\n\r\n")
            while len(got) < len(body):
                got += await client.read()
            assert got == body
            assert own in head + end
            assert head.count(b"\r\nContent-Length: %d" % len(body)) == 1
        assert len(upstream.links) == 1
