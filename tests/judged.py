"""What the real code makes of a release document: where each metric stands, and the verdict."""

from __future__ import annotations

from math import inf
from typing import Any

from canaryproxy.judging.verdict import Assessment, Verdict
from canaryproxy.release.circuit import Circuit, State
from canaryproxy.release.summary import standing, summary


def judged(document: dict[str, Any]) -> dict[str, Any]:
    """Set ``standing`` and ``watched`` of the metrics, and ``verdict``; return the document."""
    accepted = document.get("accepted", [])
    found = [_verdict(one) for one in document["metrics"] if "level" in one]
    for one, verdict in zip(document["metrics"], found, strict=False):
        one["standing"] = standing(verdict, accepted)
        one.setdefault("watched", document["baked"])
    circuit = document["circuit"] or {}
    seen = Assessment(
        level=document["level"], verdicts=tuple(found), judged=document["judged"],
        answered=document["answered"], comparable=document["quiet"] is None,
        proven=all(one.proven for one in found if one.trips), cause=circuit.get("cause"),
        quiet=document["quiet"], users=document.get("users", 0), holds=tuple(document.get("holds", ())),
    )  # fmt: skip
    said = summary(seen, Circuit(State(circuit.get("state", "closed"))), accepted)
    document["verdict"] = {"kind": said.kind, "said": said.said}
    return document


def _verdict(metric: dict[str, Any]) -> Verdict:
    return Verdict(
        metric=metric["metric"], level=metric["level"], log_evidence=0.0, limit=inf, hold_limit=1.0,
        log_proof=0.0, proven=metric["proven"], stable=(0, 0), canary=(0, 0), difference=None, ratio=None,
        interval=(0.0, inf), comparable=metric["comparable"], reason=metric["reason"],
        scope=metric.get("route") or "", trips=metric["limit"] is not None,
        worse=metric.get("worse", False),
    )  # fmt: skip
