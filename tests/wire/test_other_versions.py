"""Versions beside the canary over real sockets: what upstreams are told, trips, streams, rescue, reloads."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

import pytest

from canaryproxy.http1.propagated import Propagated, read
from canaryproxy.http1.websocket import close_frame
from canaryproxy.measure import counters
from canaryproxy.measure.counters import FINISHED, NOT_FOLLOWED, ROUTED, NotFollowed
from canaryproxy.measure.routing import bucket_of, position_of
from canaryproxy.measure.user_ranges import UserRanges

from .h2client import H2Client
from .harness import Answer, Link, Proxy, Upstream, always, proxy, until, variants
from .test_grpc import CALL, HELLO, answering, outcome, unary
from .test_long_lived import LAST_CHUNK, STREAM, chunk, ticking
from .test_propagation import FOLLOW, LINE, answer_of, cookie, followers, get, versions
from .test_propagation_protocols import by
from .test_services import World, world
from .test_tunnels import SWITCH, UPGRADE

SPLIT = """
split: {cohorts: {staff: {header: {name: X-Staff, equals: "yes"}}}}
circuit: {close_after: 0s, spread: 100ms}
propagate: {}
"""
CONFIG = """
variants:
  stable: {endpoints: ["http://127.0.0.1:%d"]}
  canary: {endpoints: ["http://127.0.0.1:%d"]}
  others: {v3: {share: 50, release: {id: r3, steps: [{weight: 50}]}, endpoints: ["http://127.0.0.1:%d"]}}
