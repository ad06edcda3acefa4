"""A running proxy is steered and loses nothing: weights, configurations, signals."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from bisect import bisect_left, bisect_right
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from canaryproxy.measure.routing import bucket_of

from .processes import Proxy, proxy, until, upstream, variants

pytestmark = pytest.mark.slow

CHANGES = int(os.environ.get("CHANGES", "200"))
USERS = [b"user-%d" % number for number in range(3000)]
PAUSE = 0.03
"""Seconds between two batches on a connection: what is tested is not how much the machine can take."""


class Sender:
    """Pipelined connections that remember when each answer was asked for, came, and from whom."""

    def __init__(
        self, port: int, connections: int = 6, batch: int = 8, *, may_close: bool = False
    ) -> None:
        self._may_close = may_close  # the proxy, between answers
        self._port = port
        self._connections = connections
        self._batch = batch
        self.seen: list[tuple[float, float, bytes, int, bytes]] = []
        """Sent, received, user, status, variant."""

    async def during(self, story: Callable[[], Awaitable[None]]) -> None:
        """Send until the story has ended, then read what is under way."""
        over = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for number in range(self._connections):
                group.create_task(self._send(number, over))
            await story()
            over.set()

    async def more(self, answers: int) -> None:
        """Wait until so many more answers have come."""
        wanted, end = len(self.seen) + answers, time.monotonic() + 30
        while len(self.seen) < wanted:
            assert time.monotonic() < end
            await asyncio.sleep(0.005)

    async def _send(self, number: int, over: asyncio.Event) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            await self._talk(reader, writer, number * 97, over)
        except (asyncio.IncompleteReadError, ConnectionError):
            if not self._may_close:
                raise
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _talk(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        at: int,
        over: asyncio.Event,
    ) -> None:
        while not over.is_set():
            users = [USERS[(at + k) % len(USERS)] for k in range(self._batch)]
            at += self._batch
            sent = time.monotonic()
            writer.write(
                b"".join(
                    b"GET / HTTP/1.1\r\nHost: h\r\nCookie: canary_id=%b\r\n\r\n" % u for u in users
                )
            )
            for user in users:
                head = await reader.readuntil(b"\r\n\r\n")
                size = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
                body = await reader.readexactly(size)
                self.seen.append((sent, time.monotonic(), user, int(head[9:12]), body))
            await asyncio.sleep(PAUSE)


class Admin:
    """A kept-alive connection to the admin socket."""

    def __init__(self, running: Proxy) -> None:
        self._path = running.socket
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __aenter__(self) -> Admin:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._streams is not None:
            self._streams[1].close()
            await self._streams[1].wait_closed()

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Send a request; return status and JSON."""
        if self._streams is None:
            self._streams = await asyncio.open_unix_connection(str(self._path))
        reader, writer = self._streams
        data = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n"
        if data:
            head += "Content-Type: application/json\r\n"
        writer.write(head.encode() + b"\r\n" + data)
        answer = await reader.readuntil(b"\r\n\r\n")
        size = int(answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return int(answer[9:12]), json.loads(await reader.readexactly(size) or b"null")


def test_weight_changes_under_load_fail_nothing_and_move_only_users_between_the_weights(
    tmp_path: Path,
) -> None:
    """An answer may come only from the variant that some weight in force meanwhile gave the user."""
    with (
        upstream(tmp_path, "stable") as (_, v1),
        upstream(tmp_path, "canary") as (_, v2),
        proxy(
            tmp_path,
            variants([v1], [v2]),
            f"state: {tmp_path}/state.json\nsplit: {{weight: 10}}\njudge: {{metrics: {{}}}}",
        ) as running,
    ):
        begun = [float("-inf")]
        acknowledged = [float("-inf")]
        limits = [1000]
        sender = Sender(running.port)

        async def story() -> None:
            async with Admin(running) as admin:
                for number in range(CHANGES):
                    weight = [10, 90, 50, 0, 100, 25.5, 30][number % 7]
                    begun.append(time.monotonic())
                    status, document = await admin.ask("PUT", "/v1/weight", {"weight": weight})
                    acknowledged.append(time.monotonic())
                    limits.append(round(weight * 100))
                    assert (status, document["weight"]) == (200, weight)
                    await sender.more(20)

        uvloop.run(sender.during(story))
        seconds = max(end for _, end, *_ in sender.seen) - min(at for at, *_ in sender.seen)
        print(f"{len(sender.seen)} requests in {seconds:.1f} s, {CHANGES} changes")
        assert len(sender.seen) >= 20 * CHANGES
        bucket = {user: bucket_of(b"", user) for user in USERS}
        variants_seen = set()
        for sent, received, user, status, variant in sender.seen:
            assert status == 200
            first = bisect_right(acknowledged, sent) - 1
            last = bisect_left(begun, received) - 1
            possible = limits[first : last + 1]
            allowed = {b"canary" if bucket[user] < limit else b"stable" for limit in possible}
            assert variant in allowed
            variants_seen.add((variant, len(allowed)))
        assert {(b"canary", 1), (b"stable", 1)} <= variants_seen
        scraped = running.metrics()
        codes = {
            name: value
            for name, value in scraped.items()
            if name.startswith("canaryproxy_requests_total")
        }
        assert sum(codes.values()) == len(sender.seen)
        assert all('code="200"' in name for name in codes)


def configure(running: Proxy, folder: Path, text: str) -> None:
    """Write another configuration; the addresses stay."""
    path = folder / "proxy.yaml"
    kept = "\n".join(path.read_text().splitlines()[:2])
    beside = folder / "proxy.new"
    beside.write_text(f"{kept}\n{text}\n")
    beside.replace(path)


def test_endpoints_limits_and_rules_change_under_load_without_a_failed_request(
    tmp_path: Path,
) -> None:
    with (
        upstream(tmp_path, "stable") as (_, a),
        upstream(tmp_path, "stable") as (old, b),
        upstream(tmp_path, "canary") as (_, v2),
        proxy(
            tmp_path, variants([a, b], [v2]), f"state: {tmp_path}/state.json\nsplit: {{weight: 10}}"
        ) as running,
    ):
        sender = Sender(running.port)
        rules = "split: {weight: 10, match: [{variant: canary, path: {equals: /}}]}"

        async def story() -> None:
            async with Admin(running) as admin:
                state = f"state: {tmp_path}/state.json"
                for number in range(30):
                    stable = [[a], [a, b], [b, a]][number % 3]
                    limits = (
                        f"limits: {{idle_timeout: {60 + number}s, max_endpoint_idle: {number % 4}}}"
                    )
                    split = rules if number % 2 else "split: {weight: 10}"
                    configure(
                        running, tmp_path, f"{variants(stable, [v2])}\n{split}\n{limits}\n{state}"
                    )
                    status, found = await admin.ask("POST", "/v1/reload")
                    assert status == 200, found
                    assert found["restart_needed"] == []
                    await sender.more(100)
                configure(running, tmp_path, f"{variants([a], [v2])}\n{rules}\n{state}")
                assert (await admin.ask("POST", "/v1/reload"))[0] == 200
                _, document = await admin.ask("GET", "/v1/release")
                assert [e["url"] for e in document["variants"]["stable"]["endpoints"]] == [
                    f"http://127.0.0.1:{a}"
                ]
                old.kill()  # nobody needs it
                await sender.more(600)

        uvloop.run(sender.during(story))
        assert {status for _, _, _, status, _ in sender.seen} == {200}
        assert {variant for *_, variant in sender.seen[-500:]} == {b"canary"}


def test_a_storm_of_sighup_with_good_and_bad_files_loses_nothing(tmp_path: Path) -> None:
    with (
        upstream(tmp_path, "stable") as (_, v1),
        upstream(tmp_path, "canary") as (_, v2),
        proxy(
            tmp_path, variants([v1], [v2]), f"state: {tmp_path}/state.json\nsplit: {{weight: 10}}"
        ) as running,
    ):
        sender = Sender(running.port)
        good = f"{variants([v1], [v2])}\nstate: {tmp_path}/state.json\nsplit: {{weight: 20}}"

        async def story() -> None:
            async with Admin(running) as admin:
                for number in range(200):
                    configure(running, tmp_path, good if number % 2 else "split: {weight: [")
                    running.kill(signal.SIGHUP)
                    await asyncio.sleep(0.005)
                configure(running, tmp_path, good)
                running.kill(signal.SIGHUP)
                await _soon(admin, lambda found: found["weight"] == 20)
                configure(running, tmp_path, "split: {weight: 300}")
                running.kill(signal.SIGHUP)
                await _soon(
                    admin, lambda found: "required key 'variants'" in str(found["config"]["error"])
                )
                assert (await admin.ask("GET", "/v1/release"))[1]["weight"] == 20
                configure(running, tmp_path, good)
                running.kill(signal.SIGHUP)
                await _soon(admin, lambda found: found["config"]["error"] is None)

        uvloop.run(sender.during(story))
        assert {status for _, _, _, status, _ in sender.seen} == {200}
        assert running.child.poll() is None


async def _soon(admin: Admin, condition: Callable[[Any], bool]) -> None:
    end = time.monotonic() + 20
    while not condition((await admin.ask("GET", "/v1/release"))[1]):
        assert time.monotonic() < end
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("again", [False, True])
def test_what_a_reload_begins_survives_a_kill(tmp_path: Path, again: bool) -> None:
    """Another release by SIGHUP, then kill -9: the restarted proxy goes on with it."""
    release = "release: {{id: {}, steps: [{{weight: 30, bake: 1h}}, {{weight: 100}}]}}"
    with upstream(tmp_path, "stable") as (_, v1), upstream(tmp_path, "canary") as (_, v2):
        state = f"state: {tmp_path}/state.json\njudge: {{baseline: 0s}}"
        both = variants([v1], [v2])
        with proxy(tmp_path, both, f"{state}\n{release.format('r1')}") as running:
            configure(running, tmp_path, f"{both}\n{state}\n{release.format('r2')}")
            running.kill(signal.SIGHUP)
            until(lambda: "r2" in _release(tmp_path), "the next release on the disk")
            if again:
                configure(running, tmp_path, f"{both}\n{state}\n{release.format('r3')}")
                running.kill(signal.SIGHUP)
            running.kill()
            running.wait()
        name = "r3" if again else "r2"
        with proxy(tmp_path, both, f"{state}\n{release.format(name)}") as running:
            until(lambda: running.metrics()["canaryproxy_weight_ratio"] == 0.3, "the weight")
            assert name in _release(tmp_path)


def _release(folder: Path) -> str:
    try:
        return str(json.loads((folder / "state.json").read_text())["state"]["release"])
    except FileNotFoundError:
        return ""
