"""Blindness of the configured outcomes: an outcome that sees nothing lets every release pass, so it holds.

Blindness is told from the latest responses: two blocks, each of twenty responses and ten seconds at least. So
where responses are frequent it is known within seconds, and where they are rare after twenty of them.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from canaryproxy.config.text import count, percent
from canaryproxy.judging.verdict import BLIND, FOUND, Counts, Sample
from canaryproxy.measure.counters import Blind

_FEW: Final = 20
"""Responses of a variant from which on it can be blind."""
_BLOCK: Final = 10.0
"""Seconds."""
_ENOUGH: Final = 50
"""Responses of stable of which one should have had the pointer's value, or requests of the canary of which
one should have matched."""
_MOST: Final = 0.5
"""Share of responses that could not be looked into, from which an outcome is blind."""

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
    """The latest responses of one variant that an outcome matches."""

    __slots__ = ("_before", "_began", "_bodies", "_growth", "_now", "_pointer", "_reasons")

    def __init__(self, outcome: str) -> None:
        self._bodies, self._pointer = outcome + BLIND, outcome + FOUND
        self._reasons = {f"{outcome}{BLIND}.{reason.label}": reason for reason in Blind}
        self._growth = {key: Growth() for key in (self._bodies, self._pointer, *self._reasons)}
        self.begin()

    def begin(self) -> None:
        """Forget what was seen."""
        self._before, self._now = Counter[str](), Counter[str]()
        self._began: float | None = None

    def take(self, now: float, counts: Counts) -> None:
        """Take the counts of a tick."""
        seen = self._now
        for key, growth in self._growth.items():
            of, part = growth.gained(counts.get(key))
            if key not in self._reasons:
                seen[f"of {key}"] += of
            seen[key] += part
        if self._began is None:
            self._began = now
        if seen[f"of {self._bodies}"] >= _FEW and now - self._began >= _BLOCK:
            self._before, self._now, self._began = seen, Counter[str](), now

    def _sum(self, key: str) -> int:
        return self._before[key] + self._now[key]

    @property
    def matched(self) -> int:
        """Responses that the rule applies to."""
        return self._sum(f"of {self._bodies}")

    @property
    def pointer(self) -> tuple[int, int]:
        """Responses in which its pointer was followed to its end, and those that have something there."""
        return self._sum(f"of {self._pointer}"), self._sum(self._pointer)

    def blind(self, variant: str) -> str | None:
        """Why the outcome cannot see what this variant responds, and what to do; ``None`` if it can."""
        matched, lost = self.matched, self._sum(self._bodies)
        if matched < _FEW or lost <= _MOST * matched:
            return None
        key = max(self._reasons, key=self._sum)
        of_it = self._sum(key)
        said = f"{percent(lost / matched)} of {count(matched)} {variant} responses could not be looked into"
        if not of_it:
            return said
        what, todo = _WHY[self._reasons[key]]
        share = "they" if of_it == lost else f"{count(of_it)} of them"
        return f"{said}: {share} {what} ({todo})"


class Sight:
    """Sight of one outcome of both variants. ``take`` once for each sample."""

    __slots__ = ("_canary", "_found", "_matched", "_name", "_stable")

    def __init__(self, name: str) -> None:
        self._name = name
        self._stable, self._canary = _Side(name), _Side(name)
        self._found = False
        """Whether stable ever had something at the pointer in this step."""
        self._matched = False
        """Whether a response ever matched."""

    def begin_step(self) -> None:
        """Look afresh: what was seen before says nothing of now."""
        self._stable.begin()
        self._canary.begin()
        self._found = False

    def take(self, now: float, sample: Sample) -> None:
        """Take the counts of a tick."""
        self._stable.take(now, sample.stable)
        self._canary.take(now, sample.canary)
        self._found = self._found or self._stable.pointer[1] > 0
        self._matched = self._matched or self._stable.matched + self._canary.matched > 0

    def blind(self, answered: int) -> str | None:
        """Why it sees nothing, in words; ``None`` if it sees. The canary ``answered`` so many requests."""
        stable, canary = self._stable, self._canary
        why = canary.blind("canary") or stable.blind("stable")
        (n_s, found_s), (n_c, found_c) = stable.pointer, canary.pointer
        if why is None and n_s >= _ENOUGH and not self._found:
            why = f"its path is in none of {count(n_s)} responses of stable: check the JSON pointer"
        if why is None and n_s >= _FEW <= n_c and 2 * found_c * n_s < found_s * n_c:
            why = (
                f"its path is in {count(found_c)} of {count(n_c)} canary responses, "
                f"{count(found_s)} of {count(n_s)} of stable: the canary's responses have another form"
            )
        if why is None and not self._matched and answered >= 2 * _ENOUGH:
            why = "no response has matched it: check its match and status"
        return None if why is None else f"outcome {self._name} is blind: {why}"