release: {id: r2, steps: [{weight: 50}]}
"""
USERS = [f"u{number}" for number in range(60)]
RANGES = UserRanges([50.0])


def expected(user: str) -> bytes:
    """Return the version of a user while no circuit is open."""
    key = user.encode()
    if RANGES.of(key) == 0:
        return b"v3" if bucket_of(b"r3", key) < 5000 else b"stable"
    return b"canary" if bucket_of(b"r2", key) < 5000 else b"stable"


def on(version: bytes) -> str:
    return next(user for user in USERS if expected(user) == version)


def named(name: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(name), name)


@dataclass
class Three:
    """A proxy with a canary and v3, and the upstreams by version."""

    world: World
    upstreams: dict[str, Upstream]

    @property
    def running(self) -> Proxy:
        return self.world.running

    def trip(self, name: str) -> None:
        path = self.world.services[name]
        path.publish(replace(path.context.router.current(), circuit_open=True))


@asynccontextmanager
async def three(**answers: Answer) -> AsyncIterator[Three]:
    """Run them, with half of its users on each version, and ticks as a worker has them."""
    async with AsyncExitStack() as stack:
        upstreams = {
            name: await stack.enter_async_context(
                Upstream(answers.get(name, always(named(name.encode())))).serving()
            )
            for name in ("stable", "canary", "v3")
        }
        text = CONFIG % tuple(one.port for one in upstreams.values()) + SPLIT
        found = await stack.enter_async_context(world(text))
        for name in ("default", "default.v3"):
            found.weigh(name, 50.0)
        await stack.enter_async_context(ticking(found.running))
        yield Three(found, upstreams)


def told(upstream: Upstream) -> list[Propagated]:
    return [read(value)[0] for value in LINE.findall(upstream.got)]


async def test_upstreams_are_told_the_release_and_the_name_of_a_version_beside_the_canary() -> None:
    async with three() as found:
        for user in USERS:
            assert await answer_of(found.running, get(cookie(user))) == expected(user)
        for name, upstream in found.upstreams.items():
            users = [user for user in USERS if expected(user) == name.encode()]
            said = told(upstream)
            assert len(said) == len(users) > 0
            meant = []
            for user in users:
                in_range = RANGES.of(user.encode()) == 0
                release, version = ("r3", "v3") if in_range else ("r2", "")
                unit = position_of(release.encode(), user.encode())
                meant.append(Propagated(name != "stable", release, unit, 5000, version=version))
            assert sorted(said) == sorted(meant)


async def test_a_claim_of_a_client_is_counted_once() -> None:
    async with three() as found:
        for user in (on(b"v3"), on(b"canary")):
            for _ in range(2):
                line = b'X-Canary: canary;version="v3"\r\n'
                assert await answer_of(found.running, get(cookie(user), line)) == expected(user)
        cells = [
            found.world.services[name].context.counters.service
            for name in ("default", "default.v3")
        ]
        assert [one[NOT_FOLLOWED + NotFollowed.UNTRUSTED] for one in cells] == [4, 0]


@pytest.mark.parametrize("goes_with", ["", "v3"])
async def test_a_proxy_behind_follows_with_the_version_that_its_canary_goes_with(
    goes_with: str,
) -> None:
    more = FOLLOW.replace(
        "follow: {", f"follow: {{version: {goes_with}, " if goes_with else "follow: {"
    )
    async with versions(more) as (back, *_):
        for version in ("", "v3", "other"):
            suffix = f';version="{version}"' if version else ""
            line = f'X-Canary: canary;release="r";unit=5;weight=1{suffix}\r\n'.encode()
            for _ in range(2):
                body = await answer_of(back, get(line))
                assert body == (b"canary" if version == goes_with else b"stable")
        trials = followers(back)
        assert [(one.position, one.variant) for one in trials] == [(5, 1)] * 2


@pytest.mark.parametrize("follow", ["stable", "both"])
async def test_a_tunnel_stays_where_the_front_names_another_version(follow: str) -> None:
    async def tunnel(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(SWITCH)

    more = f"circuit: {{close_after: 0s, spread: 100ms, follow: {follow}}}\n" + FOLLOW
    async with (
        Upstream(tunnel).serving() as stable,
        Upstream(tunnel).serving() as canary,
        proxy(variants(stable.port, canary.port, more)) as back,
    ):
        client = await back.connect()
        line = b'X-Canary: canary;unit=5;weight=1;version="v3"\r\n'
        await client.send(UPGRADE.replace(b"\r\n\r\n", b"\r\n" + line + b"\r\n"))
        await client.take_head()
        back.datapath.tick()
        back.weight(30)
        back.datapath.tick()
        assert back.counters.stable[counters.TUNNELS_OPENED] == 1
        assert back.counters.stable[counters.LEAVING] == 0


def events(name: bytes) -> Answer:
    async def run(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(STREAM + chunk(b"data: %b\n\n" % name))

    return run


async def test_a_trip_of_v3_ends_its_streams_and_those_of_others_stay() -> None:
    async with three(v3=events(b"v3"), canary=events(b"canary")) as found:
        running = found.running
        mine, theirs = await running.connect(), await running.connect()
        over_2 = await H2Client.to(running)
        await mine.send(get(cookie(on(b"v3"))))
        await theirs.send(get(cookie(on(b"canary"))))
        number = await over_2.ask(by(on(b"v3")))
        await mine.take(b"data: v3\n\n")
        await theirs.take(b"data: canary\n\n")
        while b"data: v3\n\n" not in over_2.replies[number].body:
            assert await over_2.read()
        found.trip("default.v3")
        await mine.take(LAST_CHUNK)
        assert (await over_2.reply(number)).ended
        await until(lambda: all(link.closed for link in found.upstreams["v3"].links), "end at v3")
        await mine.send(get(cookie(on(b"v3"))))
        await mine.take(b"stable")
        assert LAST_CHUNK not in theirs.got
        assert not any(link.closed for link in found.upstreams["canary"].links)
        assert found.world.services["default"].context.counters.canary[counters.LEAVING] == 0


async def test_a_trip_of_v3_closes_its_tunnels_and_those_of_others_stay() -> None:
    async def tunnel(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(SWITCH)

    def upgrade(user: str) -> bytes:
        return re.sub(rb"Cookie: [^\r]*\r\n", lambda _: cookie(user), UPGRADE)

    async with three(v3=tunnel, canary=tunnel) as found:
        mine, theirs = await found.running.connect(), await found.running.connect()
        await mine.send(upgrade(on(b"v3")))
        await theirs.send(upgrade(on(b"canary")))
        await mine.take_head()
        await theirs.take_head()
        found.trip("default.v3")
        await mine.to_end()
        assert mine.got.endswith(close_frame(1012))
        assert found.world.services["default"].context.counters.canary[counters.LEAVING] == 0
        assert not any(link.closed for link in found.upstreams["canary"].links)
        found.trip("default")
        await theirs.to_end()


async def test_stable_rescues_a_failed_request_of_v3_and_is_told_so() -> None:
    failing = always(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
    async with three(v3=failing) as found:
        assert await answer_of(found.running, get(cookie(on(b"v3")))) == b"stable"
        reply = await (await H2Client.to(found.running)).fetch(by(on(b"v3")))
        assert (reply.status, reply.body) == (200, b"stable")
        v3, main = (found.world.services[name].context for name in ("default.v3", "default"))
        assert v3.counters.canary[counters.RESCUED] == 2
        assert main.counters.canary[ROUTED] == main.counters.stable[ROUTED] == 0
        assert told(found.upstreams["stable"]) == [Propagated(0, "r3", version="v3")] * 2


async def test_calls_of_grpc_reach_the_version_of_their_user() -> None:
    call = answering(unary(0))
    async with three(stable=call, canary=call, v3=call) as found:
        client = await H2Client.to(found.running)
        for user in USERS[:20]:
            reply = await client.fetch(by(user, CALL), HELLO)
            assert (reply.body, outcome(reply)) == (HELLO, 0)
        for name, upstream in found.upstreams.items():
            users = [user for user in USERS[:20] if expected(user) == name.encode()]
            assert len(told(upstream)) == len(users)


async def test_a_new_user_of_a_cohort_stays_a_member_in_the_version_that_takes_it() -> None:
    """The draw is the cohort's from its first request on, whose response sets the cookie."""
    async with three() as found:
        path = found.world.services["default.v3"]
        table = path.context.router.current()
        path.publish(replace(table, weight=0.0, cohorts=(("staff", 100.0),), cohort="staff"))
        v3 = path.context.counters
        for _ in range(20):
            await answer_of(found.running, get(b"X-Staff: yes\r\n"))
        assert v3.canary[ROUTED] > 0
        assert v3.stable[ROUTED] == 0
        assert v3.canary[ROUTED] == v3.canary[FINISHED]
