"""The lotteries by one hash: that of all users, or that of a cohort.

Positions mean nothing beyond their hash, so each has cuts, units, histories and evidence of its own: the
verdict on a cohort says nothing of all users, nor the other way round. α is shared (``families.step_share``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from canaryproxy.judging.metrics import FALLBACK
from canaryproxy.judging.past import Past
from canaryproxy.judging.settings import JudgeSettings
from canaryproxy.judging.step import HANG, Step
from canaryproxy.judging.units import Lottery, Units
from canaryproxy.measure.routing import POSITIONS

_MOST_STEPS = 8


class Draws:
    """The steps that were judged by one hash, and what their users did before."""

    def __init__(self, units: Units, past: Past) -> None:
        self.units = units
        self.past = past
        self.steps: dict[int, Step] = {}
        self.proofs: dict[str, float] = {}
        """Evidence of earlier steps that the canary is not worse, by metric."""
        self._cuts = {0, POSITIONS}
        self._saved: dict[int, Mapping[str, Any]] = {}
        """Evidence of steps as it was saved, until their lottery goes on."""

    def prove(self, step: Step) -> None:
        """Keep what a step that is left has shown."""
        for name, trial in step.trials.items():
            if trial.proof is not None:
                self.proofs[name] = self.proofs.get(name, 0.0) + trial.proof.log_e
                trial.proof.log_e = 0.0

    def take_saved(self, limit: int) -> Mapping[str, Any] | None:
        """Return the saved evidence of a step, once."""
        return self._saved.pop(limit, None)

    def cut(self, limit: int) -> Lottery | None:
        """Return the lottery of a new weight, between its neighbours; ``None``: it is over."""
        if limit in self._cuts:
            return None
        first = max(cut for cut in self._cuts if cut < limit)
        last = min(cut for cut in self._cuts if cut > limit)
        self._cuts.add(limit)
        return Lottery(first, limit, last)

    def add(self, step: Step) -> None:
        """Judge by this step from now on; the oldest ones are dropped."""
        self.steps[step.lottery.limit] = step
        while len(self.steps) > _MOST_STEPS:
            del self.steps[next(iter(self.steps))]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "steps": {str(limit): step.to_dict() for limit, step in self.steps.items()}
            | {str(limit): saved for limit, saved in self._saved.items()},
            "cuts": sorted(self._cuts),
            "proofs": self.proofs,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from ``to_dict``. Raises ``KeyError``, ``TypeError`` or ``ValueError``."""
        self._saved = {int(limit): saved for limit, saved in state["steps"].items()}
        self._cuts = {int(cut) for cut in state["cuts"]}
        self.proofs = {name: float(log_e) for name, log_e in state["proofs"].items()}


class Groups:
    """The draws of a release: those of all users, and of each cohort.

    ``units`` and ``past`` are of all users; a cohort's are met for the first time by its hash.
    """

    def __init__(self, settings: JudgeSettings, units: Units, past: Past) -> None:
        self._settings = settings
        self._everyone = Draws(units, past)
        self._cohorts: dict[str, Draws] = {}

    def of(self, cohort: str | None) -> Draws:
        """Return the draws of a cohort; ``None``: those of all users."""
        if cohort is None:
            return self._everyone
        if cohort not in self._cohorts:
            units = Units()
            past = Past(self._settings, units, FALLBACK, HANG)
            self._cohorts[cohort] = Draws(units, past)
        return self._cohorts[cohort]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        cohorts = {name: draws.to_dict() for name, draws in self._cohorts.items()}
        return {**self._everyone.to_dict(), "cohorts": cohorts}

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from ``to_dict``. Raises ``KeyError``, ``TypeError`` or ``ValueError``."""
        self._everyone.load(state)
        for cohort, draws in state.get("cohorts", {}).items():
            self.of(cohort).load(draws)
