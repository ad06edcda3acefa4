"""Replicas over a real Redis: trips, steps, operators, and everything that Redis can do to them."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from canaryproxy.control.authority import Unavailable
from canaryproxy.control.saver import Unsaved
from canaryproxy.control.service import Stale
from canaryproxy.fleet.evidence import FleetEvidence
from canaryproxy.fleet.record_log import Entry, StoredEntry
from canaryproxy.fleet.redis_store import CommitResult
from canaryproxy.fleet.state import Document
from canaryproxy.judging.parts import whole
from canaryproxy.judging.settings import JudgeSettings
from canaryproxy.measure import counters
from canaryproxy.measure.counters import Reason
from canaryproxy.measure.records import ENDED, FAILED, pack_first, pack_second, pack_third
from canaryproxy.release import circuit, rollout

from .replicas import RELEASE, Replica, fleet, leader, soon, told
from .server import RedisServer, needs_redis, redis_server, wire

pytestmark = needs_redis

KEY = "canaryproxy:{g}:release"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as made:
        yield made


async def test_five_replicas_begin_one_release_and_one_of_them_leads(
    tmp_path: Path, server: RedisServer
) -> None:
    async with fleet(tmp_path, [server.port] * 5) as replicas:
        await soon(lambda: all(one.fleet["replicas"] == 5 for one in replicas), "five")

        def agree() -> bool:
            leads = [one.me for one in replicas if one.fleet["leads"]]
            return len(leads) == 1 and {one.fleet["leader"] for one in replicas} == set(leads)

        await soon(agree, "one leader")
        await soon(lambda: len({one.control.etag for one in replicas}) == 1, "one document")
        assert [one.whats for one in replicas] == [["release", "started"]] * 5
        for one in replicas:
            shown = one.document["fleet"]
            assert shown == {**one.fleet, "silent": shown["silent"]}


async def test_a_regression_that_only_the_sum_shows_trips_all(
    tmp_path: Path, server: RedisServer
) -> None:
    """Each replica has a fifth of the evidence, and no replica would trip by that.

    The leader trips first; a replica that does not hear of it in time may trip as well, and both trips end in
    one document.
    """
    async with fleet(tmp_path, [server.port] * 5) as replicas:
        for one in replicas:
            one.traffic((36, 0), (4, 0))
        await asyncio.sleep(0.5)
        for one in replicas:
            one.traffic((36, 0), (4, 2))
        took = await soon(lambda: all(one.is_open for one in replicas), "trip")
        print(f"all five tripped {took:.2f} s after the evidence")
        await soon(lambda: len({one.control.etag for one in replicas}) == 1, "one document")
        for one in replicas:
            tripped = [
                record for record in one.control.history(None, 100) if record["what"] == "tripped"
            ]
            assert tripped
            assert {record["figures"]["judged_by"] for record in tripped} == {
                "the records of the fleet"
            }
            assert one.document["state"] == "tripped"
            evidence, now = one.authority._evidence, one.controller.now
            own = whole(evidence.observe_own(now, one.controller.sample()))
            assert own is not None
            assert own.level != "breach"


async def test_a_replica_trips_the_fleet_by_its_own_counts(
    tmp_path: Path, server: RedisServer
) -> None:
    async with fleet(tmp_path, [server.port] * 3) as replicas:
        bad = replicas[1]
        bad.busy = ((20, 0), (2, 2))
        await soon(lambda: all(one.is_open for one in replicas), "trip")


async def test_a_step_is_taken_by_all_at_once_and_once(tmp_path: Path, server: RedisServer) -> None:
    async with fleet(tmp_path, [server.port] * 3) as replicas:
        for one in replicas:
            one.busy = ((20, 0), (3, 0))
        await soon(lambda: all(one.weight == 50 for one in replicas), "step")
        assert all(one.whats.count("step") == 1 for one in replicas)
        assert all((one.fleet["propagation"] or 0) < 1 for one in replicas)


async def test_endpoints_that_are_out_at_any_replica_hold_the_step(
    tmp_path: Path, server: RedisServer
) -> None:
    async with fleet(tmp_path, [server.port] * 2) as replicas:
        await soon(lambda: leader(replicas), "a leader")
        leads = leader(replicas)
        assert leads is not None
        (other,) = [one for one in replicas if one is not leads]
        other.plane.failing = ("1 of 4 canary endpoints is out of service: http://x (refused)",)
        for one in replicas:
            one.busy = ((20, 0), (3, 0))
        said = f"{other.plane.failing[0]} (at replica {other.me})"
        await soon(lambda: all(one.document["hold"] == said for one in replicas), "the hold")
        await asyncio.sleep(1.5)  # longer than the bake time of the step
        assert all(one.weight == 10 for one in replicas)
        other.plane.failing = ()
        await soon(lambda: all(one.weight == 50 for one in replicas), "the step")


async def test_requests_that_are_shed_add_up_over_the_replicas_that_are_there(
    tmp_path: Path, server: RedisServer
) -> None:
    async with fleet(tmp_path, [server.port] * 2) as replicas:
        here, there = replicas
        for one, shed in ((here, 3), (there, 40)):
            one.cells.canary[counters.ERRORS + Reason.SHED] += shed
        both = {"stable": 0, "canary": 43}
        await soon(lambda: all(one.fleet["shed"] == both for one in replicas), "the sum")
        assert here.document["variants"]["canary"]["shed"] == 3
        there.halt()
        await soon(lambda: here.fleet["shed"]["canary"] == 3, "the other is gone")


async def test_the_store_may_have_forgotten_the_leaders_token(
    tmp_path: Path, server: RedisServer
) -> None:
    """A failover, or a document that was put back by who had seen less."""
    async with fleet(tmp_path, [server.port] * 2) as replicas:
        server.cli("HSET", KEY, "term", "0")
        for one in replicas:
            one.busy = ((20, 0), (3, 0))
        await soon(lambda: all(one.weight == 50 for one in replicas), "step")


@pytest.mark.parametrize("who", ["plan", "operator"])
async def test_a_trip_while_redis_takes_a_higher_weight_is_not_lost(
    tmp_path: Path, server: RedisServer, who: str
) -> None:
    async with fleet(tmp_path, [server.port] * 2) as replicas:
        first = leader(replicas)
        assert first is not None
        store = first.store
        take = store.commit

        async def slow(base: str, document: Document, term: int, token: int = 0) -> CommitResult:
            """The circuit opens after Redis took the act, and before it said so."""
            taken = await take(base, document, term, token)
            if document.rollout.weight > 10 and "tripped" not in first.whats:
                first.authority.trip("meanwhile", {})
            return taken

        store.commit = slow  # type: ignore[method-assign]
        if who == "operator":
            await first.control.act(rollout.SetWeight(60.0))
        else:
            for one in replicas:
                one.busy = ((20, 0), (3, 0))
        await soon(lambda: all(one.is_open for one in replicas), "trip")
        await soon(lambda: len({one.control.etag for one in replicas}) == 1, "one document")
        assert first.is_open


async def test_another_goes_on_where_the_leader_was_killed(
    tmp_path: Path, server: RedisServer
) -> None:
    text = RELEASE.replace("bake: 1s, min_requests: 5", "bake: 6s, min_requests: 5")
    async with fleet(tmp_path, [server.port] * 3, text) as replicas:
        for one in replicas:
            one.busy = ((20, 0), (3, 0))
        first = leader(replicas)
        assert first is not None
        others = [one for one in replicas if one is not first]
        await soon(lambda: all(one.document["baked"] > 4 for one in others), "most of the step")
        first.halt()
        took = await soon(lambda: leader(others), "another leader")
        print(f"another leads {took:.2f} s after the leader was killed, with a lease of 1 s")
        assert all(one.document["baked"] > 4 for one in others)
        rest = await soon(lambda: all(one.weight == 50 for one in others), "step")
        assert rest < 6  # it went on from where the other one was
        assert all(one.whats.count("step") == 1 for one in others)


async def test_the_dead_stay_counted_and_who_is_back_is_not_counted_twice(
    tmp_path: Path, server: RedisServer
) -> None:
    async with fleet(tmp_path, [server.port] * 2) as replicas:
        for _ in range(20):
            for one in replicas:
                one.traffic((10, 0), (1, 0))
            await asyncio.sleep(0.05)
        for one in replicas:
            await told(one)
        key = server.cli("KEYS", "canaryproxy:{g}:sum:*").split()[0]
        before = server.cli("GET", key)
        numbers = list(map(int, before.split()))
        assert max(numbers) <= 2 * 200
        assert max(numbers) >= 2 * 180  # all but the ticks around the first step
        replicas[0].halt()
        again = Replica(tmp_path / "r0b", server.port, "r0")
        again.cells = replicas[0].cells  # a new process that finds counts in shared memory
        again.controller.sampler._cells = replicas[0].controller.sampler._cells
        again.start()
        await soon(lambda: again.fleet["connected"], "connected")
        await told(again)
        assert server.cli("GET", key) == before
        await again.stop()


# Operators


async def test_operators_act_at_any_replica(tmp_path: Path, server: RedisServer) -> None:
    async with fleet(tmp_path, [server.port] * 3) as replicas:
        one, two, three = replicas
        await two.control.act(rollout.SetWeight(30.0, by="ann"))
        await soon(lambda: all(other.weight == 30 for other in replicas), "weight")
        seen = one.control.etag
        await three.control.act(circuit.Trip("by hand"))
        await soon(lambda: all(other.is_open for other in replicas), "trip")
        with pytest.raises(Stale):
            await one.control.act(circuit.Reset(), if_match=lambda etag: etag == seen)
        with pytest.raises(rollout.Refused):
            await two.control.act(rollout.SetWeight(40.0))
        await one.control.act(circuit.Reset(by="ann"))
        await soon(lambda: all(other.weight == 30 for other in replicas), "reset")


async def test_a_ramp_down_falls_everywhere_and_ends_once(
    tmp_path: Path, server: RedisServer
) -> None:
    text = RELEASE + "  ramp_down: {over: 2s}\n"
    async with fleet(tmp_path, [server.port] * 2, text) as replicas:
        seen: list[list[float]] = [[one.weight for one in replicas]]

        def ended() -> bool:
            seen.append([one.weight for one in replicas])
            return all(one.document["state"] == "aborted" for one in replicas)

        await replicas[1].control.act(rollout.Abort("ann"))
        await soon(ended, "the end of the ramp down")
        for at in range(2):
            weights = [row[at] for row in seen]
            assert weights == sorted(weights, reverse=True)
            assert weights[-1] == 0
            assert [what for what in replicas[at].whats if what.startswith("abort")] == [
                "aborting",
                "aborted",
            ]


async def test_a_reset_goes_on_with_what_was_learnt_of_stable(
    tmp_path: Path, server: RedisServer
) -> None:
    """No request comes after the trip: what the judges know afterwards they knew before."""

    def learnt(one: Replica) -> bool:
        return one.authority._evidence._combined.limits.known

    async with fleet(tmp_path, [server.port] * 2) as replicas:
        for one in replicas:
            one.busy = ((20, 0), (2, 0))
        await soon(lambda: all(map(learnt, replicas)), "limits")
        for one in replicas:
            one.busy = None
        await replicas[0].control.act(circuit.Trip("by hand"))
        await soon(lambda: all(one.is_open for one in replicas), "trip")
        await replicas[1].control.act(circuit.Reset())
        await soon(lambda: all(one.weight > 0 for one in replicas), "reset")
        assert all(map(learnt, replicas))
        await soon(lambda: all(one.fleet["judging"] == "sums" for one in replicas), "judging")
        assert all(map(learnt, replicas))


def test_what_is_learnt_stays_with_the_users_of_a_salt() -> None:
    def requests(at: int) -> list[int]:
        flags = ENDED if at % 10 else ENDED | FAILED
        first = pack_first(at * 1000, 0, 0, 200, 0, flags)
        return [first, pack_second(0, 0, 0), pack_third(0.01, 100)]

    learnt = FleetEvidence(JudgeSettings(warmup=0.0), 0.1)
    entry = Entry(0, 0, [word for at in range(200) for word in requests(at)])
    ticks = [StoredEntry(f"{at}-0", at, 1.0 * at, entry.pack()) for at in (1, 2)]
    learnt.observe_combined(2.0, "a", "", ticks)
    kept = learnt.keep("b")
    for same_users in (True, False):
        learnt.renew(same_users=same_users)
        assert learnt._combined.limits.known is same_users
        learnt.join("b", kept)  # the leader was quicker to keep its evidence of the new round
        assert learnt._combined.limits.known
        known = learnt._combined._learning.past.of("errors")
        assert (known.trials, known.events) == ((400, 40) if same_users else (0, 0))


async def test_of_two_acts_at_once_one_holds_or_both_do_one_after_the_other(
    tmp_path: Path, server: RedisServer
) -> None:
    async with fleet(tmp_path, [server.port] * 5) as replicas:
        weights = [11.0, 12.0, 13.0, 14.0, 15.0]
        await asyncio.gather(
            *(
                one.control.act(rollout.SetWeight(weight))
                for one, weight in zip(replicas, weights, strict=True)
            )
        )
        await soon(lambda: len({one.weight for one in replicas}) == 1, "one weight")
        assert replicas[0].weight in weights
        assert len({one.control.etag for one in replicas}) == 1


async def test_drills_at_once_end_and_one_trip_in_earnest_outlasts_them(
    tmp_path: Path, server: RedisServer
) -> None:
    async with fleet(tmp_path, [server.port] * 3) as replicas:
        await asyncio.gather(*(one.control.drill("ann") for one in replicas))
        await soon(lambda: all(one.weight == 10 for one in replicas), "reset")
        drills = [asyncio.ensure_future(one.control.drill("ann")) for one in replicas[:2]]
        await soon(lambda: all(one.is_open for one in replicas[:2]), "drills")
        await replicas[2].control.act(circuit.Trip("in earnest"))
        await asyncio.gather(*drills)
        await soon(lambda: len({one.control.etag for one in replicas}) == 1, "one document")
        assert {one.document["circuit"]["cause"] for one in replicas} == {"in earnest"}


async def test_a_drill_waits_until_connections_have_left_at_every_replica(
    tmp_path: Path, server: RedisServer
) -> None:
    async with fleet(tmp_path, [server.port] * 2) as replicas:
        here, there = replicas
        there.cells.canary[counters.LEAVING] += 3
        leaving = {"stable": 0, "canary": 3}
        await soon(lambda: all(one.fleet["leaving"] == leaving for one in replicas), "the sum")
        assert here.document["variants"]["canary"]["long_lived"]["leaving"] == 0
        drill = asyncio.ensure_future(here.control.drill("ann"))
        await soon(lambda: there.is_open, "the drill")
        there.cells.canary[counters.LEFT] += 3
        figures = await drill
        assert (figures["connections"], figures["connections_left"]) == (3, 0)
        assert figures["seconds_to_last_connection"] is not None
        await soon(lambda: here.fleet["leaving"]["canary"] == 0, "none is left")


# Redis goes away


async def _without_redis(replicas: list[Replica]) -> None:
    """Nothing is promoted or raised; a trip by own evidence works."""
    await soon(lambda: not any(one.fleet["connected"] for one in replicas), "away")
    with pytest.raises(Unavailable):
        await replicas[0].control.act(rollout.SetWeight(60.0))
    await asyncio.sleep(2)  # longer than the bake time of the step
    assert [one.weight for one in replicas] == [10.0] * len(replicas)
    replicas[1].busy = ((20, 0), (2, 2))
    await soon(lambda: replicas[1].is_open, "own trip")
    assert not replicas[0].is_open
    replicas[1].busy = None


@pytest.mark.parametrize("how", ["stopped", "killed"])
async def test_redis_goes_and_comes_back(tmp_path: Path, server: RedisServer, how: str) -> None:
    """Stopped it comes back with its data, killed it comes back empty."""
    async with fleet(tmp_path, [server.port] * 3) as replicas:
        for one in replicas:
            one.busy = ((20, 0), (3, 0))
        if how == "stopped":
            server.signal(signal.SIGSTOP)
        else:
            server.kill()
        await _without_redis(replicas)
        if how == "stopped":
            server.signal(signal.SIGCONT)
        else:
            server.start()
        took = await soon(lambda: all(one.is_open for one in replicas), "one state")
        print(f"one state {took:.2f} s after Redis was back")
        await soon(lambda: len({one.control.etag for one in replicas}) == 1, "one document")
        await replicas[2].control.act(circuit.Reset())
        await soon(lambda: all(one.weight == 10 for one in replicas), "reset")


async def test_a_store_that_lost_its_data_gets_it_back_and_promotes_nothing(
    tmp_path: Path, server: RedisServer
) -> None:
    async with fleet(tmp_path, [server.port] * 3) as replicas:
        await replicas[0].control.act(rollout.SetWeight(7.0))
        await soon(lambda: all(one.weight == 7 for one in replicas), "weight")
        act = replicas[0].control.etag
        server.cli("FLUSHALL")
        await soon(lambda: server.cli("HGET", "canaryproxy:{g}:release", "act"), "put back")
        await asyncio.sleep(1.5)
        assert [one.weight for one in replicas] == [7.0] * 3
        assert [one.control.etag for one in replicas] == [act] * 3


async def test_a_replica_that_is_cut_off_follows_when_it_is_back(
    tmp_path: Path, server: RedisServer
) -> None:
    async with (
        wire(server.port) as line,
        fleet(tmp_path, [server.port, server.port, line.port]) as replicas,
    ):
        alone = replicas[2]
        line.is_cut = True
        await soon(lambda: not alone.fleet["connected"], "cut off")
        await replicas[0].control.act(rollout.SetWeight(20.0))
        with pytest.raises(Unsaved):
            await alone.control.act(circuit.Trip("by hand, alone"))
        assert alone.is_open
        assert not replicas[0].is_open
        line.is_cut = False
        await soon(lambda: all(one.is_open for one in replicas), "trip")
        await soon(lambda: len({one.control.etag for one in replicas}) == 1, "one document")
        told = [
            [record for record in one.control.history(None, 100) if record["what"] == "merged"]
            for one in replicas
        ]
        assert [len(records) for records in told] == [1, 1, 1]
        tells = [
            one.authority.is_mine(records[0]) for one, records in zip(replicas, told, strict=True)
        ]
        assert tells == [False, False, True]


async def test_slow_redis_slows_and_breaks_nothing(tmp_path: Path, server: RedisServer) -> None:
    async with wire(server.port) as line, fleet(tmp_path, [line.port] * 3) as replicas:
        line.delay = 0.1
        for one in replicas:
            one.busy = ((20, 0), (3, 0))
        await soon(lambda: all(one.weight == 50 for one in replicas), "step")
        assert all(one.whats.count("step") == 1 for one in replicas)
        await replicas[0].control.act(circuit.Trip("by hand"))
        await soon(lambda: all(one.is_open for one in replicas), "trip")


async def test_a_clock_that_is_a_minute_off_changes_nothing(
    tmp_path: Path, server: RedisServer
) -> None:
    async with fleet(tmp_path, [server.port] * 2) as replicas:
        wrong = [
            Replica(tmp_path / f"w{skew}", server.port, f"w{skew + 60}", skew=skew)
            for skew in (60, -60)
        ]
        for one in wrong:
            one.start()
        everybody = [*replicas, *wrong]
        for one in everybody:
            one.busy = ((20, 0), (3, 0))
        await soon(lambda: all(one.weight == 50 for one in everybody), "step")
        first = leader(everybody)
        assert first is not None
        for one in replicas:
            one.halt()
        await soon(lambda: leader(wrong), "another leader")
        await wrong[0].control.act(circuit.Trip("by hand"))
        await soon(lambda: all(one.is_open for one in wrong), "trip")
        times = [record["time"] for record in wrong[0].control.history(None, 100)]
        assert max(times) - min(times) < 30
        for one in wrong:
            await one.stop()


# Redis refuses


@pytest.mark.parametrize(
    ("setting", "back", "words"),
    [
        (("maxmemory", "1"), ("maxmemory", "0"), "maxmemory"),
        (("requirepass", "secret-word"), ("requirepass", ""), "Redis"),
        (("min-replicas-to-write", "1"), ("min-replicas-to-write", "0"), "Redis"),
    ],
)
async def test_redis_that_refuses_is_redis_that_is_away(
    tmp_path: Path,
    server: RedisServer,
    setting: tuple[str, str],
    back: tuple[str, str],
    words: str,
) -> None:
    async with fleet(tmp_path, [server.port] * 2) as replicas:
        server.cli("CONFIG", "SET", *setting)
        if setting[0] == "requirepass":
            server.cli("-a", setting[1], "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await soon(lambda: not any(one.fleet["connected"] for one in replicas), "refused")
        assert words in replicas[0].fleet["error"]
        with pytest.raises((Unavailable, Unsaved)):
            await replicas[0].control.act(rollout.SetWeight(60.0))
        replicas[0].busy = ((20, 0), (2, 2))
        await soon(lambda: replicas[0].is_open, "own trip")
        auth = ("-a", setting[1]) if setting[0] == "requirepass" else ()
        server.cli(*auth, "CONFIG", "SET", *back)
        await soon(lambda: all(one.is_open for one in replicas), "trip")


@pytest.mark.parametrize(
    "nonsense",
    [
        ("HSET", KEY, "act", "x", "text", "not JSON"),
        ("HSET", KEY, "act", "x", "text", '{"format": 2}'),
        ("HSET", KEY, "act", "x", "text", '{"format": 1, "release": {}}'),
        ("HSET", KEY, "act", "x", "text", ""),
        ("HSET", KEY, "act", "x"),
        ("HSET", KEY, "at", "soon"),
        ("HSET", KEY, "term", "many"),
        ("SET", KEY, "a string"),
        ("SET", "canaryproxy:{g}:members", "a string"),
        ("HSET", "canaryproxy:{g}:lease", "a", "hash"),
    ],
    ids=str,
)
async def test_nonsense_in_redis_is_redis_that_is_away(
    tmp_path: Path, server: RedisServer, nonsense: tuple[str, ...]
) -> None:
    async with fleet(tmp_path, [server.port] * 2) as replicas:
        await replicas[0].control.act(rollout.SetWeight(7.0))
        await soon(lambda: all(one.weight == 7 for one in replicas), "weight")
        if nonsense[:2] != ("HSET", KEY):
            server.cli("DEL", nonsense[1])
        server.cli(*nonsense)
        await soon(lambda: not any(one.fleet["connected"] for one in replicas), "away")
        assert [one.weight for one in replicas] == [7.0] * 2
        with pytest.raises((Unavailable, Unsaved)):
            await replicas[0].control.act(rollout.SetWeight(60.0))
        replicas[0].busy = ((20, 0), (2, 2))
        await soon(lambda: replicas[0].is_open, "own trip")
        server.cli("DEL", nonsense[1])
        await soon(lambda: all(one.is_open for one in replicas), "one state")


# Another configuration


async def test_a_replica_with_another_plan_holds_the_release_and_follows(
    tmp_path: Path, server: RedisServer
) -> None:
    async with fleet(tmp_path, [server.port] * 2) as replicas:
        old = Replica(tmp_path / "old", server.port, "old", RELEASE.replace("bake: 1h", "bake: 2h"))
        old.start()
        await soon(lambda: old.weight == 10, "follows")
        assert "plan, split or judge" in old.fleet["conflict"]
        for one in (*replicas, old):
            one.busy = ((20, 0), (3, 0))
        await soon(lambda: "a different configuration" in (old.document["hold"] or ""), "hold")
        await asyncio.sleep(1.5)
        assert {one.weight for one in (*replicas, old)} == {10.0}
        await old.control.act(circuit.Trip("the old one trips"))
        await soon(lambda: all(one.is_open for one in replicas), "trip")
        await replicas[0].control.act(circuit.Reset())
        await soon(lambda: old.weight == 10, "reset")
        await old.stop()
        await soon(lambda: all(one.weight == 50 for one in replicas), "the release goes on")


async def test_another_release_begins_when_all_replicas_have_it(
    tmp_path: Path, server: RedisServer
) -> None:
    async with fleet(tmp_path, [server.port] * 2) as replicas:
        one, two = replicas
        second = RELEASE.replace("id: r1", "id: r2")
        one.file.write_text(one.whole(second))
        await one.process.reload()
        assert one.weight == 0
        assert "the fleet is at r1" in one.fleet["conflict"]
        await asyncio.sleep(1.5)
        assert (one.weight, two.weight) == (0, 10)
        two.file.write_text(two.whole(second))
        await two.process.reload()
        await soon(lambda: all(other.weight == 10 for other in replicas), "r2")
        assert {other.controller.table.salt for other in replicas} == {b"r2"}
        assert {other.document["release"] for other in replicas} == {"r2"}


# A start without Redis


async def test_a_replica_that_starts_without_redis_goes_by_its_file_else_stable(
    tmp_path: Path, server: RedisServer
) -> None:
    async with fleet(tmp_path, [server.port] * 2) as replicas:
        await replicas[0].control.act(rollout.SetWeight(7.0))
        await soon(lambda: replicas[1].weight == 7, "weight")
    server.kill()
    known = Replica(tmp_path / "r1", server.port, "r1")
    fresh = Replica(tmp_path / "r9", server.port, "r9")
    for one in (known, fresh):
        one.start()
    await asyncio.sleep(0.5)
    assert (known.weight, fresh.weight) == (7.0, 0.0)
    server.start()
    await soon(lambda: fresh.weight == 7, "the file of the one is the document of both")
    assert fresh.document["state"] == "paused"
    for one in (known, fresh):
        await one.stop()


async def test_who_knows_nothing_waits_for_others_each_time_that_redis_is_back(
    tmp_path: Path, server: RedisServer
) -> None:
    """Redis is back without its data, and those that had the release are later than this replica."""
    fresh = Replica(tmp_path / "r0", server.port, "r0")
    fresh.start()
    await soon(lambda: fresh.fleet["connected"], "connected")
    server.kill()
    await soon(lambda: not fresh.fleet["connected"], "away")
    await asyncio.sleep(1)  # the lease's time since it was connected first
    server.start()
    took = await soon(lambda: fresh.weight == 10, "first step")
    assert took > 0.9
    await fresh.stop()
