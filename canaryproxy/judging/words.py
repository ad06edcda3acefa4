"""Verdicts in plain words. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from canaryproxy.config.text import WARMING_UP, count, duration, latency, odds, percent, plural
from canaryproxy.config.units import ratio_text
from canaryproxy.judging import metrics
from canaryproxy.judging.families import Spec
from canaryproxy.judging.settings import BusinessRule, JudgeSettings
from canaryproxy.judging.tally import Seen, Side
from canaryproxy.judging.units import Lottery

SUBJECTS: Final[Mapping[str, str]] = {
    metrics.ERRORS: "error rate",
    metrics.LATENCY: "slow responses",
    metrics.P50: "responses far slower than stable's median",
    metrics.P95: "responses slower than twice stable's P95",
    metrics.P99: "responses far beyond stable's P99",
    metrics.THROUGHPUT: "stalled requests",
    metrics.CLIENT_ERRORS: "4xx rate",
    metrics.REDIRECTS: "3xx rate",
    metrics.EMPTY: "successful responses without a body",
    metrics.SUCCESS: "successful responses with a body",
    metrics.SIZE: "bodies of unusual size",
    metrics.CONTENT_TYPE: "unusual media types",
    metrics.CONNECTIONS: "broken tunnels and streams",
    metrics.BUSINESS: "conversion rate",
    metrics.ANSWERS: "redirects, 4xx and empty responses",
}
"""The metrics in words; an outcome keeps its own name."""
NOBODY_KNOWN: Final = (
    "no request of a known user ended yet; without the sticky cookie or header,"
    " requests are not compared"
)

_FEW_ANSWERED = 3
"""The canary's users are few if they are less than one in so many of those that its weight promises."""


@dataclass(frozen=True, slots=True)
class Place:
    """Subject of a verdict, beside the metric."""

    scope: str = ""
    """A route; empty: all of them."""
    slower_than: float | None = None
    """Seconds beyond which a request is an event; ``None``: it is not about time."""
    mostly: str = ""
    """What most of the canary's bad responses have in common: a status, a route."""
    watched: float = 0.0
    """Seconds of the step in which it was counted; 0: not known."""


def subject(spec: Spec, place: Place) -> str:
    """Return a metric in words, with its limit and the route that it is about."""
    found = SUBJECTS.get(spec.name, spec.name)
    if place.slower_than is not None:
        found += f" (over {latency(place.slower_than)})"
    return f"{found} on {place.scope}" if place.scope else found


def _side(name: str, side: Side, trial: str, mostly: str, *, bad: bool) -> str:
    """``2.36% on canary (15 of 635 requests, 9 of 400 users, mostly 502)``."""
    inside = [f"{count(side.events)} of {plural(side.trials, trial)}"]
    users = plural(side.users, "user")
    if side.users and bad:
        inside.append(f"{count(side.hurt)} of {users}")
    elif side.users:
        inside[0] += f" of {users}"
    if mostly and side.events:
        inside.append(mostly)
    return f"{percent(side.events / side.trials)} on {name} ({', '.join(inside)})"


def rates(spec: Spec, place: Place, seen: Seen) -> str:
    """Return both rates, by request and by user."""
    bad = spec.direction == "increase"
    canary = _side("canary", seen.canary, spec.trial, place.mostly, bad=bad)
    stable = _side("stable", seen.stable, spec.trial, "", bad=bad)
    colon = ":" if place.scope else ""
    when = seen.when
    if not when and place.watched >= 1.0:
        when = f"in {duration(int(place.watched))} of this step"
    return f"{subject(spec, place)}{colon} {canary} vs {stable}{when and ' ' + when}"


def absent(users: tuple[int, int], odds_of_canary: float, least: int = _FEW_ANSWERED) -> str:
    """Say that few of the canary's users got a response, if so: a canary that hangs shows by that.

    ``least``: so many have to be expected before anything is said.
    """
    expected = round(users[0] * odds_of_canary)
    if expected < max(least, _FEW_ANSWERED) or _FEW_ANSWERED * users[1] >= expected:
        return ""
    return (
        f"only {count(users[1])} of about {plural(expected, 'canary user')} got a response so far"
    )


