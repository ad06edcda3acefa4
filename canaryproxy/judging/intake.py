"""Records of a tick on their way into the judge: which of them say anything about the version."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from canaryproxy.judging.metrics import Baseline
from canaryproxy.judging.named_routes import NamedRoutes
from canaryproxy.judging.watch import Watch
from canaryproxy.measure.flat import append, i64, sum64, vec
from canaryproxy.measure.records import (
    ABANDONED,
    ENDED,
    FAILED,
    FLAGS_SHIFT,
    OVERDUE,
    POSITION_MASK,
    POSTED,
    TEMPLATE_MASK,
    VARIANT_SHIFT,
    WORDS,
)

_LEARNT: Final = 100 * WORDS
"""Words of a tick from which limits are learnt, once latency is known; of more, about as many."""
_WATCHED: Final = FAILED | ABANDONED | OVERDUE
_SPLIT: Final = 0x1FF
"""Bits of the variant and the epoch."""


@dataclass(frozen=True, slots=True)
class Split:
    """The split in force: positions below ``limit`` are the canary's, those in a range are compared."""

    epoch: int
    limit: int
    first: int
    last: int
    has_step: bool
    """Whether a step compares them; else, at rest, their past is remembered."""


class Intake:
    """Takes the records of one tick: the rules and what is learnt of stable see each of them.

    ``words`` are its own: templates become the routes that the configuration names.
    """

    __slots__ = ("_baseline", "_named", "_now", "_split", "_watch", "ended", "words")

    def __init__(
        self,
        words: vec[sum64],
        now: float,
        split: Split,
        watch: Watch,
        baseline: Baseline,
        named: NamedRoutes | None,
    ) -> None:
        self.words = words
        self.ended = vec[sum64]([0, 0])
        """Requests of the step that ended, of stable and of the canary."""
        self._now = now
        self._split = split
        self._watch = watch
        self._baseline = baseline
        self._named = named

    def choose(self, begin: i64, end: i64) -> vec[sum64]:
        """Return where the records to be compared are, of those with words from ``begin`` to ``end``.

        The place of a business event, which is no request, is inverted.
        """
        words, watch, named, split = self.words, self._watch, self._named, self._split
        limit: i64 = split.limit
        low: i64 = split.first
        high: i64 = split.last
        stable: i64 = split.epoch << 1
        has_step = split.has_step
        every: i64 = WORDS
        if self._baseline.enough:
            every = max(len(words) // _LEARNT, 1) * WORDS
        learnt: i64 = (begin + every - 1) // every * every
        ended: i64 = 0
        canary_ended: i64 = 0
        chosen = vec[sum64]()
        for at in range(begin, end, WORDS):
            is_learnt = at == learnt
            if is_learnt:
                learnt += every
            first: i64 = words[at]
            position: i64 = first & POSITION_MASK
            is_canary = position < limit
            if first >> VARIANT_SHIFT & _SPLIT != (stable | 1 if is_canary else stable):
                continue
            flags: i64 = first >> FLAGS_SHIFT
            is_compared = low <= position < high
            if flags & POSTED:
                if is_compared and has_step:
                    chosen = append(chosen, ~at)
                continue
            if (is_canary or flags & _WATCHED) and not watch.add(
                first, self._now, canary=is_canary
            ):
                continue
            if named is not None:
                second: i64 = words[at + 1]
                words[at + 1] = second & ~TEMPLATE_MASK | named.of(second & TEMPLATE_MASK)
            if is_learnt and not is_canary:
                self._baseline.add(first, words[at + 2], words[at + 1] & TEMPLATE_MASK)
            if is_compared:
                chosen = append(chosen, at)
                if flags & ENDED:
                    if is_canary:
                        canary_ended += 1
                    else:
                        ended += 1
        self.ended[0] += ended
        self.ended[1] += canary_ended
        return chosen
