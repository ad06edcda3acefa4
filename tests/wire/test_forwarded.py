"""What reaches the upstream and the client, byte for byte."""

from __future__ import annotations

import pytest

from .harness import ADDED, COOKIE, OK, VIA, Upstream, always, proxy, undated, variants

HOST = b"Host: h\r\n"


async def forwarded(request: bytes, more: str = "", answer: bytes = OK) -> tuple[bytes, bytes]:
    """Send a request and return what the upstream got and what the client got."""
    async with (
        Upstream(always(answer)).serving() as upstream,
        proxy(variants(upstream.port, more=more)) as running,
    ):
        client = await running.connect()
        await client.send(request)
        await client.take(answer.rpartition(b"\r\n\r\n")[2] or b"\r\n\r\n")
        return upstream.got, client.got


async def test_a_plain_request_is_forwarded_byte_for_byte() -> None:
    got, _ = await forwarded(
        b"GET /a%2Fb?x=%zz&y=[1] HTTP/1.1\r\nhOST:h\r\nX-A:  spaced \r\n" + COOKIE + b"\r\n"
    )
    assert got == (
        b"GET /a%2Fb?x=%zz&y=[1] HTTP/1.1\r\nhOST:h\r\nX-A:  spaced \r\n"
        + COOKIE
        + ADDED
        + VIA
        + b"\r\n"
    )


async def test_hop_by_hop_fields_and_nominated_ones_are_removed() -> None:
    got, _ = await forwarded(
        b"GET / HTTP/1.1\r\n" + HOST + COOKIE
        + b"Connection: keep-alive, X-Private , Host\r\nX-Private: 1\r\nKeep-Alive: timeout=5\r\n"
        b"Proxy-Connection: keep-alive\r\nTE: gzip\r\nProxy-Authorization: Basic x\r\nUpgrade: h2c\r\n"
        b"X-Kept: yes\r\n\r\n"
    )  # fmt: skip
    assert got == b"GET / HTTP/1.1\r\n" + HOST + COOKIE + b"X-Kept: yes\r\n" + ADDED + VIA + b"\r\n"


async def test_fields_with_odd_spacing_are_removed_too() -> None:
    got, _ = await forwarded(
        b"GET / HTTP/1.1\r\n" + HOST + COOKIE
        + b"connection:close , x-a\r\nX-A:\t1\r\nkeep-ALIVE:  5  \r\nB: 2\r\n\r\n"
    )  # fmt: skip
    assert got == b"GET / HTTP/1.1\r\n" + HOST + COOKIE + b"B: 2\r\n" + ADDED + VIA + b"\r\n"


async def test_te_trailers_is_renewed() -> None:
    got, _ = await forwarded(
        b"GET / HTTP/1.1\r\n" + HOST + COOKIE + b"TE: trailers\r\nConnection: TE\r\n\r\n"
    )
    assert got == (
        b"GET / HTTP/1.1\r\n"
        + HOST
        + COOKIE
        + ADDED
        + b"TE: trailers\r\nConnection: TE\r\n"
        + VIA
        + b"\r\n"
    )


async def test_via_has_the_configured_name_and_is_appended() -> None:
    got, answer = await forwarded(
        b"GET / HTTP/1.1\r\n" + HOST + COOKIE + b"Via: 1.0 fred\r\n\r\n",
        more="forwarded: {via: edge-1}",
    )
    assert b"\r\nVia: 1.0 fred\r\n" in got
    assert got.endswith(b"\r\nVia: 1.1 edge-1\r\n\r\n")
    assert b"\r\nVia: 1.1 edge-1\r\n" in answer


FORWARDING = (
    b"X-Forwarded-For: 203.0.113.7\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: shop.example\r\n"
    b"Forwarded: for=203.0.113.7;proto=https\r\n"
)


