"""Replays ``corpus``: what clients send, and what upstreams answer, one connection to a file.

The name of a file begins with its verdict: the statuses that the client gets, in order. A request that is
answered with 200 has reached the upstream, one that is refused has not. Of answers that are ``cut`` the
client gets a part, and a closed connection.
"""

from __future__ import annotations

import re
from itertools import takewhile
from pathlib import Path

import h11
import pytest

from ..fuzz.recorder import Recorder
from .harness import Link, Upstream, proxy, until, variants

CORPUS = Path(__file__).parent / "corpus"
SENTINEL = b"GET /sentinel HTTP/1.1\r\nHost: h\r\n\r\n"
STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")


def verdict(path: Path) -> list[bytes]:
    parts = takewhile(re.compile(r"[2-5]\d\d").fullmatch, path.name.split("-"))
    return [part.encode() for part in parts]


@pytest.mark.parametrize(
    "path", sorted((CORPUS / "requests").iterdir()), ids=lambda path: path.stem
)
async def test_a_request_of_the_corpus_gets_its_verdict(path: Path) -> None:
    expected = verdict(path)
    recorder = Recorder()
    data = path.read_bytes()  # noqa: ASYNC240 - nothing else runs yet

    async def serve(link: Link) -> None:
        while got := await link.read():
            for _ in range(recorder.feed(got)):
                await link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with Upstream(serve).serving() as upstream, proxy(variants(upstream.port)) as running:
        client = await running.connect()
        await client.send(data)
        while len(STATUS.findall(client.got)) < len(expected) and await client.read():
            pass
        if expected[-1] == b"200":
            expected.append(b"200")
            await client.send(SENTINEL)  # nothing is left of what came before it
            await client.take(b"\r\n\r\nok", len(expected))
            assert recorder.requests[-1].target == b"/sentinel"
        else:
            await client.to_end()
            assert b"\r\nConnection: close\r\n" in client.got
        assert STATUS.findall(client.got) == expected
        assert len(recorder.requests) == expected.count(b"200")
        assert all(one.target != b"/smuggled" for one in recorder.requests)


@pytest.mark.parametrize("path", sorted((CORPUS / "answers").iterdir()), ids=lambda path: path.stem)
async def test_a_response_of_the_corpus_gets_its_verdict(path: Path) -> None:
    data = path.read_bytes()  # noqa: ASYNC240 - nothing else runs yet

    async def serve(link: Link) -> None:
        await link.read()
        if b"/sentinel" in link.got:
            await link.send(b"HTTP/1.1 299 Sentinel\r\nContent-Length: 0\r\n\r\n")
        else:
            await link.send(data)
        link.close()

    async with Upstream(serve).serving() as upstream, proxy(variants(upstream.port)) as running:
        client = await running.connect()
        await client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        reader = h11.Connection(h11.CLIENT)
        reader.send(h11.Request(method="GET", target="/", headers=[("Host", "h")]))
        reader.send(h11.EndOfMessage())
        status = b""
        while not isinstance(event := reader.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                before = len(client.got)
                await client.read_or_end()
                if client.eof:
                    break
                reader.receive_data(client.got[before:])
            elif isinstance(event, h11.Response):
                status = b"%d" % event.status_code
        assert client.eof == path.name.startswith("cut-")
        assert [status] == (verdict(path) or [b"200"])
        if not client.eof:
            await client.send(SENTINEL)
            await client.take(b"HTTP/1.1 299 ")
        client.close()
        await until(lambda: not running.context.connections)
        assert running.context.in_flight == 0
