"""A thousand replicas on one Redis.

Each replica sends its counts through the proxy's own store and scripts to a redis-server that this program
starts; the judge gets the sums as a replica does. Prints the cost of a poll in Redis (its INFO), the bytes
of a poll, how long an act takes to reach a subscriber, and when the judge trips.
Example: python -m bench.fleet --replicas 100 --looks 10
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from random import Random
from typing import Any

import redis.asyncio as redis

from canaryproxy.config import Fleet
from canaryproxy.fleet import counts, protocol
from canaryproxy.fleet.protocol import Settings
from canaryproxy.fleet.redis_store import ExchangeRequest, RedisStore
from canaryproxy.judging.judge import Judge
from canaryproxy.judging.settings import JudgeSettings
from canaryproxy.judging.verdict import Sample
from canaryproxy.release import circuit
from canaryproxy.release.circuit import CircuitSettings
from canaryproxy.release.rollout import Plan, Step
from tests.ports import free_port
from tests.system.processes import answers, until

_SETTINGS = Settings(
    "r1", "s" * 16, "j" * 16, "r1", Plan((Step(5.0, 3600.0), Step(100.0))), CircuitSettings()
)
_METRICS = ("business", "client_errors", "errors", "latency", "requests", "throughput")


def _sample(side: list[tuple[int, int]]) -> Sample:
    stable, canary = side
    return Sample(dict.fromkeys(_METRICS, stable), dict.fromkeys(_METRICS, canary))


async def _run(replicas: int, looks: int, port: int) -> None:
    url = f"redis://127.0.0.1:{port}/0"
    shared = RedisStore(Fleet(redis=url, group="b"), "r0")
    links = [
        RedisStore(Fleet(redis=url, group="b"), f"replica-{at}:0123abcd") for at in range(replicas)
    ]
    for link in links:  # one pool for all: what is measured is the server
        link._redis = shared._redis
    document = protocol.begin(_SETTINGS, "a0", 0.0)
    await shared.commit("", document, 0)
    source = Random(1)
    rows = [[(0, 0), (0, 0)] for _ in links]
    judge, sums = Judge(JudgeSettings(alpha=0.0005)), counts.Sums()
    tripped: int | None = None
    asking: Any = redis.Redis.from_url(url, decode_responses=True)
    await _look(links, rows, document, 0)
    await asking.config_resetstat()
    cpu = float((await asking.info("cpu"))["used_cpu_user"])
    began = time.monotonic()
    for number in range(1, looks + 1):
        for at, (stable, canary) in enumerate(rows):
            # Ten requests a second each; the canary fails four times as often as stable, 0.5 %.
            stable = (stable[0] + 1, stable[1] + (source.random() < 0.005))
            hit = source.random() < 0.05
            canary = (canary[0] + hit, canary[1] + (hit and source.random() < 0.02))
            rows[at] = [stable, canary]
        total = await _look(links, rows, document, number)
        sums.take("k", _METRICS, counts.numbers(total))
        seen = judge.observe(number / 10, sums.sample)
        if tripped is None and seen.level == "breach":
            tripped = number
    took = time.monotonic() - began
    cpu = float((await asking.info("cpu"))["used_cpu_user"]) - cpu
    stats, commands = await asking.info("stats"), await asking.info("commandstats")
    done = replicas * looks
    script = commands["cmdstat_evalsha"]
    print(f"{replicas} replicas, {looks} looks each, {took:.1f} s")
    print(f"Redis, time in the script of a look: {float(script['usec_per_call']):.0f} µs")
    print(f"Redis, processor time of a look: {cpu / done * 1e6:.0f} µs")
    print(f"bytes of a look: {stats['total_net_input_bytes'] / done:.0f} to Redis,", end=" ")
    print(f"{stats['total_net_output_bytes'] / done:.0f} back")
    lag = await _propagation(shared, links[1], document)
    print(f"from an act to a subscriber: {lag * 1000:.1f} ms")
    print(f"canary requests in the sums: {sums.sample.canary['requests'][0]} of {looks / 10:g} s")
    when = "not in that time" if tripped is None else f"after {tripped / 10:g} s"
    print(f"0.5 % to 2 % at weight 5, ten requests a second each: tripped {when}")
    await asking.aclose()
    await shared.close()


async def _look(
    links: list[RedisStore], rows: list[list[tuple[int, int]]], document: Any, _n: int
) -> str:
    total = ""
    for first in range(0, len(links), 8):  # as many as the pool has connections
        told = await asyncio.gather(
            *(
                link.exchange(
                    ExchangeRequest(
                        "s" * 16,
                        "",
                        document.act,
                        document.marker,
                        "s:1",
                        0,
                        "",
                        counts.text(counts.row(_sample(row))),
                    )
                )
                for link, row in zip(links[first : first + 8], rows[first : first + 8], strict=True)
            )
        )
        total = told[-1].sums
    return total


async def _propagation(acting: RedisStore, hearing: RedisStore, document: Any) -> float:
    heard = asyncio.Event()
    started = asyncio.Event()

    def call() -> None:
        (heard if started.is_set() else started).set()

    task = asyncio.ensure_future(hearing.listen(call))
    await asyncio.wait_for(started.wait(), 5)
    made, _ = protocol.step(document, circuit.Trip("bench"), 0.0, _SETTINGS, "a1")
    began = time.monotonic()
    await acting.commit(document.act, made, 0)
    await asyncio.wait_for(heard.wait(), 5)
    took = time.monotonic() - began
    task.cancel()
    await asyncio.wait([task], timeout=2)
    return took


def main(work: Callable[[int, int, int], Any] = _run) -> None:
    """Start a redis-server, measure, end it."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.fleet",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--replicas", type=int, default=1000, help="default: %(default)s")
    parser.add_argument("--looks", type=int, default=20, help="polls of each; default: %(default)s")
    given = parser.parse_args()
    program = shutil.which("redis-server")
    assert program is not None, "redis-server is not installed"
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen(
            [program, "--port", str(port), "--save", "", "--dir", folder], stdout=subprocess.DEVNULL
        )
        try:
            until(lambda: answers(port), "redis-server")
            asyncio.run(work(given.replicas, given.looks, port))
        finally:
            server.kill()
            server.wait()


if __name__ == "__main__":
    main()
