"""Silence of the business metric: one without any event lets every release pass, so it holds. Pure.

A shop that sells nothing looks like one whose orders do not reach the judge. Where fewer events are
bad, one must come in each step; where more are bad (refunds), one in the release shows that they do arrive.
"""

from __future__ import annotations

from canaryproxy.judging import words
from canaryproxy.judging.posted import POSTED
from canaryproxy.judging.settings import BusinessRule
from canaryproxy.judging.sight import Growth
from canaryproxy.judging.verdict import Sample


class Silence:
    """Waits for the first event; ``take`` once for each sample."""

    __slots__ = ("_growth", "_heard", "_rule")

    def __init__(self, rule: BusinessRule) -> None:
        self._rule = rule
        self._growth = Growth(), Growth()
        self._heard = False

    def begin_step(self) -> None:
        """Wait anew, if each step must have an event."""
        if self._rule.direction == "decrease":
            self._heard = False

    def take(self, sample: Sample, *, by_users: bool) -> None:
        """Take the counts of a tick, and whether an event of the step's users came in it."""
        sides = zip(self._growth, (sample.stable, sample.canary), strict=True)
        counted = [growth.gained(counts.get(POSTED))[1] for growth, counts in sides]
        self._heard = self._heard or by_users or any(counted)

    @property
    def reason(self) -> str | None:
        """Why nothing is known of the metric, in words; ``None`` after an event."""
        return None if self._heard else words.no_events(self._rule)
