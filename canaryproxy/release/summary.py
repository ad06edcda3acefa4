"""The verdict on a release in one word and one sentence, and that on each metric in one word. Pure.

Dashboard, commands and API say these and nothing of their own, so that no two figures of one page contradict
each other: a metric that looks worse is not proven, and while the circuit is open nothing is well.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from canaryproxy.config import text
from canaryproxy.judging.verdict import Assessment, Verdict
from canaryproxy.release import circuit
from canaryproxy.release.circuit import Circuit

Standing = Literal["breach", "suspect", "worse", "accepted", "unknown", "ok", "proven"]
"""Where a metric stands. worse: it looks worse, without evidence; unknown: nothing is compared."""
Kind = Literal["breach", "suspect", "held", "unknown", "ok", "proven"]
"""Where a release stands. held: something holds the step without being suspect."""


@dataclass(frozen=True, slots=True)
class Summary:
    """The verdict on a release."""

    kind: Kind
    said: str
    """In one sentence, without its full stop."""


def standing(verdict: Verdict, accepted: Collection[str] = ()) -> Standing:
    """Return where a metric stands; ``accepted`` are the names that operators accepted."""
    if verdict.metric in accepted or text.at_route(verdict.metric, verdict.scope) in accepted:
        return "accepted"
    if verdict.level != "ok":
        return verdict.level
    if verdict.worse:
        return "worse"
    if not verdict.comparable:
        return "unknown"
    return "proven" if verdict.proven else "ok"


def summary(
    seen: Assessment | None, broken: Circuit, accepted: Collection[str] = frozenset()
) -> Summary:
    """Return the verdict on a release whose circuit is ``broken``."""
    is_open = broken.state is circuit.State.OPEN
    if seen is None:
        opened = "the circuit is open, and the judge has seen nothing since"
        return Summary("unknown", opened if is_open else "the judge has seen nothing yet")
    reported = _reported(seen, accepted)
    if is_open:
        before = f"; before, the judge reported {reported[1]}" if reported else ""
        breach = reported is not None and reported[0] == "breach"
        said = f"the circuit is open, so nothing is compared{before}"
        return Summary("breach" if breach else "unknown", said)
    if seen.quiet is not None or not seen.judged:
        said = f"the judge has nothing to compare ({seen.quiet or 'no request was judged'})"
        if reported is None:
            return Summary("unknown", said)
        return Summary(reported[0], f"{said}; before, it reported {reported[1]}")
    if reported is not None:
        return Summary(reported[0], f"the judge reports {reported[1]}")
    holds = [one for one in seen.holds if not one.startswith(text.WARMING_UP)]
    if holds:
        more = len(holds) - 1
        rest = f", and {text.plural(more, 'more thing')}" if more else ""
        return Summary("held", f"the judge holds the step: {holds[0]}{rest}")
    worse = [
        text.at_route(one.metric, one.scope)
        for one in seen.verdicts
        if standing(one, accepted) == "worse"
    ]
    if worse:
        return Summary("held", f"the judge holds the step: {', '.join(worse)} looks worse")
    users = text.plural(seen.users, "user")
    said = (
        f"the judge sees no regression in {text.plural(seen.judged, 'canary request')} since it began, "
        f"of {users} on this step"
    )
    if seen.proven:
        return Summary("proven", f"{said}; safety is proven")
    return Summary("ok", f"{said}; safety is not proven yet")


def _reported(
    seen: Assessment, accepted: Collection[str]
) -> tuple[Literal["breach", "suspect"], str] | None:
    """Return the worst that is reported, with the metrics that it is about."""
    by_level: dict[str, list[str]] = {"breach": [], "suspect": []}
    for one in seen.verdicts:
        found = standing(one, accepted)
        if found in by_level:
            by_level[found].append(text.at_route(one.metric, one.scope))
    if by_level["breach"]:
        return "breach", f"a regression in {', '.join(by_level['breach'])}"
    if seen.level == "breach":
        return "breach", f"a regression: {seen.cause or 'a guard rail'}"
    if by_level["suspect"]:
        return "suspect", f"{', '.join(by_level['suspect'])} as suspect"
    if seen.level == "suspect":
        return "suspect", f"a suspicion: {'; '.join(seen.holds) or 'no response comes'}"
    return None
