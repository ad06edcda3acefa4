"""Rules of RFC 9110 for intermediaries: the name of each test begins with the section."""

from __future__ import annotations

import asyncio
import re
from email.utils import parsedate_to_datetime
from time import time

import pytest

from canaryproxy.http1.via import MOST_PASSES
from canaryproxy.measure.counters import MIRRORED, REFUSED

from ..ports import free_port
from .harness import COOKIE, OK, Link, Upstream, always, proxy, status_of, undated, until, variants

HOST = b"Host: h\r\n"
LINES = HOST + COOKIE
GET = b"GET / HTTP/1.1\r\n" + LINES + b"\r\n"
DATE = re.compile(rb"\r\nDate: ([^\r]*)(?=\r\n)")
DATED = b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
NTLM = b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: NTLM\r\nContent-Length: 0\r\n\r\n"


async def exchanged(
    request: bytes = GET, answer: bytes = OK, more: str = "", end: bytes = b""
) -> tuple[bytes, bytes]:
    """Return what the upstream and the client got, to ``end`` (by default that of the answer)."""
    async with (
        Upstream(always(answer)).serving() as upstream,
        proxy(variants(upstream.port, more=more)) as running,
    ):
        client = await running.connect()
        await client.send(request)
        await client.take(end or answer[-2:])
        return upstream.got, client.got


def is_now(answer: bytes) -> bool:
    """Tell whether the answer has one Date, and that is the current time."""
    (date,) = DATE.findall(answer)
    return abs(parsedate_to_datetime(date.decode()).timestamp() - time()) < 10


async def test_5_3_fields_that_come_twice_are_forwarded_as_they_came() -> None:
    """Only what frames or routes a message is refused: other lists are for the recipient to judge."""
    names = ("User-Agent", "Content-Type", "ETag", "Server", "content-range", "Content-Location")
    twice = "".join(f"{name}: a\r\n{name}:b\r\n" for name in names).encode()
    old = b"Max-Forwards: 3\r\nMax-Forwards: 4\r\nSec-WebSocket-Key1: 1\r\nUser-Agent~: c\r\n"
    request = b"GET / HTTP/1.1\r\n" + twice + LINES + old + b"\r\n"
    answer = b"HTTP/1.1 200 OK\r\n" + twice + old + b"Content-Length: 2\r\n\r\nok"
    sent, got = await exchanged(request, answer)
    assert sent.startswith(b"GET / HTTP/1.1\r\n" + twice + LINES + old + b"X-Forwarded-For: ")
    assert got.startswith(answer[:-6])


@pytest.mark.parametrize("name", [b"Content-Length", b"Transfer-Encoding", b"Host"])
async def test_5_3_framing_fields_that_come_twice_are_refused(name: bytes) -> None:
    value = {b"Content-Length": b"0", b"Transfer-Encoding": b"chunked", b"Host": b"h"}[name]
    twice = (name + b": " + value + b"\r\n") * (1 if name == b"Host" else 2)
    request = b"POST / HTTP/1.1\r\nUser-Agent: a\r\nUser-Agent: b\r\n" + LINES + twice + b"\r\n"
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        assert status_of(await running.ask(request + b"0\r\n\r\n")) == 400
        assert upstream.links == []


@pytest.mark.parametrize(
    "head",
    [
        b"200 OK\r\nContent-Length: 2",
        b"404 Not Found\r\nContent-Length: 2",
        b"500 No\r\nContent-Length: 2",
        b"304 Not Modified\r\nETag: 1",
        b"204 No Content",
        b"200 OK\r\nTransfer-Encoding: chunked",
        b"200 OK\r\nContent-Length: 2\r\nConnection: Date\r\n" + DATED[:-2],
    ],
)
async def test_6_6_1_a_response_without_date_gets_one(head: bytes) -> None:
    body = b"2\r\nok\r\n0\r\n\r\n" if b"chunked" in head else b"ok" if b"Length" in head else b""
    answer = b"HTTP/1.1 " + head + b"\r\n\r\n" + body
    more = "rescue: {enabled: false}"
    _, got = await exchanged(answer=answer, more=more, end=body[-2:] or b"\r\n\r\n")
    assert is_now(got)


