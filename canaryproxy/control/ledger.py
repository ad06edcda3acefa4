"""The ledger: the state of the release, its history, and the listeners to it. No I/O."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any

from canaryproxy.config import text
from canaryproxy.config.text import at_route, count, plural
from canaryproxy.judging.verdict import Assessment, Verdict
from canaryproxy.measure.exposure import Exposure
from canaryproxy.release.circuit import Circuit, Record, State
from canaryproxy.release.rollout import UNDER_WAY, Rollout

_log = logging.getLogger(__name__)

HISTORY = 1000
"""Records that are kept."""

Listener = Callable[[int, Record], None]


class Ledger:
    """Circuit and rollout of the release, and a record of each change.

    ``clock`` gives seconds since the epoch, ``service`` is the release's one of several.
    """

    def __init__(
        self, rollout: Rollout, clock: Callable[[], float], service: str | None = None
    ) -> None:
        self.service = service
        self.circuit = Circuit()
        self.rollout = rollout
        self.history: list[Record] = []
        self.recorded = 0
        """Number of the newest record; records are numbered from 1 without gaps."""
        self.version = 0
        """Grows with every change that must be saved."""
        self.revision = 0
        """Grows with every change that matters to an operator's decision (ETag)."""
        self._clock = clock
        self._listeners: list[Listener] = []

    @property
    def is_active(self) -> bool:
        """Whether a release is under way or the circuit is not closed."""
        return self.circuit.state is not State.CLOSED or self.rollout.state in UNDER_WAY

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener`` with the number and each new record; return a function that ends it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def move(self, circuit: Circuit, rollout: Rollout, records: tuple[Record, ...] = ()) -> None:
        """Take a new state, and write down its records."""
        self.circuit, self.rollout = circuit, rollout
        self.write(records)

    def note(self, what: str, cause: str, figures: Mapping[str, Any]) -> None:
        """Write a record of now."""
        self.write((Record(self._clock(), what, cause, figures),))

    def write(self, records: tuple[Record, ...]) -> None:
        """Append records: to the history, the log and the listeners."""
        for record in records:
            self.recorded += 1
            self.history.append(record)
            if record.what not in text.CONSEQUENCES:
                told = {"id": self.recorded, **record.to_dict()}
                extra = {"record": told, "service": self.service}
                line = sentence(record, self.rollout.exposure)
                _log.log(_level(record), "%s", line, extra=extra)
            for listener in tuple(self._listeners):
                listener(self.recorded, record)
        if records:
            del self.history[:-HISTORY]
            self.version += 1
            self.revision += 1

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "version": self.version,
            "circuit": self.circuit.to_dict(),
            "rollout": self.rollout.to_dict(),
            "history": [record.to_dict() for record in self.history],
            "recorded": self.recorded,
        }

    def restore_history(self, document: Mapping[str, Any]) -> None:
        """Take version and history from ``to_dict``. Raises ``KeyError``, ``TypeError`` or ``ValueError``."""
        self.version = int(document.get("version", 0))
        self.history = [Record.from_dict(entry) for entry in document["history"]]
        self.recorded = int(document.get("recorded", len(self.history)))


_LEVELS = {
    "tripped": logging.ERROR,
    "breached": logging.CRITICAL,
    "reload_failed": logging.ERROR,
    "upgrade_failed": logging.ERROR,
    "suspect": logging.WARNING,
    "capacity": logging.WARNING,
    "shedding": logging.WARNING,
    "aborting": logging.WARNING,
    "aborted": logging.WARNING,
}
_TITLES = {
    "step": "next step",
    "breached": "regression, and no user is sent to stable",
    "cleared": "back to normal",
    "capacity": "held for capacity",
    "moved": "connections moved",
    "ejected": "endpoint ejected",
    "readmitted": "endpoint back",
    "shedding": "load shedding begins",
    "shed": "load shedding is over",
    "reload_failed": "reload failed, the running configuration stays",
}


def sentence(record: Record, exposure: Exposure) -> str:
    """Return a record in a line: ``paused by ann; step 2 of 3, 5% of users on the canary``.

    ``exposure`` are the users on the canary now.
    """
    title = _TITLES.get(record.what, record.what.replace("_", " "))
    if record.what == "tripped" and (before := _before(record)):
        title += f" at {before}"
    parted = "" if record.cause.startswith(("by ", "manually ")) else ":"
    return f"{title}{parted} {record.cause}{_place(record, exposure)}"


def _before(record: Record) -> str:
    """Return the users on the canary before a trip: ``5%``, ``50% of staff``; empty: none."""
    weight, share = record.figures.get("weight"), record.figures.get("share")
    return str(share) if share else text.weight(weight) if weight else ""


def _place(record: Record, exposure: Exposure) -> str:
    """Return where the release is after a record that moves it."""
    if record.what == "tripped":
        return "; all users go to stable" if _before(record) else ""
    users = f"{exposure.said()} on the canary"
    if record.what in ("reset", "recovered"):
        return f"; {users} again"
    if record.what in ("promoted", "aborting", "aborted"):
        return f"; {users}"
    step, steps = record.figures.get("step"), record.figures.get("steps")
    if record.what not in _MOVES or not steps:
        return ""
    return f"; step {step} of {steps}, {users}" if step else f"; before step 1 of {steps}, {users}"


_MOVES = ("started", "step", "paused", "resumed", "weight", "breached")


def _level(record: Record) -> int:
    """Return how loud the log is about a record."""
    if record.what == "gate" and record.figures.get("passed") is not True:
        return logging.WARNING
    if record.what == "tripped" and record.figures.get("drill") is True:
        return logging.WARNING
    return _LEVELS.get(record.what, logging.INFO)


def figures(seen: Assessment) -> dict[str, Any]:
    """Return the part of an assessment that a trip's record keeps; of routes only those that are not well."""
    return {
        "judged": seen.judged,
        "answered": seen.answered,
        "users": seen.users,
        "metrics": {
            at_route(verdict.metric, verdict.scope): {
                "level": verdict.level,
                "log_evidence": _finite(verdict.log_evidence),
                "stable": list(verdict.stable),
                "canary": list(verdict.canary),
                "users": list(verdict.users),
                "hurt": verdict.hurt,
                "known": known(verdict),
            }
            for verdict in seen.verdicts
            if not verdict.scope or verdict.level != "ok"
        },
    }


def _finite(evidence: float) -> float | None:
    return round(evidence, 6) if isfinite(evidence) else None


def known(verdict: Verdict) -> str:
    """Return what is known of the canary in words: ``3 of 40 users, 12 of 410 requests``."""
    trials, events = verdict.canary
    requests = f"{count(events)} of {plural(trials, verdict.trial)}"
    if verdict.users == (0, 0):
        return requests
    return f"{count(verdict.hurt)} of {plural(verdict.users[1], 'user')}, {requests}"
