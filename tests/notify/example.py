"""The example of docs/notifications.md: a trip, from the judge's verdict to the message that is sent."""

from __future__ import annotations

from dataclasses import replace
from math import inf, log
from typing import Any

from canaryproxy.control.causes import Causes
from canaryproxy.control.endpoint_figures import EndpointFigures, EndpointReading
from canaryproxy.control.gates import question
from canaryproxy.control.route_figures import RouteFigures
from canaryproxy.judging import words
from canaryproxy.judging.families import Spec
from canaryproxy.judging.settings import JudgeSettings
from canaryproxy.judging.tally import Seen, Side
from canaryproxy.judging.verdict import Assessment, Verdict
from canaryproxy.measure.counters import Reason
from canaryproxy.measure.endpoint_cells import NONE
from canaryproxy.release import circuit, rollout, transitions
from canaryproxy.release.circuit import Circuit, CircuitSettings
from canaryproxy.release.rollout import Plan, Rollout, Step
from tests.control.test_endpoint_figures import counted

NOW = 1790000000.123
EVIDENCE, LIMITS = 9.989665, (log(4000.0), log(200.0))
PLAN = Plan((Step(5.0, 600.0, 0), Step(100.0, 0.0, 0)))
STABLE, CANARY = Side(760, 3, 212, 3), Side(40, 12, 14, 9)


def verdict() -> Verdict:
    """Return a breach of the error rate."""
    spec, place = Spec("errors", part=0.3), words.Place(mostly="mostly 502", watched=74.0)
    reason = words.reason(spec, place, Seen(STABLE, CANARY), "breach", EVIDENCE, LIMITS, None)
    return Verdict(
        metric="errors",
        level="breach",
        log_evidence=EVIDENCE,
        limit=LIMITS[0],
        hold_limit=LIMITS[1],
        log_proof=0.0,
        proven=False,
        stable=(STABLE.trials, STABLE.events),
        canary=(CANARY.trials, CANARY.events),
        difference=None,
        ratio=None,
        interval=(0.0, inf),
        comparable=True,
        reason=reason,
        users=(STABLE.users, CANARY.users),
        hurt=CANARY.hurt,
        watched=place.watched,
    )


def record() -> dict[str, Any]:
    """Return the record of the trip, as JSON values with its number."""
    counts = [counted(*one) for one in _ENDPOINTS]
    urls = [f"http://10.0.0.{number}:8080" for number in range(6, 14)]
    now = [
        EndpointReading(url, 1, 0, 0, 0, Reason.RESET, 0, one)
        for url, one in zip(urls, counts, strict=True)
    ]
    readings = [replace(one, counts=NONE) for one in now]
    figures = EndpointFigures(lambda _: readings)
    figures.take(NOW - 60.0, NOW - 74.0)
    readings[:] = now
    seen = verdict()
    found = Assessment("breach", (seen,), 40, 41, True, False, seen.reason, None, CANARY.users)
    causes = Causes(figures, RouteFigures(()), JudgeSettings)
    trip = circuit.Trip(*causes.of_trip(NOW, found))
    here = Rollout(rollout.State.RUNNING, weight=5.0, since=NOW - 74.0)
    change = transitions.step(Circuit(), here, trip, NOW, PLAN, CircuitSettings())
    return {"id": 17, **change.records[0].to_dict()}


def asked() -> dict[str, Any]:
    """Return the question to the gates of a step that is complete."""
    well = replace(
        verdict(),
        level="ok",
        log_evidence=-0.22,
        stable=(22870, 113),
        canary=(1204, 6),
        users=(6388, 337),
        hurt=6,
    )
    seen = Assessment("ok", (well,), 1204, 1210, True, False, None, None, 337)
    return question("cart-2.4", Rollout(rollout.State.RUNNING, weight=5.0, baked=600.1), PLAN, seen)


_ENDPOINTS = ((4, 0), (14, 12), (4, 0), (3, 0), (4, 0), (4, 0), (3, 0), (4, 0))
"""Requests and failures of each canary endpoint."""
