"""Verdicts in plain words. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from canaryproxy.config.text import count, odds, percent
from canaryproxy.config.units import ratio_text
from canaryproxy.judging import metrics
from canaryproxy.judging.families import Spec
from canaryproxy.judging.tally import Estimate

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


def subject(spec: Spec, scope: str) -> str:
    """Return a metric in words, with the route that it is about."""
    found = SUBJECTS.get(spec.name, spec.name)
    return f"{found} on {scope}" if scope else found


def _users(number: int) -> str:
    return f"{count(number)} user" if number == 1 else f"{count(number)} users"


def rates(spec: Spec, scope: str, seen: Estimate, hurt: int) -> str:
    """Return both rates, by request and by user."""
    (n_s, e_s), (n_c, e_c) = seen.stable, seen.canary
    of_users = ""
    if spec.direction == "decrease":
        of_users = f" of {_users(seen.users[1])}"
    elif hurt:
        of_users = f", {count(hurt)} of {_users(seen.users[1])}"
    return (
        f"{subject(spec, scope)} {percent(e_c / n_c)} on canary "
        f"({count(e_c)} of {count(n_c)} {spec.trial}s{of_users}) vs {percent(e_s / n_s)} on stable "
        f"({count(e_s)} of {count(n_s)})"
    )


def reason(
    spec: Spec,
    scope: str,
    seen: Estimate | None,
    hurt: int,
    level: Literal["ok", "suspect", "breach"],
    log_evidence: float,
    limits: tuple[float, float],
    note: str | None,
) -> str:
    """Return a verdict in words.

    ``limits`` are the logarithms that trip and that hold; ``note`` says what else is to be known of it: why
    nothing can be compared now, that it is proven, that it is accepted.
    """
    if seen is None or not seen.stable[0] or not seen.canary[0]:
        return f"{subject(spec, scope)} cannot be judged: {note or 'nothing to compare yet'}"
    found = rates(spec, scope, seen, hurt)
    limit, hold = map(odds, limits)
    evidence = f"evidence {odds(log_evidence)}"
    if level == "breach":
        return f"{found}; {evidence} (limit {limit})"
    if level == "suspect":
        trips = f", trips at {limit}" if spec.trips else ", never trips"
        if spec.gross is not None:
            trips += f" and a difference of {ratio_text(spec.gross)}"
        return f"{found}; {evidence} (holds at {hold}{trips})"
    return f"{found}; {note or 'no regression seen'}"


def strangers(unknown: int, events: int) -> str:
    """Return why posted events say little: most of their users have sent no request in the step."""
    return (
        f"{count(unknown)} of the last {count(events)} posted business events name users "
        "who sent no request: post as key what split.sticky reads"
    )


def worse(spec: Spec, scope: str, seen: Estimate, hurt: int) -> str:
    """Return why a step is not left although there is no evidence yet: it looks worse."""
    return f"looks worse: {rates(spec, scope, seen, hurt)}"