async def test_6_6_1_date_is_kept_and_goes_on_with_the_clock() -> None:
    _, got = await exchanged(answer=b"HTTP/1.1 200 OK\r\n" + DATED + OK[17:])
    assert b"\r\n" + DATED in got
    assert len(DATE.findall(got)) == 1
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        running.context.head_ends._second -= 100  # as if it had not been renewed since then
        ends = running.service.context.head_ends
        ends.responses[:] = [end.replace(b"Date: ", b"Date: X") for end in ends.responses]
        await until(lambda: b"Date: X" not in b"".join(ends.responses))
        client = await running.connect()
        await client.send(GET)
        await client.take(b"ok")
        assert is_now(client.got)


async def test_6_6_1_interim_responses_are_left_alone() -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    _, got = await exchanged(answer=early + OK)
    assert got.startswith(early)
    assert is_now(got)


async def test_6_6_1_the_proxys_own_errors_have_a_date() -> None:
    port = free_port()
    async with proxy(variants(port)) as running:
        client = await running.connect()
        await client.send(GET)
        await client.take(b"Request ID")
        assert status_of(client.got) == 502
        assert is_now(client.got)
        for request in (b"GET / HTTP/2.0\r\n\r\n", b"TRACE / HTTP/1.1\r\nHost: h\r\n\r\n", b"\n\n"):
            assert is_now(await running.ask(request))


