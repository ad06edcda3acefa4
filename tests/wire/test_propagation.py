"""One version front to back: what upstreams are told, who is believed, and that all see one version."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from canaryproxy.http1.propagated import Propagated, read
from canaryproxy.measure import counters
from canaryproxy.measure.counters import FOLLOWED, NOT_FOLLOWED, ROUTED, NotFollowed
from canaryproxy.measure.followed import FrontSplit, epoch_of, name_of, unpack
from canaryproxy.measure.records import (
    EPOCH_SHIFT,
    FLAGS_SHIFT,
    POSITION_MASK,
    SPLIT,
    VARIANT_SHIFT,
    template_of,
)
from canaryproxy.measure.routing import CANARY, POSITIONS, RouteTable, position_of
from canaryproxy.proxy.propagation import PURPOSE, sign
from canaryproxy.proxy.signing import Signer

from .harness import OK, Link, Proxy, Upstream, always, proxy, until, variants

RELEASE = "release: {id: web-2, steps: [{weight: 50}]}\n"
PROPAGATE = "propagate: {header: X-Canary}\n"
FOLLOW = "split: {follow: {header: X-Canary, from: [127.0.0.0/8]}}\n"
HOST = b"Host: h\r\n"
LINE = re.compile(rb"\r\n(?i:x-canary): ([^\r]*)")


def get(*lines: bytes) -> bytes:
    return b"GET / HTTP/1.1\r\n" + HOST + b"".join(lines) + b"\r\n"


def cookie(key: str) -> bytes:
    return b"Cookie: canary_id=%b\r\n" % key.encode()


def says(variant: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n" + variant


async def answer_of(running: Proxy, request: bytes) -> bytes:
    client = await running.connect()
    await client.send(request)
    head = await client.take_head()
    length = int(re.search(rb"(?i)content-length: (\d+)", head)[1])  # type: ignore[index]
    while len(client.got) < len(head) + length:
        assert await client.read()
    client.close()
    return client.got[len(head) :]


@asynccontextmanager
async def versions(more: str) -> AsyncIterator[tuple[Proxy, Upstream, Upstream]]:
    """Run a proxy before a stable and a canary that say which they are."""
    async with (
        Upstream(always(says(b"stable"))).serving() as stable,
        Upstream(always(says(b"canary"))).serving() as canary,
        proxy(variants(stable.port, canary.port, more)) as running,
    ):
        yield running, stable, canary


def refused(running: Proxy) -> dict[str, int]:
    cells = running.counters.service
    return {
        reason.label: cells[NOT_FOLLOWED + reason]
        for reason in NotFollowed
        if cells[NOT_FOLLOWED + reason]
    }


# What upstreams are told


@pytest.mark.parametrize("weight", [0, 1, 50, 99.5, 100])
async def test_an_upstream_is_told_variant_release_unit_and_weight(weight: float) -> None:
    async with versions(RELEASE + PROPAGATE) as (front, stable, canary):
        front.service.publish(RouteTable(weight, b"web-2"))
        for key in [f"user-{number}" for number in range(40)]:
            body = await answer_of(front, get(cookie(key)))
            got = (stable if body == b"stable" else canary).got
            said, signature = read(LINE.findall(got)[-1])
            unit = position_of(b"web-2", key.encode())
            assert said == Propagated(body == b"canary", "web-2", unit, round(weight * 100))
            assert said.randomised
            assert not signature


async def test_who_is_not_randomised_has_no_unit() -> None:
    match = "split: {match: [{variant: canary, path: {prefix: /}}]}\n"
    async with versions(RELEASE + PROPAGATE + match) as (front, _, canary):
        await answer_of(front, get(cookie("u")))
        assert LINE.findall(canary.got) == [b'canary;release="web-2"']
    async with versions(PROPAGATE) as (front, stable, _):
        await answer_of(front, get())  # its cookie is set with the response
        assert LINE.findall(stable.got) == [b"stable"]


async def test_a_rescued_request_carries_stable() -> None:
    async with (
        Upstream(always(OK)).serving() as stable,
        Upstream(
            always(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
        ).serving() as canary,
        proxy(variants(stable.port, canary.port, RELEASE + PROPAGATE)) as front,
    ):
        front.service.publish(RouteTable(100.0, b"web-2"))
        assert await answer_of(front, get(cookie("u"))) == b"ok"
        unit = position_of(b"web-2", b"u")
        expected = f'canary;release="web-2";unit={unit};weight=100'.encode()
        assert LINE.findall(canary.got) == [expected]
        assert LINE.findall(stable.got) == [b'stable;release="web-2"']


async def test_a_copy_of_the_mirror_carries_canary_and_says_what_it_is() -> None:
    more = PROPAGATE + "mirror: {percent: 100}\n"
    async with versions(more) as (front, stable, canary):
        assert await answer_of(front, get(cookie("u"))) == b"stable"
        await until(lambda: LINE.findall(canary.got), "copy")
        assert LINE.findall(canary.got) == [b"canary;copy"]
        assert LINE.findall(stable.got)[0].startswith(b"stable;unit=")


HOSTILE = [
    b"X-Canary: canary\r\n",
    b"x-canary:canary\r\n",
    b"X-CANARY:  canary \r\n",
    b"X-Canary: stable\r\nX-Canary: canary\r\n",
    b"X-Canary:\r\n",
    b"Connection: x-canary\r\nX-Canary: canary\r\n",
]


@pytest.mark.parametrize("more", [PROPAGATE, PROPAGATE + "split: {weight: 0}\n"])
@pytest.mark.parametrize("lines", HOSTILE)
async def test_what_a_client_says_of_the_version_reaches_no_upstream(
    lines: bytes, more: str
) -> None:
    async with versions(more) as (front, stable, canary):
        for number in (1, 2, 3):  # parsed, then remembered
            assert await answer_of(front, get(cookie("u"), lines)) == b"stable"
            assert refused(front) == {"untrusted": number}
        assert not canary.links
        said = LINE.findall(stable.got)
        assert len(said) == 3
        assert set(said) == {b"stable;unit=%d;weight=0" % position_of(b"", b"u")}


@pytest.mark.parametrize(
    "line", [b"X_Canary: canary\r\n", b"X-Canary : canary\r\n", b"A: b\r\n X-Canary: canary\r\n"]
)
async def test_spellings_that_others_might_read_are_refused(line: bytes) -> None:
    async with versions(PROPAGATE) as (front, stable, _):
        assert (await front.ask(get(line))).startswith(b"HTTP/1.1 400 ")
        assert not stable.links


async def test_it_is_no_trailer() -> None:
    trailers = b"X-Sum: 1\r\nx-canary: canary\r\nX_CANARY: canary\r\n"
    body = b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n" + trailers + b"\r\n"
    async with versions(PROPAGATE) as (front, stable, _):
        await answer_of(front, b"POST / HTTP/1.1\r\n" + HOST + cookie("u") + body)
        assert b"X-Sum: 1\r\n" in stable.got
        assert len(re.findall(rb"(?i)x.canary", stable.got)) == 1


# W3C baggage

BAGGAGE = re.compile(rb"\r\n(?i:baggage): *([^\r]*)")


async def test_baggage_gets_one_more_member_and_loses_only_ours() -> None:
    more = "propagate: {header: X-Canary, baggage: true}\n"
    async with versions(more) as (front, stable, _):
        ours = b"x-canary=stable%%3Bunit=%d%%3Bweight=0" % position_of(b"", b"u")
        for lines, before in (
            (b"", []),
            (b"baggage: a=1\r\n", [b"a=1"]),
            (b"Baggage: a=1;p=2, b=%20\r\nbaggage: c=3\r\n", [b"a=1;p=2, b=%20", b"c=3"]),
            (b"baggage: a=1,x-canary=canary,b=2\r\n", [b"a=1", b"b=2"]),
            (b"baggage: x-canary=canary;p=1\r\n", []),
            (b"baggage: X-Canary=mine\r\n", [b"X-Canary=mine"]),
        ):
            for _ in range(2):
                await answer_of(front, get(cookie("u"), lines))
                (found,) = [BAGGAGE.findall(part) for part in stable.got.split(b"GET / ")[-1:]]
                assert found == [b",".join([*before, ours])], lines


@pytest.mark.parametrize(
    "baggage", [b",".join(b"m%d=1" % n for n in range(64)), b"a=" + b"b" * 8190]
)
async def test_baggage_that_is_full_stays_as_it_is(baggage: bytes) -> None:
    async with versions("propagate: {baggage: true}\n") as (front, stable, _):
        await answer_of(front, get(cookie("u"), b"baggage: %b\r\n" % baggage))
        assert BAGGAGE.findall(stable.got) == [baggage]
        assert len(LINE.findall(stable.got)) == 1


async def test_baggage_is_followed_where_the_field_is_missing() -> None:
    more = "split: {follow: {baggage: true, from: [127.0.0.0/8]}}\n"
    async with versions(more) as (back, _, canary):
        member = b"baggage: a=1, x-canary=canary%3Brelease%3D%22r%22%3Bunit=5%3Bweight=1\r\n"
        assert await answer_of(back, get(member)) == b"canary"
        assert BAGGAGE.findall(canary.got) == [b"a=1"]
        assert [one.position for one in followers(back)] == [5]
        assert await answer_of(back, get(member, b"X-Canary: stable\r\n")) == b"stable"


# Who is followed


def followers(running: Proxy) -> list[Trial]:
    running.datapath.tick()
    ring = running.cells.records
    words = ring.words(0, ring.written)
    found = [Trial(word) for word in words[::3]]
    return [one for one in found if not one.flags & SPLIT]


class Trial:
    """The first word of a record, taken apart."""

    def __init__(self, first: int) -> None:
        self.position = first & POSITION_MASK
        self.variant = first >> VARIANT_SHIFT & 1
        self.epoch = first >> EPOCH_SHIFT & 0xFF
        self.flags = first >> FLAGS_SHIFT


async def test_a_proxy_behind_follows_whatever_its_own_weight() -> None:
    for weight in (0, 100):
        own = FOLLOW.replace("follow:", f"weight: {weight}, follow:")
        async with versions(own) as (back, _, _):
            for unit, variant in ((0, b"canary"), (POSITIONS - 1, b"stable")):
                line = b'X-Canary: %b;release="r";unit=%d;weight=12.5\r\n' % (variant, unit)
                for _ in range(2):
                    assert await answer_of(back, get(cookie("x"), line)) == variant
            trials = followers(back)
            assert [one.position for one in trials] == [0, 0, POSITIONS - 1, POSITIONS - 1]
            assert [one.variant for one in trials] == [1, 1, 0, 0]
            assert {one.epoch for one in trials} == {epoch_of("r", 1250)}
            assert back.counters.service[FOLLOWED] == 4
            assert not refused(back)


async def test_the_control_plane_is_told_what_the_epochs_mean() -> None:
    async with versions(FOLLOW) as (back, _, _):
        line = b'X-Canary: canary;release="r-1";unit=7;weight=3\r\n'
        for _ in range(3):
            await answer_of(back, get(line))
        back.datapath.tick()
        back.datapath.tick()
        ring = back.cells.records
        words = ring.words(0, ring.written)
        told = [words[at : at + 3] for at in range(0, len(words), 3)]
        splits = [one for one in told if one[0] >> FLAGS_SHIFT & SPLIT]
        assert [unpack(one[1]) for one in splits] == [FrontSplit(template_of(b"r-1"), 300)]
        assert splits[0][0] >> EPOCH_SHIFT & 0xFF == epoch_of("r-1", 300)
        assert back.cells.names.since(0)[1][template_of(name_of("r-1"))] == "r-1"


async def test_requests_that_do_not_follow_go_by_the_split_here_and_leave_no_records() -> None:
    async with versions(FOLLOW.replace("follow:", "weight: 100, follow:")) as (back, _, _):
        assert await answer_of(back, get(cookie("u"))) == b"canary"
        assert await answer_of(back, get(cookie("u"), b"X-Canary: nonsense\r\n")) == b"canary"
        assert followers(back) == []


@pytest.mark.parametrize(
    ("line", "compared"),
    [
        (b"canary", False),  # a match rule of the front
        (b'canary;release="r"', False),
        (b"canary;unit=5", False),
        (b"canary;unit=1279999;weight=1", False),  # not what that split makes of it
        (b"canary;unit=5;weight=1;copy", False),
        (b"canary;unit=5;weight=1;later=?0", True),
    ],
)
async def test_what_the_front_has_not_randomised_is_followed_and_not_compared(
    line: bytes, compared: bool
) -> None:
    async with versions(FOLLOW) as (back, _, _):
        assert await answer_of(back, get(b"X-Canary: %b\r\n" % line)) == b"canary"
        assert len(followers(back)) == compared


@pytest.mark.parametrize(
    "value",
    [
        *(b"", b"Canary", b"1", b'"canary"', b"canary,canary", b"canary;unit=-1", b"canary;unit=1.5"),
        *(b"canary;unit=1280000", b"canary;weight=101", b"canary;weight=0.001", b"canary;release=r"),
        *(b"canary;weight=-1", b"canary;copy=1", b"canary;sig=abc", b"canary;" + b"x" * 600, b"c\xe9"),
    ],
)  # fmt: skip
async def test_a_malformed_value_is_ignored(value: bytes) -> None:
    async with versions(FOLLOW) as (back, stable, canary):
        for number in (1, 2):
            line = b"X-Canary: %b\r\n" % value
            assert await answer_of(back, get(cookie("u"), line)) == b"stable"
            assert refused(back) == {"malformed": number}
        assert not canary.links
        assert not LINE.findall(stable.got)


async def test_a_stranger_is_not_followed() -> None:
    stranger = FOLLOW.replace("127.0.0.0/8", "10.0.0.0/8")
    async with versions(stranger) as (back, stable, canary):
        line = b"X-Canary: canary\r\nX-Forwarded-For: 10.0.0.1\r\n"
        for number in (1, 2):
            assert await answer_of(back, get(line)) == b"stable"
            assert refused(back) == {"untrusted": number}
        assert not canary.links
        assert not LINE.findall(stable.got)


async def test_with_the_proxy_protocol_the_load_balancer_names_the_peer() -> None:
    listen = "listen: {address: 127.0.0.1:8443, proxy_protocol: required}\n"
    more = listen + FOLLOW.replace("127.0.0.0/8", "10.0.0.0/8")
    async with versions(more) as (back, _, _):
        for address, expected in ((b"10.1.2.3", b"canary"), (b"192.0.2.1", b"stable")):
            header = b"PROXY TCP4 %b 10.0.0.9 1 80\r\n" % address
            assert await answer_of(back, header + get(b"X-Canary: canary\r\n")) == expected


async def test_an_open_circuit_and_a_missing_canary_mean_stable() -> None:
    async with versions(FOLLOW + PROPAGATE) as (back, stable, _):
        table = back.service.context.router.table
        back.service.publish(replace(table, circuit_open=True))
        line = b'X-Canary: canary;release="r";unit=5;weight=1\r\n'
        assert await answer_of(back, get(line)) == b"stable"
        assert followers(back) == []
        assert LINE.findall(stable.got) == [b'stable;release="r"']
    async with (
        Upstream(always(says(b"stable"))).serving() as alone,
        proxy(variants(alone.port, None, FOLLOW)) as back,
    ):
        assert await answer_of(back, get(line)) == b"stable"
        assert back.counters.canary[ROUTED] == 0


async def test_a_match_rule_stands_above_the_front() -> None:
    rule = "match: [{variant: stable, header: {name: X-Ops, equals: stable}}], follow:"
    async with versions(FOLLOW.replace("follow:", rule)) as (back, _, _):
        line = b"X-Canary: canary;unit=5;weight=1\r\n"
        assert await answer_of(back, get(line, b"X-Ops: stable\r\n")) == b"stable"
        assert back.counters.stable[counters.FORCED] == 1
        assert followers(back) == []
        assert await answer_of(back, get(line)) == b"canary"


# Signatures


def signed(said: Propagated, key: bytes) -> bytes:
    return b"X-Canary: %b\r\n" % sign(said, Signer((key,), PURPOSE))


async def test_only_a_signature_of_a_known_key_is_followed(tmp_path: Path) -> None:
    old, new, other = b"o" * 32, b"n" * 32, b"x" * 32
    keys = tmp_path / "keys"
    keys.write_bytes(new + b"\n" + old)
    more = FOLLOW.replace("from:", f"sign: {{key_file: {keys}}}, from:")
    said = Propagated(CANARY, "r-1", 5, 100)
    async with versions(more) as (back, _, _):
        for key in (old, new):  # while keys are replaced, both are known
            for _ in range(2):
                assert await answer_of(back, get(signed(said, key))) == b"canary"
        line = signed(said, new)
        broken = [
            b"X-Canary: canary\r\n",
            signed(said, other),
            line.replace(b"r-1", b"r-2"),  # of another release
            line.replace(b"unit=5", b"unit=6"),
            line.replace(b"weight=1;", b"weight=2;"),
            line.replace(b"sig=:", b"sig=:AAAA"),
        ]
        for number, one in enumerate(broken, 1):
            assert await answer_of(back, get(one)) == b"stable", one
            assert refused(back) == {"signature": number}


async def test_a_front_signs_with_its_first_key(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_bytes(b"n" * 32 + b"\n" + b"o" * 32)
    more = f"propagate: {{sign: {{key_file: {keys}}}}}\n"
    async with versions(more) as (front, stable, _):
        await answer_of(front, get(cookie("u")))
        said, signature = read(LINE.findall(stable.got)[0])
        assert len(signature) == 16
        assert signed(said, b"n" * 32) == b"X-Canary: %b\r\n" % LINE.findall(stable.got)[0]


# Three proxies


class Shop:
    """A service behind a front: it asks two other services and names every version that took part."""

    def __init__(self, name: bytes, back: list[Proxy]) -> None:
        self.name = name
        self.back = back

    async def __call__(self, link: Link) -> None:
        done = 0
        while await link.read():
            while link.got.count(b"\r\n\r\n") > done:
                head = link.got.split(b"\r\n\r\n")[done]
                done += 1
                line = b"X-Canary: %b\r\n" % LINE.findall(head)[0]
                parts = await asyncio.gather(*(answer_of(one, get(line)) for one in self.back))
                body = b" ".join([self.name, *parts])
                await link.send(
                    b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
                )


@asynccontextmanager
async def shop() -> AsyncIterator[tuple[Proxy, Proxy, Proxy]]:
    """Run a front and two proxies behind it, each before a stable and a canary."""
    async with versions(FOLLOW) as (cart, *_), versions(FOLLOW) as (stock, *_):
        back = [cart, stock]
        async with (
            Upstream(Shop(b"stable", back)).serving() as stable,
            Upstream(Shop(b"canary", back)).serving() as canary,
            proxy(variants(stable.port, canary.port, RELEASE + PROPAGATE)) as front,
        ):
            yield front, cart, stock


USERS = [f"user-{number}" for number in range(60)]


async def seen(front: Proxy, users: list[str]) -> dict[str, bytes]:
    """Return the versions that each user meets, in one request each."""
    bodies = await asyncio.gather(*(answer_of(front, get(cookie(user))) for user in users))
    return dict(zip(users, bodies, strict=True))


@pytest.mark.parametrize("weight", [1, 5, 25, 50, 100])
async def test_every_request_meets_one_version_through_three_proxies(weight: float) -> None:
    async with shop() as (front, cart, stock):
        front.service.publish(RouteTable(weight, b"web-2"))
        found = await seen(front, USERS)
        for user, body in found.items():
            expected = position_of(b"web-2", user.encode()) < weight * POSITIONS / 100
            assert body == b" ".join([b"canary" if expected else b"stable"] * 3), user
        units = {position_of(b"web-2", user.encode()) for user in USERS}
        for back in (cart, stock):  # compared as the front has randomised them
            assert {one.position for one in followers(back)} == units


async def test_a_trip_of_the_front_moves_all_and_no_request_meets_two_versions() -> None:
    async with shop() as (front, _, _):
        bodies: list[bytes] = []
        stop = asyncio.Event()

        async def load(users: list[str]) -> None:
            while not stop.is_set():
                bodies.extend((await seen(front, users)).values())

        tasks = [asyncio.ensure_future(load(USERS[at::4])) for at in range(4)]
        table = RouteTable(50.0, b"web-2")
        for number in range(6):
            front.service.publish(replace(table, circuit_open=bool(number % 2)))
            count = len(bodies)
            await until(lambda count=count: len(bodies) > count + 40, "requests")  # type: ignore[misc]
        stop.set()
        await asyncio.gather(*tasks)
        assert set(bodies) == {b"stable stable stable", b"canary canary canary"}
        assert set((await seen(front, USERS)).values()) == {b"stable stable stable"}


async def test_a_trip_behind_alone_moves_its_own_users_only() -> None:
    async with shop() as (front, cart, _):
        front.service.publish(RouteTable(100.0, b"web-2"))
        cart.service.publish(replace(cart.service.context.router.table, circuit_open=True))
        assert set((await seen(front, USERS)).values()) == {b"canary stable canary"}
        # What a fleet does then: the front takes its release back.
        front.service.publish(RouteTable(100.0, b"web-2", circuit_open=True))
        assert set((await seen(front, USERS)).values()) == {b"stable stable stable"}


async def test_a_chain_passes_on_what_the_first_has_said(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_bytes(b"k" * 32)
    named = f"sign: {{key_file: {keys}}}"
    follow = FOLLOW.replace("from:", f"{named}, from:")
    propagate = f"propagate: {{{named}}}\n"
    async with (
        versions(follow) as (last, stable, canary),
        proxy(variants(last.port, last.port, follow + propagate)) as middle,
        proxy(variants(middle.port, middle.port, RELEASE + propagate)) as first,
    ):
        first.service.publish(RouteTable(50.0, b"web-2"))
        for user in USERS:
            body = await answer_of(first, get(cookie(user)))
            unit = position_of(b"web-2", user.encode())
            assert body == (b"canary" if unit < POSITIONS / 2 else b"stable")
            assert {one.position for one in followers(last)[-1:]} == {unit}
        assert not LINE.findall(stable.got + canary.got)  # the last tells nobody
        middle.service.publish(replace(middle.service.context.router.table, circuit_open=True))
        assert {await answer_of(first, get(cookie(user))) for user in USERS} == {b"stable"}
