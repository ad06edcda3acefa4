"""Watches what the variants carry, and holds a step that would bring more than was ever carried."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from canaryproxy.control.ledger import Ledger
from canaryproxy.control.settings import ControlSettings
from canaryproxy.control.timeseries import WINDOW, Window
from canaryproxy.release.capacity import ACCEPTED, Carried, Demand, Load, Outlook, outlook
from canaryproxy.release.rollout import State

_log = logging.getLogger(__name__)


class CapacityWatch:
    """Knows the most that both variants have carried, and the traffic of now."""

    def __init__(self, ledger: Ledger, settings: ControlSettings) -> None:
        self._ledger = ledger
        self._settings = settings
        self.carried = Carried()
        self._rate = 0.0
        self._seconds = 0.0
        self._up: Sequence[int] = ()
        self._told: object = None
        self.follows_promotion = False
        """The release before this one was promoted: stable runs what was its canary."""

    def configure(self, settings: ControlSettings) -> None:
        """Continue under other settings; to be called before the ledger has another release."""
        if settings.release != self._settings.release:
            self._begin(self._ledger.rollout.state)
        self._settings = settings

    def _begin(self, before: State) -> None:
        """Begin another release after one that was in a state."""
        self.follows_promotion = before is State.PROMOTED
        self.carried.begin(promoted=self.follows_promotion)

    def take(
        self, now: float, windows: Sequence[Window], in_flight: Sequence[int], up: Sequence[int]
    ) -> None:
        """Take the traffic of now, of each variant; ``up`` are the endpoints that are up."""
        if min(window.seconds for window in windows) < WINDOW * 0.9:
            return
        self._rate = sum(window.rate for window in windows)
        self._seconds = windows[0].seconds
        self._up = tuple(up)
        for variant, window in enumerate(windows):
            rate = (window.ended - window.failed) / window.seconds
            load = Load(now, rate, max(in_flight[variant], 0), up[variant], window.quantile(0.95))
            if self.carried.take(variant, load):
                self._ledger.version += 1

    def outlook(self, now: float) -> Outlook | None:
        """Return what a trip and the next step would bring; ``None``: the traffic is not known yet."""
        if not self._up or not self._settings.has_canary:
            return None
        here, steps = self._ledger.rollout, self._settings.plan.steps
        goes_on = here.state in (State.RUNNING, State.PAUSED) and not here.learning
        at = here.step + 1 if goes_on else 0
        awaits = goes_on or here.learning
        is_known = awaits and at < len(steps) and steps[at].cohort is None
        following = steps[at].weight if is_known else None  # how many a cohort has is not known
        return outlook(
            now, self.carried, Demand(self._rate, self._seconds, self._up, here.weight, following)
        )

    def holds(self, now: float) -> tuple[str, ...]:
        """Return why the next step may not begin, in plain words; say it once for each step."""
        here, mode = self._ledger.rollout, self._settings.capacity
        if mode == "off" or here.state is not State.RUNNING or ACCEPTED in here.accepted:
            return ()
        found = self.outlook(now)
        if found is None:
            unknown = "the traffic is not known yet, nor what the next step would bring"
            return (unknown,) if mode == "hold" else ()
        if found.step is None or not found.over:
            return ()
        step = self._settings.release, here.step, here.learning
        if step != self._told:
            self._told = step
            self._tell("; ".join(found.over), found)
        return found.over if mode == "hold" else ()

    def _tell(self, cause: str, found: Outlook) -> None:
        if self._settings.capacity == "hold":
            figures = {"trip": found.trip, "step": found.step}
            self._ledger.note("capacity", cause, figures)
        else:
            _log.warning("capacity: %s", cause, extra={"service": self._ledger.service})

    def restore(self, document: Mapping[str, Any]) -> None:
        """Continue from a saved document. Raises ``KeyError``, ``TypeError`` or ``ValueError``."""
        self.carried = Carried.from_dict(document.get("capacity", {}))
        if document["release"] != self._settings.release:
            self._begin(State(document["rollout"]["state"]))

    def to_dict(self) -> dict[str, Any]:
        """Return the part of the saved document."""
        return {"capacity": self.carried.to_dict()}
