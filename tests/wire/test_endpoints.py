"""Two endpoints, two variants: who gets a request, who gets it next, and how it is counted."""

from __future__ import annotations

import asyncio
import re
import socket
from collections import Counter

import pytest

from canaryproxy.measure.counters import (
    CLIENT_CLOSED,
    CODES,
    ERRORS,
    FINISHED,
    RESCUED,
    ROUTED,
    Reason,
)
from tests.ports import free_port

from .harness import (
    COOKIE,
    OK,
    Answer,
    Link,
    Proxy,
    Upstream,
    always,
    proxy,
    status_of,
    until,
    variants,
)

HOST = b"Host: h\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST + COOKIE + b"\r\n"
POST = b"POST / HTTP/1.1\r\n" + HOST + COOKIE + b"Content-Length: 4\r\n\r\nbody"
ALL = "split: {weight: 100}\n"


def two(one: int, other: int, more: str = "", balance: str = "least_requests") -> str:
    both = f'["http://127.0.0.1:{one}", "http://127.0.0.1:{other}"]'
    return f"variants: {{stable: {{endpoints: {both}, balance: {balance}}}}}\n{more}"


def named(name: bytes) -> Answer:
    return always(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(name), name))


async def ask(running: Proxy, request: bytes = GET) -> tuple[int, bytes]:
    """Send a request on a new connection; return status and body."""
    client = await running.connect()
    await client.send(request)
    head = await client.take_head()
    size = re.search(rb"\r\nContent-Length: (\d+)", head)
    assert size
    client.got = b""
    while len(client.got) < int(size[1]):
        assert await client.read()
    client.close()
    return status_of(head), client.got


def errors(running: Proxy, variant: int) -> dict[Reason, int]:
    cells = running.counters.variants[variant]
    return {reason: cells[ERRORS + reason] for reason in Reason if cells[ERRORS + reason]}


async def test_two_idle_endpoints_share_the_requests() -> None:
    """Equally idle is a tie: it must not always go to the first, or the second is cold when needed."""
    async with (
        Upstream(named(b"1")).serving() as one,
        Upstream(named(b"2")).serving() as other,
        proxy(two(one.port, other.port)) as running,
    ):
        seen = Counter([(await ask(running))[1] for _ in range(40)])
        assert min(seen[b"1"], seen[b"2"]) >= 5, seen


