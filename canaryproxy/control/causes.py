"""Why the circuit opens or a step is held: the judge's words, response times, and the endpoints to blame."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from canaryproxy.config.text import duration, spread
from canaryproxy.control.endpoint_figures import EndpointFigures
from canaryproxy.control.ledger import figures
from canaryproxy.control.route_figures import RouteFigures
from canaryproxy.control.timeseries import Percentile, StepTraffic
from canaryproxy.judging.metrics import LATENCY, P50, P95, P99
from canaryproxy.judging.settings import JudgeSettings
from canaryproxy.judging.verdict import Assessment, Verdict
from canaryproxy.measure.routing import CANARY

Explained = tuple[str, dict[str, Any]]
"""A cause in plain words, and the figures of its record."""
_SHORTEST: Final = 1.0
"""Seconds below which percentiles say nothing."""


def quantiles(judge: JudgeSettings) -> Mapping[str, float]:
    """Return the quantile of each metric that compares response times."""
    if judge.latency is None:
        return {}
    return {LATENCY: judge.latency.quantile, P50: 0.5, P95: 0.95, P99: 0.99}


class Causes:
    """Explains what the judge found with what the control plane knows besides.

    ``judge`` returns the settings in force.
    """

    def __init__(
        self,
        endpoints: EndpointFigures,
        routes: RouteFigures,
        judge: Callable[[], JudgeSettings],
    ) -> None:
        self.traffic = StepTraffic()
        self._judge = judge
        self._endpoints = endpoints
        self._routes = routes

    def of_trip(self, now: float, seen: Assessment, **more: Any) -> Explained:
        """Explain why the circuit opens; ``more`` are further figures."""
        breach = next((one for one in seen.verdicts if one.reason == seen.cause), None)
        times = "" if breach is None else self._times(now, breach)
        cause, found = self._explained(now, seen, [times, seen.cause or "breach"])
        return cause, found | more

    def of_suspicion(self, now: float, seen: Assessment) -> Explained:
        """Explain why the step is held for a suspicion."""
        said = []
        for one in seen.verdicts:
            if one.level != "ok":
                said += [self._times(now, one), one.reason]
        return self._explained(now, seen, said or list(seen.holds))

    def _explained(self, now: float, seen: Assessment, said: Sequence[str]) -> Explained:
        fault = self._endpoints.at_fault(now, CANARY)
        words = [*said, "" if fault is None else fault.said]
        more = {} if fault is None else {"endpoints": list(fault.urls), "endpoints_of": fault.of}
        return "; ".join(filter(None, words)), figures(seen) | more

    def _times(self, now: float, verdict: Verdict) -> str:
        """``P95 240 ms (200 to 310) on canary vs 46 ms (45 to 47) on stable in 2 min of this step``."""
        q = quantiles(self._judge()).get(verdict.metric)
        if q is None:
            return ""
        if verdict.scope:
            seconds, both = self._routes.percentiles(now, verdict.scope, q)
            when = f"in the last {duration(seconds)}"
        else:
            seconds, both = self.traffic.percentiles(q)
            when = f"in {duration(seconds)} of this step"
        stable, canary = map(_spread, both)
        if seconds < _SHORTEST or not stable or not canary:
            return ""
        where = f" on {verdict.scope}:" if verdict.scope else ""
        return f"P{q * 100:g}{where} {canary} on canary vs {stable} on stable {when}"


def _spread(found: Percentile | None) -> str:
    return "" if found is None else spread(found.value, found.low, found.high)
