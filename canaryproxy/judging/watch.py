"""Plain rules beside the evidence: holding is cheap, and they see what no statistics can.

* *Up.* A canary that has never accepted a connection is not up yet. Users are rescued meanwhile and its
  failures say nothing about the version; after ``not_up`` seconds of them it is given up.
* *Rails* (``rails``): most raw requests fail, whatever the number of users.
* *Silence*: the last canary requests all failed, for ten seconds.
* *Outage*: stable itself fails most of its requests.
* *Blindness*: a configured outcome sees nothing while requests flow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from canaryproxy.config.text import count, duration, percent
from canaryproxy.judging.metrics import Record
from canaryproxy.judging.rails import Rails, Raw
from canaryproxy.judging.settings import JudgeSettings
from canaryproxy.judging.verdict import (
    BLIND,
    CLIENT_ERRORS,
    FOUND,
    REQUESTS,
    UNREACHED,
    Counts,
    Sample,
)
from canaryproxy.measure import records

_STREAK = 3
_STREAK_SECONDS = 10.0
_ENOUGH = 50
"""Responses after which an outcome should have seen something."""
_FEW = 20
"""Responses of one variant after which it can be blind."""
_BLIND = 0.5
"""Share of responses that could not be looked into, from which an outcome is blind."""
_FAILED_BEFORE = 2
"""Failures on stable that excuse a position."""
_MOST_FAILING = 100_000


class Growth:
    """The growth of a pair of counts since it was last read."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: tuple[int, int] | None = None

    def gained(self, counts: tuple[int, int] | None) -> tuple[int, int]:
        """Return the growth of both. The first reading is where counting begins."""
        if counts is None:
            return 0, 0
        last, self._last = self._last, counts
        if last is None:
            return 0, 0
        if counts[0] < last[0] or counts[1] < last[1]:  # a worker restarted
            return counts
        return counts[0] - last[0], counts[1] - last[1]


class _Side:
    """The raw growth of one variant."""

    __slots__ = ("_answered", "_refused", "_unreached", "unreached")

    def __init__(self) -> None:
        self._answered, self._refused, self._unreached = Growth(), Growth(), Growth()
        self.unreached = 0

    def gained(self, counts: Counts) -> Raw:
        ended, failed = self._answered.gained(counts.get(REQUESTS))
        _, refused = self._refused.gained(counts.get(CLIENT_ERRORS))
        _, self.unreached = self._unreached.gained(counts.get(UNREACHED))
        return Raw(ended, failed, refused)


