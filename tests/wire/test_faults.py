"""What goes wrong on either side: rescue, another endpoint, timeouts, limits, and how each is counted."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from canaryproxy.measure.counters import (
    CLIENT_CLOSED,
    CODES,
    CONNECTIONS_REFUSED,
    ERRORS,
    FINISHED,
    REFUSED,
    RESCUED,
    ROUTED,
    Reason,
)
from canaryproxy.measure.shared_memory import CHECK, OUTLIER
from tests.ports import free_port

from .harness import (
    COOKIE,
    OK,
    VIA,
    Answer,
    Link,
    Proxy,
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
ALL = "split: {weight: 100}\n"
STABLE_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstable"


def errors(running: Proxy, variant: str, reason: Reason) -> int:
    cells = running.counters.canary if variant == "canary" else running.counters.stable
    return cells[ERRORS + reason]


async def once(running: Proxy, request: bytes = GET) -> bytes:
    """Send a request and return its (small) answer."""
    client = await running.connect()
    await client.send(request)
    head = (await client.take(b"\r\n\r\n")).partition(b"\r\n\r\n")[0]
    for line in head.split(b"\r\n"):
        if line.startswith(b"Content-Length: "):
            while len(client.got) < len(head) + 4 + int(line[16:]):
                await client.read()
    return client.got


async def reset_unanswered(link: Link) -> None:
    await link.take(b"\r\n\r\n")
    link.reset()


async def close_unanswered(link: Link) -> None:
    await link.take(b"\r\n\r\n")
    link.close()


async def silence(link: Link) -> None:
    await link.to_end()


def status(code: bytes) -> Answer:
    return always(b"HTTP/1.1 " + code + b" X\r\nContent-Length: 1\r\n\r\nx")


# The proxy's own errors


@pytest.mark.parametrize(
    ("answer", "expected", "reason"),
    [
        (reset_unanswered, 502, Reason.RESET),
        (close_unanswered, 502, Reason.RESET),
        (silence, 504, Reason.FIRST_BYTE_TIMEOUT),
        (always(b"HTTP/1.1 200 OK\r\nA: b\x01c\r\n\r\n"), 502, Reason.BROKEN_ANSWER),
        (always(b"HTTP/1.1 200 OK\r\nA: b\nContent-Length: 0\r\n\r\n"), 502, Reason.BROKEN_ANSWER),
        (always(b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n"), 502, Reason.BROKEN_ANSWER),
        (always(b"HTTP/2 200 OK\r\n\r\n"), 502, Reason.BROKEN_ANSWER),
        (always(b"HTTP/1.1 2000 OK\r\n\r\n"), 502, Reason.BROKEN_ANSWER),
        (always(b"hello\r\n\r\n"), 502, Reason.BROKEN_ANSWER),
        (always(b"SSH-2.0-OpenSSH_9.2\r\n"), 502, Reason.BROKEN_ANSWER),
        (always(b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok"), 502, Reason.BROKEN_ANSWER),
        (always(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"), 502, Reason.BROKEN_ANSWER),
        (
            always(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
            502,
            Reason.BROKEN_ANSWER,
        ),
        (
            always(
                b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            ),
            502,
            Reason.BROKEN_ANSWER,
        ),
        (always(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n"), 502, Reason.BROKEN_ANSWER),
        (
            always(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
            502,
            Reason.BROKEN_ANSWER,
        ),
        (
            always(b"HTTP/1.1 200 OK\r\n" + b"A: " + b"x" * 70000 + b"\r\n\r\n"),
            502,
            Reason.BROKEN_ANSWER,
        ),
    ],
)
async def test_an_upstream_that_fails_is_named_and_counted(
    answer: Answer, expected: int, reason: Reason
) -> None:
    # Only the silent one is to be waited out: the others may be slow on a busy machine.
    more = "limits: {first_byte_timeout: 100ms}" if answer is silence else ""
    async with (
        Upstream(answer).serving() as upstream,
        proxy(variants(upstream.port, more=more)) as running,
    ):
        got = await once(running)
        assert status_of(got) == expected
        head, _, body = got.partition(b"\r\n\r\n")
        assert b"\r\nContent-Type: text/plain" in head
        assert b"\r\nX-Canaryproxy-Reason: " + reason.label.encode() in head
        request_id = head.partition(b"X-Request-Id: ")[2].partition(b"\r\n")[0]
        assert len(request_id) == 16
        assert b"Request ID: " + request_id in body
        assert errors(running, "stable", reason) == 1
        assert running.counters.stable[CODES + expected] == 1
        assert running.counters.stable[FINISHED] == running.counters.stable[ROUTED] == 1


async def test_a_refused_connection_is_502_and_the_clients_connection_is_kept() -> None:
    async with proxy(variants(free_port())) as running:
        client = await running.connect()
        for count in (1, 2):
            await client.send(GET)
            await client.take(b"Request ID", count)
        assert status_of(client.got) == 502
        assert errors(running, "stable", Reason.CONNECT_REFUSED) == 2


async def test_a_name_that_does_not_resolve_is_502(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    resolve = loop.getaddrinfo

    async def unknown(host: str, port: int, **more: Any) -> Any:
        if host == "does-not-exist.invalid":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return await resolve(host, port, **more)

    # A machine's own resolver may need longer for its "no" than a connection may take.
    monkeypatch.setattr(loop, "getaddrinfo", unknown)
    text = 'variants: {stable: {endpoints: ["http://does-not-exist.invalid:80"]}}'
    async with proxy(text) as running:
        assert status_of(await once(running)) == 502
        assert errors(running, "stable", Reason.DNS) == 1


async def test_a_connection_that_is_not_accepted_is_504() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):  # the queue's one place
            more = "limits: {connect_timeout: 100ms}"
            async with proxy(variants(port, more=more)) as running:
                assert status_of(await once(running)) == 504
                assert errors(running, "stable", Reason.CONNECT_TIMEOUT) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ],
)
async def test_an_answer_that_breaks_off_cannot_be_taken_for_complete(answer: bytes) -> None:
    async def run(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(answer)
        link.close()

    async with Upstream(run).serving() as upstream, proxy(variants(upstream.port)) as running:
        got = await running.ask(GET)
        assert b"0\r\n\r\n" not in got
        if b"Length" in answer:
            assert got.endswith(b"\r\n\r\nabc")
        assert running.counters.stable[CODES + 502] == 1
        assert running.counters.stable[CODES + 200] == 0


async def test_an_answer_that_stalls_ends_and_counts_as_504() -> None:
    async def run(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
        await link.to_end()

    more = "limits: {body_timeout: 100ms}"
    async with (
        Upstream(run).serving() as upstream,
        proxy(variants(upstream.port, more=more)) as running,
    ):
        assert (await running.ask(GET)).endswith(b"abc")
        assert running.counters.stable[CODES + 504] == 1
        assert errors(running, "stable", Reason.BODY_TIMEOUT) == 1


# Rescue


@pytest.mark.parametrize(
    ("canary", "code"),
    [
        (reset_unanswered, 502),
        (silence, 504),
        (status(b"502"), 502),
        (status(b"503"), 503),
        (status(b"504"), 504),
        (always(b"nonsense\r\n\r\n"), 502),
    ],
)
async def test_what_fails_on_the_canary_is_answered_by_stable(canary: Answer, code: int) -> None:
    more = ALL + "limits: {first_byte_timeout: 100ms}\nrescue: {header: true}"
    async with (
        Upstream(always(STABLE_OK)).serving() as stable,
        Upstream(canary).serving() as broken,
        proxy(variants(stable.port, broken.port, more)) as running,
    ):
        got = await once(running)
        assert undated(got) == (
            b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nCache-Control: private\r\n"
            + VIA
            + b"X-Canary-Rescued: 1\r\n\r\nstable"
        )
        cells = running.counters.canary
        assert cells[CODES + code] == cells[FINISHED] == cells[ROUTED] == cells[RESCUED] == 1
        assert running.counters.stable[ROUTED] == 0
        assert stable.got == broken.got


async def test_a_canary_that_refuses_connections_is_rescued_even_for_post() -> None:
    async with (
        Upstream(always(STABLE_OK)).serving() as stable,
        proxy(variants(stable.port, free_port(), ALL)) as running,
    ):
        request = b"POST / HTTP/1.1\r\n" + HOST + COOKIE + b"Content-Length: 4\r\n\r\nbody"
        for _ in range(5):  # the last ones find it ejected
            assert (await once(running, request)).endswith(b"stable")
        assert stable.got.count(b"\r\n\r\nbody") == 5
        cells = running.counters.canary
        assert cells[RESCUED] == cells[ROUTED] == 5
        assert cells[CODES + 502] + cells[CODES + 503] == 5
        assert errors(running, "canary", Reason.CONNECT_REFUSED) == 3
        assert errors(running, "canary", Reason.NO_ENDPOINT) == 2


async def test_stable_answers_no_request_of_an_irreversible_canary() -> None:
    release = "release: {id: r1, reversible: false, steps: [{weight: 100}]}\n"
    async with (
        Upstream(always(STABLE_OK)).serving() as stable,
        proxy(variants(stable.port, free_port(), release)) as running,
    ):
        running.weight(100)
        for _ in range(5):  # the last ones find it ejected
            response = await once(running, b"GET / HTTP/1.1\r\n" + HOST + COOKIE + b"\r\n")
            assert status_of(response) in (502, 503)
        assert stable.got == b""
        cells = running.counters.canary
        assert (cells[RESCUED], cells[ROUTED]) == (0, 5)
        assert errors(running, "canary", Reason.NO_ENDPOINT) == 2


async def test_a_body_is_sent_again_if_it_was_small_enough_to_keep() -> None:
    async def broken(link: Link) -> None:
        await link.take(b"end")
        link.reset()

    more = ALL + "rescue: {replay_buffer: 1KiB}"
    async with (
        Upstream(always(STABLE_OK)).serving() as stable,
        Upstream(broken).serving() as canary,
        proxy(variants(stable.port, canary.port, more)) as running,
    ):
        for size, expected in ((500, 200), (5000, 502)):
            body = b"x" * size + b"end"
            head = b"PUT / HTTP/1.1\r\n" + HOST + COOKIE + b"Content-Length: %d\r\n\r\n" % len(body)
            assert status_of(await once(running, head + body)) == expected
        chunked = b"PUT / HTTP/1.1\r\n" + HOST + COOKIE + b"Transfer-Encoding: chunked\r\n\r\n"
        assert status_of(await once(running, chunked + b"3\r\nend\r\n0\r\n\r\n")) == 200
        assert stable.got.endswith(b"3\r\nend\r\n0\r\n\r\n")
        assert running.counters.canary[RESCUED] == 2


async def test_a_post_that_was_sent_is_not_repeated() -> None:
    async with (
        Upstream(always(STABLE_OK)).serving() as stable,
        Upstream(reset_unanswered).serving() as canary,
        proxy(variants(stable.port, canary.port, ALL)) as running,
    ):
        got = await once(
            running, b"POST / HTTP/1.1\r\n" + HOST + COOKIE + b"Content-Length: 0\r\n\r\n"
        )
        assert status_of(got) == 502
        assert stable.got == b""


async def test_other_errors_of_the_canary_are_its_own_answers() -> None:
    async with (
        Upstream(always(STABLE_OK)).serving() as stable,
        Upstream(status(b"500")).serving() as canary,
        proxy(variants(stable.port, canary.port, ALL)) as running,
    ):
        assert status_of(await once(running)) == 500
        assert running.counters.canary[CODES + 500] == 1


async def test_without_rescue_the_user_gets_the_canarys_failure() -> None:
    more = ALL + "rescue: {enabled: false}"
    async with (
        Upstream(always(STABLE_OK)).serving() as stable,
        Upstream(status(b"503")).serving() as canary,
        proxy(variants(stable.port, canary.port, more)) as running,
    ):
        assert status_of(await once(running)) == 503
        assert running.counters.canary[RESCUED] == 0


async def test_a_rescue_that_fails_too_is_told_to_the_client() -> None:
    async with proxy(variants(free_port(), free_port(), ALL)) as running:
        assert status_of(await once(running)) == 502
        assert running.counters.canary[RESCUED] == 0
        assert running.counters.canary[FINISHED] == 1
        assert errors(running, "stable", Reason.CONNECT_REFUSED) == 1


async def test_a_stable_that_is_down_is_tried_all_the_same_and_answers_as_soon_as_it_can() -> None:
    port = free_port()
    async with proxy(variants(port)) as running:
        answers = [await once(running) for _ in range(5)]
        assert [status_of(answer) for answer in answers] == [502] * 5
        assert b"X-Canaryproxy-Reason: connect_refused" in answers[4]
        assert running.service.context.pools[0].endpoints[0].ejected
        async with Upstream(always(OK)).serving(port):
            assert status_of(await once(running)) == 200, "no probe is waited for"
            assert not running.service.context.pools[0].endpoints[0].ejected


async def test_while_an_ejected_stable_is_tried_others_get_503_with_retry_after() -> None:
    async with proxy(variants(free_port())) as running:
        endpoint = running.service.context.pools[0].endpoints[0]
        for _ in range(3):
            await once(running)
        assert endpoint.ejected
        endpoint._tasks.add(asyncio.current_task())  # type: ignore[arg-type] # a connection that hangs
        try:
            answer = await once(running)
        finally:
            endpoint._tasks.clear()
        assert status_of(answer) == 503
        assert b"\r\nRetry-After: 1\r\n" in answer
        assert b"X-Canaryproxy-Reason: no_endpoint" in answer


async def test_requests_of_an_ejected_canary_and_stable_are_tried_on_both() -> None:
    port = free_port()
    async with proxy(variants(free_port(), port, ALL)) as running:
        for _ in range(4):
            assert status_of(await once(running)) == 502
        assert all(pool.panic for pool in running.service.context.pools)
        async with Upstream(always(OK)).serving(port):
            assert status_of(await once(running)) == 200
        assert not running.service.context.pools[1].panic


async def test_an_endpoint_that_is_out_gets_no_requests_and_all_of_them_do_if_none_is_left() -> (
    None
):
    async with Upstream(always(OK)).serving() as one, Upstream(always(OK)).serving() as other:
        both = f'["http://127.0.0.1:{one.port}", "http://127.0.0.1:{other.port}"]'
        async with proxy(f"variants: {{stable: {{endpoints: {both}}}}}") as running:
            first, second = running.service.context.pools[0].endpoints
            running.service.take_out({(0, first.identity): CHECK})
            for _ in range(10):
                assert status_of(await once(running)) == 200
            assert (one.got.count(b"GET "), other.got.count(b"GET ")) == (0, 10)
            running.service.take_out({(0, e.identity): CHECK for e in (first, second)})
            for _ in range(10):
                assert status_of(await once(running)) == 200
            assert one.got.count(b"GET ") > 0
            running.service.take_out({(0, second.identity): OUTLIER})
            before = other.got.count(b"GET ")
            for _ in range(10):
                assert status_of(await once(running)) == 200
            assert other.got.count(b"GET ") == before


# Endpoints


async def test_a_dead_endpoint_is_passed_over_ejected_and_taken_back() -> None:
    port = free_port()
    async with Upstream(always(OK)).serving() as alive:
        both = f'["http://127.0.0.1:{port}", "http://127.0.0.1:{alive.port}"]'
        async with proxy(f"variants: {{stable: {{endpoints: {both}}}}}") as running:
            for _ in range(10):
                assert status_of(await once(running)) == 200
            dead = running.service.context.pools[0].endpoints[0]
            assert dead.ejected
            assert running.service.context.pools[0].usable == (
                running.service.context.pools[0].endpoints[1],
            )
            async with Upstream(always(OK)).serving(port):
                await until(lambda: not dead.ejected, "readmission")
                assert status_of(await once(running)) == 200


async def test_hashing_keeps_a_user_on_an_endpoint() -> None:
    async with Upstream(always(OK)).serving() as one, Upstream(always(OK)).serving() as two:
        both = f'["http://127.0.0.1:{one.port}", "http://127.0.0.1:{two.port}"]'
        async with proxy(f"variants: {{stable: {{endpoints: {both}, balance: hash}}}}") as running:
            for user in range(20):
                request = (
                    b"GET /%d HTTP/1.1\r\n" % user + HOST + b"Cookie: canary_id=u%d\r\n\r\n" % user
                )
                for _ in range(3):
                    await once(running, request)
                assert sorted([one.got.count(b"/%d " % user), two.got.count(b"/%d " % user)]) == [
                    0,
                    3,
                ]
            assert one.links
            assert two.links


async def test_the_endpoint_with_fewer_requests_gets_the_next() -> None:
    async with Upstream(silence).serving() as busy, Upstream(always(OK)).serving() as free:
        both = f'["http://127.0.0.1:{busy.port}", "http://127.0.0.1:{free.port}"]'
        async with proxy(f"variants: {{stable: {{endpoints: {both}}}}}") as running:
            responding = running.service.context.pools[0].endpoints[1]
            turns = 0
            while not busy.got:
                turns += 1
                client = await running.connect()
                await client.send(GET)
                await until(lambda: busy.got or free.got.count(b"GET ") == turns)  # noqa: B023
                await until(lambda: not responding.active)
            assert turns <= 3  # among equals each gets its turn
            for _ in range(5):
                assert status_of(await once(running)) == 200
            assert busy.got.count(b"GET ") == 1


async def closes_after_one(link: Link) -> None:
    await link.take(b"\r\n\r\n")
    await link.send(OK)
    await link.take(b"\r\n\r\n", 2)
    link.close()


async def test_a_stale_connection_is_not_the_users_problem() -> None:
    async with (
        Upstream(closes_after_one).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        client = await running.connect()
        for count in (1, 2):
            await client.send(GET)
            await client.take(b"ok", count)
        assert len(upstream.links) == 2
        assert running.counters.stable[CODES + 200] == 2
        assert sum(errors(running, "stable", reason) for reason in Reason) == 0


async def test_a_post_on_a_stale_connection_is_not_sent_twice() -> None:
    async with (
        Upstream(closes_after_one).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        client = await running.connect()
        await client.send(GET)
        await client.take(b"ok")
        await client.send(b"POST / HTTP/1.1\r\n" + HOST + COOKIE + b"Content-Length: 0\r\n\r\n")
        await client.take(b"Request ID")
        assert upstream.got.count(b"POST ") == 1
        assert running.counters.stable[CODES + 502] == 1


async def test_bytes_that_nobody_asked_for_end_the_connection() -> None:
    async with (
        Upstream(always(OK + OK)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        for _ in range(3):
            got = await once(running)
            assert got.count(b"HTTP/1.1 ") == 1
        assert len(upstream.links) == 3


# Clients


async def test_a_client_that_goes_away_cancels_the_upstream_request() -> None:
    async with Upstream(silence).serving() as upstream, proxy(variants(upstream.port)) as running:
        client = await running.connect()
        await client.send(GET)
        await until(lambda: upstream.got)
        client.close()
        await until(lambda: upstream.links[0].closed)
        cells = running.counters.stable
        assert cells[CLIENT_CLOSED] == cells[FINISHED] == 1
        assert sum(cells[CODES : CODES + 1000]) == 0
        assert running.context.in_flight == 0


async def test_a_client_that_resets_in_the_middle_of_an_upload() -> None:
    async with Upstream(silence).serving() as upstream, proxy(variants(upstream.port)) as running:
        client = await running.connect()
        await client.send(b"PUT / HTTP/1.1\r\n" + HOST + COOKIE + b"Content-Length: 100\r\n\r\nabc")
        await until(lambda: upstream.got.endswith(b"abc"))
        client.reset()
        await until(lambda: upstream.links[0].closed)
        assert running.counters.stable[CLIENT_CLOSED] == 1


async def test_a_slow_head_is_408() -> None:
    more = "limits: {header_timeout: 100ms}"
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port, more=more)) as running,
    ):
        got = await running.ask(b"GET / HTTP/1.1\r\nHost: h\r\nX: ")
        assert status_of(got) == 408
        assert upstream.got == b""


async def test_a_slow_head_on_a_kept_connection_is_408() -> None:
    more = "limits: {header_timeout: 100ms}"
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port, more=more)) as running,
    ):
        client = await running.connect()
        await client.send(GET)
        await client.take(b"ok")
        await client.send(b"GET /2 HT")
        assert b"HTTP/1.1 408 Request Timeout" in await client.to_end()


async def test_a_slow_body_is_408_and_not_the_upstreams_fault() -> None:
    more = "limits: {body_timeout: 100ms}"
    async with (
        Upstream(silence).serving() as upstream,
        proxy(variants(upstream.port, more=more)) as running,
    ):
        got = await running.ask(
            b"PUT / HTTP/1.1\r\n" + HOST + COOKIE + b"Content-Length: 9\r\n\r\nabc"
        )
        assert status_of(got) == 408
        await until(lambda: upstream.links[0].closed)
        cells = running.counters.stable
        assert cells[CLIENT_CLOSED] == cells[FINISHED] == 1
        assert running.counters.proxy[REFUSED + 408] == 1


async def test_an_idle_connection_is_closed_without_a_word() -> None:
    more = "limits: {idle_timeout: 100ms}"
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port, more=more)) as running,
    ):
        client = await running.connect()
        await client.send(GET)
        assert (await client.to_end()).count(b"HTTP/1.1 ") == 1


async def test_too_many_connections_are_refused() -> None:
    more = "limits: {max_connections: 2}"
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port, more=more)) as running,
    ):
        first, second = await running.connect(), await running.connect()
        await until(lambda: len(running.context.connections) == 2)
        got = await running.ask(GET)
        assert status_of(got) == 503
        assert b"\r\nRetry-After: 1\r\n" in got
        assert running.counters.proxy[CONNECTIONS_REFUSED] == 1
        for client in (first, second):
            await client.send(GET)
            await client.take(b"ok")


async def test_too_many_requests_in_flight_are_refused() -> None:
    more = "limits: {max_requests: 1}"
    async with (
        Upstream(silence).serving() as upstream,
        proxy(variants(upstream.port, more=more)) as running,
    ):
        first = await running.connect()
        await first.send(GET)
        await until(lambda: upstream.got)
        assert status_of(await running.ask(GET)) == 503
        assert running.counters.stable[ROUTED] == 1


async def test_requests_wait_for_a_connection_when_an_endpoint_has_its_most() -> None:
    more = "limits: {max_endpoint_connections: 1}"
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port, more=more)) as running,
    ):
        clients = [await running.connect() for _ in range(10)]
        for client in clients:
            await client.send(GET)
        for client in clients:
            await client.take(b"ok")
        assert len(upstream.links) == 1


async def test_draining_ends_idle_connections_and_lets_requests_finish() -> None:
    import asyncio

    release = asyncio.Event()

    async def late(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await release.wait()
        await link.send(OK)

    async with Upstream(late).serving() as upstream, proxy(variants(upstream.port)) as running:
        idle, busy = await running.connect(), await running.connect()
        await busy.send(GET)
        await until(lambda: upstream.got)
        draining = asyncio.create_task(running.datapath.drain(5))
        assert await idle.to_end() == b""
        with pytest.raises(ConnectionRefusedError):
            await running.connect()
        release.set()
        assert (await busy.to_end()).endswith(b"\r\nConnection: close\r\n\r\nok")
        assert await draining
