"""The release document that a fleet agrees on. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any

from canaryproxy.measure.exposure import Exposure
from canaryproxy.measure.shared_memory import LONGEST_SALT
from canaryproxy.release.circuit import Circuit, Record
from canaryproxy.release.circuit import State as CircuitState
from canaryproxy.release.rollout import Rollout

TRAIL = 256
"""Acts that a document lists: a replica that saw none of them has diverged."""
RECORDS = 20
"""Records that travel with a document."""
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Document:
    """The state of a release; replaced, never changed.

    ``judged_from`` and ``answered_from`` of the rollout are zero: its ``judged`` and ``answered`` count
    the requests of the step, independent of any replica's judge.
    """

    release: str | None = None
    settings: str = ""
    """Mark of its configuration: plan, split and judge (``settings.settings``)."""
    judge: str = ""
    """Mark of the ``judge`` section: evidence starts afresh when it changes."""
    salt: str = ""
    version: int = 0
    """Grows by one with each act; 0: no act yet."""
    act: str = ""
    """Identifies the act that made it; no two acts have the same."""
    trail: tuple[str, ...] = ()
    """The acts before it, oldest first."""
    round: int = 0
    """Grows when evidence starts afresh."""
    circuit: Circuit = field(default_factory=Circuit)
    rollout: Rollout = field(default_factory=Rollout)
    records: tuple[Record, ...] = ()
    """The newest records, for the replicas' histories."""

    @property
    def is_open(self) -> bool:
        """Whether every user is on stable."""
        return self.circuit.state is CircuitState.OPEN

    @property
    def users(self) -> Exposure:
        """The users on the canary."""
        return Exposure() if self.is_open else self.rollout.exposure

    @property
    def marker(self) -> str:
        """The key of counts: requests counted under another marker are not added."""
        return f"{self.settings}:{self.round}:{self.users.mark}"

    def follows(self, other: Document) -> bool:
        """Whether it is ``other``, or was made from it."""
        return not other.act or other.act == self.act or other.act in self.trail

    def acted(
        self,
        act: str,
        circuit: Circuit,
        rollout: Rollout,
        records: tuple[Record, ...],
        **changes: Any,
    ) -> Document:
        """Return the document after an act."""
        trail = (*self.trail, self.act)[-TRAIL:] if self.act else ()
        return replace(
            self,
            version=self.version + 1,
            act=act,
            trail=trail,
            circuit=circuit,
            rollout=rollout,
            records=(*self.records, *records)[-RECORDS:],
            **changes,
        )

    def to_json(self) -> str:
        """Return it as text."""
        return json.dumps(self.to_dict(), separators=(",", ":"), allow_nan=False)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "format": FORMAT,
            "release": self.release,
            "settings": self.settings,
            "judge": self.judge,
            "salt": self.salt,
            "version": self.version,
            "act": self.act,
            "trail": list(self.trail),
            "round": self.round,
            "weight": self.rollout.weight,
            "circuit": self.circuit.to_dict(),
            "rollout": self.rollout.to_dict(),
            "records": [record.to_dict() for record in self.records],
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Document:
        """Return the document whose ``to_dict`` this was.

        Raises ``ValueError``, ``KeyError`` or ``TypeError`` for anything else.
        """
        if state["format"] != FORMAT:
            raise ValueError(f"format {state['format']!r}")
        return cls(
            release=state["release"],
            settings=str(state["settings"]),
            judge=str(state["judge"]),
            salt=str(state["salt"]),
            version=int(state["version"]),
            act=str(state["act"]),
            trail=tuple(map(str, state["trail"])),
            round=int(state["round"]),
            circuit=Circuit.from_dict(state["circuit"]),
            rollout=Rollout.from_dict(state["rollout"]),
            records=tuple(Record.from_dict(record) for record in state["records"]),
        )

    @classmethod
    def from_json(cls, text: str) -> Document:
        """Return the document whose ``to_json`` this was. Raises ``Garbled``."""
        try:
            document = cls.from_dict(json.loads(text))
            _check(document)
        except (
            *(ValueError, KeyError, TypeError, AttributeError),
            *(OverflowError, RecursionError),
        ) as error:
            raise Garbled(f"the release document cannot be parsed ({error!r})") from None
        return document


def _check(document: Document) -> None:
    """Raise ``ValueError`` for values that no replica writes."""
    here, broken = document.rollout, document.circuit
    texts = [document.release, here.hold, broken.cause, document.salt]
    texts += [word for record in document.records for word in (record.what, record.cause)]
    if not all(text is None or isinstance(text, str) for text in texts):
        raise ValueError("a number in the place of a text")
    if len(document.salt.encode()) > LONGEST_SALT:
        raise ValueError("the salt is too long")
    if not (0 <= here.weight <= 100 and 0 <= here.weight_before <= 100 and here.step >= 0):
        raise ValueError("a weight is 0 to 100, a step not negative")
    times = [here.since, here.baked, broken.since, broken.left or 0.0, broken.probed]
    times += [record.time for record in document.records]
    if not all(map(isfinite, times)):
        raise ValueError("a time without end")


class Garbled(Exception):
    """A text that is not a release document of this format."""
