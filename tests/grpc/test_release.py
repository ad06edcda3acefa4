"""A release of a gRPC service as it happens: real processes, a canary that becomes unavailable, a trip."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path

import grpc

from canaryproxy.measure.routing import bucket_of
from tests.ports import free_port
from tests.system.processes import DEADLINE, Process, Proxy, answers, proxy, until, variants

from .test_clients import OPTIONS, proxied

WEIGHT = 1
RELEASE = f"""
state: state.json
split: {{sticky: {{header: x-user}}}}
release: {{id: g1, steps: [{{weight: {WEIGHT}, bake: 1h}}, {{weight: 100}}]}}
rescue: {{enabled: false}}
judge: {{baseline: 0s, warmup: 1s}}
"""
Call = Callable[[str], str]
"""Have a user call; returns the variant that answered, or ``failed``."""
HTTP_SERVICE = Path(__file__).parents[1] / "system" / "service.py"


def users(salt: bytes, *, canary: bool, weight: float = WEIGHT) -> Iterator[str]:
    """Yield those of one variant."""
    for number in count():
        user = f"u{number}"
        if (bucket_of(salt, user.encode()) < weight * 100) is canary:
            yield user


def calling(channel: grpc.Channel) -> Call:
    method = channel.unary_unary("/test.Echo/Unary")

    def call(user: str) -> str:
        future = method.future(b"x", timeout=DEADLINE, metadata=[("x-user", user)])
        if future.code() is grpc.StatusCode.UNAVAILABLE:
            return "failed"
        assert future.code() is grpc.StatusCode.OK
        return str(dict(future.initial_metadata())["x-variant"])

    return call


def calls_until_trip(running: Proxy, call: Call, breaks: Callable[[], None]) -> int:
    """Return how many calls failed from the moment on when the canary breaks to the trip."""
    steady, hurt = users(b"g1", canary=False), users(b"g1", canary=True)
    healthy = list(islice(hurt, 10))
    until(lambda: call(healthy[0]) == "canary", "step")
    for number in range(100):
        assert call(next(steady)) == "stable"
        assert call(healthy[number % 10]) == "canary"
    breaks()
    for failed in range(100):
        for _ in range(3):
            call(next(steady))
        before = json.loads(running.ask("GET", "/v1/release"))["answered"]
        if (found := call(next(hurt))) != "failed":
            assert found == "stable"
            return failed

        def seen(before: int = before) -> bool:
            """The judge has seen the call, or has tripped."""
            release = json.loads(running.ask("GET", "/v1/release"))
            return bool(release["answered"] > before or release["circuit"]["state"] == "open")

        until(seen, "the judge")
    raise AssertionError("no trip")


def of_grpc(folder: Path) -> int:
    with (
        proxied(folder, RELEASE, canary=True) as running,
        grpc.insecure_channel(f"127.0.0.1:{running.port}", options=OPTIONS) as channel,
    ):

        def breaks() -> None:
            port = running.ports[1]
            with grpc.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as direct:
                direct.unary_unary("/test.Echo/Fail")(b"14", timeout=DEADLINE)

        return calls_until_trip(running, calling(channel), breaks)


@contextlib.contextmanager
def http_service(folder: Path, name: str) -> Iterator[int]:
    port, file = free_port(), folder / f"{name}.txt"
    file.write_text("")
    process = Process(str(HTTP_SERVICE), name, str(port), str(file), folder=folder)
    try:
        until(lambda: answers(port), name)
        yield port
    finally:
        process.end()


def of_http(folder: Path) -> int:
    with (
        http_service(folder, "stable") as stable,
        http_service(folder, "canary") as canary,
        proxy(folder, variants([stable], [canary]), RELEASE) as running,
        contextlib.closing(http.client.HTTPConnection("127.0.0.1", running.port)) as client,
    ):

        def call(user: str) -> str:
            client.request("POST", "/test.Echo/Unary", b"x", {"X-User": user})
            response = client.getresponse()
            body = response.read().decode()
            return body if response.status == 200 else "failed"

        def breaks() -> None:
            (folder / "canary.txt").write_text("* 503 0")

        return calls_until_trip(running, call, breaks)


def test_a_canary_that_becomes_unavailable_trips_at_weight_1(tmp_path: Path) -> None:
    folders = [tmp_path / "grpc", tmp_path / "http"]
    for folder in folders:
        folder.mkdir()
    by_grpc, by_http = of_grpc(folders[0]), of_http(folders[1])
    # A few calls pass between the moment when the judge knows enough and the tick that publishes it.
    assert 0 < by_grpc < 20
    assert 0 < by_http < 20


STREAMS = 500
HALF = f"""
state: state.json
split: {{sticky: {{header: x-user}}}}
release: {{id: g2, steps: [{{weight: 50, bake: 1h}}, {{weight: 100}}]}}
limits: {{http2: {{max_streams: {STREAMS + 100}, flood_budget: 20000}}}}
circuit: {{close_after: 1h}}
judge: {{baseline: 0s}}
"""


async def test_at_500_streams_in_flight_a_trip_moves_new_streams_at_once(tmp_path: Path) -> None:
    with proxied(tmp_path, HALF, canary=True) as running:
        async with grpc.aio.insecure_channel(
            f"127.0.0.1:{running.port}", options=OPTIONS
        ) as channel:
            talk = channel.stream_stream("/test.Echo/Bidi")
            unary = channel.unary_unary("/test.Echo/Unary")

            async def answers_to(user: str) -> str:
                call = unary(b"x", timeout=DEADLINE, metadata=[("x-user", user)])
                return str(dict(await call.initial_metadata())["x-variant"])

            moved = list(islice(users(b"g2", canary=True, weight=50), STREAMS))
            for _ in range(1000):
                if await answers_to(moved[0]) == "canary":
                    break
                await asyncio.sleep(0.02)  # the release has not begun
            streams = []
            for user in moved:
                stream = talk(metadata=[("x-user", user)])
                await stream.write(b"before")
                streams.append((user, stream))
            for _, stream in streams:
                assert await stream.read() == b"before"
                assert dict(await stream.initial_metadata())["x-variant"] == "canary"
            running.ask("POST", "/v1/release/trip", {})
            for user, stream in streams[:20]:
                assert await answers_to(user) == "stable"
                await stream.write(b"after")  # and those in flight stay where they are
                assert await stream.read() == b"after"
            for _, stream in streams:
                stream.cancel()
