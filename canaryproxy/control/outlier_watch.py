"""The outliers of both variants: when they are looked for, and what follows from it. Time is an argument."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from canaryproxy.config import Config
from canaryproxy.config.model.variants import Variant
from canaryproxy.config.text import duration
from canaryproxy.control.endpoint_figures import EndpointReading
from canaryproxy.judging.outliers import Change, Observed, OutlierRules, Outliers
from canaryproxy.measure.routing import CANARY, VARIANTS
from canaryproxy.measure.slowness import NEVER

_ALONE_EVERY: Final = 1.0
"""Seconds between two looks at a variant with an endpoint that has no others to be compared with."""
_READINGS_PER_SECOND: Final = 160
"""Endpoints of a variant that are read in a second; with more than sixteen, not at every tick."""


class OutlierWatch:
    """Looks for outliers; ``read`` returns the endpoints of a variant as all workers see them."""

    def __init__(self, config: Config, read: Callable[[int], Sequence[EndpointReading]]) -> None:
        self._read = read
        self._variants: list[Outliers | None] = [None] * len(VARIANTS)
        self._due = [float("-inf")] * len(VARIANTS)
        self._total = 0
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Go by another configuration; who is out stays out."""
        both = config.variants.stable, config.variants.canary
        for at, variant in enumerate(both):
            rules, known = _rules(variant), self._variants[at]
            if rules is None:
                self._variants[at] = None
            elif known is None:
                self._variants[at] = Outliers(rules)
            else:
                known.rules = rules

    def observe(self, now: float) -> Iterator[tuple[int, Change]]:
        """Yield who is ejected now and who is back, with the variant; to be called at each tick."""
        for at, outliers in enumerate(self._variants):
            if outliers is None or now < self._due[at]:
                continue
            readings = self._read(at)
            pause = len(readings) / _READINGS_PER_SECOND
            if len(readings) < 2 and not outliers.ejected:
                pause = _ALONE_EVERY
            self._due[at] = now + pause - 0.05
            if at == CANARY:
                self._total = len(readings)
            observed = [
                Observed(
                    one.url,
                    one.url in outliers.ejected or not (one.lost or one.standby),
                    one.counts.requests,
                    one.counts.failed,
                    one.counts.keys,
                    one.counts.times,
                    one.counts.slow_keys,
                    one.counts.far_keys,
                )
                for one in readings
            ]
            for change in outliers.observe(now, observed):
                yield at, change

    @property
    def slow(self) -> tuple[int, int]:
        """By variant, the bucket of the time to the first byte from which responses are slow."""
        stable, canary = [NEVER if one is None else one.slow_from for one in self._variants]
        return stable, canary

    def causes(self, variant: int) -> dict[str, str]:
        """Return the endpoints of a variant that are out, and why."""
        outliers = self._variants[variant]
        found = {} if outliers is None else outliers.ejected
        return {
            url: f"{one.cause}; out for {duration(one.until - one.since)}"
            for url, one in found.items()
        }

    def holds(self, now: float) -> tuple[str, ...]:
        """Return why the canary's endpoints hold the step: what is left of it says nothing of what is out."""
        outliers = self._variants[CANARY]
        if outliers is None:
            return ()
        found = []
        for url in outliers.recent(now):
            out = outliers.ejected.get(url)
            if out is None:
                found.append(
                    f"the canary endpoint {url} is back from an ejection and not yet trusted"
                )
            else:
                found.append(f"1 of {self._total} canary endpoints is ejected: {url} ({out.cause})")
        return tuple(found)


def _rules(variant: Variant | None) -> OutlierRules | None:
    if variant is None or variant.outliers is None:
        return None
    found = variant.outliers
    return OutlierRules(
        variant.balance == "hash",
        found.margin,
        found.max_ejected,
        found.pause,
        found.longest_pause,
        found.slow,
    )
