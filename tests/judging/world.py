"""A small world for the judge: users with habits, two versions, records tick by tick. Seeded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from canaryproxy.judging.judge import Judge
from canaryproxy.judging.posted import POSTED
from canaryproxy.judging.verdict import Assessment, Sample
from canaryproxy.measure import records
from canaryproxy.measure.records import pack_first, pack_second, pack_third, template_of
from canaryproxy.measure.routing import FINE, POSITIONS

TICK = 0.1
EPOCH = 7
HTML = records.type_code(b"text/html")


@dataclass(frozen=True)
class Answer:
    """What a version does with a request."""

    status: int = 200
    first_byte: float | None = 0.01
    size: int = 1000
    flags: int = 0
    trials: int = 0
    events: int = 0
    posted: bool = False
    """The service posts a business event for the user."""
    posted_for: int | None = None
    """Position of that event, if it is not the user's."""
    route: bytes = b"GET /"
    content_type: int = HTML
    passed: int = 0
    """Flags of an early record: limits that the request passed in flight."""

    @property
    def failed(self) -> bool:
        return self.status >= 500


@dataclass(frozen=True)
class User:
    """Who asks."""

    number: int
    position: int


Version = Callable[[User, float, Random], Answer]
"""A user, the time in seconds and luck: the answer."""


def plain(user: User, now: float, luck: Random) -> Answer:
    """A healthy version: one in two hundred fails, answers take ten milliseconds and vary."""
    if luck.random() < 0.005:
        return Answer(500, size=20)
    return Answer(first_byte=luck.expovariate(100.0))


def _evenly(user: User) -> float:
    return 1.0


class World:
    """Users who ask at a rate (requests a second), two versions, and a judge."""

    def __init__(
        self,
        judge: Judge,
        *,
        users: int | Sequence[User] = 1000,
        rate: float = 200.0,
        stable: Version = plain,
        canary: Version = plain,
        seed: int = 1,
        weigh: Callable[[User], float] = _evenly,
    ) -> None:
        self.luck = Random(seed)
        self.judge = judge
        self.rate = rate
        self.stable, self.canary = stable, canary
        if isinstance(users, int):
            users = [User(n, self.luck.randrange(POSITIONS)) for n in range(users)]
        self.users = list(users)
        self._weights = [weigh(user) for user in self.users]
        self.now = 0.0
        self.weight = 0.0
        self.counts = {"stable": [0, 0, 0, 0], "canary": [0, 0, 0, 0]}
        self.orders = {"stable": 0, "canary": 0}
        """Business events that were posted as counts."""
        self.shed = 0
        """Requests that stable has refused because it was overloaded."""
        self.accepted: frozenset[str] = frozenset()
        self.on_canary: set[int] = set()
        self.seen: Assessment | None = None
        self._due = 0.0

    @property
    def canary_requests(self) -> int:
        return self.counts["canary"][0]

    def tick(self) -> Assessment:
        """Let a tenth of a second pass."""
        self.now += TICK
        limit = round(self.weight * 100)
        words: list[int] = []
        names: dict[int, str] = {}
        self._due += self.rate * TICK
        asks = int(self._due)
        self._due -= asks
        for user in self.asking(asks):
            canary = user.position < limit * FINE
            version = self.canary if canary else self.stable
            answer = version(user, self.now, self.luck)
            if canary:
                self.on_canary.add(user.number)
            template = template_of(answer.route)
            names[template] = answer.route.decode()
            if answer.posted:
                at = user.position if answer.posted_for is None else answer.posted_for
                mark = pack_first(at, at < limit * FINE, EPOCH, 0, 0, records.POSTED)
                words += [mark, 0, 0]
            if answer.passed:
                early = pack_first(user.position, canary, EPOCH, 0, 0, answer.passed)
                words += [early, pack_second(template, 0, 0), pack_third(None, 0)]
            flags = answer.flags | answer.passed | records.ENDED
            flags |= records.FAILED if answer.failed else 0
            words += [
                pack_first(user.position, canary, EPOCH, answer.status, answer.content_type, flags),
                pack_second(template, answer.trials, answer.events),
                pack_third(answer.first_byte, answer.size),
            ]
            counts = self.counts["canary" if canary else "stable"]
            if not flags & records.CLIENT_GONE:
                counts[0] += 1
                counts[1] += answer.failed or bool(flags & records.FAILED)
                counts[2] += 400 <= answer.status < 500
                counts[3] += bool(flags & records.UNREACHED)
        self.seen = self.judge.observe(
            self.now,
            Sample(
                self._raw("stable"),
                self._raw("canary"),
                records=words,
                limit=limit,
                epoch=EPOCH,
                names=names,
                accepted=self.accepted,
                shed=(self.shed, 0),
            ),
        )
        return self.seen

    def asking(self, asks: int) -> list[User]:
        """Return who asks in this tick."""
        return self.luck.choices(self.users, self._weights, k=asks)

    def _raw(self, side: str) -> dict[str, tuple[int, int]]:
        ended, failed, refused, unreached = self.counts[side]
        return {
            "requests": (ended, failed),
            "client_errors": (ended, refused),
            "unreached": (ended, unreached),
            POSTED: (ended, self.orders[side]),
        }

    def run(self, seconds: float) -> Assessment:
        """Let time pass; stop at a breach."""
        until = self.now + seconds - TICK / 2
        while self.now < until:
            if self.tick().level == "breach":
                break
        assert self.seen is not None
        return self.seen

    def step(self, weight: float, seconds: float) -> Assessment:
        """Set the weight in percent and let time pass; stop at a breach."""
        self.weight = weight
        return self.run(seconds)
