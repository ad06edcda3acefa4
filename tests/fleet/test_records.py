"""Records over a real Redis: replicas that share them are one judge, whatever happens to Redis or to them."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from canaryproxy.control.event_inbox import PostedEvent
from canaryproxy.fleet import authority, evidence, redis_store
from canaryproxy.measure.records import (
    ENDED,
    FAILED,
    FLAGS_SHIFT,
    POSITION_MASK,
    POSTED,
    WORDS,
    pack_first,
    pack_second,
    template_of,
)
from canaryproxy.measure.routing import FINE, POSITIONS, position_of

from .judges import Recorder, Voting
from .replicas import RELEASE, Replica, fleet, leader, soon
from .server import RedisServer, needs_redis, redis_server, wire

pytestmark = needs_redis

NAME = "GET /cart/*"
LIMIT = 1000 * FINE
STAYS = RELEASE.replace("bake: 1s", "bake: 1h")
"""A release that stays on its first step: another one would have another log."""
"""Position at which stable begins: the fleets of these tests are at weight 10."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as made:
        yield made


@pytest.fixture
def _recording(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "Judge", Recorder)
    monkeypatch.setattr(authority, "_KEEP_JUDGE_EVERY", 0.3)


class Users:
    """Numbered requests of users who were drawn by lot."""

    def __init__(self, failing: float = 0.0) -> None:
        self.source = Random(1)
        self.failing = failing
        """Share of canary requests that fail."""
        self.sent = 0
        self.canary = 0
        """Canary requests among them."""

    def request(self, position: int | None = None, *, failed: bool = False) -> tuple[int, int, int]:
        """Return the record of a request; its third word is its number."""
        at = self.source.randrange(POSITIONS) if position is None else position
        on_canary = at < LIMIT
        failed = failed or (on_canary and self.source.random() < self.failing)
        self.sent += 1
        self.canary += on_canary
        flags = ENDED | (FAILED if failed else 0)
        first = pack_first(at, int(on_canary), 0, 200, 0, flags)
        return first, pack_second(template_of(NAME.encode()), 0, 0), self.sent

    def spread(self, replicas: list[Replica], count: int) -> None:
        """Send requests of as many users, each to any replica."""
        for _ in range(count):
            self.source.choice(replicas).write(self.request())


def judge(replica: Replica) -> Recorder:
    found = replica.authority._evidence._combined
    assert isinstance(found, Recorder)
    return found


def voting(replica: Replica) -> Voting:
    found = judge(replica)
    assert isinstance(found, Voting)
    return found


def all_read(replicas: list[Replica]) -> Callable[[], bool]:
    """Whether each replica reads the log of the first step."""
    return lambda: all(
        judge(one).splits[-1:] and judge(one).splits[-1][0] == 1000 for one in replicas
    )


def all_open(replicas: list[Replica]) -> Callable[[], bool]:
    return lambda: all(one.is_open for one in replicas)


async def while_sending(
    users: Users,
    replicas: list[Replica],
    condition: Callable[[], object],
    what: str,
    seconds: float = 120.0,
) -> float:
    """Send ten requests every 20 ms until a condition holds."""

    async def send() -> None:
        while True:
            users.spread(replicas, 10)
            await asyncio.sleep(0.02)

    task = asyncio.ensure_future(send())
    try:
        return await soon(condition, what, seconds)
    finally:
        task.cancel()


def last_tick(replicas: list[Replica]) -> float:
    """Return the time of the last tick of the log that all have read."""
    return min(judge(one).times[-1] for one in replicas)


def logs(server: RedisServer) -> list[str]:
    """Return the keys of the logs."""
    return server.cli("KEYS", "canaryproxy:{g}:records:*").split()


@pytest.mark.usefixtures("_recording")
async def test_all_replicas_see_every_record_once_in_one_order(
    tmp_path: Path, server: RedisServer
) -> None:
    users = Users()
    async with fleet(tmp_path, [server.port] * 5, STAYS) as replicas:
        for one in replicas:
            one.names.write(template_of(NAME.encode()), NAME.encode())
        await soon(all_read(replicas), "a tick of the step at each replica")
        for _ in range(20):
            users.spread(replicas, 50)
            await asyncio.sleep(0.05)
        first = judge(replicas[0])
        await soon(
            lambda: (
                all(len(judge(one).ids) >= 900 for one in replicas)
                and all(judge(one).words == first.words for one in replicas)
            ),
            "the same records",
        )
        for one in replicas:
            assert judge(one).splits[-1][0] == 1000
            assert judge(one).names == {template_of(NAME.encode()): NAME}
        assert len(set(first.ids)) == len(first.ids)
        assert first.times == sorted(first.times)
        shared = last_tick(replicas)
        ticks = [judge(one).times[: judge(one).times.index(shared) + 1] for one in replicas]
        assert len(ticks[0]) >= 3
        assert all(times[-3:] == ticks[0][-3:] for times in ticks)


