"""What each randomised request leaves for the judge, however it ends, and that others leave nothing."""

from __future__ import annotations

import asyncio

import pytest

from canaryproxy.control.record_reader import RecordReader
from canaryproxy.judging.metrics import Record, unpack
from canaryproxy.measure.counters import CLIENT_CLOSED, OUTCOMES, ROUTED, Blind, outcome
from canaryproxy.measure.records import (
    ABANDONED,
    BODILESS,
    BROKEN,
    CLIENT_GONE,
    ENDED,
    EVENT_STREAM,
    FAILED,
    LATE,
    RESCUED,
    STALLED,
    TUNNEL,
    UNREACHED,
    template_of,
    type_code,
)
from canaryproxy.measure.routing import (
    CANARY,
    FINE,
    STABLE,
    RouteTable,
    bucket_of,
    position_of,
    release_tag,
)
from canaryproxy.measure.shared_memory import Block, PrivateMemory
from tests.ports import free_port

from .harness import (
    COOKIE,
    OK,
    Answer,
    Client,
    Link,
    Proxy,
    Upstream,
    always,
    proxy,
    until,
    variants,
)
from .test_tunnels import SWITCH, UPGRADE

KEY = b"0123456789abcdef0123456789abcdef"
HOST = b"Host: h\r\n"
GET = b"GET /users/12?q=1 HTTP/1.1\r\n" + HOST + COOKIE + b"\r\n"
ALL = "split: {weight: 100}\n"
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\r\n"
NO_RESCUE = "rescue: {enabled: false}\n"


async def once(running: Proxy, request: bytes = GET, end: bytes = b"\r\n\r\n") -> Client:
    """Send a request and read its response up to ``end``."""
    client = await running.connect()
    await client.send(request)
    await client.take(end)
    return client


async def recorded(answer: Answer, request: bytes = GET, more: str = "") -> Record:
    """Return the record of one request to stable."""
    async with (
        Upstream(answer).serving() as upstream,
        proxy(variants(upstream.port, more=more)) as running,
    ):
        await once(running, request)
        return await running.record()


