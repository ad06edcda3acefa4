"""Reads the workers' counters for the judge."""

from __future__ import annotations

from canaryproxy.control.settings import ControlSettings
from canaryproxy.judging.verdict import Counts, Sample
from canaryproxy.measure import counters
from canaryproxy.measure.counters import Totals


class Sampler:
    """The counters of all workers as the judge compares them, plus the posted business events."""

    def __init__(self, cells: Totals, settings: ControlSettings) -> None:
        self._cells = cells
        self._settings = settings
        self._posted = {"stable": 0, "canary": 0}

    def configure(self, settings: ControlSettings) -> None:
        """Read by other settings from now on."""
        self._settings = settings

    def post_events(self, variant: str, count: int) -> None:
        """Count business events posted for ``stable`` or ``canary``."""
        self._posted[variant] += count

    def sample(self) -> Sample:
        """Read the counters of both variants."""
        return Sample(self._counts("stable"), self._counts("canary"))

    def _counts(self, variant: str) -> Counts:
        cells = self._cells.stable if variant == "stable" else self._cells.canary

        def pair(trials: int, events: int) -> tuple[int, int]:
            counted = cells[events]  # events first: a trial is written before its event
            return cells[trials], counted

        counts = {
            "errors": pair(counters.ERROR_TRIALS, counters.ERROR_EVENTS),
            "client_errors": pair(counters.ERROR_TRIALS, counters.CLIENT_ERROR_EVENTS),
            "latency": pair(counters.LATENCY_TRIALS, counters.LATENCY_EVENTS),
            "throughput": pair(counters.THROUGHPUT_TRIALS, counters.THROUGHPUT_EVENTS),
            "business": pair(counters.EXPOSED, counters.CONVERTED),
        }
        failed = cells[counters.FAILED]
        counts["requests"] = (
            cells[counters.FINISHED] - cells[counters.CLIENT_CLOSED],
            failed,
        )
        for name, slot in self._settings.slots.items():
            counts[name] = pair(counters.OUTCOMES + 2 * slot, counters.OUTCOMES + 2 * slot + 1)
        if self._settings.posts_events:
            counts["business"] = (cells[counters.EXPOSED], self._posted[variant])
        return counts
