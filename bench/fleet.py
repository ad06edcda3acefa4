"""Many replicas on one Redis.

Each replica sends its counts and records through the proxy's own store and script to a redis-server that this
program starts, and reads those of all; the judge of one of them is real. Prints what a poll costs Redis (its
INFO), its bytes, what the records cost the replica that judges, how long an act takes to reach a subscriber,
and when the judge trips.
Example: python -m bench.fleet --replicas 5 --rate 400 --looks 200
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import redis.asyncio as redis

from canaryproxy.config import Fleet
from canaryproxy.fleet import counts, protocol
from canaryproxy.fleet.contact import Contact
from canaryproxy.fleet.evidence import FleetEvidence
from canaryproxy.fleet.protocol import Settings
from canaryproxy.fleet.redis_store import ExchangeReply, ExchangeRequest, RedisStore
from canaryproxy.fleet.state import Document
from canaryproxy.judging.settings import JudgeSettings
from canaryproxy.judging.verdict import Sample
from canaryproxy.measure.records import ENDED, FAILED, pack_first, pack_second, pack_third
from canaryproxy.measure.routing import FINE, POSITIONS, RouteTable
from canaryproxy.release import circuit
from canaryproxy.release.circuit import CircuitSettings
from canaryproxy.release.rollout import Plan, Step
from tests.ports import free_port
from tests.system.processes import answers, until

_SETTINGS = Settings(
    "r1", "s" * 16, "j" * 16, "r1", Plan((Step(5.0, 3600.0), Step(100.0))), CircuitSettings()
)
_JUDGE = JudgeSettings(steps=(5.0, 100.0), warmup=0.0)
_METRICS = ("requests", "client_errors", "unreached")
_TABLE = RouteTable(weight=5.0)
_LIMIT = _TABLE.limit
_INTERVAL = 0.1
_WARM = 20
"""Exchanges before the canary breaks."""


@dataclass(slots=True)
class _Traffic:
    """Requests of users who are many; stable fails 0.5 % of them, the canary 2 %."""

    rate: float
    """Requests a second at each replica."""
    source: Random = field(default_factory=lambda: Random(1))
    users: list[int] = field(default_factory=list)
    canary_fails: float = 0.005

    def __post_init__(self) -> None:
        self.users = [self.source.randrange(POSITIONS) for _ in range(100_000)]

    def tick(self, counted: dict[str, list[int]]) -> Sample:
        """Return a tick's records, and count them."""
        words: list[int] = []
        due = self.rate * _INTERVAL
        for _ in range(int(due) + (self.source.random() < due % 1)):
            position = self.source.choice(self.users)
            on_canary = position < _LIMIT * FINE
            failed = self.source.random() < (self.canary_fails if on_canary else 0.005)
            side = counted["canary" if on_canary else "stable"]
            side[0] += 1
            side[1] += failed
            flags, status = (ENDED | FAILED, 500) if failed else (ENDED, 200)
            words += (
                pack_first(position, on_canary, 0, status, 1, flags),
                pack_second(0, 0, 0),
                pack_third(self.source.expovariate(50), 1000),
            )
        stable, canary = (
            dict.fromkeys(_METRICS, (counted[name][0], counted[name][1]))
            for name in ("stable", "canary")
        )
        return Sample(stable, canary, words, _LIMIT)


class _Replica:
    """One replica without its controller: what it sends and reads. Only one of them judges."""

    def __init__(self, store: RedisStore, name: str, traffic: _Traffic, *, judges: bool) -> None:
        self.store = store
        self.name = name
        self.contact = Contact()
        self.evidence = FleetEvidence(_JUDGE, 0.2)
        self.judges = judges
        self.cursor = "0-0"
        self.spent = 0.0
        """Seconds that the judge of the fleet's records took."""
        self._traffic = traffic
        self._counted: dict[str, list[int]] = {"stable": [0, 0], "canary": [0, 0]}

    async def exchange(self, document: Document, now: float) -> None:
        """Exchange a tick of traffic."""
        self.evidence.sample = sample = self._traffic.tick(self._counted)
        self.evidence._outbox.add(sample)
        request = ExchangeRequest(
            settings="s" * 16,
            settings_before="",
            known=document.act,
            marker=document.marker,
            sums="s:1",
            term=0,
            progress="",
            row=counts.text(counts.row(sample)),
            entry=self.evidence.to_write(now, _TABLE, self.contact.replicas),
            cursor=self.evidence.cursor if self.judges else self.cursor,
            most=self.contact.entries(self.name),
        )
        reply = await self.store.exchange(request)
        self.contact.replied(reply, now)
        self._read(reply)

    def _read(self, reply: ExchangeReply) -> None:
        if not self.judges:
            self.cursor = reply.entries[-1].id if reply.entries else self.cursor
            return
        began = time.process_time()
        self.evidence.observe_combined(reply.now, "s:1", reply.sums, reply.entries)
        self.spent += time.process_time() - began


