"""What the proxy has to reach, as DESIGN section 3 says it, and whether it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.summary import Ratio, Row


@dataclass(frozen=True, slots=True)
class Goal:
    """Requests/s per core of ours are to be at least ``factor`` times those of ``peer``."""

    peer: str
    factor: float


GOALS = (Goal("plain", 5.0), Goal("envoy", 1.5), Goal("nginx", 0.4))


def unmet(
    rows: Mapping[str, Row], ratios: Mapping[str, Ratio], goals: Sequence[Goal] = GOALS
) -> list[str]:
    """Return one sentence for each goal that is not shown to be met; [] if all are."""
    if "ours" not in rows:
        return ["ours was not measured"]
    problems = []
    if rows["ours"].errors:
        problems.append(f"ours had {rows['ours'].errors} errors")
    for goal in goals:
        ratio = ratios.get(goal.peer)
        if ratio is None:
            problems.append(f"{goal.peer} was not measured, so ≥ {goal.factor:g} × is not shown")
        elif rows[goal.peer].errors:
            problems.append(f"{goal.peer} had {rows[goal.peer].errors} errors: no fair comparison")
        elif ratio.requests_per_core_second.median < goal.factor:
            problems.append(
                f"ours is {ratio.requests_per_core_second.median:.2f} × {goal.peer} "
                f"in requests/s per core, to be ≥ {goal.factor:g} ×"
            )
    return problems
