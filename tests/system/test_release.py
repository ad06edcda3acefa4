"""A release as it happens: real processes, real requests, a canary that breaks in several ways."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvloop

from canaryproxy.measure.routing import bucket_of
from tests.ports import free_port

from .processes import HERE, Process, Proxy, answers, proxy, until, variants

RELEASE = """
state: {folder}/state.json
release: {{id: r1, steps: [{{weight: {weight}, bake: 1h}}, {{weight: 100}}]}}
judge: {{baseline: 0s, warmup: 1s{judge}}}
"""


def more(folder: Path, weight: float = 20, judge: str = "") -> str:
    return RELEASE.format(folder=folder, weight=weight, judge=judge)


class Canary(Process):
    """A service that the test can break."""

    def __init__(self, folder: Path, name: str) -> None:
        self.port = free_port()
        self._file = folder / f"{name}.txt"
        self.behave("")
        super().__init__(
            str(HERE / "service.py"), name, str(self.port), str(self._file), folder=folder
        )

    def behave(self, words: str) -> None:
        beside = self._file.with_suffix(".new")
        beside.write_text(words)
        beside.replace(self._file)


@contextlib.contextmanager
def service(folder: Path, name: str) -> Iterator[Canary]:
    process = Canary(folder, name)
    try:
        until(lambda: answers(process.port), name)
        yield process
    finally:
        process.end()


@dataclass
class Traffic:
    """Users that ask at a steady rate, and when each answer of which variant came."""

    port: int
    rate: float = 300.0
    users: int = 2000
    prefix: str = "u"
    seen: list[tuple[float, int, str]] = field(default_factory=list)
    """Time, status, variant."""

    def run(self, actions: Callable[[Traffic], Any]) -> None:
        """Send until ``actions``, a coroutine function, has ended."""
        uvloop.run(self._run(actions))

    async def _run(self, actions: Callable[[Traffic], Any]) -> None:
        source = random.Random(1)
        sending = asyncio.create_task(self._send(source))
        try:
            await asyncio.wait_for(actions(self), 240)
        finally:
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sending

    async def _send(self, source: random.Random) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        tasks: set[asyncio.Task[int]] = set()
        try:
            while True:
                due += 1 / self.rate
                await asyncio.sleep(max(due - loop.time(), 0))
                user = f"{self.prefix}{source.randrange(self.users)}"
                task = loop.create_task(self.ask(user))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def ask(self, user: str) -> int:
        """Send one request on a connection of its own; return the status."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(
                f"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nCookie: canary_id={user}\r\n\r\n".encode()
            )
            answer = await reader.read()
        finally:
            writer.close()
        status = int(answer[9:12])
        variant = answer.rpartition(b"\r\n\r\n")[2].decode()
        self.seen.append((time.time(), status, variant))
        return status

    def last(self, variant: str) -> float:
        """When the last answer of a variant came."""
        return max(moment for moment, _, name in self.seen if name == variant)


async def soon(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what} did not come true"
        await asyncio.sleep(0.02)


def history(folder: Path) -> list[dict[str, Any]]:
    try:
        document = json.loads((folder / "state.json").read_text())
    except FileNotFoundError:
        return []
    records: list[dict[str, Any]] = document["state"]["history"]
    return records


def trip(folder: Path) -> dict[str, Any] | None:
    return next((record for record in history(folder) if record["what"] == "tripped"), None)


@contextlib.contextmanager
def release(
    folder: Path, weight: float = 20, judge: str = ""
) -> Iterator[tuple[Canary, Canary, Proxy]]:
    text = more(folder, weight, judge)
    with (
        service(folder, "stable") as stable,
        service(folder, "canary") as canary,
        proxy(folder, variants([stable.port], [canary.port]), text) as running,
    ):
        yield stable, canary, running


def test_errors_open_the_circuit_and_the_next_request_is_stables(tmp_path: Path) -> None:
    """Beside a thousand other connections, who asks after the trip is told hears of the canary no more."""
    with release(tmp_path) as (_, canary, running), contextlib.ExitStack() as idle:
        for _ in range(1000):
            idle.enter_context(socket.create_connection(("127.0.0.1", running.port)))

        async def story(traffic: Traffic) -> None:
            await soon(lambda: len(traffic.seen) > 600, "traffic")
            assert any(name == "canary" for _, _, name in traffic.seen)
            begin = time.time()
            canary.behave("* 500 0")
            await soon(lambda: trip(tmp_path), "trip")
            record = trip(tmp_path)
            assert record is not None
            assert record["cause"].startswith("error rate ")
            for user in canary_users(50, 20, "u"):
                assert await traffic.ask(user) == 200
            assert record["time"] - begin < 2.0
            bad = [
                moment for moment, _, name in traffic.seen if name == "canary" and moment > begin
            ]
            assert len(bad) < 100

        Traffic(running.port).run(story)


