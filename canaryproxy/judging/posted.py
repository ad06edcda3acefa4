"""Business events that are posted as counts: they name no users, so they hold and never trip.

Those that name their user are judged by the lottery (``user_time``). Counts are judged as independent events
(``evidence.LiveTest``), against the requests of each variant. Conversions come later than the requests that
they belong to: counts are compared in ticks of half a minute.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

from canaryproxy.config.text import count, odds, percent
from canaryproxy.judging import metrics
from canaryproxy.judging.evidence import LiveTest
from canaryproxy.judging.settings import BusinessRule
from canaryproxy.judging.sight import Growth
from canaryproxy.judging.verdict import REQUESTS, Level, Sample, Verdict

POSTED = "business"
"""Key of the raw counts of requests that ended and of posted events in a ``Sample``."""
_TICK = 30.0


class PostedTest:
    """The test of posted events. ``margin`` is relative to stable's rate."""

    def __init__(self, rule: BusinessRule) -> None:
        self._rule = rule
        self._test = LiveTest(rule.direction)
        self._growth = {side: (Growth(), Growth()) for side in ("stable", "canary")}
        self._open = [0, 0, 0, 0]
        self._closed_at = -inf
        self.stable = (0, 0)
        """Requests and events that were compared."""
        self.canary = (0, 0)

    def verdict(self, log_hold: float, *, accepted: bool) -> Verdict:
        """Return the verdict: it is suspect where the evidence has reached ``log_hold``."""
        (n_s, e_s), (n_c, e_c) = self.stable, self.canary
        log_e = self._test.log_e
        difference = ratio = None
        level: Level = "ok"
        said = "conversion rate cannot be judged: nothing to compare yet"
        if n_s and n_c:
            difference = e_c / n_c - e_s / n_s
            ratio = e_c * n_s / (n_c * e_s) if e_s else None
            worse = difference if self._rule.direction == "increase" else -difference
            if log_e >= log_hold and worse >= self._rule.margin * e_s / n_s and not accepted:
                level = "suspect"
            said = (
                f"conversion rate {percent(e_c / n_c)} on canary ({count(e_c)} of {count(n_c)} requests) "
                f"vs {percent(e_s / n_s)} on stable ({count(e_s)} of {count(n_s)}) since the judge "
                f"began; evidence {odds(log_e)}, never trips: posted events name no users"
            )
        return Verdict(
            metric=metrics.BUSINESS, level=level, log_evidence=log_e, limit=inf, hold_limit=log_hold,
            log_proof=0.0, proven=False, stable=self.stable, canary=self.canary,
            difference=difference, ratio=ratio, interval=(0.0, inf),
            comparable=bool(n_s and n_c), reason=said, trips=False,
        )  # fmt: skip

    def among(
        self, verdicts: Sequence[Verdict], log_hold: float, *, accepted: bool
    ) -> list[Verdict]:
        """Return all verdicts with one on posted events: that by users as soon as there are events of any.

        But where that is ok and the counts are suspect, the latter.
        """
        counted = self.verdict(log_hold, accepted=accepted)
        shown = []
        for one in verdicts:
            if one.metric == metrics.BUSINESS:
                has_events = one.stable[1] or one.canary[1]
                if not has_events or (one.level == "ok" and counted.level != "ok"):
                    one = counted
            shown.append(one)
        return shown

    def tick(self, now: float, sample: Sample) -> None:
        """Take the counts of a tick."""
        grown: list[int] = []
        for side, counts in (("stable", sample.stable), ("canary", sample.canary)):
            requests, events = self._growth[side]
            grown.append(requests.gained(counts.get(REQUESTS))[0])
            grown.append(events.gained(counts.get(POSTED))[1])
        self._open = [old + new for old, new in zip(self._open, grown, strict=True)]
        if self._closed_at == -inf:
            self._closed_at = now
        if now - self._closed_at < _TICK:
            return
        n_s, e_s, n_c, e_c = self._open
        self._open, self._closed_at = [0, 0, 0, 0], now
        if n_s and n_c:
            e_s, e_c = min(e_s, n_s), min(e_c, n_c)
            self._test.add(n_s, e_s, n_c, e_c)
            self.stable = (self.stable[0] + n_s, self.stable[1] + e_s)
            self.canary = (self.canary[0] + n_c, self.canary[1] + e_c)

    def to_dict(self) -> dict[str, Any]:
        """Return the state as JSON values, without the open tick."""
        return {
            "test": self._test.to_dict(),
            "stable": list(self.stable),
            "canary": list(self.canary),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take a saved state over."""
        self._test = LiveTest.from_dict(state["test"])
        self.stable = (int(state["stable"][0]), int(state["stable"][1]))
        self.canary = (int(state["canary"][0]), int(state["canary"][1]))
