"""Blindness of the configured outcomes: an outcome that sees nothing lets every release pass, so it holds.

Two bounds, each on the share of responses that could not be looked into:

* *absolute*: a fifth, of either variant;
* *beside stable*: the canary's is twice stable's, five points over it and two standard errors. What a canary
  breaks may be among the responses that cannot be read any more, and in no others.

Both are told from the latest responses: two blocks, each of twenty responses and ten seconds at least. So
where responses are frequent blindness is known within seconds, and where they are rare after twenty of them.
The second is told from all responses of the step, too: a small difference needs more of them. Responses
without the outcome's JSON path are compared in the same way.
"""

from __future__ import annotations

from collections import Counter
from math import sqrt
from typing import Final

from canaryproxy.config.text import count, percent
from canaryproxy.judging.verdict import BLIND, FOUND, REQUESTS, Counts, Sample
from canaryproxy.measure.counters import Blind

_FEW: Final = 20
"""Responses of a variant from which on it can be blind."""
_BLOCK: Final = 10.0
"""Seconds."""
_ENOUGH: Final = 50
"""Responses of stable of which one should have had the pointer's value; of both variants twice as many of
which one should have matched."""
_MOST: Final = 0.2
"""Share of responses that could not be looked into, from which an outcome is blind."""
_MORE: Final = 0.05
"""The same for how much larger the canary's share is than stable's."""
_TIMES: Final = 2.0
_ERRORS: Final = 2.0
_LEAST: Final = 3
"""Responses of the canary that were not looked into, up to which the difference says nothing."""

_WHY: Final = {
    Blind.UNKNOWN_CODING: (
        "have a Content-Encoding other than gzip, deflate, br and zstd",
        "compress with one of these",
    ),
    Blind.UNDECODABLE: (
        "are not of the Content-Encoding that they claim",
        "look at the service",
    ),
    Blind.NOT_JSON: (
        "are not JSON",
        "look at the service, or narrow the outcome's match, or add a status or a header to it",
    ),
    Blind.TOO_LARGE: (
        "have the value beyond 4 MiB",
        "use a smaller response, a regex or a header",
    ),
    Blind.INCOMPLETE: ("broke off", "look at the service"),
    Blind.NO_TIME: ("had to wait too long to be read", "narrow the outcome's match"),
}
"""By reason: what the responses are, and what to do."""


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
    """The latest responses of one variant that an outcome matches, and those of the step."""

    __slots__ = (
        *("_before", "_began", "_bodies", "_counts", "_growth", "_now"),
        *("_pointer", "_reasons", "_step"),
    )

    def __init__(self, outcome: str) -> None:
        self._bodies, self._pointer = outcome + BLIND, outcome + FOUND
        self._reasons = {f"{outcome}{BLIND}.{reason.label}": reason for reason in Blind}
        keys = (REQUESTS, self._bodies, self._pointer, *self._reasons)
        self._growth = {key: Growth() for key in keys}
        self._counts: Counts | None = None
        """As they were last."""
        self.begin()

    def begin(self) -> None:
        """Forget what was seen."""
        self._before, self._now, self._step = Counter[str](), Counter[str](), Counter[str]()
        self._began: float | None = None

    def take(self, now: float, counts: Counts) -> bool:
        """Take the counts of a tick; return whether what is told from them may be something else now."""
        has_grown = counts is not self._counts and self._grow(counts)
        self._counts = counts
        if self._began is None:
            self._began = now
        if self._now[f"of {self._bodies}"] < _FEW or now - self._began < _BLOCK:
            return has_grown
        self._before, self._now, self._began = self._now, Counter[str](), now
        return True

    def _grow(self, counts: Counts) -> bool:
        """Add the growth of all counts; return whether there was any."""
        has_grown = False
        for key, growth in self._growth.items():
            of, part = growth.gained(counts.get(key))
            if of or part:
                has_grown = True
                for seen in (self._now, self._step):
                    if key not in self._reasons:
                        seen[f"of {key}"] += of
                    seen[key] += part
        return has_grown

    @property
    def _latest(self) -> Counter[str]:
        return self._before + self._now

    @property
    def answered(self) -> int:
        """Responses of the step, whatever they are."""
        return self._step[f"of {REQUESTS}"]

    @property
    def matched(self) -> int:
        """Responses of the step that the rule applies to."""
        return self._step[f"of {self._bodies}"]

    @property
    def pointer(self) -> tuple[int, int]:
        """The latest responses in which its pointer was followed to its end, and those that have something
        there."""
        return self._found(self._latest)

    def _found(self, seen: Counter[str]) -> tuple[int, int]:
        return seen[f"of {self._pointer}"], seen[self._pointer]

    def _lost(self, seen: Counter[str]) -> tuple[int, int]:
        return seen[f"of {self._bodies}"], seen[self._bodies]

    def blind(self, variant: str) -> str | None:
        """Why the outcome cannot see what this variant responds, and what to do; ``None`` if it can."""
        seen = self._latest
        matched, lost = self._lost(seen)
        if matched < _FEW or lost < _MOST * matched:
            return None
        return self._said(seen, variant, "")

    def blinder(self, stable: _Side) -> str | None:
        """Why it sees less of the canary, which this is, than of ``stable``."""
        for seen, beside in ((self._latest, stable._latest), (self._step, stable._step)):
            if _exceeds(self._lost(seen), self._lost(beside)):
                n_s, lost_s = self._lost(beside)
                return self._said(
                    seen, "canary", f", {percent(lost_s / n_s)} of {count(n_s)} of stable"
                )
        return None

    def emptier(self, stable: _Side) -> tuple[tuple[int, int], tuple[int, int]] | None:
        """Return how many responses of the canary, which this is, and of ``stable`` have something at the
        pointer, as pairs like ``pointer``; ``None`` if the canary's have it as often."""
        for seen, beside in ((self._latest, stable._latest), (self._step, stable._step)):
            (n_c, found_c), (n_s, found_s) = self._found(seen), self._found(beside)
            halved = n_s >= _FEW <= n_c and 2 * found_c * n_s < found_s * n_c
            if halved or _exceeds((n_c, n_c - found_c), (n_s, n_s - found_s)):
                return (n_c, found_c), (n_s, found_s)
        return None

    def _said(self, seen: Counter[str], variant: str, beside: str) -> str:
        matched, lost = self._lost(seen)
        key = max(self._reasons, key=seen.__getitem__)
        of_it = seen[key]
        whose = f"{count(matched)} {variant} responses{beside}"
        said = f"{percent(lost / matched)} of {whose} could not be looked into"
        if not of_it:
            return said
        what, todo = _WHY[self._reasons[key]]
        share = "they" if of_it == lost else f"{count(of_it)} of them"
        return f"{said}: {share} {what} ({todo})"