class Watch:
    """Watches raw counts and records; ``tick`` once for each sample, after its records."""

    def __init__(self, settings: JudgeSettings) -> None:
        self._settings = settings
        rule = settings.guard_rails
        self._rails = None if rule is None else Rails(rule, self._was_failing)
        self._stable, self._canary = _Side(), _Side()
        self._failing: dict[int, int] = {}
        self._abandoned = [0, 0]
        self.up_at: float | None = None
        """When the canary first responded; ``None``: it is not up yet."""
        self._down_since: float | None = None
        self._streak = 0
        self._streak_since = 0.0
        self._outcomes: dict[str, dict[str, Growth]] = {}
        self._seen: dict[str, list[int]] = {}
        self.answered = 0
        """Canary requests that ended."""

    def _was_failing(self, position: int) -> bool:
        return self._failing.get(position, 0) >= _FAILED_BEFORE

    def add(self, record: Record, now: float, *, canary: bool) -> bool:
        """Take a record of either side; return whether it says anything about the version."""
        flags = record.flags
        failed = bool(flags & (records.FAILED | records.ABANDONED))
        if not canary:
            if failed and record.ended and len(self._failing) < _MOST_FAILING:
                self._failing[record.position] = self._failing.get(record.position, 0) + 1
            self._abandoned[0] += bool(flags & records.ABANDONED)
            return True
        if flags & records.UNREACHED and self.up_at is None:
            return False
        if not record.ended:
            return True
        # A client that gave up waiting had been heard: a canary that hangs is not one that is not up.
        if self.up_at is None and (failed or not flags & records.CLIENT_GONE):
            self.up_at = now
        self._abandoned[1] += bool(flags & records.ABANDONED)
        if flags & records.CLIENT_GONE and not failed:
            return True
        if not failed:
            self._streak = 0
        else:
            self._streak += 1
            if self._streak == 1:
                self._streak_since = now
        if self._rails is not None:
            refused = not failed and 400 <= record.status < 500
            self._rails.add(record.position, failed=failed, refused=refused)
        return True

    def tick(self, now: float, sample: Sample) -> str | None:
        """Take the raw counts; return the cause in words if the circuit must open."""
        stable, canary = self._stable.gained(sample.stable), self._canary.gained(sample.canary)
        self.answered += canary.ended
        if self.up_at is None and canary.ended > self._canary.unreached:
            self.up_at = now
        stable += Raw(self._abandoned[0], self._abandoned[0])
        canary += Raw(self._abandoned[1], self._abandoned[1])
        self._abandoned = [0, 0]
        self._count_outcomes(sample)
        if self.up_at is None:
            if self._canary.unreached and self._down_since is None:
                self._down_since = now
            if self._down_since is not None and now - self._down_since >= self._settings.not_up:
                waited = duration(self._settings.not_up)
                return f"the canary has not accepted a connection for {waited}"
            return None
        return None if self._rails is None else self._rails.tick(now, stable, canary)

    def silent(self, now: float) -> str | None:
        """Why the canary is suspect whatever the evidence: its last requests all failed."""
        if self._streak < _STREAK or now - self._streak_since < _STREAK_SECONDS:
            return None
        return f"the last {count(self._streak)} canary requests failed"

    def holds(self, now: float, accepted: frozenset[str]) -> list[str]:
        """Return why a step may not be left, each in words; not for outcomes that were ``accepted``."""
        found = []
        if self.up_at is None and self._down_since is not None:
            waited = duration(now - self._down_since)
            limit = duration(self._settings.not_up)
            found.append(
                f"the canary is not up yet: no connection for {waited}, given up after {limit}; "
                "stable answers its users"
            )
        if self._rails is not None and self._rails.outage is not None:
            found.append(self._rails.outage)
        watched = [name for name in self._names() if name not in accepted]
        found += [text for name in watched if (text := self._blind(name)) is not None]
        return found

    # Outcomes

    def _names(self) -> list[str]:
        return [rule.name for rule in self._settings.outcomes]

    def begin_step(self) -> None:
        """Look for blindness afresh: what an outcome saw before says nothing of now."""
        self._seen = {}

    def _count_outcomes(self, sample: Sample) -> None:
        for name in self._names():
            sums = self._seen.setdefault(name, [0, 0, 0, 0, 0, 0])
            growth = self._outcomes.setdefault(name, {})
            for side, counts in (("s", sample.stable), ("c", sample.canary)):
                for at, key in enumerate((name + BLIND, name + FOUND)):
                    read = growth.setdefault(side + key, Growth())
                    trials, events = read.gained(counts.get(key))
                    if at == 0 and side == "c":
                        sums[0] += trials
                        sums[1] += events
                    elif at == 0:
                        sums[2] += trials
                        sums[3] += events
                    elif side == "s":
                        sums[4] += trials
                        sums[5] += events
            if max(sums) > 20 * _ENOUGH:  # what was long ago fades
                self._seen[name] = [value // 2 for value in sums]

    def _blind(self, name: str) -> str | None:
        matched_c, blind_c, matched_s, blind_s, evaluated, found = self._seen.get(name, [0] * 6)
        matched, blind = matched_c + matched_s, blind_c + blind_s
        for side, all_, lost in (
            ("canary", matched_c, blind_c),
            ("stable", matched_s, blind_s),
        ):
            if all_ >= _FEW and lost > _BLIND * all_:
                return (
                    f"outcome {name} is blind: {percent(lost / all_)} of {count(all_)} {side} responses "
                    "could not be looked into"
                )
        if evaluated >= _ENOUGH and not found:
            return f"outcome {name} is blind: its path is in none of {count(evaluated)} responses of stable"
        if not matched and not blind and self.answered >= 2 * _ENOUGH:
            return f"outcome {name} is blind: no response has matched it"
        return None

    def to_dict(self) -> dict[str, Any]:
        """Return what must survive a restart as JSON values."""
        return {"up": self.up_at is not None, "answered": self.answered}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take a saved state over."""
        self.up_at = 0.0 if state["up"] else None
        self.answered = int(state["answered"])