@pytest.mark.usefixtures("_recording")
async def test_an_event_posted_to_one_replica_is_seen_by_all_once(
    tmp_path: Path, server: RedisServer
) -> None:
    async with fleet(tmp_path, [server.port] * 3, STAYS) as replicas:
        for number in range(30):
            one = replicas[number % 3]
            one.controller.post_events([PostedEvent(key=f"user-{number}")])
            await asyncio.sleep(0.02)
        salt = replicas[0].controller.table.salt
        posted = {position_of(salt, b"user-%d" % number) for number in range(30)}

        def events(replica: Replica) -> list[int]:
            words = judge(replica).words[::WORDS]
            return [word & POSITION_MASK for word in words if word >> FLAGS_SHIFT == POSTED]

        def agree() -> bool:
            first = events(replicas[0])
            return len(first) >= 20 and all(events(one) == first for one in replicas)

        await soon(agree, "events")
        seen = events(replicas[0])
        assert len(set(seen)) == len(seen)
        assert set(seen) <= posted


async def test_five_replicas_trip_as_quickly_as_one_with_the_same_traffic(
    tmp_path: Path, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence, "Judge", Voting)
    took, needed = {}, {}
    for count in (1, 5):
        server.cli("FLUSHALL")
        users = Users(failing=0.3)
        folder = tmp_path / str(count)
        folder.mkdir()
        # On one step: another begins to judge anew, and a busy machine may get there first.
        async with fleet(folder, [server.port] * count, STAYS) as replicas:
            await asyncio.sleep(0.3)
            took[count] = await while_sending(users, replicas, all_open(replicas), "trip")
            needed[count] = users.canary
            told = [
                record
                for one in replicas
                for record in one.control.history(None, 100)
                if record["what"] == "tripped"
            ]
            by = {record["figures"]["judged_by"] for record in told}
            assert by == {"the records of the fleet"} or count == 1
    print(f"all tripped after {took} s and {needed} canary requests, by the number of replicas")
    assert needed[5] < needed[1] + 60  # 50 a second: about a second of a busy machine


