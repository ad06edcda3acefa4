"""The next act of an operator, by the state of the release. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from canaryproxy.config.text import WARMING_UP

_NEXT = {
    "paused": "canaryproxy resume to continue, or canaryproxy abort",
    "tripped": "find the cause, then canaryproxy reset or canaryproxy abort",
    "probing": "nothing: it recovers by itself, or trips again",
    "promoted": "deploy this version as stable; before that, trip is the way back",
    "aborting": "nothing: users go back to stable; canaryproxy abort --now for at once",
    "aborted": "a new release.id and canaryproxy reload, or canaryproxy start",
}


def next_action(document: Mapping[str, Any]) -> str:
    """Return the next action, in one line of a narrow terminal; empty where there is none."""
    config, circuit = document.get("config"), document.get("circuit")
    if document.get("unsaved"):
        return "make the state file writable: a restart forgets this state"
    if isinstance(config, Mapping) and config.get("error"):
        return "canaryproxy check -c FILE, then canaryproxy reload"
    state = document.get("state")
    if document.get("breach"):
        return "repair the canary, then canaryproxy resume"
    if state == "tripped" and isinstance(circuit, Mapping) and circuit.get("drill") is True:
        return "nothing: the drill resets the circuit"
    if state == "running":
        if document.get("ready") is True:
            return "canaryproxy resume begins the next step"
        if document.get("level") in ("suspect", "breach"):
            return "watch the canary; canaryproxy trip sends all users to stable"
        if _is_held(document):
            return "look at what holds the step; canaryproxy accept if it is wanted"
        return "nothing: the next step begins by itself" if not document.get("quiet") else ""
    if state == "promoted" and document.get("reversible") is False:
        return "deploy this version as stable; the next release needs a new id"
    if state == "idle" and document.get("release") is None:
        return "canaryproxy weight N, or add a release and canaryproxy reload"
    return _NEXT.get(str(state), "")


def _is_held(document: Mapping[str, Any]) -> bool:
    """Whether something holds the step that does not pass by itself, as a warm-up does."""
    holds = document.get("holds")
    found = holds if isinstance(holds, list) else []
    return any(not str(one).startswith(WARMING_UP) for one in found)
