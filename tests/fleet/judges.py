"""Judges of the test's own in the place of the real one: they see what the fleet brings about."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from math import log
from typing import Any

from canaryproxy.judging.lottery import Lottery, LotteryTest, TestSettings, Units
from canaryproxy.judging.metrics import FALLBACK, Limits
from canaryproxy.judging.settings import JudgeSettings
from canaryproxy.judging.verdict import Assessment, Level, Sample
from canaryproxy.measure.records import FAILED, FLAGS_SHIFT, POSITION_MASK, WORDS
from canaryproxy.measure.routing import FINE, POSITIONS


def verdict(level: Level, judged: int) -> Assessment:
    return Assessment(level, (), judged, judged, True, True, "errors", None, users=judged)


class Recorder:
    """A judge that remembers all that it was given, across processes too."""

    def __init__(self, _settings: JudgeSettings, _before: object = None) -> None:
        self.words: list[int] = []
        self.splits: list[list[int]] = []
        self.times: list[float] = []
        self.names: dict[int, str] = {}
        self.lost = 0

    def observe(self, now: float, sample: Sample) -> Assessment:
        self.words += sample.records
        self.times.append(now)
        self.names.update(sample.names)
        self.lost += sample.lost
        if not self.splits or self.splits[-1] != [sample.limit, sample.epoch]:
            self.splits.append([sample.limit, sample.epoch])
        return verdict("ok", len(self.words) // WORDS)

    def parts(self, now: float, sample: Sample) -> Generator[None, None, Assessment]:
        seen = self.observe(now, sample)
        yield
        return seen

    def share(self, _alpha: float) -> None:
        pass

    published = (1.0, 1.0)

    @property
    def limits(self) -> Limits:
        return FALLBACK

    @property
    def ids(self) -> list[int]:
        """The third word of each record: the test numbers them."""
        return self.words[2::WORDS]

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self), names=[])

    @classmethod
    def from_dict(
        cls, settings: JudgeSettings, state: Mapping[str, Any], _before: object = None
    ) -> Recorder:
        made = cls(settings)
        vars(made).update({**state, "names": {}})
        return made


class Voting(Recorder):
    """A judge of failures by lottery. It has no margins and no minimum, and is not saved."""

    def __init__(self, settings: JudgeSettings, _before: object = None) -> None:
        super().__init__(settings)
        self.alpha = settings.alpha
        self.test: LotteryTest | None = None
        self.evidence: dict[float, float] = {}
        """The log evidence after each tick, by its time."""

    def observe(self, now: float, sample: Sample) -> Assessment:
        if not self.splits or self.splits[-1][0] != sample.limit:
            lottery = Lottery(0, sample.limit * FINE, POSITIONS)
            self.units = Units()
            limits = TestSettings(log(1 / self.alpha), log(1 / 0.05))
            self.test = LotteryTest(lottery, self.units, limits, now) if sample.limit else None
        super().observe(now, sample)
        if self.test is None:
            return verdict("ok", 0)
        for word in sample.records[::WORDS]:
            row = self.units.row(word & POSITION_MASK)
            self.test.add(row, bool(word >> FLAGS_SHIFT & FAILED))
        self.test.tick(now)
        self.evidence[now] = self.test.log_evidence
        return verdict("breach" if self.test.breach else "ok", len(self.words) // WORDS)

    def share(self, alpha: float) -> None:
        self.alpha = min(alpha, self.alpha)

    def to_dict(self) -> dict[str, Any]:
        return {}
