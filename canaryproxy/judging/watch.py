"""Plain rules beside the evidence: holding is cheap, and they see what no statistics can.

* *Up.* A canary that has never accepted a connection is not up yet. Users are rescued meanwhile and its
  failures say nothing about the version; after ``not_up`` seconds of them it is given up.
* *Rails* (``rails``): most raw requests fail, whatever the number of users.
* *Silence*: the last canary requests all failed, for ten seconds.
* *Outage*: stable itself fails most of its requests.
* *Blindness* (``sight``): a configured outcome sees nothing, or less of the canary, while requests flow.
* *No events*: the business metric had none in this step, or in this release where more of them are bad.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any

from canaryproxy.config.text import count, duration
from canaryproxy.judging import metrics
from canaryproxy.judging.rails import NONE, Rails, Raw
from canaryproxy.judging.settings import JudgeSettings
from canaryproxy.judging.sight import Growth, Sight
from canaryproxy.judging.silence import Silence
from canaryproxy.judging.verdict import CLIENT_ERRORS, QUIET, REQUESTS, UNREACHED, Counts, Sample
from canaryproxy.measure import records

_STREAK = 3
_STREAK_SECONDS = 10.0
_FAILED_BEFORE = 2
"""Failures on stable that excuse a position."""
_MOST_FAILING = 100_000


class _Side:
    """The raw growth of one variant."""

    __slots__ = ("_answered", "_counts", "_refused", "_unreached", "unreached")

    def __init__(self) -> None:
        self._answered, self._refused, self._unreached = Growth(), Growth(), Growth()
        self._counts: Counts | None = None
        """As they were last."""
        self.unreached = 0

    def gained(self, counts: Counts) -> Raw:
        if counts is self._counts:
            self.unreached = 0
            return NONE
        self._counts = counts
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
        self._unanswered = [0, 0]
        self.up_at: float | None = None
        """When the canary first responded; ``None``: it is not up yet."""
        self._down_since: float | None = None
        self._streak = 0
        self._streak_since = 0.0
        self._business = None if settings.business is None else settings.business.outcome
        names = {*(rule.name for rule in settings.outcomes), self._business}
        self._sights = {name: Sight(name) for name in sorted(filter(None, names))}
        self._silence = None if settings.business is None else Silence(settings.business)
        self.answered = 0
        """Canary requests that ended."""
        self._shed: int | None = None
        self._shed_at = -inf

    def _was_failing(self, position: int) -> bool:
        return self._failing.get(position, 0) >= _FAILED_BEFORE

    def add(self, first: int, now: float, *, canary: bool) -> bool:
        """Take a record of either side, given by its first word; return whether it says anything about the
        version.
        """
        position, flags = first & records.POSITION_MASK, first >> records.FLAGS_SHIFT
        failed = bool(flags & (records.FAILED | records.ABANDONED))
        if not canary:
            if failed and flags & records.ENDED and len(self._failing) < _MOST_FAILING:
                self._failing[position] = self._failing.get(position, 0) + 1
            waited = bool(flags & (records.OVERDUE | records.ABANDONED))
            overdue, ended = bool(flags & records.OVERDUE), bool(flags & records.ENDED)
            self._unanswered[0] += (
                waited and overdue != ended
            )  # an overdue one in flight, and not again
            return True
        if flags & records.UNREACHED and self.up_at is None:
            return False
        if not flags & records.ENDED:
            return True
        # A client that gave up waiting had been heard: a canary that hangs is not one that is not up.
        if self.up_at is None and (failed or not flags & records.CLIENT_GONE):
            self.up_at = now
        self._unanswered[1] += bool(flags & records.ABANDONED)
        if flags & records.CLIENT_GONE and not failed:
            return True
        if not failed:
            self._streak = 0
        else:
            self._streak += 1
            if self._streak == 1:
                self._streak_since = now
        if self._rails is not None:
            status = first >> records.STATUS_SHIFT & 0x3FF
            refused = not failed and 400 <= status < 500
            self._rails.add(position, failed=failed, refused=refused)
        return True

    @property
    def is_waiting(self) -> bool:
        """Whether the canary is not up yet: it was called, and has never accepted a connection."""
        return self.up_at is None and self._down_since is not None

    def tick(self, now: float, sample: Sample, *, heard: bool = False) -> str | None:
        """Take the raw counts, and whether there was a business event of the step's users.

        Return the cause in words if the circuit must open.
        """
        if self._silence is not None:
            self._silence.take(sample, by_users=heard)
        before, self._shed = self._shed, sample.shed[0]
        if before is not None and before < self._shed:
            self._shed_at = now
        stable, canary = self._stable.gained(sample.stable), self._canary.gained(sample.canary)
        self.answered += canary.ended
        if self.up_at is None and canary.ended > self._canary.unreached:
            self.up_at = now
        if any(self._unanswered):
            stable += Raw(self._unanswered[0], self._unanswered[0])
            canary += Raw(self._unanswered[1], self._unanswered[1])
            self._unanswered = [0, 0]
        for sight in self._sights.values():
            sight.take(now, sample)
        if self.up_at is None:
            if self._canary.unreached and self._down_since is None:
                self._down_since = now
            if self._down_since is not None and now - self._down_since >= self._settings.not_up:
                waited = duration(self._settings.not_up)
                return f"the canary has not accepted a connection for {waited}"
            return None
        return None if self._rails is None else self._rails.tick(now, stable, canary)

    def not_up(self, now: float) -> str | None:
        """Say that the canary is not up yet, and how long it is waited for."""
        if self.up_at is not None or self._down_since is None:
            return None
        waited, limit = duration(now - self._down_since), duration(self._settings.not_up)
        return (
            f"the canary is not up yet: no connection for {waited}, given up after {limit}; "
            "stable answers its users"
        )

    def shedding(self, now: float) -> str | None:
        """Say that stable sheds load, or has just shed some: meanwhile requests leave no records."""
        if now - self._shed_at > QUIET:
            return None
        return "stable sheds load (limits.shed_after): requests are not compared meanwhile"

    def silent(self, now: float) -> str | None:
        """Why the canary is suspect whatever the evidence: its last requests all failed."""
        if self._streak < _STREAK or now - self._streak_since < _STREAK_SECONDS:
            return None
        return f"the last {count(self._streak)} canary requests failed"

    def holds(self, now: float, accepted: frozenset[str]) -> list[str]:
        """Return why a step may not be left, each in words; not for outcomes that were ``accepted``."""
        waiting = self.not_up(now)
        found = [] if waiting is None else [waiting]
        if self._rails is not None and self._rails.outage is not None:
            found.append(self._rails.outage)
        seen = accepted | {self._business} if metrics.BUSINESS in accepted else accepted
        watched = [sight for name, sight in self._sights.items() if name not in seen]
        found += [text for sight in watched if (text := sight.blind()) is not None]
        return found

    def no_events(self, accepted: frozenset[str]) -> str | None:
        """Return why a step may not be left: the business metric had no event and is not ``accepted``."""
        if self._silence is None or metrics.BUSINESS in accepted:
            return None
        return self._silence.reason

    def begin_step(self) -> None:
        """Look for blindness and silence afresh: what was seen before says nothing of now."""
        for sight in self._sights.values():
            sight.begin_step()
        if self._silence is not None:
            self._silence.begin_step()

    def forget_users(self) -> None:
        """Begin anew with another group of users: their positions are others, and so are their requests."""
        self._failing.clear()
        self._streak = 0
        if self._rails is not None:
            self._rails.begin()

    def to_dict(self) -> dict[str, Any]:
        """Return what must survive a restart as JSON values."""
        return {"up": self.up_at is not None, "answered": self.answered}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take a saved state over."""
        self.up_at = 0.0 if state["up"] else None
        self.answered = int(state["answered"])