async def test_forwarding_fields_of_strangers_are_replaced() -> None:
    got, _ = await forwarded(b"GET / HTTP/1.1\r\n" + HOST + COOKIE + FORWARDING + b"\r\n")
    assert got == b"GET / HTTP/1.1\r\n" + HOST + COOKIE + ADDED + VIA + b"\r\n"


async def test_forwarding_fields_of_trusted_proxies_are_kept_and_appended_to() -> None:
    got, _ = await forwarded(
        b"GET / HTTP/1.1\r\n" + HOST + COOKIE + FORWARDING + b"\r\n",
        more='forwarded: {trust: ["127.0.0.0/8"]}',
    )
    assert got == (
        b"GET / HTTP/1.1\r\n" + HOST + COOKIE
        + b"X-Forwarded-For: 203.0.113.7, 127.0.0.1\r\nX-Forwarded-Proto: https\r\n"
        b"X-Forwarded-Host: shop.example\r\n"
        b"Forwarded: for=203.0.113.7;proto=https, for=127.0.0.1;host=h;proto=http\r\n" + VIA + b"\r\n"
    )  # fmt: skip


async def test_absolute_form_replaces_host() -> None:
    got, _ = await forwarded(
        b"GET http://other.example:81/a?b HTTP/1.1\r\n" + HOST + COOKIE + b"\r\n"
    )
    assert got.startswith(b"GET /a?b HTTP/1.1\r\n" + COOKIE + b"Host: other.example:81\r\n")
    assert b'Forwarded: for=127.0.0.1;host="other.example:81";proto=http\r\n' in got
    assert b"Host: h\r\n" not in got


@pytest.mark.parametrize(
    ("line", "target"),
    [
        (b"GET http://o", b"GET / "),
        (b"GET http://o?q", b"GET /?q "),
        (b"OPTIONS http://o", b"OPTIONS * "),
        (b"OPTIONS *", b"OPTIONS * "),
    ],
)
async def test_targets_are_sent_in_origin_or_asterisk_form(line: bytes, target: bytes) -> None:
    got, _ = await forwarded(line + b" HTTP/1.1\r\n" + HOST + COOKIE + b"\r\n")
    assert got.startswith(target + b"HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("hops", "left"),
    [(b"1", b"0"), (b"10", b"9"), (b"0007", b"6"), (b"256", b"255"), (b"9" * 5000, b"255")],
)
@pytest.mark.parametrize(
    "line", [b"OPTIONS / HTTP/1.1", b"OPTIONS * HTTP/1.1", b"OPTIONS http://h HTTP/1.1"]
)
async def test_options_has_one_hop_less(line: bytes, hops: bytes, left: bytes) -> None:
    lines = HOST + b"Max-Forwards:" + hops + b"\r\nA: b\r\n" + COOKIE + b"\r\n"
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        client = await running.connect()
        for count in (1, 2):
            await client.send(line + b"\r\n" + lines)
            await client.take(b"ok", count)
        assert upstream.got.count(b"\r\nMax-Forwards: " + left + b"\r\nA: b\r\n") == 2


async def test_options_without_hops_left_is_answered_by_the_proxy() -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        for more in (b"", COOKIE, b"traceparent: 00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-01\r\n"):
            head = b"OPTIONS /x HTTP/1.1\r\n" + HOST + more + b"Max-Forwards: 0\r\n\r\n"
            answer = await running.ask(head)
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"\r\nAllow: GET, HEAD, " in answer
            assert b"(Max-Forwards is 0: the request is not forwarded)" in answer
        assert upstream.links == []


async def test_an_http_1_0_client_is_served_and_closed() -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        answer = await running.ask(b"GET / HTTP/1.0\r\n" + COOKIE + b"\r\n")
        port = b"127.0.0.1:%d" % running.port
        assert undated(answer) == (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + VIA + b"Connection: close\r\n\r\nok"
        )
        assert upstream.got.startswith(b"GET / HTTP/1.1\r\n" + COOKIE + b"Host: " + port + b"\r\n")


