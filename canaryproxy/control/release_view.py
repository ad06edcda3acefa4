"""The release document: where the release is, in one JSON object for people and programs.

Durations are seconds, times seconds since the epoch, weights percent, rates fractions 0..1 or a second's.
What is not known or not finite is ``null``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp, isfinite
from typing import Any

from canaryproxy.control.controller import Status
from canaryproxy.control.timeseries import Window
from canaryproxy.judging.judge import Verdict
from canaryproxy.release import circuit, rollout
from canaryproxy.release.circuit import Record
from canaryproxy.release.rollout import TRANSITIONS, State

_OPERATIONS: tuple[tuple[str, type], ...] = (
    ("start", rollout.Start),
    ("pause", rollout.Pause),
    ("resume", rollout.Resume),
    ("promote", rollout.Promote),
    ("abort", rollout.Abort),
    ("weight", rollout.SetWeight),
)
_LARGEST = 700.0
"""Logarithm above which an e-value is more than a float holds."""


def release(status: Status, now: float) -> dict[str, Any]:
    """Return the part of the document that the controller knows; ``now`` in seconds since the epoch."""
    here, broken = status.rollout, status.circuit
    seen = status.assessment
    steps = status.plan.steps
    at_end = bool(steps) and steps[min(here.step, len(steps) - 1)].weight >= 100.0
    requests = here.answered - here.answered_from if at_end else here.judged - here.judged_from
    gate = here.gate
    return {
        "release": status.release,
        "state": here.state.value,
        "weight": status.weight,
        "step": here.step + 1 if steps else 0,
        "steps": [
            {"weight": step.weight, "bake": step.bake, "min_requests": step.min_requests}
            for step in steps
        ],
        "promote": status.plan.promote,
        "since": here.since,
        "baked": here.baked,
        "requests": max(requests, 0),
        "hold": here.hold,
        "ready": here.ready,
        "gate": None if gate.state == "idle" else {"state": gate.state, "cause": gate.cause},
        "allowed": list(allowed(status)),
        "circuit": {
            "state": broken.state.value,
            "cause": broken.cause,
            "trips": broken.trips,
            "since": broken.since,
            "cooldown_left": status.cooldown_left,
        },
        "level": "ok" if seen is None else seen.level,
        "quiet": None if seen is None else seen.quiet,
        "judged": 0 if seen is None else seen.judged,
        "answered": 0 if seen is None else seen.answered,
        "metrics": [] if seen is None else [metric(verdict) for verdict in seen.verdicts],
        "unsaved": status.unsaved,
        "history_id": status.recorded,
        "time": now,
    }


def allowed(status: Status) -> tuple[str, ...]:
    """Return what an operator may do now."""
    state, broken = status.rollout.state, status.circuit.state
    is_open = broken is circuit.State.OPEN
    table = TRANSITIONS[state]
    found = [name for name, event in _OPERATIONS if event in table]
    if "start" in found and (is_open or not status.plan.steps):
        found.remove("start")
    if state is State.RUNNING and not status.rollout.ready:
        found.remove("resume")
    if broken is not circuit.State.CLOSED:
        found.append("reset")
    if state not in (State.TRIPPED, State.ABORTED) or status.circuit.drill:
        found.append("trip")
    if broken is circuit.State.CLOSED and state is not State.PROMOTED and status.weight > 0:
        found.append("drill")
    return tuple(found)


def metric(verdict: Verdict) -> dict[str, Any]:
    """Return what is known about one metric."""
    return {
        "metric": verdict.metric,
        "level": verdict.level,
        "evidence": exp(verdict.log_evidence) if verdict.log_evidence < _LARGEST else None,
        "log_evidence": finite(verdict.log_evidence),
        "limit": finite(verdict.limit),
        "hold_limit": finite(verdict.hold_limit),
        "log_proof": finite(verdict.log_proof),
        "proven": verdict.proven,
        "comparable": verdict.comparable,
        "stable": {"trials": verdict.stable[0], "events": verdict.stable[1]},
        "canary": {"trials": verdict.canary[0], "events": verdict.canary[1]},
        "difference": finite(verdict.difference),
        "ratio": finite(verdict.ratio),
        "interval": [finite(edge) for edge in verdict.interval],
        "reason": verdict.reason,
    }


def variant(
    window: Window,
    requests: int,
    failed: int,
    in_flight: int,
    endpoints: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return what a variant has done: ever, and within ``window``."""
    return {
        "requests": requests,
        "failed": failed,
        "in_flight": in_flight,
        "rate": window.rate,
        "error_rate": window.error_rate,
        "p50": window.quantile(0.5),
        "p95": window.quantile(0.95),
        "p99": window.quantile(0.99),
        "endpoints": [dict(endpoint) for endpoint in endpoints],
    }


def record(number: int, entry: Record) -> dict[str, Any]:
    """Return an entry of the history with its number."""
    return {"id": number, **entry.to_dict()}


def finite(value: float | None) -> float | None:
    """Return the value, or ``None`` if JSON has no such number."""
    return value if value is not None and isfinite(value) else None
