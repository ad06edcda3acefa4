"""What is said of a record: JSON for programs, one sentence for people in a chat."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from canaryproxy import __version__
from canaryproxy.config import text

NOTABLE = frozenset(
    {
        "started",
        "step",
        "ready",
        "suspect",
        "tripped",
        "recovered",
        "reset",
        "promoted",
        "aborted",
        "paused",
        "resumed",
        "drill",
        "reload_failed",
        "upgrade_failed",
        "merged",
    }
)
"""What is told if a webhook names no events; and of ``gate`` the refusals."""

LONGEST_TEXT = 1900
"""Characters of a chat message: Discord takes 2000, the others more."""

_SENTENCES = {
    "started": "{release} has started{at}: {cause}",
    "step": "{release} goes on{at}: {cause}",
    "ready": "{release} is ready for the next step: {cause}",
    "paused": "{release} is paused{at}: {cause}",
    "resumed": "{release} was resumed{at}: {cause}",
    "weight": "The weight of {release} was changed: {cause}",
    "suspect": "{release} is suspect: {cause}",
    "cleared": "{release} is no longer suspect: {cause}",
    "tripped": "{release} was rolled back: {cause}",
    "stopped": "{release} was stopped: {cause}",
    "probing": "{release} is tried again with a few users: {cause}",
    "recovered": "{release} has recovered, the circuit is closed: {cause}",
    "reset": "The circuit of {release} was closed: {cause}",
    "restored": "{release} goes on after the circuit was closed{at}: {cause}",
    "promoted": "{release} was promoted, every user is on it: {cause}",
    "aborted": "{release} was aborted, every user is on stable: {cause}",
    "drill": "A rollback of {release} was drilled: {cause}",
    "release": "Another release follows: {cause}",
    "reload": "The configuration was loaded again: {cause}",
    "reload_failed": "The configuration could not be loaded, the old one holds: {cause}",
    "upgrade": "Another process of the proxy goes on: {cause}",
    "upgrade_failed": "No other process goes on, the old one does: {cause}",
    "merged": "Replicas of {release} had gone different ways{at}: {cause}",
}


def is_notable(record: Mapping[str, Any]) -> bool:
    """Tell whether a record is told to webhooks that name no events."""
    return record.get("what") in NOTABLE or _refused(record)


def _refused(record: Mapping[str, Any]) -> bool:
    return record.get("what") == "gate" and _figures(record).get("passed") is not True


def _figures(record: Mapping[str, Any]) -> Mapping[str, Any]:
    figures = record.get("figures")
    return figures if isinstance(figures, Mapping) else {}


def encode(value: Any) -> bytes:
    """Return ``value`` as JSON. Nothing is refused: NaN and infinity become null, other values text."""
    return json.dumps(_plain(value), allow_nan=False, separators=(",", ":")).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value)


def document(record: Mapping[str, Any], release: str | None, host: str) -> bytes:
    """Return the body for ``format: json``."""
    return encode(
        {
            "id": record.get("id"),
            "time": record.get("time"),
            "what": record.get("what"),
            "cause": record.get("cause"),
            "figures": _figures(record),
            "release": release,
            "host": host,
            "version": __version__,
        }
    )


def chat(record: Mapping[str, Any], release: str | None, host: str) -> bytes:
    """Return the body for ``format: slack``."""
    text = f"{sentence(record, release)} ({host})"
    return encode({"text": escaped(text, LONGEST_TEXT)})


def sentence(record: Mapping[str, Any], release: str | None) -> str:
    """Return the record in plain words, not escaped."""
    what = str(record.get("what"))
    form = _SENTENCES.get(what, "{release}, {what}: {cause}")
    if what == "gate":
        form = (
            "A gate does not let {release} go on: {cause}"
            if _refused(record)
            else "The gates let {release} go on: {cause}"
        )
    text = form.format(
        release=release or "the canary",
        what=what,
        at=_where(_figures(record)),
        cause=one_line(str(record.get("cause") or "no cause given")),
    )
    return text[0].upper() + text[1:] if release is None else text


def _where(figures: Mapping[str, Any]) -> str:
    weight, step, steps = (figures.get(name) for name in ("weight", "step", "steps"))
    if not isinstance(weight, (int, float)):
        return ""
    of = f", step {step} of {steps}" if step and steps else ""
    return f" at {text.weight(weight)} of users{of}"


def one_line(text: str) -> str:
    """Return text without control characters, invisible ones and line ends: a space stands for them."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


_ZERO_WIDTH = "\u200b"
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
# What starts a mention (@all, <!here>) or makes text and target of a link differ ([text](url)).
_ACTIVE = re.compile(r"([@<])(?=\S)|(\])(?=\()")


def escaped(text: str, limit: int) -> str:
    """Return text that a chat shows as it is: no markup of Slack, no mention of anybody, no hidden link.

    Mattermost and Discord find ``@all`` and ``@everyone`` in any text, and no flag forbids it there: a space
    of no width parts the sign from the name. The result has at most ``limit`` characters.
    """
    parts = []
    left = limit - 1
    for character in _ACTIVE.sub(rf"\g<0>{_ZERO_WIDTH}", text):
        part = _ENTITIES.get(character, character)
        left -= len(part)
        if left < 0:
            parts.append("…")
            break
        parts.append(part)
    return "".join(parts)
