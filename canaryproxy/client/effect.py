"""Whether an operation shows in the release document that follows it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from canaryproxy.client.text import number

_STATES: Mapping[str, tuple[str, ...]] = {
    "start": ("running", "promoted"),
    "pause": ("paused",),
    "resume": ("running", "promoted"),
    "promote": ("promoted",),
    "abort": ("aborting", "aborted"),
}
"""The state after each operation that leads to one; a release may end with its last step."""


def shows(operation: str, sent: Mapping[str, Any], document: Mapping[str, Any]) -> bool:
    """Return whether the document is one after the operation with the body ``sent``."""
    circuit = document.get("circuit")
    is_open = isinstance(circuit, Mapping) and circuit.get("state") == "open"
    if operation == "trip":
        return is_open and number(document.get("weight")) == 0
    if operation == "reset":
        return not is_open and document.get("state") not in ("tripped", "probing")
    if operation == "weight":
        return number(document.get("weight")) == sent.get("weight")
    if operation == "abort" and sent.get("now") is True:
        return document.get("state") == "aborted"
    return operation not in _STATES or document.get("state") in _STATES[operation]