async def _run(given: argparse.Namespace, port: int) -> None:
    url = f"redis://127.0.0.1:{port}/0"
    shared = RedisStore(Fleet(redis=url, group="b"), "r0")
    traffic = _Traffic(given.rate)
    replicas = [_Replica(shared, "r0", traffic, judges=True)]
    for at in range(1, given.replicas):
        store = RedisStore(Fleet(redis=url, group="b"), f"replica-{at}:0123abcd")
        store._redis = shared._redis  # one pool for all: what is measured is the server
        replicas.append(_Replica(store, f"replica-{at}:0123abcd", traffic, judges=False))
    document = protocol.begin(_SETTINGS, "a0", 0.0)
    await shared.commit("", document, 0)
    asking: Any = redis.Redis.from_url(url, decode_responses=True)
    for number in range(_WARM):
        await _look(replicas, document, number)
    traffic.canary_fails = 0.02
    await asking.config_resetstat()
    cpu, spent = await _cpu(asking), replicas[0].spent
    began, tripped, late = time.monotonic(), None, 0.0
    for number in range(_WARM, _WARM + given.looks):
        due = began + (number - _WARM) * _INTERVAL
        late = max(late, time.monotonic() - due)
        await asyncio.sleep(max(due - time.monotonic(), 0.0))
        await _look(replicas, document, number)
        seen = replicas[0].evidence.seen
        if tripped is None and seen is not None and seen.level == "breach":
            tripped = (number - _WARM + 1) * _INTERVAL
    took = time.monotonic() - began
    cpu, spent = await _cpu(asking) - cpu, replicas[0].spent - spent
    stats, commands = await asking.info("stats"), await asking.info("commandstats")
    done, seconds = given.replicas * given.looks, given.looks * _INTERVAL
    script = float(commands["cmdstat_evalsha"]["usec_per_call"])
    sent, back = (stats[f"total_net_{way}_bytes"] for way in ("input", "output"))
    log = (await asking.keys("canaryproxy:{b}:records:*"))[0]
    memory = await asking.memory_usage(log)
    print(f"{given.replicas} replicas, {given.rate:g} requests a second each, {given.looks} looks")
    print(f"took {took:.1f} s for {seconds:.1f} s of traffic, late by {late:.2f} s at most")
    print(f"Redis, time in the script of a look: {script:.0f} µs")
    print(
        f"Redis, processor time of a look: {cpu / done * 1e6:.0f} µs, {cpu / seconds:.1%} of a core"
    )
    print(f"bytes of a look: {sent / done:.0f} to Redis, {back / done:.0f} back")
    print(f"kB a second: {sent / seconds / 1000:.0f} to Redis, {back / seconds / 1000:.0f} back")
    print(f"the log: {await asking.xlen(log)} entries, {memory / 1e6:.1f} MB")
    print(f"reading and judging the fleet's records: {spent / seconds:.1%} of a core")
    lag = await _propagation(shared, replicas[1].store, document)
    print(f"from an act to a subscriber: {lag * 1000:.1f} ms")
    when = "not in that time" if tripped is None else f"after {tripped:.1f} s"
    print(f"0.5 % to 2 % at weight 5: tripped {when}")
    await asking.aclose()
    await shared.close()


async def _cpu(asking: Any) -> float:
    found = await asking.info("cpu")
    return float(found["used_cpu_user"]) + float(found["used_cpu_sys"])


async def _look(replicas: list[_Replica], document: Document, number: int) -> None:
    for first in range(0, len(replicas), 8):  # as many as the pool has connections
        some = replicas[first : first + 8]
        await asyncio.gather(*(one.exchange(document, number * _INTERVAL) for one in some))


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


def main(work: Callable[[argparse.Namespace, int], Any] = _run) -> None:
    """Start a redis-server, measure, end it."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.fleet",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--replicas", type=int, default=1000, help="default: %(default)s")
    parser.add_argument("--looks", type=int, default=20, help="polls of each; default: %(default)s")
    parser.add_argument(
        "--rate", type=float, default=10.0, help="requests a second at each; default: %(default)s"
    )
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
            asyncio.run(work(given, port))
        finally:
            server.kill()
            server.wait()


if __name__ == "__main__":
    main()
