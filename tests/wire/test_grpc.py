"""gRPC over real sockets: outcomes, deadlines, errors, rescue, records, streams that follow their users."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from canaryproxy.config.grpc import ERRORS, GrpcStatus
from canaryproxy.http1.grpc import HTTP_STATUS, timeout_of
from canaryproxy.measure import counters
from canaryproxy.measure.counters import CODES, FAILED, FINISHED, GRPC, RESCUED, ROUTED, Reason
from tests.http1.test_grpc import message
from tests.ports import free_port

from .h2client import POST, Fields, H2Client, Reply
from .harness import Answer, Link, Proxy, Upstream, proxy, until, variants

CALL: Fields = [
    *POST,
    (b"content-type", b"application/grpc+proto"),
    (b"te", b"trailers"),
]
HELLO = message(b"hello")
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
ALL = "split: {weight: 100}\n"


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content)


def ended(status: bytes) -> bytes:
    return b"0\r\ngrpc-status: " + status + b"\r\n\r\n"


def only(status: int) -> bytes:
    """Return a response that is nothing but a status."""
    return HEAD + b"Content-Length: 0\r\ngrpc-status: %d\r\ngrpc-message: no\r\n\r\n" % status


def unary(status: int = 0) -> bytes:
    return CHUNKED + chunk(HELLO) + ended(b"%d" % status)


def answering(*answers: bytes) -> Answer:
    """Answer each call, which is one message, with these bytes, and a pause between two of them."""

    async def run(link: Link) -> None:
        count = 0
        while True:
            count += 1
            await link.take(b"0\r\n\r\n", count)
            for answer in answers:
                await link.send(answer)
                await asyncio.sleep(0.005)

    return run


async def silence(link: Link) -> None:
    await link.to_end()


async def call(running: Proxy, *more: tuple[bytes, bytes]) -> Reply:
    client = await H2Client.to(running)
    return await client.fetch([*CALL, *more], HELLO)


def outcome(reply: Reply) -> GrpcStatus:
    """Return what the client is told."""
    fields = reply.trailers or reply.head
    return GrpcStatus(int(fields[b"grpc-status"]))


@asynccontextmanager
async def calling(
    stable: Answer, more: str = "", canary: Answer | None = None
) -> AsyncIterator[Proxy]:
    """Run a proxy of one or two services, with ticks as a worker has them."""
    async with (
        Upstream(stable).serving() as first,
        Upstream(canary or silence).serving() as second,
        proxy(variants(first.port, second.port if canary else None, more)) as running,
    ):

        async def tick() -> None:
            while True:
                await asyncio.sleep(0.02)
                running.datapath.tick()

        ticks = asyncio.create_task(tick())
        try:
            yield running
        finally:
            ticks.cancel()


# Outcomes


@pytest.mark.parametrize("status", GrpcStatus)
@pytest.mark.parametrize("shape", ["trailers", "trailers-only"])
async def test_the_status_is_the_outcome(status: GrpcStatus, shape: str) -> None:
    answer = only(status) if shape == "trailers-only" else unary(status)
    async with calling(answering(answer)) as running:
        reply = await call(running)
        assert (reply.status, outcome(reply)) == (200, status)
        assert reply.body == (b"" if shape == "trailers-only" else HELLO)
        cells = running.counters.stable
        await until(lambda: cells[FINISHED] == 1)
        assert cells[GRPC + status] == sum(cells[GRPC : GRPC + len(GrpcStatus)]) == 1
        assert cells[CODES + HTTP_STATUS[status]] == 1
        assert cells[FAILED] == (status.name in ERRORS)
        record = await running.record()
        assert record.status == HTTP_STATUS[status]
        assert bool(record.flags & 2) == (status.name in ERRORS)


async def test_which_statuses_are_errors_is_configured() -> None:
    more = "judge: {metrics: {errors: {grpc_statuses: [NOT_FOUND]}}}\n"
    for status, failed in ((GrpcStatus.NOT_FOUND, 1), (GrpcStatus.UNAVAILABLE, 0)):
        async with calling(answering(only(status)), more) as running:
            await call(running)
            assert running.counters.stable[FAILED] == failed


@pytest.mark.parametrize(
    "answer",
    [CHUNKED + chunk(HELLO) + b"0\r\n\r\n", HEAD + b"Content-Length: 10\r\n\r\n" + HELLO],
)
async def test_a_response_without_a_status_is_an_error(answer: bytes) -> None:
    more = "judge: {metrics: {errors: {grpc_statuses: [NOT_FOUND]}}}\n"
    async with calling(answering(answer), more) as running:
        assert (await call(running)).body == HELLO
        cells = running.counters.stable
        assert (cells[FAILED], cells[GRPC + GrpcStatus.UNKNOWN]) == (1, 1)


@pytest.mark.parametrize(("status", "failed"), [(503, 1), (404, 0)])
async def test_a_status_of_http_counts_where_there_is_no_other(status: int, failed: int) -> None:
    answer = b"HTTP/1.1 %d No\r\nContent-Length: 2\r\n\r\nno" % status
    async with calling(answering(answer)) as running:
        assert (await call(running)).status == status
        cells = running.counters.stable
        assert (cells[FAILED], cells[CODES + status]) == (failed, 1)


async def test_grpc_web_is_plain_http() -> None:
    async with calling(answering(HEAD + b"Content-Length: 0\r\n\r\n")) as running:
        client = await H2Client.to(running)
        web = (b"content-type", b"application/grpc-web+proto")
        assert (await client.fetch([*POST, web], HELLO)).status == 200
        cells = running.counters.stable
        assert (cells[FAILED], sum(cells[GRPC : GRPC + len(GrpcStatus)])) == (0, 0)


async def test_http_1_gets_errors_of_grpc_too() -> None:
    async with proxy(variants(free_port())) as running:
        head = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Type: application/grpc\r\n"
        client = await running.connect()
        await client.send(head + b"Content-Length: 10\r\n\r\n" + HELLO)
        got = await client.take(b"\r\n\r\n")
        assert got.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"\r\ngrpc-status: 14\r\n" in got


# Errors of the proxy


async def test_an_upstream_that_is_down_is_unavailable(tmp_path: Path) -> None:
    log = f"access_log: {{path: {tmp_path / 'log'}}}\n"
    async with proxy(variants(free_port(), more=log)) as running:
        reply = await call(running)
        assert (reply.status, outcome(reply), reply.body) == (200, GrpcStatus.UNAVAILABLE, b"")
        assert reply.trailers == {}  # trailers-only
        assert reply.head[b"content-type"] == b"application/grpc"
        assert reply.head[b"grpc-message"].startswith(b"upstream connection refused (request ID ")
        cells = running.counters.stable
        assert cells[counters.ERRORS + Reason.CONNECT_REFUSED] == cells[FAILED] == 1
        assert cells[GRPC + GrpcStatus.UNAVAILABLE] == cells[CODES + 502] == 1
        assert running.log is not None
        log_ = running.log
        await until(lambda: log_.written)
        line = json.loads((tmp_path / "log").read_text())
        assert (line["status"], line["grpc_status"]) == (200, "UNAVAILABLE")
        assert (line["answered_by"], line["reason"]) == ("proxy", "connect_refused")
        assert line["request_id"].encode() in reply.head[b"grpc-message"]


async def test_a_request_that_is_refused_gets_a_status(tmp_path: Path) -> None:
    log = f"access_log: {{path: {tmp_path / 'log'}}}\n"
    async with calling(silence, "limits: {max_requests: 1}\n" + log) as running:
        client = await H2Client.to(running)
        await client.ask(CALL, HELLO)
        reply = await client.fetch(CALL, HELLO)
        assert (reply.status, outcome(reply)) == (200, GrpcStatus.UNAVAILABLE)
        assert reply.head[b"grpc-message"].startswith(b"too many requests in flight")
        assert running.counters.proxy[counters.REFUSED + 503] == 1
        assert running.log is not None
        log_ = running.log
        await until(lambda: log_.written)
        line = json.loads((tmp_path / "log").read_text())
        assert (line["status"], line["grpc_status"]) == (200, "UNAVAILABLE")


async def test_a_call_that_does_not_come_whole_gets_a_status() -> None:
    more = "limits: {body_timeout: 100ms}\n"
    async with calling(silence, more) as running:
        client = await H2Client.to(running)
        number = await client.ask(CALL, HELLO[:3], end=False)
        reply = await client.reply(number)
        assert (reply.status, outcome(reply)) == (200, GrpcStatus.UNKNOWN)


async def test_a_response_that_breaks_off_ends_with_a_status() -> None:
    async def cut(link: Link) -> None:
        await link.take(b"0\r\n\r\n")
        await link.send(CHUNKED + chunk(HELLO[:7]))
        link.close()

    async with calling(cut) as running:
        reply = await call(running)
        assert (reply.body, outcome(reply), reply.reset) == (
            HELLO[:7],
            GrpcStatus.UNAVAILABLE,
            None,
        )
        cells = running.counters.stable
        assert (cells[FAILED], cells[GRPC + GrpcStatus.UNAVAILABLE]) == (1, 1)
        assert cells[counters.ERRORS + Reason.INCOMPLETE_ANSWER] == 1
        assert running.context.in_flight == 0


# Deadlines


async def test_a_deadline_is_passed_on_less_the_time_spent() -> None:
    async with Upstream(answering(unary())).serving() as upstream:
        async with proxy(variants(upstream.port)) as running:
            await call(running, (b"grpc-timeout", b"10S"))
        (line,) = [one for one in upstream.got.split(b"\r\n") if one.startswith(b"grpc-timeout")]
        left = timeout_of(line.partition(b": ")[2])
        assert left is not None
        assert 0.0 < left < 10.0


@pytest.mark.parametrize("value", [b"10", b"1.5S", b"123456789S"])
async def test_a_malformed_deadline_is_passed_on(value: bytes) -> None:
    async with Upstream(answering(unary())).serving() as upstream:
        async with proxy(variants(upstream.port)) as running:
            assert outcome(await call(running, (b"grpc-timeout", value))) is GrpcStatus.OK
        assert b"\r\ngrpc-timeout: %b\r\n" % value in upstream.got


async def test_the_proxy_answers_when_the_deadline_has_passed() -> None:
    async with calling(silence, "limits: {first_byte_timeout: 60s}\n") as running:
        reply = await call(running, (b"grpc-timeout", b"60m"))
        assert (reply.status, outcome(reply)) == (200, GrpcStatus.DEADLINE_EXCEEDED)
        assert reply.trailers == {}
        cells = running.counters.stable
        assert (cells[FAILED], cells[GRPC + GrpcStatus.DEADLINE_EXCEEDED]) == (1, 1)
        assert cells[counters.ERRORS + Reason.FIRST_BYTE_TIMEOUT] == cells[CODES + 504] == 1


async def test_a_deadline_takes_the_place_of_the_timeouts_of_the_configuration() -> None:
    async def late(link: Link) -> None:
        await link.take(b"0\r\n\r\n")
        await asyncio.sleep(0.4)
        await link.send(CHUNKED + chunk(HELLO))
        await asyncio.sleep(0.4)
        await link.send(ended(b"0"))

    more = "limits: {first_byte_timeout: 100ms, body_timeout: 100ms}\n"
    async with calling(late, more) as running:
        assert outcome(await call(running, (b"grpc-timeout", b"20S"))) is GrpcStatus.OK
        assert outcome(await call(running)) is GrpcStatus.UNAVAILABLE


async def test_a_stream_ends_with_its_deadline() -> None:
    async with calling(answering(CHUNKED + chunk(HELLO))) as running:
        reply = await call(running, (b"grpc-timeout", b"80m"))
        assert (reply.body, outcome(reply)) == (HELLO, GrpcStatus.DEADLINE_EXCEEDED)
        assert reply.reset is None
        assert running.context.in_flight == 0


async def test_a_client_that_cancels_at_its_deadline_is_not_gone() -> None:
    async with (
        Upstream(silence).serving() as upstream,
        proxy(variants(upstream.port)) as running,  # no ticks: the proxy is not quicker
    ):
        client = await H2Client.to(running)
        number = await client.ask([*CALL, (b"grpc-timeout", b"200m")], HELLO)
        cells = running.counters.stable
        await until(lambda: cells[ROUTED])
        await asyncio.sleep(0.2)
        client.h2.reset_stream(number, 8)
        await client.flush()
        await until(lambda: cells[FINISHED])
        assert (cells[counters.CLIENT_CLOSED], cells[GRPC + GrpcStatus.DEADLINE_EXCEEDED]) == (0, 1)


async def test_a_client_that_cancels_before_is_gone() -> None:
    async with calling(silence) as running:
        client = await H2Client.to(running)
        number = await client.ask([*CALL, (b"grpc-timeout", b"60S")], HELLO)
        cells = running.counters.stable
        await until(lambda: cells[ROUTED])
        client.h2.reset_stream(number, 8)
        await client.flush()
        await until(lambda: cells[FINISHED])
        assert (cells[counters.CLIENT_CLOSED], cells[FAILED]) == (1, 0)


# Rescue


POSTS = "rescue: {methods: [GET, POST], header: true}\n"


async def test_a_canary_that_is_unavailable_is_rescued() -> None:
    canary = answering(only(GrpcStatus.UNAVAILABLE))
    async with calling(answering(unary()), ALL + POSTS, canary) as running:
        reply = await call(running)
        assert (outcome(reply), reply.body) == (GrpcStatus.OK, HELLO)
        assert reply.head[b"x-canary-rescued"] == b"1"
        cells = running.counters.canary
        assert (cells[RESCUED], cells[FAILED], cells[GRPC + GrpcStatus.UNAVAILABLE]) == (1, 1, 1)
        assert sum(running.counters.stable[GRPC : GRPC + len(GrpcStatus)]) == 0


@pytest.mark.parametrize(
    ("answer", "more"),
    [
        (only(GrpcStatus.UNAVAILABLE), ""),  # POST may not be repeated
        (only(GrpcStatus.INTERNAL), POSTS),  # the canary may have acted
        (only(GrpcStatus.NOT_FOUND), POSTS),
        (unary(GrpcStatus.UNAVAILABLE), POSTS),  # the client has got a message
    ],
)
async def test_what_is_not_rescued(answer: bytes, more: str) -> None:
    canary = answering(answer)
    async with calling(answering(unary()), ALL + more, canary) as running:
        assert outcome(await call(running)) is not GrpcStatus.OK
        assert running.counters.canary[RESCUED] == 0


async def test_nothing_is_rescued_after_the_deadline() -> None:
    async with calling(answering(unary()), ALL + POSTS, silence) as running:
        reply = await call(running, (b"grpc-timeout", b"60m"))
        assert outcome(reply) is GrpcStatus.DEADLINE_EXCEEDED
        assert running.counters.canary[RESCUED] == 0


async def test_a_canary_that_is_down_is_rescued() -> None:
    async with (
        Upstream(answering(unary())).serving() as upstream,
        proxy(variants(upstream.port, free_port(), ALL)) as running,
    ):
        assert outcome(await call(running)) is GrpcStatus.OK
        assert running.counters.canary[RESCUED] == 1


# Streams


async def test_a_stream_is_judged_by_its_first_message_and_by_its_end() -> None:
    async def answer(link: Link) -> None:
        await link.take(b"0\r\n\r\n")
        await link.send(CHUNKED)
        await asyncio.sleep(0.1)
        await link.send(chunk(HELLO))
        await asyncio.sleep(0.02)
        await link.send(chunk(HELLO) + ended(b"13"))

    async with calling(answer) as running:
        reply = await call(running)
        assert (reply.body, outcome(reply)) == (HELLO * 2, GrpcStatus.INTERNAL)
        record = await running.record()
        assert record.first_byte is not None
        assert record.first_byte >= 0.09  # the sleep ends by another clock
        assert (record.flags & 2, record.status) == (2, 500)


async def test_a_stream_follows_its_user_between_two_messages() -> None:
    release = asyncio.Event()

    async def answer(link: Link) -> None:
        await link.take(b"0\r\n\r\n")
        await link.send(CHUNKED + chunk(HELLO))
        await asyncio.sleep(0.02)
        await link.send(chunk(HELLO + HELLO[:3]))  # it is within a message
        await release.wait()
        await link.send(chunk(HELLO[3:] + HELLO))

    more = ALL + "circuit: {close_after: 0ms, spread: 10s}\n"
    async with calling(answering(unary()), more, answer) as running:
        client = await H2Client.to(running)
        number = await client.ask(CALL, HELLO)
        reply = client.replies[number]
        cells = running.counters.canary
        while len(reply.body) < 2 * len(HELLO) + 3:
            await client.read()
        await until(lambda: counters.streams(cells) == 1)
        running.weight(0)
        await until(lambda: counters.leaving(cells) == 1)
        await asyncio.sleep(0.1)
        assert not reply.over
        release.set()
        reply = await client.reply(number)
        assert (reply.body, outcome(reply)) == (HELLO * 3, GrpcStatus.UNAVAILABLE)
        assert (cells[counters.ENDED_CLEANLY], cells[FAILED]) == (1, 0)
        assert counters.streams(cells) == 0
        assert (await client.fetch(CALL, HELLO)).body == HELLO


async def test_a_call_of_one_message_does_not_follow_its_user() -> None:
    more = ALL + "circuit: {close_after: 0ms, spread: 0ms}\n"
    canary = answering(CHUNKED + chunk(HELLO))
    async with calling(answering(unary()), more, canary) as running:
        client = await H2Client.to(running)
        number = await client.ask(CALL, HELLO)
        while not client.replies[number].body:
            await client.read()
        running.weight(0)
        await asyncio.sleep(0.1)
        assert (
            await client.fetch(CALL, HELLO)
        ).body == HELLO  # and the end of the other would be read
        assert not client.replies[number].over
        assert running.counters.canary[counters.STREAMS_OPENED] == 0


# The split


async def test_metadata_can_be_the_sticky_key() -> None:
    more = "split: {weight: 50, sticky: {header: x-user}}\n"
    canary = answering(CHUNKED + chunk(message(b"canary")) + ended(b"0"))
    async with calling(answering(unary()), more, canary) as running:
        seen = {}
        for user in (b"u%d" % number for number in range(8)):
            bodies = {(await call(running, (b"x-user", user))).body for _ in range(2)}
            assert len(bodies) == 1
            seen[user] = bodies.pop()
        assert set(seen.values()) == {HELLO, message(b"canary")}
