"""Figures and texts of a release document in words. Pure; nothing of it can steer a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from canaryproxy.config.text import (
    BEYOND,
    NONE,
    count,
    duration,
    latency,
    number,
    odds,
    percent,
    weight,
)

__all__ = [
    "BEYOND",
    "NONE",
    "clean",
    "count",
    "drilled",
    "duration",
    "interval",
    "latency",
    "moment",
    "name",
    "noun",
    "number",
    "odds",
    "percent",
    "rate",
    "record",
    "times",
    "weight",
    "where",
]

_LONGEST = 1000

NOUNS = {
    "errors": "errors",
    "latency": "slow answers",
    "throughput": "stalls",
    "client_errors": "4xx answers",
    "business": "conversions",
}
"""What is counted, by metric."""


def clean(value: object, longest: int = _LONGEST) -> str:
    """Return a text of the server on one line, without anything that a terminal would obey."""
    text = value if isinstance(value, str) else "" if value is None else str(value)
    if len(text) > longest:
        text = text[: longest - 1] + "…"
    return "".join(
        one if one.isprintable() else " " if one in "\n\r\t\u00a0" else "\ufffd" for one in text
    )


def rate(value: object) -> str:
    """``195`` a second."""
    found = number(value)
    if found is None:
        return NONE
    return (
        f"{found:,.0f}"
        if found >= 100
        else f"{found:.3g}"
        if found >= 1 or not found
        else f"{found:.2f}"
    )


def moment(value: object, now: float) -> str:
    """Return the local time of day, with the date if it is not that of ``now``."""
    found = number(value)
    if found is None:
        return NONE
    try:
        at, today = datetime.fromtimestamp(found), datetime.fromtimestamp(now)
    except (ValueError, OverflowError, OSError):  # no such year
        return NONE
    return at.strftime("%H:%M:%S" if at.date() == today.date() else "%Y-%m-%d %H:%M:%S")


def times(value: float) -> str:
    """``1.4×``."""
    return f"{value:,.0f}×" if value >= 100 else f"{value:.2g}×" if value < 10 else f"{value:.3g}×"


def interval(edges: object) -> str:
    """Return what the interval of the ratio says: ``0.6× to 1.4× of stable``."""
    pair = edges if isinstance(edges, Sequence) and len(edges) == 2 else (None, None)
    low, high = number(pair[0]), number(pair[1])
    below = low is not None and low > 0
    if below and high is not None:
        return f"{times(low or 0)} to {times(high)} of stable"
    if below:
        return f"at least {times(low or 0)} of stable"
    if high is not None:
        return f"at most {times(high)} of stable"
    return "not known yet"


def noun(metric: object) -> str:
    """Return what a metric counts."""
    name = clean(metric, 40)
    return NOUNS.get(name, name.replace("_", " "))


def where(document: Mapping[str, Any]) -> str:
    """Return ``running, step 2 of 5 at 5%``."""
    state = clean(document.get("state"), 20) or "in an unknown state"
    steps = document.get("steps")
    step = number(document.get("step"))
    stepped = state in ("running", "paused", "tripped", "probing")
    at = f" at {weight(document.get('weight'))}"
    if stepped and step and isinstance(steps, list) and steps:
        return f"{state}, step {step:.0f} of {len(steps)}{at}"
    return f"{state}{at}"


def name(document: Mapping[str, Any]) -> str:
    """Return the release's id."""
    return clean(document.get("release"), 60) or "no release"


def record(entry: Mapping[str, Any], now: float) -> str:
    """Return a record of the history as one line."""
    line = f"{moment(entry.get('time'), now)}  {clean(entry.get('what'), 20):<13} "
    return (line + clean(entry.get("cause"))).rstrip()


def drilled(figures: Mapping[str, Any]) -> str:
    """Return what a drill has found."""
    seconds = number(figures.get("seconds_to_last_request"))
    if seconds is None:
        return (
            "the canary still got requests when the drill ended: the circuit stays open, users are on stable;"
            " look at canaryproxy status, then canaryproxy reset"
        )
    users, after = number(figures.get("users_seen")), number(figures.get("requests_after")) or 0
    found = (
        f"the last request reached the canary {latency(seconds)} after the trip ({count(after)} in all)"
        if after
        else "no request reached the canary after the trip"
    )
    if users is None:
        return found
    return (
        f"{found}; {count(users)} user bucket{'' if users == 1 else 's'} moved to stable and back"
    )