def test_slowness_opens_the_circuit(tmp_path: Path) -> None:
    with release(tmp_path) as (_, canary, running):

        async def story(traffic: Traffic) -> None:
            # Until stable's P95 is known (a hundred answers) and was compared for a while.
            await soon(lambda: len(traffic.seen) > 900, "traffic")
            canary.behave("* 200 0.3")
            await soon(lambda: trip(tmp_path), "trip")
            record = trip(tmp_path)
            assert record is not None
            assert "slow responses " in record["cause"]

        Traffic(running.port).run(story)


def test_a_deadlocked_canary_is_left_long_before_any_timeout(tmp_path: Path) -> None:
    with release(tmp_path) as (_, canary, running):

        async def story(traffic: Traffic) -> None:
            await soon(lambda: len(traffic.seen) > 900, "traffic")
            begin = time.time()
            canary.kill(signal.SIGSTOP)
            try:
                await soon(lambda: trip(tmp_path), "trip")
            finally:
                canary.kill(signal.SIGCONT)
            record = trip(tmp_path)
            assert record is not None
            assert record["time"] - begin < 3.0

        Traffic(running.port).run(story)


def canary_users(count: int, weight: float, prefix: str) -> list[str]:
    found: list[str] = []
    number = 0
    while len(found) < count:
        user = f"{prefix}{number}"
        if bucket_of(b"r1", user.encode()) < weight * 100:
            found.append(user)
        number += 1
    return found


def test_one_client_that_retries_does_not_open_the_circuit_and_many_users_do(
    tmp_path: Path,
) -> None:
    # Latency is not judged: a canary whose process waits for the processor is slow, and that would be told.
    with release(tmp_path, judge=", metrics: {errors: {}}") as (_, canary, running):
        canary.behave("500 0")  # for users named bad...

        async def story(traffic: Traffic) -> None:
            await soon(lambda: len(traffic.seen) > 300, "traffic")
            (alone,) = canary_users(1, 20, "bad")
            for _ in range(1000):
                assert await traffic.ask(alone) == 500, trip(tmp_path)
            await asyncio.sleep(0.5)
            assert trip(tmp_path) is None, trip(tmp_path)
            # Some share their bucket with a user who was a trial just now: they do not count.
            for user in canary_users(61, 20, "bad")[1:]:
                if trip(tmp_path) is None:
                    await traffic.ask(user)
            await soon(lambda: trip(tmp_path), "trip")

        Traffic(running.port).run(story)


def test_a_tripped_release_stays_tripped_when_the_proxy_is_killed_and_started_again(
    tmp_path: Path,
) -> None:
    with (
        service(tmp_path, "stable") as stable,
        service(tmp_path, "canary") as canary,
    ):
        sides = variants([stable.port], [canary.port])
        with proxy(tmp_path, sides, more(tmp_path)) as first:
            canary.behave("* 500 0")

            async def breaks(_traffic: Traffic) -> None:
                await soon(lambda: trip(tmp_path), "trip")

            Traffic(first.port).run(breaks)
            first.kill(signal.SIGKILL)
            first.wait()
        canary.behave("")
        with proxy(tmp_path, sides, more(tmp_path)) as second:

            async def asks(traffic: Traffic) -> None:
                await soon(lambda: len(traffic.seen) > 300, "traffic")
                assert {name for _, _, name in traffic.seen} == {"stable"}

            Traffic(second.port).run(asks)
            assert second.metrics()['canaryproxy_circuit_state{state="open"}'] == 1


def test_a_torn_state_file_means_stable(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text('{"format": "canaryproxy-st')
    with release(tmp_path, 50) as (_, _canary, running):

        async def asks(traffic: Traffic) -> None:
            await soon(lambda: len(traffic.seen) > 100, "traffic")
            assert {name for _, _, name in traffic.seen} == {"stable"}

        Traffic(running.port).run(asks)
        assert "truncated, or not written by canaryproxy" in running.log.read_text()


def test_without_traffic_a_release_stays_where_it_is(tmp_path: Path) -> None:
    text = more(tmp_path, 1).replace("bake: 1h", "bake: 10ms")
    with (
        service(tmp_path, "stable") as stable,
        service(tmp_path, "canary") as canary,
        proxy(tmp_path, variants([stable.port], [canary.port]), text) as running,
    ):
        key = "canaryproxy_weight_ratio"
        until(lambda: running.metrics()[key] == pytest.approx(0.01))
        end = time.monotonic() + 2.0
        while time.monotonic() < end:  # two hundred times the bake time
            assert running.metrics()[key] == pytest.approx(0.01)
            time.sleep(0.1)