async def test_an_http_1_0_client_can_keep_its_connection() -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        client = await running.connect()
        for count in (1, 2):
            await client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n" + COOKIE + b"\r\n")
            await client.take(b"ok", count)
        assert client.got.count(b"\r\nConnection: keep-alive\r\n") == 2


async def test_an_answers_hop_by_hop_fields_are_removed() -> None:
    _, answer = await forwarded(
        b"GET / HTTP/1.1\r\n" + HOST + COOKIE + b"\r\n",
        answer=b"HTTP/1.1 200 Fine\r\nX-A: 1\r\nConnection: X-Private, keep-alive\r\nx-private: 2\r\n"
        b"Keep-Alive: 5\r\nProxy-Authenticate: Basic\r\nContent-Length: 4\r\nServer: s\r\n\r\nbody",
    )
    assert undated(answer) == (
        b"HTTP/1.1 200 Fine\r\nX-A: 1\r\nContent-Length: 4\r\nServer: s\r\n" + VIA + b"\r\nbody"
    )


async def test_pipelined_requests_are_answered_in_order() -> None:
    async def echo_target(link: object) -> None:
        from .harness import Link

        assert isinstance(link, Link)
        answered = 0
        while await link.read():
            while link.got.count(b"\r\n\r\n") > answered:
                target = link.got.split(b"\r\n\r\n")[answered].split(b" ")[1]
                answered += 1
                await link.send(
                    b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(target), target)
                )

    async with (
        Upstream(echo_target).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        answer = await running.ask(
            b"".join(b"GET /%d HTTP/1.1\r\n" % n + HOST + COOKIE + b"\r\n" for n in range(50))
            + b"GET /last HTTP/1.1\r\n" + HOST + COOKIE + b"Connection: close\r\n\r\n"
        )  # fmt: skip
        bodies = [part.rpartition(b"\r\n\r\n")[2] for part in answer.split(b"HTTP/1.1 200 OK")[1:]]
        assert bodies == [b"/%d" % n for n in range(50)] + [b"/last"]


async def test_a_connection_is_kept_on_both_sides() -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        client = await running.connect()
        for count in range(1, 6):
            await client.send(b"GET / HTTP/1.1\r\n" + HOST + COOKIE + b"\r\n")
            await client.take(b"ok", count)
        assert len(upstream.links) == 1


async def test_a_request_may_come_in_single_bytes() -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        client = await running.connect()
        request = b"GET /slow HTTP/1.1\r\n" + HOST + COOKIE + b"\r\n"
        for at in range(len(request)):
            await client.send(request[at : at + 1])
        await client.take(b"ok")
        assert upstream.got == b"GET /slow HTTP/1.1\r\n" + HOST + COOKIE + ADDED + VIA + b"\r\n"


async def test_equal_fields_of_other_requests_do_not_leak() -> None:
    """Fields are remembered by their bytes: nothing of one request may show in the next."""
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        client = await running.connect()
        sent = [
            b"GET /1 HTTP/1.1\r\n" + HOST + COOKIE + b"\r\n",
            b"GET /2 HTTP/1.1\r\n" + HOST + COOKIE + b"X-A: 1\r\n\r\n",
            b"HEAD /3 HTTP/1.1\r\n" + HOST + COOKIE + b"\r\n",
            b"GET http://o/4 HTTP/1.1\r\n" + HOST + COOKIE + b"\r\n",
            b"GET /5 HTTP/1.1\r\n" + HOST + COOKIE + b"\r\n",
        ]
        for count, request in enumerate(sent, 1):
            await client.send(request)
            await client.take(VIA + b"\r\n", count)
        heads = upstream.got.split(b"\r\n\r\n")[:-1]
        assert [head.split(b" ")[1] for head in heads] == [b"/1", b"/2", b"/3", b"/4", b"/5"]
        assert b"X-A" in heads[1]
        assert all(b"X-A" not in heads[at] for at in (0, 2, 3, 4))
        assert [b"Host: o" in head for head in heads] == [False, False, False, True, False]
