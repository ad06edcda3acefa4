"""Histories of each metric: events that users meet on stable before the first step. Pure."""

from __future__ import annotations

from canaryproxy.judging import metrics
from canaryproxy.judging.batch import Batch
from canaryproxy.judging.history import History
from canaryproxy.judging.metrics import Limits
from canaryproxy.judging.settings import JudgeSettings
from canaryproxy.judging.sorting import Sorter
from canaryproxy.judging.units import Units
from canaryproxy.measure.flat import sum64, vec


class Past:
    """Learns histories until a step begins; the tests of steps go on with them."""

    def __init__(self, settings: JudgeSettings, units: Units, limits: Limits, hang: float) -> None:
        self.histories: dict[str, History] = {}
        """By metric."""
        self._units = units
        self._outcomes = [(rule.slot, rule.name) for rule in settings.outcomes]
        self._hang = hang
        self._names = [*metrics.OF_RECORDS, *(name for _, name in self._outcomes)]
        self._sorter = self._sorter_by(limits)
        self._batch = Batch(self._sorter.marks)

    def _sorter_by(self, limits: Limits) -> Sorter:
        return Sorter(self._names, limits, self._outcomes, None, warm=True, hang=self._hang)

    def sort(self, limits: Limits) -> None:
        """Sort by these limits from now on."""
        self.tick()
        self._sorter = self._sorter_by(limits)
        self._batch = Batch(self._sorter.marks)

    def of(self, metric: str) -> History:
        """Return the history of a metric, an empty one if nothing is known."""
        return self.histories.setdefault(metric, History())

    def add(self, words: vec[sum64], chosen: vec[sum64]) -> None:
        """Take records of stable; ``chosen`` has the places of their words."""
        count, batch = len(chosen), self._batch
        batch.add(
            self._units.rows(words, chosen, 0, count), self._sorter.codes(words, chosen, 0, count)
        )

    def tick(self) -> None:
        """End a tick."""
        batch = self._batch
        if not len(batch):
            return
        for number, name in enumerate(self._names):
            trials = batch.trials(number)
            if len(trials):
                self.of(name).add(trials.listed())
        self._sorter.tidy()
        self._batch = Batch(self._sorter.marks)
