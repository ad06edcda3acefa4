"""Sentences and figures about a release document. Pure; no text from the network can control the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from canaryproxy.config.text import (
    BEYOND,
    CONSEQUENCES,
    LONG_LIVED,
    NONE,
    count,
    duration,
    latency,
    number,
    odds,
    percent,
    plural,
    spread,
    weight,
)

__all__ = [
    "BEYOND",
    "NONE",
    "clean",
    "count",
    "drill_result",
    "duration",
    "interval",
    "latency",
    "long_lived",
    "moment",
    "name",
    "noun",
    "number",
    "odds",
    "outcome",
    "percent",
    "progress",
    "rate",
    "record",
    "repeats",
    "share",
    "since",
    "step_of",
    "times",
    "timing",
    "weight",
]

_LONGEST = 1000

NOUNS = {
    "errors": "errors",
    "latency": "slow responses",
    "latency_p50": "responses over the median",
    "latency_p95": "responses over P95",
    "latency_p99": "responses over P99",
    "throughput": "stalls",
    "client_errors": "4xx responses",
    "redirects": "3xx responses",
    "empty": "empty responses",
    "success": "successful responses",
    "size": "odd body sizes",
    "content_type": "odd media types",
    "connections": "broken tunnels",
    "business": "conversions",
}
"""What each metric counts."""


def mapping(value: object) -> Mapping[str, Any]:
    """Return an object of a document; empty if it is none."""
    return value if isinstance(value, Mapping) else {}


def clean(value: object, longest: int = _LONGEST) -> str:
    """Return a text from the network as one line without control characters, cut to ``longest``."""
    text = value if isinstance(value, str) else "" if value is None else str(value)
    if len(text) > longest:
        text = text[: longest - 1] + "…"
    return "".join(
        one if one.isprintable() else " " if one in "\n\r\t\u00a0" else "\ufffd" for one in text
    )


def rate(value: object) -> str:
    """``195`` for requests per second."""
    found = number(value)
    if found is None:
        return NONE
    if found >= 100:
        return f"{found:,.0f}"
    return f"{found:.3g}" if found >= 1 or not found else f"{found:.2f}"


def moment(value: object, now: float) -> str:
    """Return the local time of day with its zone, and with the date unless it is that of ``now``."""
    found = number(value)
    if found is None:
        return NONE
    try:
        at, today = datetime.fromtimestamp(found).astimezone(), datetime.fromtimestamp(now)
    except (ValueError, OverflowError, OSError):  # no such year
        return NONE
    return at.strftime("%H:%M:%S %Z" if at.date() == today.date() else "%Y-%m-%d %H:%M:%S %Z")


def times(value: float) -> str:
    """``1.4×`` for a ratio."""
    return f"{value:,.0f}×" if value >= 100 else f"{value:.2g}×" if value < 10 else f"{value:.3g}×"


def interval(edges: object) -> str:
    """``0.6× to 1.4× stable's rate`` for the confidence interval of a ratio."""
    pair = edges if isinstance(edges, Sequence) and len(edges) == 2 else (None, None)
    low, high = number(pair[0]), number(pair[1])
    below = low is not None and low > 0
    if below and high is not None:
        return f"{times(low or 0)} to {times(high)} stable's rate"
    if below:
        return f"at least {times(low or 0)} stable's rate"
    if high is not None:
        return f"at most {times(high)} stable's rate"
    return "not known yet"


def timing(found: object) -> str:
    """``canary P95 48 ms (44 to 53), stable 46 ms (45 to 47)``; empty where nothing is known."""
    if not isinstance(found, Mapping):
        return ""
    q = number(found.get("quantile")) or 0.0
    canary, stable = _spread(found.get("canary")), _spread(found.get("stable"))
    return f"canary P{q * 100:g} {canary}, stable {stable}" if canary and stable else ""


def _spread(found: object) -> str:
    if not isinstance(found, Mapping):
        return ""
    return spread(found.get("value"), found.get("low"), found.get("high"))


def noun(metric: object) -> str:
    """Return what a metric counts, such as ``slow responses``."""
    name = clean(metric, 40)
    return NOUNS.get(name, name.replace("_", " "))


def name(document: Mapping[str, Any]) -> str:
    """Return the release id, or ``no release``."""
    return clean(document.get("release"), 60) or "no release"


