"""Reports of the services behind a front to its fleet: they follow its release (``split.follow.tell``).

A service says it again and again, for as long as it holds. So the front's circuit cannot stay closed while
that of a service behind is open: its users would meet two versions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from canaryproxy.control.ledger import Ledger
from canaryproxy.control.settings import ControlSettings
from canaryproxy.judging.verdict import Assessment
from canaryproxy.release import circuit
from canaryproxy.release.circuit import Circuit
from canaryproxy.release.transitions import Event, on_regression

_LONGEST = 300
"""Characters of a cause or a hold."""


@dataclass(frozen=True, slots=True)
class Behind:
    """The report of one service."""

    release: str
    """The front's release that it follows; empty: one without an id."""
    trip: str = ""
    """Why its circuit is open; empty: it is not."""
    hold: str = ""
    """Why the front's step should not be left."""

    @classmethod
    def of(cls, release: str, broken: Circuit, seen: Assessment | None) -> Behind:
        """Return what a service says that follows ``release``."""
        if broken.state is circuit.State.OPEN:
            return cls(release, (broken.cause or "its circuit is open")[:_LONGEST])
        hold = ""
        if seen is not None and seen.level == "suspect":
            suspects = [one.metric for one in seen.verdicts if one.level == "suspect"]
            hold = "; ".join((*(f"{one} is suspect" for one in suspects), *seen.holds[:1]))
        return cls(release, hold=hold[:_LONGEST])

    def text(self) -> str:
        """Return it as the store keeps it."""
        return json.dumps({"release": self.release, "trip": self.trip, "hold": self.hold})

    @classmethod
    def parse(cls, text: str) -> Behind:
        """Return what a text says. Raises ``ValueError``."""
        try:
            found = json.loads(text)
            release, trip, hold = (found[key] for key in ("release", "trip", "hold"))
        except (KeyError, TypeError, RecursionError) as error:
            raise ValueError(repr(error)) from None
        if not all(isinstance(one, str) for one in (release, trip, hold)):
            raise ValueError("not text")
        return cls(release, trip[:_LONGEST], hold[:_LONGEST])


class ServicesBehind:
    """The services behind, as a replica of the front's fleet hears of them."""

    def __init__(self, ledger: Ledger, take: Callable[[Event], None]) -> None:
        """``take`` takes the event by which the release is taken back."""
        self._ledger = ledger
        self._take = take
        self._said: Mapping[str, Behind] = {}
        self._noted: set[str] = set()
        """Services whose circuits were noted beside our own, which is open."""

    def hear(self, said: Mapping[str, Behind], settings: ControlSettings) -> None:
        """Take what the services say, by name; those that follow another release do not matter.

        A service whose circuit is open trips ours. If ours is open, for what its users meet shows here too,
        the history names the service, once: it is not blamed twice.
        """
        release = settings.release or ""
        self._said = {name: one for name, one in said.items() if one.release == release}
        ledger = self._ledger
        is_open = ledger.circuit.state is circuit.State.OPEN
        if not is_open:
            self._noted.clear()
        for name, one in sorted(self._said.items()):
            if not one.trip:
                continue
            cause = f"service {name}, which follows this release, has tripped: {one.trip}"
            if not is_open and ledger.rollout.weight > 0:
                self._noted.add(name)
                event = on_regression(
                    ledger.circuit, ledger.rollout, settings.plan, cause, {"service": name}
                )
                if event is not None:
                    self._take(event)
                is_open = ledger.circuit.state is circuit.State.OPEN
            elif is_open and name not in self._noted:
                self._noted.add(name)
                ledger.note("release", cause, {"service": name})

    def held(self, seen: Assessment) -> Assessment:
        """Return an assessment that the services behind hold, too."""
        holds = [
            f"service {name}, which follows this release: {one.trip or one.hold}"
            for name, one in sorted(self._said.items())
            if one.trip or one.hold
        ]
        return replace(seen, holds=(*seen.holds, *holds)) if holds else seen
