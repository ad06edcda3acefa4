"""Numbers as people read them: one form each for the history, logs, webhooks, commands and screens. Pure.

``units`` writes settings as the configuration file does (``5m``, ``1%``, exact); this rounds for reading.
Each function takes any value, because figures come out of JSON too, and returns ``NONE`` for anything but a
finite number.
"""

from __future__ import annotations

from math import exp, isfinite, log

NONE = "–"
BEYOND = ">1 trillion:1"
"""Odds so long that their digits say nothing more."""

_LARGE = (("trillion", 1e12), ("billion", 1e9), ("million", 1e6))
_UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def number(value: object) -> float | None:
    """Return a finite number, or ``None``."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value):
        return float(value)
    return None


def count(value: object) -> str:
    """``12,345``."""
    found = number(value)
    return NONE if found is None else f"{found:,.0f}"


def weight(value: object) -> str:
    """``5%`` for a weight in percent, at its resolution of 0.01."""
    found = number(value)
    return NONE if found is None else f"{round(found, 2):g}%"


def percent(value: object) -> str:
    """``0.59%`` or ``38.9%`` for a fraction."""
    found = number(value)
    if found is None:
        return NONE
    found *= 100
    if found == 0:
        return "0%"
    if abs(found) < 0.01:
        return "<0.01%"
    if abs(found) == 100:
        return f"{found:.0f}%"
    return f"{found:.2f}%" if abs(found) < 10 else f"{found:.1f}%"


def plural(value: int, word: str, many: str = "") -> str:
    """``1 user``, ``12 users``; ``many`` is an irregular plural."""
    return f"{count(value)} {word if value == 1 else many or word + 's'}"


WARMING_UP = "warming up"
"""With it begins what holds a step while the canary warms up: it passes by itself."""
CONSEQUENCES = ("stopped", "restored")
"""Records of what a trip and a reset do to the release: to people, the record before has said it."""
LONG_LIVED = ("tunnel or stream", "tunnels and streams")
"""A long-lived connection, and several, for ``plural``."""


def at_route(metric: str, route: str) -> str:
    """Name a metric of one route: ``errors GET /checkout``; without a route, the metric."""
    return f"{metric} {route}" if route else metric


def odds(value: object) -> str:
    """``7,740:1`` or ``2.4 million:1`` for a natural logarithm of evidence: three digits, or two below 10."""
    found = number(value)
    if found is None:
        return NONE
    if found >= log(_LARGE[0][1]):
        return BEYOND
    value = exp(found)
    for word, unit in _LARGE:
        if value >= unit:
            return f"{_three(value / unit)} {word}:1"
    if value < 0.01:
        return "<0.01:1"
    return f"{_three(value)}:1"


def _three(value: float) -> str:
    if value < 10:
        return f"{value:.2g}"
    unit = 10 ** max(len(f"{value:.0f}") - 3, 0)
    return f"{round(value / unit) * unit:,}"


def latency(value: object) -> str:
    """``1.2 ms``, ``48 ms`` or ``1.25 s`` for seconds."""
    found = number(value)
    if found is None:
        return NONE
    if found == 0:
        return "0 ms"
    if found >= 0.9995:
        return f"{found:.3g} s"
    return f"{found * 1000:.0f} ms" if found >= 0.01 else f"{found * 1000:.1f} ms"


def spread(value: object, low: object, high: object) -> str:
    """``48 ms (44 to 53)`` for seconds and their interval: the unit stands once where all have the same."""
    shown, least, most = map(latency, (value, low, high))
    unit = most.rpartition(" ")[2]
    bare = least.removesuffix(f" {unit}")
    if shown.endswith(f" {unit}") and bare != least:
        return f"{shown} ({bare} to {most.removesuffix(f' {unit}')})"
    return f"{shown} ({least} to {most})"


def duration(value: object) -> str:
    """``48 s``, ``4 min 48 s`` or ``1 d 2 h`` for seconds: whole ones above 10, in two units at most."""
    found = number(value)
    if found is None:
        return NONE
    if 0 < found < 10:
        return f"{found:.2g} s"
    left = max(int(found), 0)
    parts = []
    for unit, length in _UNITS:
        parts.append((left // length, unit))
        left %= length
    first = next((at for at, (amount, _) in enumerate(parts) if amount), len(parts) - 1)
    shown = [f"{amount} {unit}" for amount, unit in parts[first : first + 2] if amount]
    return " ".join(shown) or "0 s"