def share(document: Mapping[str, Any], verb: str = "on") -> str:
    """``5% of users on the canary``, or ``all users on stable``; ``verb`` may replace ``on``."""
    found = number(document.get("weight"))
    if found == 0 and not document.get("cohorts"):
        return f"all users {verb} stable"
    if found == 100:
        return f"all users {verb} the canary"
    return f"{users_of(document)} {verb} the canary"


def users_of(document: Mapping[str, Any]) -> str:
    """``5% of users``; with cohorts ``1% of users, 50% of staff``."""
    cohorts = document.get("cohorts")
    if cohorts and isinstance(cohorts, list):
        return clean(document.get("share"))
    return f"{weight(document.get('weight'))} of users"


def step_share(step: Mapping[str, Any]) -> str:
    """``5%`` for a step of all users, ``50% of staff`` for one of a cohort."""
    of = clean(step.get("cohort"), 40) if step.get("cohort") else ""
    return f"{weight(step.get('weight'))} of {of}" if of else weight(step.get("weight"))


def step_of(document: Mapping[str, Any]) -> str:
    """``step 2 of 5``; empty outside the steps of a release."""
    steps, step = document.get("steps"), number(document.get("step"))
    under_way = document.get("state") in ("running", "paused", "tripped", "probing")
    if under_way and step and isinstance(steps, list) and steps:
        return f"step {step:.0f} of {len(steps)}"
    return ""


def progress(document: Mapping[str, Any]) -> str:
    """``running at 5% (step 2 of 5)``, or ``tripped (step 2 of 5), all users on stable``."""
    state = clean(document.get("state"), 20) or "in an unknown state"
    step = step_of(document)
    brackets = f" ({step})" if step else ""
    left = number(document.get("ramp_down"))
    if state == "aborting" and left is not None:
        return f"aborting, {share(document)}, and none in {duration(left)}"
    if state in ("running", "paused", "probing"):
        at = users_of(document) if document.get("cohorts") else weight(document.get("weight"))
        return f"{state} at {at}{brackets}"
    return f"{state}{brackets}, {share(document)}"


def outcome(document: Mapping[str, Any]) -> str:
    """Return the state of the release as a sentence without its full stop."""
    if document.get("release") is None:
        state = clean(document.get("state"), 20)
        stopped = f"{state}, " if state in ("tripped", "probing") else ""
        return f"{stopped}{share(document, 'go to')} (no release configured)"
    return f"{name(document)} is {progress(document)}"


def since(document: Mapping[str, Any]) -> str:
    """``3 d 2 h ago``, for how long the release has been in its state."""
    began, now = number(document.get("since")), number(document.get("time"))
    return "some time ago" if began is None or now is None else f"{duration(now - began)} ago"


def repeats(entry: Mapping[str, Any]) -> bool:
    """Return whether a record of the history says only what the one before it has said."""
    return entry.get("what") in CONSEQUENCES


def record(entry: Mapping[str, Any], now: float) -> str:
    """Return a record of the history as one line."""
    line = f"{moment(entry.get('time'), now)}  {clean(entry.get('what'), 20):<13} "
    return (line + clean(entry.get("cause"))).rstrip()


def long_lived(value: object) -> str:
    """``1 tunnel or stream`` or ``12 tunnels and streams``."""
    return plural(int(number(value) or 0), *LONG_LIVED)


def drill_result(figures: Mapping[str, Any]) -> str:
    """Return the result of a drill as a sentence without its full stop."""
    seconds = number(figures.get("seconds_to_last_request"))
    if seconds is None:
        return (
            "the canary still received requests at the end of the drill, so the circuit stays open and all"
            " users are on stable; see canaryproxy status, then run canaryproxy reset"
        )
    left = number(figures.get("connections_left")) or 0
    if left:
        of = f"{count(left)} of {long_lived(figures.get('connections'))}"
        return (
            f"{of} had not left the canary at the end of the drill, so the circuit stays open and all users"
            " are on stable; see canaryproxy status, then run canaryproxy reset"
        )
    after = number(figures.get("requests_after")) or 0
    requests = "1 request" if after == 1 else f"{count(after)} requests"
    said = (
        f"the canary received its last request {latency(seconds)} after the trip "
        f"({requests} after the trip)"
        if after
        else "the canary received no request after the trip"
    )
    last = number(figures.get("seconds_to_last_connection"))
    if last is not None:
        said += (
            f"; the last of {long_lived(figures.get('connections'))} left it after {latency(last)}"
        )
    return said
