"""The evidence of a replica: one judge of the fleet's combined counts, one of the replica's own. Pure.

The combined counts are judged with half of α, the own counts with a share of the other half (α/2 divided by
the most replicas seen), so that a healthy release is rolled back with probability α at most, by whichever
replica.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from canaryproxy.fleet import counts
from canaryproxy.judging.judge import Judge
from canaryproxy.judging.settings import JudgeSettings
from canaryproxy.judging.verdict import Assessment, Sample


class FleetEvidence:
    """Both judges. ``patience`` is how long a replica lets the leader trip first, in seconds."""

    def __init__(self, settings: JudgeSettings, patience: float) -> None:
        self._settings = _half(settings)
        self._patience = patience
        self._own = Judge(self._settings)
        self._combined = Judge(self._settings)
        self._sums = counts.Sums()
        self._most = 1
        """The most replicas seen."""
        self._breach_since: float | None = None

    def configure(self, settings: JudgeSettings, *, renew: bool) -> None:
        """Judge by other settings; ``renew``: the judges are replaced."""
        self._settings = _half(settings)
        if renew:
            self._own, self._combined = Judge(self._settings), Judge(self._settings)

    def renew(self) -> None:
        """Replace both judges."""
        self._own, self._combined = Judge(self._settings), Judge(self._settings)
        self._breach_since = None

    @property
    def limits(self) -> tuple[float, float]:
        """Seconds to the first and to the last byte after which a request in flight is reported at once."""
        return self._combined.published

    def seen_replicas(self, count: int) -> None:
        """Note how many replicas share α."""
        self._most = max(self._most, count)

    def observe_own(self, now: float, sample: Sample) -> Assessment:
        """Judge the replica's own counters."""
        self._own.share(self._settings.alpha / self._most)
        return self._own.observe(now, sample)

    def observe_combined(
        self, now: float, key: str, names: tuple[str, ...], sums: str
    ) -> Assessment:
        """Judge the sums that the store shows under ``key``. Raises ``ValueError`` or ``OverflowError``."""
        self._sums.take(key, names, counts.numbers(sums))
        return self._combined.observe(now, self._sums.sample)

    def must_trip(self, now: float, seen: Assessment, *, exposed: bool, leads: bool) -> bool:
        """Whether a breach of the combined counts is this replica's to act on: the leader acts first.

        ``exposed``: users are on the canary.
        """
        if seen.level != "breach" or not exposed:
            self._breach_since = None
            return False
        if self._breach_since is None:
            self._breach_since = now
        return leads or now - self._breach_since >= self._patience

    def lost(self) -> None:
        """Drop a breach that the store showed: it is away."""
        self._breach_since = None

    def to_dict(self) -> dict[str, Any]:
        """Return the judge of the combined counts as JSON values."""
        return self._combined.to_dict()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from ``to_dict``. Raises ``KeyError``, ``TypeError`` or ``ValueError``."""
        self._combined = Judge.from_dict(self._settings, state)


def _half(settings: JudgeSettings) -> JudgeSettings:
    return replace(settings, alpha=settings.alpha / 2)
