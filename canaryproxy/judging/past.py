"""Histories of each metric: events that users meet on stable before the first step. Pure."""

from __future__ import annotations

from canaryproxy.judging import metrics
from canaryproxy.judging.batch import Batch
from canaryproxy.judging.history import History
from canaryproxy.judging.metrics import Limits
from canaryproxy.judging.settings import JudgeSettings
from canaryproxy.judging.sorting import Sorter
from canaryproxy.judging.units import Units
from canaryproxy.measure.records import POSITION_MASK


class Past:
    """Learns histories until a step begins; the tests of steps go on with them."""

    def __init__(self, settings: JudgeSettings, units: Units, limits: Limits, hang: float) -> None:
        self.histories: dict[str, History] = {}
        """By metric."""
        self._units = units
        self._outcomes = [(rule.slot, rule.name) for rule in settings.outcomes]
        self._hang = hang
        self._names = [*metrics.OF_RECORDS, *(name for _, name in self._outcomes)]
        self._batch = Batch()
        self.sort(limits)

    def sort(self, limits: Limits) -> None:
        """Sort by these limits from now on."""
        self._sorter = Sorter(self._names, limits, self._outcomes, None, warm=True, hang=self._hang)

    def of(self, metric: str) -> History:
        """Return the history of a metric, an empty one if nothing is known."""
        return self.histories.setdefault(metric, History())

    def add(self, first: int, second: int, third: int) -> None:
        """Take a record of stable, given by its words."""
        kind = self._sorter.kind(first, second, third)
        self._batch.add(self._units.row(first & POSITION_MASK), kind)

    def tick(self) -> None:
        """End a tick."""
        batch = self._batch
        if not len(batch):
            return
        for number, name in enumerate(self._names):
            trials = batch.trials(number)
            if len(trials):
                self.of(name).add(trials.listed())
        batch.end()
        self._batch = Batch()
