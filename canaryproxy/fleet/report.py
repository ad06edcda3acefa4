"""The report of a replica to the others: the load it sheds, and why its endpoints hold the step. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

from canaryproxy.judging.verdict import Assessment, Sample
from canaryproxy.measure.routing import VARIANTS

_MOST = 3
"""Holds of a replica that the others are told."""
_LONGEST = 300
"""Characters of a hold."""


@dataclass(frozen=True, slots=True)
class Report:
    """The report of one replica."""

    shed: tuple[int, ...] = (0,) * len(VARIANTS)
    """Requests that found each variant over its measured limit, since the replica's start."""
    holds: tuple[str, ...] = ()
    """Why its endpoints of the canary hold the step."""

    @classmethod
    def of(cls, sample: Sample) -> Report:
        """Return what is to be told with a sample."""
        return cls(sample.shed, tuple(hold[:_LONGEST] for hold in sample.holds[:_MOST]))

    def text(self) -> str:
        """Return the report as the store keeps it; empty if there is nothing to tell."""
        if not self.holds and not any(self.shed):
            return ""
        return json.dumps({"shed": self.shed, "holds": self.holds})

    @classmethod
    def parse(cls, text: str) -> Report:
        """Return the report of a text. Raises ``ValueError``."""
        try:
            found = json.loads(text)
            stable, canary = map(int, found["shed"])
            return cls(
                (stable, canary), tuple(str(hold)[:_LONGEST] for hold in found["holds"][:_MOST])
            )
        except (KeyError, TypeError, OverflowError, RecursionError) as error:
            raise ValueError(repr(error)) from None


def shed(reports: Mapping[str, Report]) -> dict[str, int]:
    """Return the sum over replicas, by variant."""
    return {name: sum(one.shed[at] for one in reports.values()) for at, name in enumerate(VARIANTS)}


def with_reports(seen: Assessment, reports: Mapping[str, Report], me: str) -> Assessment:
    """Return an assessment that the endpoints of the other replicas hold, too."""
    holds = [
        f"{hold} (at replica {name})"
        for name, one in sorted(reports.items())
        if name != me
        for hold in one.holds
    ]
    return replace(seen, holds=(*seen.holds, *holds)) if holds else seen