def hangs(then: bytes = b"") -> Answer:
    """Take a request and send ``then``, and no more."""

    async def answer(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(then)
        await link.to_end()

    return answer


def ends(data: bytes, *, after: float = 0.0, reset: bool = False) -> Answer:
    """Take a request, send ``data`` and close."""

    async def answer(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(data)
        await asyncio.sleep(after)
        if reset:
            link.reset()
        else:
            link.close()

    return answer


async def test_a_complete_response() -> None:
    head = b"HTTP/1.1 201 Created\r\nContent-Type: application/JSON; charset=utf-8\r\n"
    async with (
        Upstream(always(head + b"Content-Length: 7\r\n\r\n1234567")).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        await once(running, end=b"1234567")
        record = await running.record()
        table = running.service.context.router.table
        names = running.cells.names.since(0)[1]
    position = position_of(b"", KEY)
    assert position // FINE == bucket_of(b"", KEY)
    assert record.first_byte is not None
    assert 0 <= record.first_byte < 10
    assert record._replace(first_byte=None) == Record(
        position, STABLE, table.epoch, 201, type_code(b"application/json"), ENDED,
        template_of(b"GET /users/*"), 0, 0, None, 7,
    )  # fmt: skip
    assert names == {record.template: "GET /users/*"}


async def test_only_the_users_of_a_group_are_drawn_and_compared() -> None:
    more = "split: {weight: 50, match: [{variant: stable, not: {header: {name: X-Plan, equals: beta}}}]}"
    users = [b"user-%d" % n for n in range(40)]
    async with (
        Upstream(always(OK)).serving() as stable,
        Upstream(always(OK)).serving() as canary,
        proxy(variants(stable.port, canary.port, more)) as running,
    ):
        for plan in (b"", b"X-Plan: basic\r\n", b"X-Plan: beta\r\n"):
            for user in users:
                line = b"Cookie: canary_id=%b\r\n" % user
                await once(running, b"GET / HTTP/1.1\r\n" + HOST + line + plan + b"\r\n")
        await running.record()
        found = {one.position: one.variant == CANARY for one in running.records()}
    drawn = {position_of(b"", user): bucket_of(b"", user) < 5000 for user in users}
    assert found == drawn
    assert 0 < sum(drawn.values()) < len(users)
    assert running.counters.canary[ROUTED] == sum(drawn.values())


async def test_the_size_of_a_body_in_chunks() -> None:
    chunks = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"

    async def answer(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(chunks)
        await asyncio.sleep(0.05)
        await link.send(b"4\r\ndefg\r\n0\r\n\r\n")

    record = await recorded(answer)
    assert (record.flags, record.size, record.content_type) == (ENDED, 7, 0)


@pytest.mark.parametrize("status", [500, 503])
async def test_an_error_of_the_upstream(status: int) -> None:
    record = await recorded(always(b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % status))
    assert (record.status, record.flags) == (status, ENDED | FAILED)


async def test_a_status_that_is_configured_as_an_error() -> None:
    metrics = "judge: {metrics: {errors: {statuses: [404]}}}\n"
    answer = always(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")
    record = await recorded(answer, more=metrics)
    assert (record.status, record.flags) == (404, ENDED | FAILED)


async def test_a_refused_connection() -> None:
    async with proxy(variants(free_port())) as running:
        await once(running)
        record = await running.record()
    assert (record.status, record.flags) == (502, ENDED | FAILED | UNREACHED)
    assert record.first_byte is None


async def test_a_connection_that_the_upstream_closes_was_reached() -> None:
    record = await recorded(ends(b""))
    assert (record.status, record.flags) == (502, ENDED | FAILED)


async def test_a_response_that_is_broken_off() -> None:
    record = await recorded(ends(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"))
    assert (record.status, record.flags, record.size) == (200, ENDED | FAILED | BROKEN, 3)


@pytest.mark.parametrize(
    ("canary", "status", "flags"),
    [
        (always(b"HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nno"), 503, 0),
        (ends(b""), 502, 0),
        (None, 502, UNREACHED),
    ],
    ids=["503", "closed", "refused"],
)
async def test_a_rescued_request_is_the_failure_of_the_canary(
    canary: Answer | None, status: int, flags: int
) -> None:
    failing = Upstream(canary or always(OK))
    async with Upstream(always(OK)).serving() as stable, failing.serving() as other:
        port = free_port() if canary is None else other.port
        async with proxy(variants(stable.port, port, ALL)) as running:
            client = await once(running, end=b"ok")
            assert client.got.startswith(b"HTTP/1.1 200 ")
            record = await running.record()
    assert (record.variant, record.status) == (CANARY, status)
    assert record.flags == ENDED | FAILED | RESCUED | flags


@pytest.mark.parametrize(
    ("request_", "answer", "size"),
    [
        (GET.replace(b"GET", b"HEAD"), b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", 0),
        (GET, b"HTTP/1.1 204 No Content\r\n\r\n", 0),
        (GET, b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", 0),
    ],
    ids=["HEAD", "204", "304"],
)
async def test_a_response_without_a_body_by_rule(request_: bytes, answer: bytes, size: int) -> None:
    more = "judge: {outcomes: {small: {when: {body_under: 5}, bad: true}, any: {when: {status: 2xx}}}}\n"
    record = await recorded(always(answer), request_, more)
    assert (record.flags, record.size) == (ENDED | BODILESS, size)
    assert record.trials == 0b10


# The client leaves


async def test_a_client_that_leaves_soon() -> None:
    async with Upstream(hangs()).serving() as upstream, proxy(variants(upstream.port)) as running:
        client = await running.connect()
        await client.send(GET)
        await until(lambda: upstream.got.endswith(b"\r\n\r\n"))
        client.close()
        record = await running.record()
        assert running.counters.stable[CLIENT_CLOSED] == 1
    assert record.flags == ENDED | CLIENT_GONE
    assert (record.status, record.first_byte) == (0, None)


async def test_a_client_that_leaves_after_the_limit() -> None:
    async with Upstream(hangs()).serving() as upstream, proxy(variants(upstream.port)) as running:
        running.limits(0.1, 10.0)
        client = await running.connect()
        await client.send(GET)
        await asyncio.sleep(0.15)
        client.close()
        await until(lambda: running.counters.stable[CLIENT_CLOSED])
        (record,) = running.records()
    assert record.flags == ENDED | CLIENT_GONE | ABANDONED


async def test_a_client_that_leaves_after_the_first_byte_has_not_given_up() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab"
    async with (
        Upstream(hangs(head)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        running.limits(5.0, 10.0)
        client = await once(running, end=b"ab")
        running.limits(0.01, 10.0)
        await asyncio.sleep(0.05)
        client.close()
        record = await running.record()
    assert record.flags == ENDED | CLIENT_GONE
    assert (record.status, record.size) == (200, 2)


async def test_a_client_that_never_sends_its_body_has_not_waited() -> None:
    async with Upstream(hangs()).serving() as upstream, proxy(variants(upstream.port)) as running:
        running.limits(0.05, 10.0)
        client = await running.connect()
        await client.send(b"POST / HTTP/1.1\r\n" + HOST + COOKIE + b"Content-Length: 9\r\n\r\nabc")
        await asyncio.sleep(0.1)
        client.close()
        record = await running.record()
    assert record.flags == ENDED | CLIENT_GONE


# Late and stalled


async def test_a_hang_is_told_before_it_ends() -> None:
    async with Upstream(hangs()).serving() as upstream, proxy(variants(upstream.port)) as running:
        running.limits(0.1, 0.3)
        client = await running.connect()
        await client.send(GET)
        await until(lambda: len(running.records()) == 1)
        assert running.records()[0].flags == LATE
        await until(lambda: len(running.records()) == 2)
        await asyncio.sleep(0.1)
        assert [one.flags for one in running.records()] == [LATE, STALLED]
        client.close()
        record = await running.record()
    assert record.flags == ENDED | LATE | STALLED | CLIENT_GONE | ABANDONED
    assert {one.first_byte for one in running.records()} == {None}


async def test_a_body_that_stalls() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab"

    async def answer(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(head)
        await asyncio.sleep(0.5)
        await link.send(b"c")

    async with Upstream(answer).serving() as upstream, proxy(variants(upstream.port)) as running:
        running.limits(0.4, 0.2)
        client = await once(running, end=b"ab")
        await until(running.records)
        assert running.records()[0].flags == STALLED
        assert running.records()[0].first_byte is not None
        await client.take(b"c")
        record = await running.record()
        assert len(running.records()) == 2
    assert (record.flags, record.size) == (ENDED | STALLED, 3)


# Tunnels and event streams


async def tunnelled(answer: Answer, client_first: bytes | None = None) -> Record:
    """Return the record of a tunnel; the client sends ``client_first`` and leaves, or waits for the end."""
    async with Upstream(answer).serving() as upstream, proxy(variants(upstream.port)) as running:
        client = await once(running, UPGRADE)
        assert not running.records()
        if client_first is None:
            await client.to_end()
        else:
            await client.send(client_first)
            await until(lambda: upstream.got.endswith(client_first))
        client.close()
        return await running.record()


async def test_a_tunnel_that_its_client_closes() -> None:
    record = await tunnelled(hangs(SWITCH), b"hello")
    assert (record.status, record.flags) == (101, ENDED | TUNNEL)
    assert record.first_byte is not None


@pytest.mark.parametrize("reset", [True, False])
async def test_a_tunnel_that_the_upstream_ends_early(reset: bool) -> None:
    record = await tunnelled(ends(SWITCH, after=0.1, reset=reset))
    assert record.flags == ENDED | TUNNEL | BROKEN


async def test_a_websocket_whose_client_says_goodbye_is_not_broken() -> None:
    goodbye = b"\x88\x82\1\2\3\4\5\6"

    async def answer(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(SWITCH)
        await link.take(goodbye)
        await link.send(b"\x88\x02\x03\xe8")
        link.close()

    record = await tunnelled(answer, goodbye)
    assert record.flags == ENDED | TUNNEL


@pytest.mark.parametrize(
    ("answer", "flags"),
    [
        (ends(EVENTS + b"data: 1\n\n", after=0.1), ENDED | TUNNEL | BROKEN),
        (
            ends(
                EVENTS[:-2] + b"Transfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n", after=0.1
            ),
            ENDED | TUNNEL | BROKEN | FAILED,
        ),
    ],
    ids=["short", "broken off"],
)
async def test_an_event_stream_that_the_upstream_ends(answer: Answer, flags: int) -> None:
    record = await recorded(answer)
    assert (record.flags, record.content_type) == (flags, EVENT_STREAM)


async def test_an_event_stream_that_its_client_leaves_and_that_never_stalls() -> None:
    async with (
        Upstream(hangs(EVENTS + b"data: 1\n\n")).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        running.limits(5.0, 0.1)
        client = await once(running, end=b"data: 1\n\n")
        await asyncio.sleep(0.2)
        client.close()
        record = await running.record()
        assert len(running.records()) == 1
    assert record.flags == ENDED | TUNNEL | CLIENT_GONE


# Who was not randomised


def get(fields: bytes = b"") -> bytes:
    return b"GET / HTTP/1.1\r\n" + HOST + fields + b"Connection: close\r\n\r\n"


@pytest.mark.parametrize(
    ("more", "fields", "count"),
    [
        ("", b"", 0),
        ("", b"Cookie: canary_id=alice\r\n", 1),
        ("split: {sticky: {header: x-user}}", b"", 0),
        ("split: {sticky: {header: x-user}}", b"X-User: alice\r\n", 1),
        ("split: {sticky: {address: true}}", b"", 1),
        (
            "split: {match: [{path: {prefix: /}, variant: stable}]}",
            b"Cookie: canary_id=alice\r\n",
            0,
        ),
    ],
    ids=["minted key", "cookie", "keyless", "header", "address", "forced"],
)
async def test_only_randomised_requests_leave_records(more: str, fields: bytes, count: int) -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port, more=more)) as running,
    ):
        for _ in range(2):
            await running.ask(get(fields))
        assert len(running.records()) == 2 * count


async def test_of_new_sessions_only_those_of_this_release_are_compared() -> None:
    more = "split: {weight: 50, admit: new_sessions, salt: r2}"
    tag = b"." + release_tag(b"r2")
    keys = [b"user%d" % number for number in range(40)]
    async with (
        Upstream(always(OK)).serving() as stable,
        Upstream(always(OK)).serving() as canary,
        proxy(variants(stable.port, canary.port, more)) as running,
    ):
        for key in keys:
            await running.ask(get(b"Cookie: canary_id=" + key + b"\r\n"))
            await running.ask(get(b"Cookie: canary_id=" + key + tag + b"\r\n"))
        records = running.records()
    assert [one.position for one in records] == [position_of(b"r2", key + tag) for key in keys]
    assert {one.variant for one in records} == {STABLE, CANARY}
    assert all((one.position < 5000 * FINE) == (one.variant == CANARY) for one in records)


async def test_the_epoch_is_that_of_the_split() -> None:
    async with (
        Upstream(always(OK)).serving() as stable,
        Upstream(always(OK)).serving() as canary,
        proxy(variants(stable.port, canary.port, "split: {weight: 20}")) as running,
    ):
        tables = [RouteTable(20.0), RouteTable(50.0), RouteTable(50.0, circuit_open=True)]
        for table in tables:
            running.service.publish(table)
            await once(running, end=b"ok")
        epochs = [one.epoch for one in running.records()]
    assert epochs == [table.epoch for table in tables]
    assert len({*epochs}) == 3


# Workers


async def test_workers_leave_their_records_side_by_side_and_a_successor_goes_on() -> None:
    memory = PrivateMemory()
    block, other = Block(2, memory), Block(2, memory, side=1)
    reader = RecordReader(
        [worker.records for worker in block.service(0).all_workers],
        [worker.names for worker in block.service(0).all_workers],
    )
    # Two workers, one in the place of the first after its death, and one of a hot restart.
    again = Block(2, memory).service(0)
    cells = [*block.service(0).workers, again.workers[0], other.service(0).workers[1]]
    async with Upstream(always(OK)).serving() as upstream:
        for number, worker in enumerate(cells):
            async with proxy(variants(upstream.port), cells=worker) as running:
                path = b"GET /worker-%c " % (65 + number)
                await once(running, GET.replace(b"GET /users/12?q=1 ", path), end=b"ok")
                await running.record()
    drained = reader.drain()
    names = ["GET /worker-A", "GET /worker-B", "GET /worker-C", "GET /worker-D"]
    templates = {template_of(name.encode()): name for name in names}
    assert not drained.lost
    assert drained.names == templates
    found = [templates[one.template] for one in unpack(drained.records)]
    assert found == [names[0], names[2], names[1], names[3]]
    assert not reader.drain().records


# Outcomes


async def test_outcomes_are_bits_by_slot_and_blind_ones_are_counted() -> None:
    more = (
        "judge: {outcomes: {"
        "a: {when: {regex: wrong}, bad: true}, b: {when: {regex: right}}, c: {when: {status: 5xx}},"
        "d: {match: {method: [POST]}, when: {status: 2xx}}}}\n"
    )
    body = b"this is right"
    record = await recorded(
        always(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)), more=more
    )
    assert (record.trials, record.events) == (0b0111, 0b0010)
    unreadable = always(
        b"HTTP/1.1 200 OK\r\nContent-Encoding: x-unknown\r\nContent-Length: 2\r\n\r\nok"
    )
    async with (
        Upstream(unreadable).serving() as upstream,
        proxy(variants(upstream.port, more=more)) as running,
    ):
        await once(running, end=b"ok")
        record = await running.record()
        cells = running.counters.stable
        assert [outcome(cells, slot).blind[Blind.UNKNOWN_CODING] for slot in range(4)] == [
            1,
            1,
            0,
            0,
        ]
        assert [cells[OUTCOMES + 2 * slot] for slot in range(4)] == [0, 0, 1, 0]
    assert (record.trials, record.events) == (0b0100, 0)
