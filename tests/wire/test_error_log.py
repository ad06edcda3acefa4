"""The request id that a client sees leads to a log line that says exactly what went wrong."""

from __future__ import annotations

import logging
import re

import pytest

from tests.ports import free_port

from .harness import Answer, Link, Upstream, always, proxy, status_of, until, variants
from .test_faults import GET, close_unanswered, once, reset_unanswered

HEAD = b"HTTP/1.1 200 OK\r\n"


def lines(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [one for one in caplog.records if one.name == "canaryproxy.proxy.error_log"]


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        (reset_unanswered, "connection closed without a response (reset)"),
        (close_unanswered, "connection closed without a response (closed)"),
        (
            always(HEAD + b"A: " + b"x" * 70000 + b"\r\n\r\n"),
            "invalid response (head too large)",
        ),
        (
            always(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"),
            "invalid response (malformed chunk size)",
        ),
        (always(b"SSH-2.0-OpenSSH_9.2\r\n"), "invalid response (not HTTP/1.x)"),
        (
            always(HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
            "invalid response (Duplicate Content-Length)",
        ),
    ],
)
async def test_request_id_of_an_error_leads_to_endpoint_and_cause(
    answer: Answer, detail: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Upstream(answer).serving() as stable, proxy(variants(stable.port)) as running:
        got = await once(running)
    assert status_of(got) == 502
    shown = re.search(rb"Request ID: (\w+)", got)
    assert shown is not None
    assert b"127.0.0.1" not in got, "a client sees no address"
    (line,) = lines(caplog)
    assert line.getMessage() == (
        f"request {shown[1].decode()} got 502: stable endpoint 127.0.0.1:{stable.port}: {detail}"
    )


async def test_refused_connection_has_its_errno(caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    async with proxy(variants(port)) as running:
        await once(running)
    (line,) = lines(caplog)
    assert line.getMessage().endswith(
        f"stable endpoint 127.0.0.1:{port}: connection refused (ECONNREFUSED, errno 111)"
    )


async def half(link: Link) -> None:
    await link.take(b"\r\n\r\n")
    await link.send(HEAD + b"Content-Length: 10\r\n\r\n1234")
    link.close()


async def half_a_chunk(link: Link) -> None:
    await link.take(b"\r\n\r\n")
    await link.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n4\r\n12")
    link.close()


@pytest.mark.parametrize(
    ("answer", "detail"),
    [(half, "closed, 6 bytes before its end"), (half_a_chunk, "closed within a chunked body")],
)
async def test_response_that_breaks_off_is_logged_under_the_clients_own_id(
    answer: Answer, detail: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Upstream(answer).serving() as stable, proxy(variants(stable.port)) as running:
        client = await running.connect()
        await client.send(GET.replace(b"Host: h\r\n", b"Host: h\r\nX-Request-Id: mine\r\n"))
        await until(lambda: lines(caplog), "the line")
    (line,) = lines(caplog)
    assert line.getMessage() == (
        f"request mine saw its response (status 200) break off: stable endpoint"
        f" 127.0.0.1:{stable.port}: response broke off ({detail})"
    )


async def test_refused_request_has_a_line_with_its_id(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with (
        Upstream(always(HEAD + b"Content-Length: 0\r\n\r\n")).serving() as stable,
        proxy(variants(stable.port)) as running,
    ):
        refused = await once(running, b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n")
        good = await once(running)
    shown = re.search(rb"X-Request-Id: (\w+)", refused)
    assert shown is not None
    assert (status_of(refused), status_of(good)) == (400, 200)
    (line,) = lines(caplog)
    assert line.getMessage().startswith(
        f"request {shown[1].decode()} from 127.0.0.1 refused with 400: "
    )