def reason(
    spec: Spec,
    place: Place,
    seen: Seen | None,
    level: Literal["ok", "suspect", "breach"],
    log_evidence: float,
    limits: tuple[float, float],
    note: str | None,
    odds_of_canary: float = 0.0,
) -> str:
    """Return a verdict in words.

    ``limits`` are the logarithms that trip and that hold; ``note`` says what else is to be known of it: why
    nothing can be compared now, that it is proven, that it is accepted. ``odds_of_canary``: so many users of
    the canary are expected for each of stable.
    """
    if seen is None or not seen.stable.trials or not seen.canary.trials:
        return f"{subject(spec, place)} cannot be judged: {note or 'nothing to compare yet'}"
    found = rates(spec, place, seen)
    limit, hold = map(odds, limits)
    evidence = f"evidence {odds(log_evidence)}"
    if level == "breach":
        few = absent((seen.stable.users, seen.canary.users), odds_of_canary)
        return f"{found}{few and f'; {few}'}; {evidence} (limit {limit})"
    if level == "suspect":
        return f"{found}; {evidence} (holds at {hold}, {_trips(spec, log_evidence, limits[0])})"
    return f"{found}; {note or 'no regression seen'}"


def no_events(rule: BusinessRule) -> str:
    """Return why a step is not left although no metric is worse: the business metric had no event at all."""
    since = "step" if rule.direction == "decrease" else "release"
    if rule.slot is None:
        return (
            f"business sees nothing: no event was posted in this {since} for a user who sent a request; "
            "POST /v1/events, or accept business"
        )
    return (
        f"business sees nothing: outcome {rule.outcome} did not occur in this {since}; "
        "check its match and when, or accept business"
    )


def note(*, accepted: bool, quiet: str | None, worse: bool, proven: bool) -> str | None:
    """Return what is said of a metric without a regression; ``None`` where there is nothing to say.

    ``quiet``: why nothing is compared now. What looks worse is not proven to be well, too.
    """
    if accepted:
        return "accepted by an operator"
    if quiet is not None:
        return quiet
    if worse:
        return "looks worse, which may be chance"
    return "proven not worse" if proven else None


def strangers(unknown: int, events: int) -> str:
    """Return why posted events say little: most of their users have sent no request in the step."""
    return (
        f"{count(unknown)} of the last {count(events)} posted business events name users "
        "who sent no request: post as key what split.sticky reads"
    )


def _trips(spec: Spec, log_evidence: float, limit: float) -> str:
    """Say what is missing for a trip."""
    if not spec.trips:
        return "never trips"
    margin = ratio_text(spec.trip_margin)
    points = margin.removesuffix("%")
    of = f"{points} point{'' if points == '1' else 's'}"
    if spec.relative:
        of = f"{margin} of stable's rate"
    if log_evidence >= limit:
        return f"trips only at a difference of {of}"
    return f"trips at {odds(limit)}" + (f" and a difference of {of}" if spec.gross else "")


def worse(spec: Spec, place: Place, seen: Seen, min_users: int) -> str:
    """Return why a step is not left although there is no evidence yet: it looks worse."""
    users = min(seen.stable.users, seen.canary.users)
    why = "more than the spread among users explains"
    if users < min_users:
        why = f"too few users to call it chance, {count(min_users)} on each side are needed"
    return f"looks worse: {rates(spec, place, seen)}; {why}"


def arrivals(seen: tuple[int, int], lottery: Lottery) -> str:
    """Return why a step is not left: users of stable and of the canary do not come as the weight says."""
    expected = sum(seen) * lottery.canary / (lottery.canary + lottery.stable)
    return (
        f"users do not arrive as they were drawn: in this step {count(seen[1])} came to the canary, "
        f"and {count(seen[0])} to stable (about {count(expected)} of all were expected on the canary); "
        "look for a cache, a crawler or lost cookies on one side"
    )


def warming(waited: float, wanted: float, responses: float, least: float) -> str:
    """Return how far the warm-up is: first in seconds, then in responses."""
    progress = f"{duration(waited)} of {duration(wanted)}"
    if waited >= wanted:
        progress = f"about {count(responses)} of {count(least)} responses"
    return f"{WARMING_UP}: {progress}; slow responses and the bake time do not count yet"


def at_rest(settings: JudgeSettings, *, at_end: bool, shown: bool) -> str:
    """Return why nothing is compared at the weights 0 and 100, and what watches at 100."""
    said = "no user is on the canary"
    if at_end:
        watches = "only guard rails watch"
        if settings.guard_rails is None:
            watches = "nothing watches, guard rails are off"
        said = f"every user is on the canary, and {watches}"
    return f"{said} (the verdicts are those of the last step)" if shown else said
