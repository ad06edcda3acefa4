"""Rules of RFC 9112 for intermediaries: the name of each test begins with the section."""

from __future__ import annotations

import pytest

from canaryproxy.http1.chunked import MAX_EXTENSIONS
from canaryproxy.measure.counters import ERRORS, Reason

from .harness import OK, Link, Upstream, always, proxy, status_of, until, variants
from .test_rfc9110 import GET, LINES, exchanged

CHUNKED = b"POST / HTTP/1.1\r\n" + LINES + b"Transfer-Encoding: chunked\r\n\r\n"


async def test_2_3_a_higher_minor_version_is_taken_for_1_1() -> None:
    """The connection is kept, chunks and pipelining work as with HTTP/1.1."""
    request = CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.7") + b"2\r\nab\r\n0\r\n\r\n"
    answer = b"HTTP/1.2 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"

    async def serve(link: Link) -> None:
        for count in (1, 2):
            await link.take(b"\r\n0\r\n\r\n", count)
            await link.send(answer)

    async with Upstream(serve).serving() as upstream, proxy(variants(upstream.port)) as running:
        client = await running.connect()
        await client.send(request + request)
        await client.take(b"\r\n0\r\n\r\n", 2)
        assert client.got.count(b"HTTP/1.1 200 OK\r\n") == 2
        assert upstream.got.count(b"POST / HTTP/1.1\r\n") == 2
        assert len(upstream.links) == 1


@pytest.mark.parametrize("version", [b"HTTP/2.0", b"HTTP/3.0", b"HTTP/0.9"])
async def test_2_3_another_major_version_is_refused(version: bytes) -> None:
    async with (
        Upstream(always(OK.replace(b"HTTP/1.1", version))).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        assert status_of(await running.ask(GET.replace(b"HTTP/1.1", version))) == 505
        assert upstream.links == []
        client = await running.connect()
        await client.send(GET)
        await client.take(b"Request ID")
        assert status_of(client.got) == 502


@pytest.mark.parametrize("line", [b"HTTP/1.1 200", b"HTTP/1.1 200 ", b"HTTP/1.0 200"])
async def test_4_the_blank_after_the_status_is_there_without_a_reason(line: bytes) -> None:
    _, got = await exchanged(
        answer=line + b"\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok"
    )
    assert got.startswith(b"HTTP/1.1 200 \r\nContent-Length: 2\r\n")


async def test_5_1_blanks_before_a_colon_are_removed_from_a_response() -> None:
    fields = (
        b"X-A : v\r\nSet-Cookie \t: a=b; Path=/ : x\r\nContent-Type : text/plain\r\nDate : now\r\n"
    )
    hop = b"Connection: X-Hop\r\nX-Hop : 1\r\n"
    answer = b"HTTP/1.1 200 OK\r\n" + fields + hop + b"Content-Length: 2\r\n\r\nok"
    _, got = await exchanged(answer=answer)
    mended = b"X-A: v\r\nSet-Cookie: a=b; Path=/ : x\r\nContent-Type: text/plain\r\nDate: now\r\n"
    assert got.startswith(b"HTTP/1.1 200 OK\r\n" + mended + b"Content-Length: 2\r\n")
    assert b"X-Hop" not in got


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        (b"Content-Length : 2", "ambiguous header name Content-Length "),
        (b"X-A : v\r\nContent-Length : 2", "blank before the colon of Content-Length"),
        (b"X-A : v\r\nTransfer-Encoding : chunked", "blank before the colon of Transfer-Encoding"),
        (b"X-A : v\r\nContent_Length : 2", "blank before the colon of Content_Length"),
        (b"X-A : v\r\nConnection\t: close", "blank before the colon of Connection"),
        (b"X A: v", "Invalid header token"),
        (b": v", "Invalid header token"),
        (b"X-A : v\r\n folded", "control bytes or folded lines in the head"),
        (
            b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "more than one Transfer-Encoding",
        ),
        (b"Transfer-Encoding: gzip, chunked", "Transfer-Encoding other than chunked"),
        (b"Content-Length: 2\r\nContent-Length: 2", "Duplicate Content-Length"),
        (b"Content_Length: 2", "ambiguous header name Content_Length"),
    ],
)
async def test_5_1_the_log_says_what_is_wrong_with_a_response(
    fields: bytes, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer = b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    async with (
        Upstream(always(answer)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        client = await running.connect()
        await client.send(GET)
        await client.take(b"Request ID")
        assert status_of(client.got) == 502
        assert running.counters.stable[ERRORS + Reason.BROKEN_ANSWER] == 1
    assert any(f"({why})" in line for line in caplog.messages), caplog.messages


async def test_7_1_1_extensions_of_a_whole_body_are_bounded_on_the_way_to_the_upstream() -> None:
    """Each line is short enough; a byte of payload for each of them would cost 4 KiB to read."""
    chunk = b"1;" + b"a" * 4000 + b"\r\nx\r\n"
    many = MAX_EXTENSIONS // 4000 + 1
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        got = await running.ask(CHUNKED + chunk * many + b"0\r\n\r\n")
        assert status_of(got) == 400
        assert b"(too many chunk extensions)" in got
        client = await running.connect()
        await client.send(CHUNKED + chunk * (many - 1) + b"0\r\n\r\n")
        await until(lambda: upstream.got.endswith(b"x\r\n0\r\n\r\n"))


async def test_7_1_1_extensions_of_a_whole_body_are_bounded_on_the_way_to_the_client() -> None:
    chunk = b"1;" + b"a" * 4000 + b"\r\nx\r\n"
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = head + chunk * (MAX_EXTENSIONS // 4000 + 1) + b"0\r\n\r\n"
    _, got = await exchanged(answer=answer, end=b"Request ID")
    assert status_of(got) == 502


async def test_5_1_a_trailer_with_a_blank_before_its_colon_is_mended_on_the_way_to_the_client() -> (
    None
):
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    _, got = await exchanged(answer=head + b"2\r\nok\r\n0\r\nX-Sum : 9\r\n\r\n", end=b"9\r\n\r\n")
    assert got.endswith(b"2\r\nok\r\n0\r\nX-Sum: 9\r\n\r\n")


async def test_7_1_1_a_long_body_may_have_an_extension_in_each_chunk() -> None:
    """An extension such as a signature is small beside the payload of its chunk."""
    chunk = b"400;chunk-signature=" + b"0" * 64 + b"\r\n" + bytes(0x400) + b"\r\n"
    count = 2 * MAX_EXTENSIONS // 80
    async with (
        Upstream(always(b"")).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        client = await running.connect()
        await client.send(CHUNKED + chunk * count + b"0\r\n\r\n")
        await until(lambda: upstream.got.endswith(b"\r\n0\r\n\r\n"))
        assert upstream.got.count(b"\0") == 0x400 * count