async def test_requests_at_the_same_time_go_to_both() -> None:
    go = asyncio.Event()

    async def held(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await go.wait()
        await link.send(OK)

    async with (
        Upstream(held).serving() as one,
        Upstream(held).serving() as other,
        proxy(two(one.port, other.port)) as running,
    ):
        clients = [await running.connect() for _ in range(20)]
        for client in clients:
            await client.send(GET)
        await until(lambda: one.got.count(b"GET ") + other.got.count(b"GET ") == 20)
        assert one.got.count(b"GET ") == other.got.count(b"GET ") == 10
        go.set()
        for client in clients:
            await client.take(b"ok")
        assert [e.active for e in running.service.context.pools[0].endpoints] == [0, 0]


@pytest.mark.parametrize("request_", [GET, POST], ids=["GET", "POST"])
async def test_what_was_not_sent_goes_to_the_other_endpoint(request_: bytes) -> None:
    async with (
        Upstream(named(b"alive")).serving() as alive,
        proxy(two(free_port(), alive.port)) as running,
    ):
        for _ in range(6):
            assert await ask(running, request_) == (200, b"alive")
        found = errors(running, 0)
        assert found.keys() <= {Reason.CONNECT_REFUSED}
        assert found.get(Reason.CONNECT_REFUSED, 0) <= 3  # then it is ejected
        cells = running.counters.stable
        assert cells[CODES + 200] == cells[FINISHED] == 6


async def test_a_get_that_was_reset_goes_to_the_other_endpoint_a_post_does_not() -> None:
    async def reset(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        link.reset()

    # By hash, so that it is known who is asked first.
    async with (
        Upstream(reset).serving() as broken,
        Upstream(named(b"alive")).serving() as alive,
        proxy(two(broken.port, alive.port, balance="hash")) as running,
    ):
        chosen = [
            user
            for user in (b"u%d" % n for n in range(20))
            if running.service.context.pools[0].choose(user)
            is running.service.context.pools[0].endpoints[0]
        ]
        assert chosen
        cookie = b"Cookie: canary_id=%b\r\n" % chosen[0]
        assert await ask(running, GET.replace(COOKIE, cookie)) == (200, b"alive")
        status, body = await ask(running, POST.replace(COOKIE, cookie))
        assert status == 502
        assert b"upstream closed the connection without a response" in body
        assert alive.got.count(b"POST ") == 0
        assert broken.got.count(b"POST ") == 1


async def silent(link: Link) -> None:
    await link.to_end()


async def no_http(link: Link) -> None:
    await link.take(b"\r\n\r\n")
    await link.send(b"220 mail.example ESMTP\r\n")
    await link.to_end()


@pytest.mark.parametrize(
    ("bad", "reason", "status"),
    [(silent, Reason.FIRST_BYTE_TIMEOUT, 504), (no_http, Reason.BROKEN_ANSWER, 502)],
)
async def test_a_get_without_an_answer_goes_to_the_other_endpoint_a_post_does_not(
    bad: Answer, reason: Reason, status: int
) -> None:
    more = "limits: {first_byte_timeout: 200ms}"
    async with (
        Upstream(bad).serving() as broken,
        Upstream(named(b"alive")).serving() as alive,
        proxy(two(broken.port, alive.port, more, balance="hash")) as running,
    ):
        first = running.service.context.pools[0].endpoints[0]
        users = (b"u%d" % n for n in range(100))
        chosen = next(one for one in users if running.service.context.pools[0].choose(one) is first)
        cookie = b"Cookie: canary_id=%b\r\n" % chosen
        for _ in range(4):  # its connections are taken: it is not put out
            assert await ask(running, GET.replace(COOKIE, cookie)) == (200, b"alive")
        assert (await ask(running, POST.replace(COOKIE, cookie)))[0] == status
        assert alive.got.count(b"POST ") == 0
        assert errors(running, 0) == {reason: 5}
        cells = running.counters.stable
        assert (cells[CODES + 200], cells[CODES + status], cells[FINISHED]) == (4, 1, 5)
        assert [one.active for one in running.service.context.pools[0].endpoints] == [0, 0]


async def test_when_all_are_slow_only_one_more_is_asked() -> None:
    async with (
        Upstream(silent).serving() as one,
        Upstream(silent).serving() as other,
        Upstream(silent).serving() as three,
        proxy(
            "variants: {stable: {endpoints: ["
            + ", ".join(f'"http://127.0.0.1:{each.port}"' for each in (one, other, three))
            + "]}}\nlimits: {first_byte_timeout: 200ms}"
        ) as running,
    ):
        assert (await ask(running))[0] == 504
        assert sum(each.got.count(b"GET ") for each in (one, other, three)) == 2
        assert errors(running, 0) == {Reason.FIRST_BYTE_TIMEOUT: 2}


async def test_hashed_users_of_a_lost_endpoint_move_and_come_back_and_others_stay() -> None:
    users = [b"user-%d" % n for n in range(30)]

    async def sides(running: Proxy) -> dict[bytes, bytes]:
        found = {}
        for user in users:
            status, body = await ask(
                running, GET.replace(COOKIE, b"Cookie: canary_id=%b\r\n" % user)
            )
            assert status == 200
            found[user] = body
        return found

    async with Upstream(named(b"one")).serving() as one:
        port = free_port()
        async with proxy(two(one.port, port, balance="hash")) as running:
            async with Upstream(named(b"two")).serving(port):
                before = await sides(running)
                assert set(before.values()) == {b"one", b"two"}
            assert set((await sides(running)).values()) == {b"one"}
            lost = running.service.context.pools[0].endpoints[1]
            await until(lambda: lost.ejected)
            async with Upstream(named(b"two")).serving(port):
                await until(lambda: not lost.ejected, "readmission")
                assert await sides(running) == before


async def test_a_canary_that_comes_back_gets_its_users_again() -> None:
    port = free_port()
    async with (
        Upstream(named(b"stable")).serving() as stable,
        proxy(variants(stable.port, port, ALL)) as running,
    ):
        for _ in range(5):
            assert await ask(running) == (200, b"stable")
        canary = running.service.context.pools[1].endpoints[0]
        assert canary.ejected
        async with Upstream(named(b"canary")).serving(port) as upstream:
            await until(lambda: not canary.ejected, "readmission")
            assert await ask(running) == (200, b"canary")
            # No request was spent on finding out.
            assert upstream.got.count(b"GET ") == 1
        cells = running.counters.canary
        assert cells[RESCUED] == 5
        assert cells[CODES + 200] == 1
        assert errors(running, 1) == {Reason.CONNECT_REFUSED: 3, Reason.NO_ENDPOINT: 2}


async def test_an_endpoint_without_a_free_connection_hands_over_to_stable() -> None:
    """The canary's overflow is its failure: counted, and stable answers."""

    all_others_are_served = asyncio.Event()

    async def keep_the_connection(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n")
        await all_others_are_served.wait()
        await link.send(b"canary")

    more = ALL + "limits: {max_endpoint_connections: 1, max_requests: 1000, first_byte_timeout: 2s}"
    async with (
        Upstream(named(b"stable")).serving() as stable,
        Upstream(keep_the_connection).serving() as canary,
        proxy(variants(stable.port, canary.port, more)) as running,
    ):
        first, *others = [await running.connect() for _ in range(4)]
        await first.send(GET)
        await first.take(b"\r\n\r\n")
        for client in others:
            await client.send(GET)
        for client in others:
            await client.take(b"stable")
        assert running.counters.canary[CODES + 504] == 3
        assert running.counters.canary[RESCUED] == 3
        assert canary.got.count(b"GET ") == 1
        all_others_are_served.set()
        await first.take(b"canary")


# Rescue, in full


async def canary_503_with_a_body_that_never_ends(link: Link) -> None:
    await link.take(b"\r\n\r\n")
    await link.send(b"HTTP/1.1 503 X\r\nContent-Length: 100000\r\n\r\nabc")
    await link.to_end()


async def canary_503_in_chunks(link: Link) -> None:
    await link.take(b"\r\n\r\n")
    await link.send(b"HTTP/1.1 503 X\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
    await link.to_end()


async def canary_103_then_dies(link: Link) -> None:
    await link.take(b"\r\n\r\n")
    await link.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
    link.reset()


async def canary_half_a_head(link: Link) -> None:
    await link.take(b"\r\n\r\n")
    await link.send(b"HTTP/1.1 200 OK\r\nContent-Le")
    link.close()


async def canary_without_a_word(link: Link) -> None:
    link.close()


@pytest.mark.parametrize(
    ("canary", "code"),
    [
        (canary_503_with_a_body_that_never_ends, 503),
        (canary_503_in_chunks, 503),
        (canary_103_then_dies, 502),
        (canary_half_a_head, 502),
        (canary_without_a_word, 502),
    ],
)
async def test_a_canary_that_fails_in_odd_ways_is_rescued(canary: Answer, code: int) -> None:
    async with (
        Upstream(named(b"stable")).serving() as stable,
        Upstream(canary).serving() as broken,
        proxy(variants(stable.port, broken.port, ALL)) as running,
    ):
        client = await running.connect()
        for count in (1, 2):  # the client's connection is kept
            await client.send(GET)
            await client.take(b"stable", count)
        assert b"X-Canary-Rescued" not in client.got
        cells = running.counters.canary
        assert cells[CODES + code] == cells[RESCUED] == cells[ROUTED] == cells[FINISHED] == 2
        assert running.counters.stable[ROUTED] == 0
        await until(lambda: all(link.closed for link in broken.links))


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"])
async def test_idempotent_methods_are_rescued(method: bytes) -> None:
    head_only = b"HTTP/1.1 200 OK\r\nX-From: stable\r\nContent-Length: 0\r\n\r\n"
    async with (
        Upstream(always(head_only)).serving() as stable,
        Upstream(always(b"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n")).serving() as canary,
        proxy(variants(stable.port, canary.port, ALL)) as running,
    ):
        client = await running.connect()
        await client.send(method + b" / HTTP/1.1\r\n" + HOST + COOKIE + b"\r\n")
        await client.take(b"\r\n\r\n")
        assert b"\r\nX-From: stable\r\n" in client.got
        assert stable.got == canary.got


@pytest.mark.parametrize("method", [b"POST", b"PATCH"])
async def test_other_methods_are_not_once_they_were_sent(method: bytes) -> None:
    async with (
        Upstream(always(OK)).serving() as stable,
        Upstream(always(b"HTTP/1.1 503 X\r\nContent-Length: 6\r\n\r\ncanary")).serving() as canary,
        proxy(variants(stable.port, canary.port, ALL)) as running,
    ):
        request = method + b" / HTTP/1.1\r\n" + HOST + COOKIE + b"Content-Length: 0\r\n\r\n"
        assert await ask(running, request) == (503, b"canary")
        assert stable.links == []
        assert running.counters.canary[RESCUED] == 0


async def test_an_upload_under_way_goes_on_to_stable() -> None:
    """The canary fails after half of a body: stable gets it from the beginning, and the other half."""

    async def canary(link: Link) -> None:
        await link.take(b"first")
        link.reset()

    async def stable(link: Link) -> None:
        await link.take(b"firstsecond")
        await link.send(OK)

    async with (
        Upstream(stable).serving() as one,
        Upstream(canary).serving() as two_,
        proxy(variants(one.port, two_.port, ALL)) as running,
    ):
        client = await running.connect()
        await client.send(
            b"PUT / HTTP/1.1\r\n" + HOST + COOKIE + b"Content-Length: 11\r\n\r\nfirst"
        )
        await until(lambda: one.got.endswith(b"first"))
        await client.send(b"second")
        await client.take(b"ok")
        assert one.got.endswith(b"\r\n\r\nfirstsecond")
        assert running.counters.canary[RESCUED] == 1


@pytest.mark.parametrize(("size", "expected"), [(1024, 200), (1025, 502)])
async def test_the_replay_buffer_is_exact(size: int, expected: int) -> None:
    async def canary(link: Link) -> None:
        await link.take(b"x" * size)
        link.reset()

    more = ALL + "rescue: {replay_buffer: 1KiB}"
    async with (
        Upstream(always(OK)).serving() as stable,
        Upstream(canary).serving() as broken,
        proxy(variants(stable.port, broken.port, more)) as running,
    ):
        request = b"PUT / HTTP/1.1\r\n" + HOST + COOKIE + b"Content-Length: %d\r\n\r\n" % size
        status, _ = await ask(running, request + b"x" * size)
        assert status == expected


async def test_a_failure_after_the_answer_began_is_not_rescued() -> None:
    async def canary(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
        link.close()

    async with (
        Upstream(always(OK)).serving() as stable,
        Upstream(canary).serving() as broken,
        proxy(variants(stable.port, broken.port, ALL)) as running,
    ):
        assert (await running.ask(GET)).endswith(b"\r\n\r\nabc")
        assert stable.links == []
        assert running.counters.canary[CODES + 502] == 1
        assert running.counters.canary[RESCUED] == 0


async def test_without_a_canary_a_rule_for_it_means_stable() -> None:
    more = 'split: {match: [{variant: canary, header: {name: X-Beta, equals: "yes"}}]}'
    async with (
        Upstream(named(b"stable")).serving() as stable,
        proxy(variants(stable.port, more=more)) as running,
    ):
        request = b"GET / HTTP/1.1\r\n" + HOST + COOKIE + b"X-Beta: yes\r\n\r\n"
        assert await ask(running, request) == (200, b"stable")


# Stale connections and clients that go away


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (GET, 200),
        (b"PUT / HTTP/1.1\r\n" + HOST + COOKIE + b"Content-Length: 4\r\n\r\nbody", 200),
        (
            b"PUT / HTTP/1.1\r\n" + HOST + COOKIE
            + b"Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
            200,
        ),
        (POST, 502),
    ],
    ids=["GET", "PUT", "PUT chunked", "POST"],
)  # fmt: skip
async def test_a_stale_connection_is_tried_once_more_with_the_whole_request(
    request_: bytes, expected: int
) -> None:
    links = 0

    async def stale(link: Link) -> None:
        nonlocal links
        links += 1
        if links > 1:
            await always(OK)(link)
            return
        await link.take(b"\r\n\r\n")
        await link.send(OK)
        await link.take(b"\r\n\r\n", 2)
        link.reset()

    async with Upstream(stale).serving() as upstream, proxy(variants(upstream.port)) as running:
        assert await ask(running) == (200, b"ok")
        status, _ = await ask(running, request_)
        assert status == expected
        if expected == 200:
            assert upstream.links[1].got == upstream.links[0].got[-len(upstream.links[1].got) :]
            assert errors(running, 0) == {}
        else:
            assert upstream.got.count(b"POST ") == 1
            assert errors(running, 0) == {Reason.RESET: 1}


async def test_a_connection_closed_while_idle_is_not_used_at_all() -> None:
    async def once(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(OK)
        link.close()

    async with Upstream(once).serving() as upstream, proxy(variants(upstream.port)) as running:
        for count in range(1, 4):
            assert await ask(running) == (200, b"ok")
            await until(lambda: not running.service.context.pools[0].endpoints[0].idle)
            assert len(upstream.links) == count
        assert (await ask(running, POST))[0] == 200
        assert running.service.context.pools[0].endpoints[0].open <= 1


async def test_idle_connections_are_closed_in_time() -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port, more="limits: {endpoint_idle_timeout: 100ms}")) as running,
    ):
        await ask(running)
        await until(lambda: upstream.links[0].closed)
        assert running.service.context.pools[0].endpoints[0].open == 0
        assert (await ask(running))[0] == 200


async def test_a_client_that_goes_away_while_connecting() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            more = "limits: {connect_timeout: 300ms}"
            async with proxy(variants(port, more=more)) as running:
                client = await running.connect()
                await client.send(GET)
                await until(lambda: running.context.in_flight == 1)
                client.reset()
                await until(lambda: running.context.in_flight == 0)
                cells = running.counters.stable
                assert cells[CLIENT_CLOSED] == cells[FINISHED] == 1
                endpoint = running.service.context.pools[0].endpoints[0]
                await until(lambda: endpoint.open == 0)
                assert endpoint.active == 0


@pytest.mark.parametrize("how", ["close", "reset", "half"])
async def test_a_client_that_goes_away_in_the_middle_of_an_answer(how: str) -> None:
    async def endless(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\n<begin>\r\n")
        while True:
            await link.send(b"1\r\nb\r\n")
            await asyncio.sleep(0.005)

    async with (
        Upstream(named(b"stable")).serving() as stable,
        Upstream(endless).serving() as canary,
        proxy(variants(stable.port, canary.port, ALL)) as running,
    ):
        client = await running.connect()
        await client.send(GET)
        await client.take(b"<begin>")
        {"close": client.close, "reset": client.reset, "half": client.send_eof}[how]()
        cells = running.counters.canary
        await until(lambda: cells[FINISHED] == 1)
        assert cells[CLIENT_CLOSED] == 1
        assert sum(cells[CODES : CODES + 1000]) == 0
        assert errors(running, 1) == {}
        assert stable.links == []
        await until(lambda: not running.context.connections)
        assert running.context.in_flight == 0


async def test_counts_add_up_after_a_mixed_load() -> None:
    """routed = finished + in flight; finished = codes + client_closed; nobody holds a connection."""

    async def moody(link: Link) -> None:
        answered = 0
        while True:
            await link.take(b"\r\n\r\n", answered + 1)
            answered += 1
            request = link.got.split(b"\r\n\r\n")[answered - 1]
            if b"/reset" in request:
                link.reset()
                return
            if b"/503" in request:
                await link.send(b"HTTP/1.1 503 X\r\nContent-Length: 1\r\n\r\nx")
            else:
                await link.send(OK)

    async with (
        Upstream(moody).serving() as stable,
        Upstream(moody).serving() as canary,
        proxy(variants(stable.port, canary.port, "split: {weight: 50}")) as running,
    ):

        async def user(number: int) -> None:
            client = await running.connect()
            for turn in range(10):
                target = (b"/", b"/reset", b"/503", b"/gone")[(number + turn) % 4]
                await client.send(
                    b"GET " + target + b" HTTP/1.1\r\n" + HOST
                    + b"Cookie: canary_id=u%d\r\n\r\n" % number
                )  # fmt: skip
                if target == b"/gone":
                    client.reset()
                    client = await running.connect()
                else:
                    head = await client.take_head()
                    size = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
                    client.got = b""
                    while len(client.got) < size:
                        assert await client.read()
            client.close()

        await asyncio.gather(*(user(number) for number in range(40)))
        await until(lambda: not running.context.connections)
        routed = 0
        for cells in running.counters.variants:
            assert cells[ROUTED] == cells[FINISHED]
            assert cells[FINISHED] == sum(cells[CODES : CODES + 1000]) + cells[CLIENT_CLOSED]
            routed += cells[ROUTED]
        assert 300 <= routed <= 400  # a reset may come before its request is read
        assert running.context.in_flight == 0
        for pool in running.service.context.pools:
            assert [endpoint.active for endpoint in pool.endpoints] == [0]
