"""Parsers take linear time for any bytes: no expression backtracks catastrophically."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

import pytest
from aiohttp.test_utils import make_mocked_request

from canaryproxy.admin.conditions import tags
from canaryproxy.admin.problem import Problem
from canaryproxy.http1.chunked import ChunkedDecoder, ChunkedError
from canaryproxy.http1.errors import InvalidResponse, Refusal
from canaryproxy.http1.fields import REQUEST_KINDS, RESPONSE_KINDS
from canaryproxy.http1.forwarding import Peer
from canaryproxy.http1.request import RequestParser
from canaryproxy.http1.response import ResponseParser
from canaryproxy.proxy.sticky import CookieFinder, cookie_stripper

FILLS = (
    b",",
    b" ",
    b" ,",
    b"a,",
    b"a ,",
    b"a/",
    b";",
    b"; ",
    b";a",
    b"a=",
    b'"',
    b"\\a",
    b"%41",
    b":",
)
VALUES = tuple(begin + fill * (3000 // len(fill)) + b"(" for begin in (b"", b"a") for fill in FILLS)
DEADLINE = 20
"""Seconds; each test takes less than one."""
PEER = Peer("127.0.0.1", b"http", False, b"localhost")
BEFORE = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade, TE\r\n"


@pytest.fixture(autouse=True)
def _in_time() -> Iterator[None]:
    def over(_signal: int, _frame: FrameType | None) -> None:
        raise AssertionError("a parser takes too long")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, DEADLINE)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("name", sorted(REQUEST_KINDS))
def test_request_fields_take_linear_time(name: bytes) -> None:
    heads = RequestParser(b"\r\n")
    for value in VALUES:
        for head in (b"%b%b: %b\r\n\r\n", b"%b%b:%b\r\n\r\n"):
            with contextlib.suppress(Refusal):
                heads.parse(head % (BEFORE, name, value), PEER)


def test_request_lines_take_linear_time() -> None:
    heads = RequestParser(b"\r\n")
    for value in VALUES:
        for target in (
            value,
            b"/" + value,
            b"/?" + value,
            b"http://" + value,
            b"http://h/" + value,
        ):
            for line in (b"GET %b HTTP/1.1", b"GET %b", b"%b HTTP/1.1"):
                with pytest.raises(Refusal):
                    heads.parse(line % target + b"\r\nHost: h\r\nA : b\r\n\r\n", PEER)


@pytest.mark.parametrize("name", [*sorted(RESPONSE_KINDS), b"HTTP/1.1 200"])
def test_response_heads_take_linear_time(name: bytes) -> None:
    heads = ResponseParser()
    for value in VALUES:
        line = b"%b %b\r\n" if b"/" in name else b"HTTP/1.1 200 OK\r\nConnection: a\r\n%b: %b\r\n"
        with contextlib.suppress(InvalidResponse):
            heads.parse(line % (name, value) + b"\r\n")


def test_chunks_cookies_and_conditions_take_linear_time() -> None:
    find, strip = CookieFinder("id").find, cookie_stripper("id")
    for value in VALUES:
        with pytest.raises(ChunkedError):
            ChunkedDecoder().feed(b"5;" + value + b"\r\n")
        find(value + b"id=")
        strip(b"\r\nCookie: " + value + b"id=\r\n")
        condition = make_mocked_request("PUT", "/", {"If-Match": f'"a"{value.decode()}'})
        with pytest.raises(Problem):
            tags(condition, "If-Match")
