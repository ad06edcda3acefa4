"""The differential test in short (see ``differential``), and a sample of it over sockets."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from pathlib import Path

import pytest

from ..wire.harness import Link, Upstream, proxy, until, variants
from .differential import Case, Trial, finals, run
from .recorder import Malformed, Recorded, Recorder

ROOT = Path(__file__).parent.parent.parent
CASES = 2500
SOCKETS = 100


def test_what_is_forwarded_means_one_thing() -> None:
    seen = run(CASES, "gate")
    assert seen["cases"] == CASES
    assert seen["requests"] > seen["cases"] / 4
    assert seen["refused"] > seen["cases"] / 4


def test_the_command_says_what_it_did() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.fuzz.differential",
            "--cases",
            "20",
            "--jobs",
            "2",
            "--seed",
            "s",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "cases: 20" in done.stdout
    assert "seed s, 2 jobs" in done.stdout


@pytest.mark.parametrize("target", ["fuzz", "tunnel"])
def test_make_knows_the_long_runs(target: str) -> None:
    done = subprocess.run(
        ["make", "--dry-run", target, "SECONDS=600"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    wanted = "tests.fuzz.guided --seconds 600" if target == "fuzz" else "TUNNEL_MIB=1024"
    assert wanted in done.stdout


async def test_sockets_make_no_difference() -> None:
    """What is forwarded in memory is forwarded by a real proxy, and nothing else."""
    source = random.Random("sockets")
    trial = Trial(asyncio.get_running_loop())
    got: list[Recorded] = []

    async def serve(link: Link) -> None:
        recorder = Recorder()
        while data := await link.read():
            for _ in range(recorder.feed(data)):
                one = recorder.requests[-1]
                got.append(one)
                body = b"" if one.method == b"HEAD" else b"ok"
                await link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n" + body)

    limits = (
        "limits: {header_timeout: 100ms, idle_timeout: 100ms, body_timeout: 100ms,"
        " first_byte_timeout: 10s}"
    )
    refused = 0
    async with (
        Upstream(serve).serving() as upstream,
        proxy(variants(upstream.port, more=limits)) as running,
    ):
        for _ in range(SOCKETS):
            case = Case(source)
            case.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
            forwarded, statuses = trial.run(case)
            got.clear()
            client = await running.connect()
            for piece in case.pieces[:30]:
                await client.send(piece)
            if len(case.pieces) > 30:
                await client.send(b"".join(case.pieces[30:]))
            await client.to_end()
            client.close()
            await until(lambda: not running.datapath.context.connections)
            # What came whole in memory; here a request that is never finished ends in a 408 as well.
            assert [(one.method, one.target, one.body) for one in got] == forwarded, case.pieces
            mine = finals(client.got)
            assert [status for status in mine if status != 408] == statuses, case.pieces
            refused += len(mine) > len(forwarded)
    assert refused > SOCKETS / 10


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nVia: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a,b\r\nVia: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\nVia: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nVia: x\r\nA : b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nVia: x\nA: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nVia: x\r\nA: b\rc\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nVia: x\r\nContent_Length: 1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nVia: x\r\nConnection: close\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: h\r\nVia: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nVia: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nVia: x\r\nContent-Length: +1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nVia: x\r\nTransfer-Encoding: chunked\r\n\r\n1;a\r\nx\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nVia: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxy\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nVia: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nHost: t\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\x00",
    ],
)
def test_the_recorder_is_strict(data: bytes) -> None:
    with pytest.raises(Malformed):
        Recorder().feed(data)