def _exceeds(canary: tuple[int, int], stable: tuple[int, int]) -> bool:
    """Whether the canary's share is far over stable's. Pairs are responses, and those that are lost."""
    (n_c, lost_c), (n_s, lost_s) = canary, stable
    if min(n_c, n_s) < _FEW or lost_c < _LEAST:
        return False
    share, share_s, pooled = lost_c / n_c, lost_s / n_s, (lost_c + lost_s) / (n_c + n_s)
    error = sqrt(pooled * (1.0 - pooled) * (1.0 / n_c + 1.0 / n_s))
    least = max(share_s + _MORE, _TIMES * share_s, share_s + _ERRORS * error)
    return share >= least - 1e-12


class Sight:
    """Sight of one outcome of both variants. ``take`` once for each sample."""

    __slots__ = (
        "_answered",
        "_canary",
        "_found",
        "_is_told",
        "_matched",
        "_name",
        "_stable",
        "_why",
    )

    def __init__(self, name: str) -> None:
        self._name = name
        self._stable, self._canary = _Side(name), _Side(name)
        self._found = False
        """Whether stable ever had something at the pointer in this step."""
        self._matched = False
        """Whether a response ever matched."""
        self._answered = 0
        """Responses of earlier steps."""
        self._why: str | None = None
        self._is_told = False
        """Whether nothing has changed since ``_why`` was told."""

    def begin_step(self) -> None:
        """Look afresh: what was seen before says nothing of now."""
        self._answered += self._stable.answered + self._canary.answered
        self._stable.begin()
        self._canary.begin()
        self._found = self._is_told = False

    def take(self, now: float, sample: Sample) -> None:
        """Take the counts of a tick."""
        stable_changed = self._stable.take(now, sample.stable)
        if not (self._canary.take(now, sample.canary) or stable_changed):
            return
        self._is_told = False
        self._found = self._found or self._stable.pointer[1] > 0
        self._matched = self._matched or self._stable.matched + self._canary.matched > 0

    def blind(self) -> str | None:
        """Why it sees nothing, or too little, in words; ``None`` if it sees."""
        if not self._is_told:
            why = self._unread() or self._pathless() or self._unmatched()
            self._why = None if why is None else f"outcome {self._name} is blind: {why}"
            self._is_told = True
        return self._why

    def _unread(self) -> str | None:
        stable, canary = self._stable, self._canary
        return canary.blinder(stable) or canary.blind("canary") or stable.blind("stable")

    def _pathless(self) -> str | None:
        n_s = self._stable.pointer[0]
        if n_s >= _ENOUGH and not self._found:
            return (
                f"its path is in none of {count(n_s)} responses of stable: check the JSON pointer"
            )
        found = self._canary.emptier(self._stable)
        if found is None:
            return None
        (n_c, found_c), (n_s, found_s) = found
        return (
            f"its path is in {count(found_c)} of {count(n_c)} canary responses, "
            f"{count(found_s)} of {count(n_s)} of stable: the canary's responses have another form"
        )

    def _unmatched(self) -> str | None:
        stable, canary = self._stable, self._canary
        if not self._matched and self._answered + stable.answered + canary.answered >= 2 * _ENOUGH:
            return "no response has matched it: check its match and status"
        if canary.matched or canary.answered * stable.matched < _FEW * stable.answered:
            return None
        if not stable.matched:
            return None
        return (
            f"it matches none of {count(canary.answered)} canary responses, "
            f"{count(stable.matched)} of {count(stable.answered)} of stable: "
            "the canary serves them elsewhere"
        )
