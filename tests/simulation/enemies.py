"""Canaries that are wrong, each in a way of its own, and some that only seem to be: ``bench.judge.enemy``.

All are versions of one shop, whose users differ in how much they ask and in what happens to them. An
``Enemy`` makes its versions anew for each release, because many of them remember what they did.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import exp
from random import Random
from typing import Final, NamedTuple

from canaryproxy.judging.settings import BusinessRule, JudgeSettings, OutcomeRule
from canaryproxy.measure import records
from canaryproxy.measure.routing import FINE
from tests.judging.world import HTML, Answer, User, Version

BASELINE: Final = 30.0
"""Seconds for which stable is watched before the first step."""
STEPS: Final = (5.0, 25.0, 50.0)
"""Percent of the users."""
NEW_USERS: Final = 3
"""One user in so many comes for the first time within the release."""
JSON: Final = records.type_code(b"application/json")
PLAIN: Final = JudgeSettings(steps=STEPS, placebos=0)
WITH_OUTCOME: Final = replace(PLAIN, outcomes=(OutcomeRule("error_page", slot=0),))
WITH_ORDERS: Final = replace(PLAIN, business=BusinessRule())
_ROUTES: Final = (
    # name, share of the requests, bytes, media type
    (b"GET /", 0.30, 20_000, HTML),
    (b"GET /items/*", 0.35, 8_000, HTML),
    (b"GET /search", 0.14, 4_000, JSON),
    (b"GET /me", 0.05, 900, JSON),
    (b"HEAD /items/*", 0.02, 0, HTML),
    (b"POST /login", 0.03, 300, JSON),
    (b"POST /cart", 0.07, 300, JSON),
    (b"POST /checkout", 0.03, 1_200, JSON),
    (b"PUT /me", 0.01, 60, JSON),
)
_SHARES: Final = [share for _, share, _, _ in _ROUTES]
_PRIVATE: Final = (b"GET /me", b"PUT /me", b"POST /checkout")


class Ask(NamedTuple):
    """A request."""

    user: User
    at: float
    """Seconds since the first step."""
    luck: Random
    good: Answer
    """What a healthy version answers."""


@dataclass
class Crowd:
    """What users do besides asking at random."""

    gone: set[int] = field(default_factory=set)
    """Users who have left for good."""
    again: list[User] = field(default_factory=list)
    """Who asks again in the next tick."""


When = Callable[[Ask], bool]
Harm = Callable[[Ask], Answer]
Make = Callable[[Crowd], Harm]


@dataclass(frozen=True)
class Enemy:
    """A canary that is wrong, or seems to be."""

    name: str
    canary: Make | None
    """``None``: it is equal to stable."""
    settings: JudgeSettings = PLAIN
    rate: float = 100.0
    """Requests per second."""
    bake: float = 100.0
    """Seconds of each step."""
    stable: Make | None = None
    """What is wrong with stable."""
    asks: float = 1.0
    """Share of their requests that users of the canary still send."""


def shop(luck: Random) -> Answer:
    """Answer as a healthy version: 0.5% fail, a fifth of home pages are 304, 6% of searches are 404."""
    (route, _, size, media) = luck.choices(_ROUTES, _SHARES)[0]
    good = Answer(
        first_byte=0.02 * exp(0.5 * luck.gauss(0.0, 1.0)),
        size=int(size * exp(0.3 * luck.gauss(0.0, 1.0))),
        flags=0 if size else records.BODILESS,
        trials=1,
        posted=route == b"POST /checkout",
        route=route,
        content_type=media,
    )
    if luck.random() < 0.005:
        return dead(good)
    if route == b"GET /" and luck.random() < 0.2:
        return replace(good, status=304, size=0, flags=records.BODILESS, trials=0)
    if route == b"GET /search" and luck.random() < 0.06:
        return replace(good, status=404, size=60)
    if route == b"POST /login" and luck.random() < 0.1:
        return replace(good, status=401, size=40)
    return good


def version(harm: Harm | None) -> Version:
    """Return the shop with a harm."""

    def answer(user: User, now: float, luck: Random) -> Answer:
        good = shop(luck)
        return good if harm is None else harm(Ask(user, now - BASELINE, luck, good))

    return answer


def dead(good: Answer, status: int = 500) -> Answer:
    """Return the answer of a version that failed."""
    return replace(good, status=status, size=20, flags=0, posted=False, content_type=HTML)


# Conditions


def often(share: float) -> When:
    """Hold for this share of requests, whoever sends them."""
    return lambda ask: ask.luck.random() < share


def users(share: float, first: float = 0.0) -> When:
    """Hold for this share of users, in all their requests."""
    return lambda ask: first <= ask.user.number * 0.6180339887 % 1.0 < first + share


def on(route: bytes, share: float = 1.0) -> When:
    """Hold for this share of the requests of routes that begin so."""
    return lambda ask: ask.good.route.startswith(route) and ask.luck.random() < share


def pages(share: float = 1.0) -> When:
    """Hold for this share of the requests that get a body and 200."""
    return lambda ask: ask.good.status == 200 and ask.good.size > 0 and ask.luck.random() < share


def status(of: int) -> When:
    """Hold for responses with a status."""
    return lambda ask: ask.good.status == of


# Harms


def harms(change: Callable[[Answer], Answer], when: When) -> Make:
    """Change the answers of requests for which a condition holds."""
    return lambda _: lambda ask: change(ask.good) if when(ask) else ask.good


def fails(when: When, of: int = 500) -> Make:
    """Fail with a status."""
    return harms(lambda good: dead(good, of), when)


def slower(seconds: float, when: When, factor: float = 1.0) -> Make:
    """Answer later."""
    return harms(
        lambda good: replace(good, first_byte=(good.first_byte or 0.0) * factor + seconds), when
    )


def as_if(when: When, **changed: object) -> Make:
    """Answer with some fields changed."""
    return harms(lambda good: replace(good, **changed), when)  # type: ignore[arg-type]


def sized(factor: float) -> Make:
    """Answer with bodies of another size."""
    return harms(lambda good: replace(good, size=int(good.size * factor)), pages())


def by_time(share: Callable[[float], float], of: int = 500) -> Make:
    """Fail for a share of requests that depends on the second of the release."""
    return fails(lambda ask: ask.luck.random() < share(ask.at), of)


def outages(share: float) -> Make:
    """Fail for a share of requests in the second half of each minute."""
    return by_time(lambda at: share if at % 60.0 > 30.0 else 0.0, 503)


def pages_by_rank(*, broken: bool) -> Make:
    """Have sixty kinds of items, some rarer than others; the rarest is ``broken``."""

    def make(_: Crowd) -> Harm:
        def harm(ask: Ask) -> Answer:
            if ask.good.route != b"GET /items/*":
                return ask.good
            kind = int(60.0 * ask.luck.random() ** 2)
            item = replace(ask.good, route=b"GET /items/%d" % kind)
            return dead(item) if broken and kind == 59 else item

        return harm

    return make


def _every_fiftieth(_: Crowd) -> Harm:
    asked: Counter[int] = Counter()

    def harm(ask: Ask) -> Answer:
        asked[ask.user.number] += 1
        return ask.good if asked[ask.user.number] % 50 else dead(ask.good)

    return harm


def _lost_session(_: Crowd) -> Harm:
    """Lose the cookie of whoever logs in: private pages redirect to the login for ever."""
    lost: set[int] = set()

    def harm(ask: Ask) -> Answer:
        if ask.good.route == b"POST /login" and ask.good.status == 200:
            lost.add(ask.user.number)
        if ask.user.number in lost and ask.good.route in _PRIVATE:
            return dead(ask.good, 302)
        return ask.good

    return harm


def _leak(_: Crowd) -> Harm:
    """Become a tenth of a second slower by each thousand requests."""
    served = 0

    def harm(ask: Ask) -> Answer:
        nonlocal served
        served += 1
        return replace(ask.good, first_byte=(ask.good.first_byte or 0.0) + 1e-4 * served)

    return harm


def again(share: float, times: int, of: int = 500) -> Make:
    """Fail for a share of requests; each is sent again so many times, as bad each time."""

    def make(crowd: Crowd) -> Harm:
        left: dict[int, int] = {}

        def harm(ask: Ask) -> Answer:
            number = ask.user.number
            todo = left.pop(number, 0) or (times + 1 if ask.luck.random() < share else 0)
            if not todo:
                return ask.good
            if todo > 1:
                left[number] = todo - 1
                crowd.again.append(ask.user)
            return replace(dead(ask.good, of), size=0 if of < 400 else 20)

        return harm

    return make


def _bursts(crowd: Crowd) -> Harm:
    """Serve a script of one user, in bursts of two hundred requests of which a third fail."""
    left = 0

    def harm(ask: Ask) -> Answer:
        nonlocal left
        if ask.user.number != 1:
            return ask.good
        left = left - 1 if left else 199
        if left:
            crowd.again.append(ask.user)
        return dead(ask.good) if ask.luck.random() < 0.33 else ask.good

    return harm


def _cold_after_a_deployment(_: Crowd) -> Harm:
    """Answer the first request of each user slowly, in the first minute of the release and later."""
    known: set[int] = set()

    def harm(ask: Ask) -> Answer:
        if ask.at < 0.0 or ask.user.number in known:
            return ask.good
        known.add(ask.user.number)
        return replace(ask.good, first_byte=1.5)

    return harm


def leaving(make: Make) -> Make:
    """Do harm to users who leave for good once they have met it."""

    def left(crowd: Crowd) -> Harm:
        harm = make(crowd)

        def met(ask: Ask) -> Answer:
            answer = harm(ask)
            if answer is not ask.good:
                crowd.gone.add(ask.user.number)
            return answer

        return met

    return left


def _puts_off(crowd: Crowd) -> Harm:
    """Answer well by any figure of a proxy; one request in ten puts its user off."""

    def harm(ask: Ask) -> Answer:
        if ask.luck.random() < 0.1:
            crowd.gone.add(ask.user.number)
        return ask.good

    return harm


def _polls(crowd: Crowd) -> Harm:
    """Serve a page that asks four times in place of once."""
    sent: Counter[int] = Counter()

    def harm(ask: Ask) -> Answer:
        sent[ask.user.number] += 1
        if sent[ask.user.number] % 4:
            crowd.again.append(ask.user)
        return ask.good

    return harm


def closes(share: float, flags: int = 0) -> Make:
    """Have clients who close before the first byte."""
    return as_if(
        often(share), status=0, first_byte=None, size=0, posted=False,
        flags=records.CLIENT_GONE | flags,
    )  # fmt: skip


def streams(flags: int) -> Make:
    """Answer one request in twenty by a stream."""
    return as_if(often(0.05), route=b"GET /live", size=0, flags=records.TUNNEL | flags)


ENEMIES: Final = (
    # a part of the service
    Enemy("`POST` requests fail (13% of the traffic)", fails(on(b"POST"))),
    Enemy("`PUT` requests fail (1% of the traffic)", fails(on(b"PUT"))),
    Enemy("`HEAD` requests fail (2% of the traffic)", fails(on(b"HEAD"))),
    Enemy("the login answers 404 (3% of the traffic)", fails(on(b"POST /login"), 404)),
    Enemy("half of `POST /checkout` fails (1.5%)", fails(on(b"POST /checkout", 0.5))),
    Enemy("one in 20 of `POST /checkout` fails (0.15%)", fails(on(b"POST /checkout", 0.05))),
    Enemy("large bodies fail (7%)", fails(lambda ask: ask.good.size > 25_000)),
    Enemy("large bodies come 2 s later (7%)", slower(2.0, lambda ask: ask.good.size > 25_000)),
    Enemy("`GET /me` is empty (5%)", as_if(on(b"GET /me"), size=0)),
    Enemy("`GET /search` has another media type (14%)", as_if(on(b"GET /search"), content_type=HTML)),
    Enemy("a page fails that is not among the 31 busiest (0.3%)", pages_by_rank(broken=True),
          stable=pages_by_rank(broken=False)),
    # some users
    Enemy("new users fail (a third of all users)", fails(lambda ask: not ask.user.number % NEW_USERS)),
    Enemy("a tenth of the hash fails", fails(lambda ask: ask.user.position // FINE % 10 == 3)),
    Enemy("2% of users fail in all requests", fails(users(0.02))),
    Enemy("0.5% of users fail in all requests", fails(users(0.005))),
    Enemy("1% of users get no response", as_if(
        users(0.01), status=504, first_byte=None, size=0, posted=False, passed=records.OVERDUE,
        flags=records.FAILED | records.RESCUED)),
    Enemy("every fiftieth request of a user fails", _every_fiftieth),
    Enemy("heals 5% of users and breaks 5% others", fails(users(0.05)), stable=fails(users(0.05, 0.5))),
    # some of the time
    Enemy("all fail in one second of each minute", by_time(lambda at: float(at % 60.0 < 1.0))),
    Enemy("a third fail after five minutes", by_time(lambda at: 0.33 if at > 300.0 else 0.0)),
    Enemy("1 point more fail each minute, steps of 5 min", by_time(lambda at: at / 6000.0), rate=40.0,
          bake=300.0),
    Enemy("0.1 s slower by each 1,000 requests", _leak),
    Enemy("fails 60% in outages in which stable fails 30%", outages(0.6), stable=outages(0.3)),
    Enemy("fails 35% in outages in which stable fails 30%", outages(0.35), stable=outages(0.3)),
    # some of the processes, some of the answers
    Enemy("one of two endpoints fails", fails(often(0.5))),
    Enemy("one of ten endpoints fails", fails(often(0.1))),
    Enemy("one of ten endpoints takes 2 s more", slower(2.0, often(0.1))),
    Enemy("one in a hundred takes 10 s more", slower(10.0, often(0.01))),
    Enemy("3% more fail", fails(often(0.03))),
    Enemy("0.8% more fail", fails(often(0.008))),
    Enemy("everything takes a third longer", slower(0.0, often(1.0), 1.33)),
    Enemy("everything takes twice as long", slower(0.0, often(1.0), 2.0)),
    # what looks well
    Enemy("empty, and quicker", as_if(pages(), first_byte=0.001, size=0)),
    Enemy("empty for 5% of requests", as_if(pages(0.05), size=0)),
    Enemy("200 with an error page of the same size", as_if(pages(), events=1, posted=False)),
    Enemy("the same, with an outcome that knows it", as_if(pages(), events=1, posted=False),
          WITH_OUTCOME),
    Enemy("200 with an error page of 500 bytes", as_if(pages(), size=500, posted=False)),
    Enemy("the same for 10% of requests", as_if(pages(0.1), size=500, posted=False)),
    Enemy("JSON in place of HTML", as_if(on(b"GET"), content_type=JSON)),
    Enemy("bodies broken off (3% of requests)", as_if(pages(0.03), flags=records.FAILED | records.BROKEN)),
    Enemy("bodies that stall (3% of requests)", as_if(pages(0.03), passed=records.STALLED)),
    Enemy("bodies a third shorter, with a length that fits", sized(0.67)),
    Enemy("bodies ten times as large", sized(10.0)),
    Enemy("304 for every page", as_if(lambda ask: pages()(ask) and on(b"GET")(ask), status=304, size=0,
                                      flags=records.BODILESS)),
    Enemy("no 304 any more", as_if(status(304), status=200, size=20_000, flags=0)),
    Enemy("the login takes any password", as_if(status(401), status=200, size=300)),
    Enemy("429 for 3% of requests", fails(often(0.03), 429)),
    Enemy("a redirect loop for 2% of requests", again(0.02, 20, 302)),
    Enemy("the session cookie is lost: redirects to the login", _lost_session),
    Enemy("streams break off", streams(records.BROKEN), stable=streams(0)),
    # what clients do
    Enemy("clients give up after a long wait (2%)", closes(0.02, records.ABANDONED)),
    Enemy("clients close at once (all requests)", closes(1.0)),
    Enemy("clients close at once (a third of requests)", closes(0.33)),
    Enemy("10% fail, and users who meet it leave", leaving(fails(often(0.1)))),
    Enemy("2% fail, each is sent again five times", again(0.02, 5)),
    Enemy("users leave, without an error", _puts_off),
    Enemy("the same, with posted orders", _puts_off, WITH_ORDERS),
    Enemy("a page polls: four requests in place of one", _polls),
    Enemy("takes orders and loses them, with posted orders", as_if(on(b"POST /checkout"), posted=False),
          WITH_ORDERS),
    Enemy("pages are cached: half as many requests", None, asks=0.5),
    # equal versions in which something is wrong
    Enemy("equal", None),
    Enemy("equal: 2% fail, each is sent again five times", None, stable=again(0.02, 5)),
    Enemy("equal: users leave after a failure", None, stable=leaving(fails(often(0.02)))),
    Enemy("equal: both fail 30% in outages", None, stable=outages(0.3)),
    Enemy("equal: 5% of users fail", None, stable=fails(users(0.05))),
    Enemy("equal: a script in bursts, a third of its requests fail", None, stable=_bursts),
    Enemy("equal: caches are cold after a deployment", None, stable=_cold_after_a_deployment),
    Enemy("equal: nothing is answered for 5 s of each minute", None, stable=as_if(
        lambda ask: ask.at > 0.0 and ask.at % 60.0 < 5.0, first_byte=3.0, passed=records.OVERDUE)),
)  # fmt: skip