async def test_7_6_1_trailers_that_connection_names_end_here_on_the_way_to_the_upstream() -> None:
    request = (
        b"POST / HTTP/1.1\r\n" + LINES + b"Connection: close, X-Hop\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"2\r\nab\r\n0\r\nX-End: 1\r\nx-hop: 2\r\nKeep-Alive: 3\r\nProxy-Authentication-Info: 4\r\n\r\n"
    )  # fmt: skip
    async with (
        Upstream(always(b"")).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        client = await running.connect()
        await client.send(request)
        await until(lambda: upstream.got.endswith(b"\r\n\r\n2\r\nab\r\n0\r\nX-End: 1\r\n\r\n"))


async def test_7_6_1_trailers_that_connection_names_end_here_on_the_way_to_the_client() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"
    body = b"\r\n2\r\nab\r\n0\r\nX-End: 1\r\nx-hop: 2\r\nProxy-Connection: 3\r\nX-Variant: canary\r\n\r\n"
    more = "split: {variant_header: X-Variant}"
    for fields in (b"Connection: X-Hop, keep-alive\r\n", b"Connection: X-Hop\r\nConnection: b\r\n"):
        _, got = await exchanged(
            answer=head + fields + body, more=more, end=b"0\r\nX-End: 1\r\n\r\n"
        )
        assert got.endswith(b"\r\n\r\n2\r\nab\r\n0\r\nX-End: 1\r\n\r\n")
        assert b"\r\nX-Variant: stable\r\n" in got


@pytest.mark.parametrize("minor", [b"0", b"1", b"2", b"9"])
async def test_7_6_3_via_names_the_version_in_which_a_message_came(minor: bytes) -> None:
    request = b"GET / HTTP/1." + minor + b"\r\nConnection: keep-alive\r\n" + LINES + b"\r\n"
    answer = b"HTTP/1." + minor + b" 200 OK\r\nContent-Length: 2\r\n\r\nok"
    sent, got = await exchanged(request, answer)
    assert sent.startswith(b"GET / HTTP/1.1\r\n")
    assert sent.endswith(b"\r\nVia: 1." + minor + b" canaryproxy\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 200 OK\r\n")
    assert got.count(b"\r\nVia: 1." + minor + b" canaryproxy\r\n") == got.count(b"\r\nVia") == 1


async def test_7_6_3_via_can_be_left_out() -> None:
    sent, got = await exchanged(more="forwarded: {via: off}")
    assert b"Via" not in sent + got
    assert undated(got) == OK


@pytest.mark.parametrize(
    ("before", "status"),
    [
        ([b"1.1 canaryproxy"] * MOST_PASSES, 200),
        ([b"1.1 canaryproxy"] * MOST_PASSES + [b"1.1 other, 1.1 canaryproxy-2, canaryproxy"], 200),
        ([b"1.1 canaryproxy"] * (MOST_PASSES + 1), 508),
        ([b"1.0 CanaryProxy (a comment)"] * (MOST_PASSES + 1), 508),
        ([b"1.1 a,HTTP/1.1  canaryproxy ,1.1 b"] * (MOST_PASSES + 1), 508),
    ],
)
async def test_7_6_3_a_request_that_goes_in_circles_is_refused(
    before: list[bytes], status: int
) -> None:
    lines = b"".join(b"Via: " + one + b"\r\n" for one in before)
    request = b"GET / HTTP/1.1\r\n" + LINES + b"Connection: close\r\n" + lines + b"\r\n"
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        answer = await running.ask(request)
        assert status_of(answer) == status
        assert len(upstream.links) == (status == 200)
        if status == 508:
            assert answer.startswith(b"HTTP/1.1 508 Loop Detected\r\n")
            assert b"(the request has passed this proxy over 5 times (Via))" in answer
            assert running.counters.proxy[REFUSED + 508] == 1


async def test_7_6_3_two_proxies_that_point_at_each_other_end_it_soon() -> None:
    port = free_port()
    async with proxy(variants(port)) as first:

        async def hand_on(link: Link) -> None:
            """Be at the other proxy's address: the second one, whose upstream is the first."""
            reader, writer = await asyncio.open_connection("127.0.0.1", second.port)
            writer.write(await link.take(b"\r\n\r\n"))
            await link.send(await reader.readuntil(b"\n"))
            writer.close()
            link.close()

        loop = Upstream(hand_on)
        async with loop.serving(port), proxy(variants(first.port)) as second:
            client = await first.connect()
            await client.send(GET)
            await client.take(b"\r\n")
            assert client.got.startswith(b"HTTP/1.1 50")
            assert len(loop.links) == MOST_PASSES // 2 + 1
            refused = first.counters.proxy[REFUSED + 508] + second.counters.proxy[REFUSED + 508]
            assert refused == 1


@pytest.mark.parametrize("length", [b"010", b"00000000000000010"])
async def test_8_6_a_length_with_zeros_before_it_is_written_anew(length: bytes) -> None:
    """One whose server reads ``010`` as eight would take two bytes of the body for a request."""
    request = b"POST / HTTP/1.1\r\n" + LINES + b"Content-Length: " + length + b"\r\n\r\n0123456789"
    answer = b"HTTP/1.1 200 OK\r\nContent-Length:" + length + b"\r\n\r\n01234567ok"
    async with (
        Upstream(always(answer)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        client = await running.connect()
        for count in (1, 2):
            await client.send(request)
            await client.take(b"ok", count)
        sent = upstream.got
        assert sent.count(b"\r\nContent-Length: 10\r\n") == sent.count(b"Length") == 2
        assert sent.count(b"\r\n\r\n0123456789") == 2
        assert client.got.count(b"\r\nContent-Length: 10\r\n") == client.got.count(b"Length") == 2


async def test_8_6_a_length_of_zeros_is_zero() -> None:
    request = b"POST / HTTP/1.1\r\n" + LINES + b"Content-Length: 00\r\n\r\n"
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 000\r\n\r\n"
    sent, got = await exchanged(request, answer, end=b"\r\n\r\n")
    assert b"\r\nContent-Length: 0\r\n" in sent
    assert b"\r\nContent-Length: 0\r\n" in got


@pytest.mark.parametrize("status", [b"407 Proxy Authentication Required", b"401 No", b"200 OK"])
async def test_11_7_1_only_a_407_keeps_its_challenge(status: bytes) -> None:
    fields = b"Proxy-Authenticate: Basic\r\nWWW-Authenticate: Basic\r\n"
    answer = b"HTTP/1.1 " + status + b"\r\n" + fields + b"Content-Length: 2\r\n\r\nok"
    _, got = await exchanged(answer=answer)
    assert (b"\r\nProxy-Authenticate: Basic\r\n" in got) == status.startswith(b"407")
    assert b"\r\nWWW-Authenticate: Basic\r\n" in got


@pytest.mark.parametrize(
    ("status", "request_", "kept"),
    [
        (b"426 Upgrade Required", GET, True),
        (b"426 Upgrade Required", GET.replace(b" HTTP/1.1", b" HTTP/1.0"), True),
        (b"200 OK", GET, False),
        (b"505 No", GET, False),
    ],
)
async def test_15_5_22_only_a_426_keeps_the_protocols_that_it_asks_for(
    status: bytes, request_: bytes, kept: bool
) -> None:
    fields = (
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: HTTP/3.0\r\nContent-Length: 2\r\n"
    )
    answer = b"HTTP/1.1 " + status + b"\r\n" + fields + b"\r\nok"
    _, got = await exchanged(request_, answer)
    lines = b"\r\nUpgrade: websocket, HTTP/3.0\r\nConnection: upgrade\r\n"
    assert (lines in got) == (b"pgrade: " in got) == kept


@pytest.mark.parametrize(
    "challenge",
    [b"WWW-Authenticate: NTLM", b"WWW-Authenticate: Negotiate\r\nWWW-Authenticate: NTLM",
     b'WWW-Authenticate: Basic realm="a", negotiate abc='],
)  # fmt: skip
async def test_rfc4559_6_an_authenticated_connection_belongs_to_its_client(
    challenge: bytes,
) -> None:
    refusal = b"HTTP/1.1 401 No\r\n" + challenge + b"\r\nContent-Length: 0\r\n\r\n"

    async def serve(link: Link) -> None:
        """Ask for credentials with the first request, and trust the connection from then on."""
        count = 0
        while await link.read():
            count += 1
            await link.send(refusal if count == 1 else OK)

    async with Upstream(serve).serving() as upstream, proxy(variants(upstream.port)) as running:
        mine, other = await running.connect(), await running.connect()
        await mine.send(GET)
        await mine.take(b"\r\n\r\n")
        await other.send(GET)
        await other.take(b"\r\n\r\n")
        assert status_of(other.got) == 401  # on a connection of its own
        for count in (1, 2):
            await mine.send(GET.replace(b"/ ", b"/mine "))
            await mine.take(b"ok", count)
        assert [link.got.count(b"GET /mine ") for link in upstream.links] == [2, 0]
        endpoint = running.service.context.pools[0].endpoints[0]
        assert not endpoint.idle
        mine.close()
        await until(lambda: upstream.links[0].closed)
        assert not upstream.links[1].closed
        other.close()
        await until(lambda: upstream.links[1].closed)
        assert (endpoint.open, endpoint.active) == (0, 0)


async def test_rfc4559_6_credentials_bind_a_connection_without_a_challenge() -> None:
    request = GET[:-2] + b"Authorization: Negotiate YII=\r\n\r\n"
    for answer in (OK, b"HTTP/1.1 404 No\r\nContent-Length: 2\r\n\r\nok"):
        async with (
            Upstream(always(answer)).serving() as upstream,
            proxy(variants(upstream.port)) as running,
        ):
            first, second = await running.connect(), await running.connect()
            for client in (first, second):
                await client.send(request)
                await client.take(b"ok")
            assert len(upstream.links) == 2
            await first.send(GET)
            await first.take(b"ok", 2)
            assert upstream.links[0].got.count(b"GET ") == 2
            assert not running.service.context.pools[0].endpoints[0].idle


async def test_rfc4559_6_other_schemes_share_connections() -> None:
    answer = (
        b"HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm=NTLM-x\r\nContent-Length: 2\r\n\r\nok"
    )
    request = GET[:-2] + b"Authorization: Basic Negotiate\r\n\r\n"
    async with (
        Upstream(always(answer)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        for _ in range(2):
            client = await running.connect()
            await client.send(request)
            await client.take(b"ok")
        assert len(upstream.links) == 1


async def test_rfc4559_6_a_new_connection_is_opened_where_the_own_one_is_gone() -> None:
    async def once(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(NTLM)
        link.close()

    async with Upstream(once).serving() as upstream, proxy(variants(upstream.port)) as running:
        client = await running.connect()
        for count in (1, 2):
            await client.send(GET)
            await client.take(b"\r\n\r\n", count)
        assert len(upstream.links) == 2


async def test_rfc4559_6_a_request_with_such_credentials_is_not_mirrored() -> None:
    more = "split: {weight: 0}\nmirror: {percent: 100}\n"
    async with (
        Upstream(always(OK)).serving() as stable,
        Upstream(always(NTLM)).serving() as canary,
        proxy(variants(stable.port, canary.port, more)) as running,
    ):
        client = await running.connect()
        await client.send(GET[:-2] + b"Authorization: NTLM TlRM\r\n\r\n")
        await client.take(b"ok")
        assert not any(running.counters.service[MIRRORED : MIRRORED + 8])
        await client.send(GET)
        await client.take(b"ok", 2)
        await until(lambda: any(running.counters.service[MIRRORED : MIRRORED + 8]))
        # It was asked to authenticate.
        assert not running.service.context.pools[1].endpoints[0].idle
