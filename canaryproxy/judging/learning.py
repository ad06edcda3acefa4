"""Knowledge of stable: limits, routes, and what users meet there before the first step. Pure."""

from __future__ import annotations

from math import inf

from canaryproxy.judging.metrics import FALLBACK, Baseline, Limits
from canaryproxy.judging.past import Past
from canaryproxy.judging.settings import JudgeSettings, LatencyRule
from canaryproxy.judging.units import Units

_LIMITS_EVERY = 60.0
_FAR = 0.5
"""Part of the limit of late responses: where that of now is less, the limits are of a bad time."""


class Learning:
    """Learns from the responses of stable; ``hang``: seconds that are late in a warm-up, too."""

    def __init__(self, settings: JudgeSettings, hang: float) -> None:
        self.units = Units()
        self.baseline = Baseline()
        self.limits = FALLBACK
        """Limits of late and odd responses, as they were last worked out."""
        self.past = Past(settings, self.units, self.limits, hang)
        self.seconds = 0.0
        """For how long stable has been watched while no user was on the canary."""
        self._rule = settings.latency or LatencyRule()
        self._routes = settings.routes
        self._watched_at: float | None = None
        self._refreshed_at = -inf

    def watch(self, now: float, *, alone: bool) -> None:
        """Count the time until ``now``; ``alone``: no user is on the canary."""
        if self._watched_at is not None:
            self.seconds += max(now - self._watched_at, 0.0)
        self._watched_at = now if alone else None

    def follow(self, now: float) -> None:
        """Follow stable between steps: each minute, and until its limits are known."""
        if now - self._refreshed_at >= _LIMITS_EVERY or not self.limits.known:
            self.refresh(now)

    def refresh(self, now: float) -> None:
        """Work the limits out, if there are enough responses."""
        self._refreshed_at = now
        if self.baseline.enough:
            self.take(self.baseline.limits(self._rule, routes=self._routes))

    def is_outdated(self, now: float) -> bool:
        """Whether the limits are of a bad time that is over: looked at once a minute."""
        if now - self._refreshed_at < _LIMITS_EVERY:
            return False
        self._refreshed_at = now
        if not self.limits.known or not self.baseline.enough:
            return False
        return self.baseline.limits(self._rule, routes=False).late < _FAR * self.limits.late

    def take(self, limits: Limits) -> None:
        """Go by these limits."""
        self.limits = limits
        self.past.sort(limits)
