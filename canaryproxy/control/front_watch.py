"""The front's split, as the requests that follow it tell (``split.follow``).

The workers announce what the epochs of their records mean (``measure.followed``). The split in force is the
one that most requests of a tick were routed by: while the front changes its weight, some that are in flight
still follow the old one, and they are not compared.

One release is compared at a time: of several fronts with releases of their own, all users follow, and those
of the newest release are compared. A release that was not met before is taken up at once, an older one when
the one in force has been silent for a minute. Nothing here looks at variants or at what became of a request,
so the draw stays fair.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from canaryproxy.measure.followed import FrontSplit, name_of, unpack
from canaryproxy.measure.records import EPOCH_SHIFT, FLAGS_SHIFT, SPLIT, WORDS, template_of

SILENT: Final = 60.0
"""Seconds without a request of a release after which an older one is compared again."""
_KEEP: Final = 10.0
"""Seconds after the last announcement of an epoch in which another meaning makes it unclear."""
_MOST_RELEASES: Final = 64
_EPOCH_MASK: Final = 0xFF


@dataclass(frozen=True, slots=True)
class Front:
    """The front's split that is compared."""

    key: int
    """The hash of its release's name."""
    release: str
    """The id of its release; empty: it has none, or its name is not known yet."""
    limit: int
    """Buckets on its canary."""
    epoch: int
    """What marks the records of its users; -1: none has come since the start."""

    @property
    def weight(self) -> float:
        """Percent of users on its canary."""
        return self.limit / 100


class FrontWatch:
    """Finds out which split the front routes by; ``take`` once in each tick."""

    def __init__(self) -> None:
        self.front: Front | None = None
        """``None``: no request has followed yet."""
        self._known: dict[int, tuple[FrontSplit, float]] = {}
        """Splits and when they were announced last, by epoch."""
        self._unclear: dict[int, float] = {}
        """Epochs that mean two splits, until when."""
        self._names: dict[int, str] = {}
        """Names of the releases that were met, as far as they are known."""
        self._heard_at = 0.0

    def restore(self, release: str, now: float) -> None:
        """Continue with the release that was compared before a restart."""
        key = template_of(name_of(release))
        self._names[key], self._heard_at = release, now
        self.front = Front(key, release, 0, -1)

    def take(self, now: float, words: Sequence[int], names: Mapping[int, str]) -> list[int]:
        """Take the records of a tick, and return them without the announcements.

        ``now`` in seconds that never fall; ``names`` are those of the tick.
        """
        requests: list[int] = []
        for at in range(0, len(words), WORDS):
            if words[at] >> FLAGS_SHIFT & SPLIT:
                self._announced(now, words[at] >> EPOCH_SHIFT & _EPOCH_MASK, unpack(words[at + 1]))
            else:
                requests += words[at : at + WORDS]
        self._choose(now, requests)
        for key, name in names.items():
            if key in self._names:
                self._names[key] = name
        front = self.front
        if front is not None and not front.release and self._names.get(front.key):
            self.front = replace(front, release=self._names[front.key])
        return requests

    def _announced(self, now: float, epoch: int, split: FrontSplit) -> None:
        before = self._known.get(epoch)
        if before is not None and before[0] != split and now - before[1] < _KEEP:
            self._unclear[epoch] = now + _KEEP
        self._known[epoch] = split, now

    def _choose(self, now: float, requests: Sequence[int]) -> None:
        """Find the split in force among those of a tick's requests."""
        seen = Counter(first >> EPOCH_SHIFT & _EPOCH_MASK for first in requests[::WORDS])
        splits = [
            (self._known[epoch][0], epoch)
            for epoch, _ in seen.most_common()
            if epoch in self._known and self._unclear.get(epoch, 0.0) <= now
        ]
        front = self.front
        new = [one for one in splits if one[0].release not in self._names]
        own = [one for one in splits if front is not None and one[0].release == front.key]
        found = new or own
        if not found and (front is None or now - self._heard_at >= SILENT):
            found = splits
        if not found:
            return
        (split, epoch) = found[0]
        self._heard_at = now
        self.front = Front(split.release, self._names.get(split.release, ""), split.limit, epoch)
        for one, _ in splits:
            self._names.setdefault(one.release, "")
        while len(self._names) > _MOST_RELEASES:
            del self._names[next(iter(self._names))]