async def test_evidence_is_the_same_everywhere_and_a_whale_votes_once(
    tmp_path: Path, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One canary user whose every request fails, at five replicas, beside healthy ones."""
    monkeypatch.setattr(evidence, "Judge", Voting)
    users = Users()
    async with fleet(tmp_path, [server.port] * 5, STAYS) as replicas:
        await soon(all_read(replicas), "a tick of the step at each replica")
        for _ in range(10):
            users.spread(replicas, 100)
            for one in replicas:
                for _ in range(20):
                    one.write(users.request(77, failed=True))
            await asyncio.sleep(0.1)
        await soon(lambda: all(len(judge(one).ids) >= 1900 for one in replicas), "records")
        after = max(judge(one).times[-1] for one in replicas)
        await soon(lambda: last_tick(replicas) >= after, "the same tick at each replica")
        known = {voting(one).evidence[after] for one in replicas}
        assert len(known) == 1
        test = voting(replicas[0]).test
        assert test is not None
        assert test.voted[1] == 1
        assert known.pop() < 3.0  # ten to one at weight 10, and no more however often it fails
        assert not any(one.is_open for one in replicas)


@pytest.mark.usefixtures("_recording")
@pytest.mark.parametrize("how", ["stopped", "killed"])
async def test_redis_away_for_seconds_loses_records_and_doubles_none(
    tmp_path: Path, server: RedisServer, how: str
) -> None:
    users = Users()
    async with fleet(tmp_path, [server.port] * 3, STAYS) as replicas:
        await while_sending(users, replicas, lambda: users.sent > 300, "traffic")
        if how == "stopped":
            server.signal(signal.SIGSTOP)
        else:
            server.kill()
        await while_sending(
            users, replicas, lambda: not any(one.fleet["connected"] for one in replicas), "away"
        )
        sent = users.sent
        await while_sending(users, replicas, lambda: users.sent > sent + 500, "traffic")
        if how == "stopped":
            server.signal(signal.SIGCONT)
        else:
            server.start()
        await soon(lambda: all(one.fleet["connected"] for one in replicas), "back")
        back = users.sent
        await while_sending(
            users,
            replicas,
            lambda: all(any(number > back + 200 for number in judge(one).ids) for one in replicas),
            "records after Redis was back",
        )
        for one in replicas:
            ids = judge(one).ids
            assert len(set(ids)) == len(ids)
        after = [[number for number in judge(one).ids if number > back] for one in replicas]
        least = min(map(len, after))
        assert after[0][:least] == after[1][:least] == after[2][:least]


@pytest.mark.usefixtures("_recording")
async def test_a_new_leader_knows_what_the_old_one_knew(
    tmp_path: Path, server: RedisServer
) -> None:
    users = Users()
    async with fleet(tmp_path, [server.port] * 3, STAYS) as replicas:
        await while_sending(users, replicas, lambda: users.sent > 500, "traffic")
        first = leader(replicas)
        assert first is not None
        others = [one for one in replicas if one is not first]
        await soon(lambda: len(judge(others[0]).ids) > 400, "records")
        known = list(judge(first).ids)
        first.halt()
        await while_sending(users, others, lambda: leader(others), "another leader")
        for one in others:
            ids = judge(one).ids
            assert ids[: len(known)] == known
            assert len(set(ids)) == len(ids)


@pytest.mark.usefixtures("_recording")
async def test_who_joins_continues_from_the_leaders_evidence(
    tmp_path: Path, server: RedisServer
) -> None:
    users = Users()
    async with fleet(tmp_path, [server.port] * 2, STAYS) as replicas:
        late = Replica(tmp_path / "late", server.port, "late", STAYS)
        await soon(all_read(replicas), "a tick of the step at each replica")
        await while_sending(users, replicas, lambda: users.sent > 1000, "traffic")

        def kept() -> Any:
            return json.loads(server.cli("GET", "canaryproxy:{g}:judge") or "null")

        await soon(lambda: kept() and len(kept()["judge"]["words"]) > 900 * WORDS, "kept")
        for key in logs(server):  # only what is kept knows the past now
            server.cli("XTRIM", key, "MINID", kept()["log"]["cursor"])
        late.start()
        await while_sending(users, replicas, lambda: len(judge(late).ids) > 900, "joined")
        await soon(lambda: judge(late).ids == judge(replicas[0]).ids, "the same records")
        assert len(judge(late).ids) > 900
        await late.stop()


@pytest.mark.usefixtures("_recording")
async def test_who_was_away_longer_than_the_log_lasts_takes_the_leaders_evidence(
    tmp_path: Path, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_store, "_KEEP_LOG", 1.0)
    users = Users()
    async with (
        wire(server.port) as line,
        fleet(tmp_path, [server.port, server.port, line.port], STAYS) as replicas,
    ):
        *others, alone = replicas
        await while_sending(users, replicas, lambda: users.sent > 300, "traffic")
        line.is_cut = True
        await soon(lambda: not alone.fleet["connected"], "cut off")
        missed = users.sent
        # The log is trimmed by whole nodes of a hundred entries.
        await while_sending(users, others, lambda: users.sent > missed + 6000, "traffic")
        # However slowly it reads, it is not away a second time.
        monkeypatch.setattr(redis_store, "_KEEP_LOG", 60.0)
        line.is_cut = False
        await while_sending(
            users, others, lambda: judge(alone).ids == judge(others[0]).ids, "the same records"
        )
        ids = judge(alone).ids
        assert len(ids) > 5000
        assert len(set(ids)) == len(ids)


@pytest.mark.usefixtures("_recording")
async def test_the_log_is_bounded_and_expires(
    tmp_path: Path, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_store, "_KEEP_LOG", 1.0)
    users = Users()
    async with fleet(tmp_path, [server.port] * 2, STAYS) as replicas:
        await while_sending(users, replicas, lambda: users.sent > 7000, "traffic")
        key = logs(server)[0]
        assert int(server.cli("XLEN", key)) < 200
        assert 0 < int(server.cli("PTTL", key)) <= 2000


@pytest.mark.usefixtures("_recording")
async def test_nonsense_in_the_log_is_skipped_by_all(tmp_path: Path, server: RedisServer) -> None:
    users = Users()
    async with fleet(tmp_path, [server.port] * 2, STAYS) as replicas:
        await while_sending(users, replicas, lambda: users.sent > 200, "traffic")
        key = logs(server)[0]
        for fields in (
            ("tick", "1", "at", "1", "records", "nonsense"),
            ("tick", "-7", "at", "x", "records", ""),
            ("tick", "9" * 30, "at", "9" * 30, "records", ""),
            ("a", "b"),
        ):
            server.cli("XADD", key, "*", *fields)
        sent = users.sent
        await while_sending(
            users,
            replicas,
            lambda: all(any(number > sent + 100 for number in judge(one).ids) for one in replicas),
            "records after it",
        )
        assert all(judge(one).lost for one in replicas)
        assert all(one.fleet["connected"] for one in replicas)
        assert {one.weight for one in replicas} == {10.0}


@pytest.mark.usefixtures("_recording")
async def test_another_kind_of_key_in_place_of_the_log_is_redis_that_is_away(
    tmp_path: Path, server: RedisServer
) -> None:
    async with fleet(tmp_path, [server.port] * 2, STAYS) as replicas:
        await soon(lambda: logs(server), "a log")
        key = logs(server)[0]
        server.cli("SET", key, "a string")
        await soon(lambda: not any(one.fleet["connected"] for one in replicas), "away")
        server.cli("DEL", key)
        await soon(lambda: all(one.fleet["connected"] for one in replicas), "back")


@pytest.mark.usefixtures("_recording")
async def test_a_step_is_one_moment_of_the_log(tmp_path: Path, server: RedisServer) -> None:
    """Every judge sees the weight rise between the same two ticks, and never fall back."""
    users = Users()
    async with fleet(tmp_path, [server.port] * 3) as replicas:
        for one in replicas:
            one.busy = ((20, 0), (3, 0))
        await while_sending(
            users, replicas, lambda: all(one.weight == 50 for one in replicas), "step"
        )
        await soon(lambda: all(judge(one).splits[-1][0] == 5000 for one in replicas), "the split")
        for one in replicas:
            limits = [limit for limit, _ in judge(one).splits]
            assert limits == sorted(limits)
            assert limits[-2:] == [1000, 5000]
