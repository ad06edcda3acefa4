"""Capacity: the most that each variant has carried, and what a step or a trip would bring it. Pure.

Theory of operation. ``Carried`` keeps the highest load of each variant for a week, by quarters of a day. Load
is measured by endpoint, so that 420/s with 2 endpoints are 210/s each, whatever the number is later; only
requests that did not fail have been carried. ``outlook`` sets against it what is to come:

    a trip          brings all requests to stable: against the most that a stable endpoint has carried
    the next step   brings its weight of all requests to the canary: against the most that an endpoint of
                    either variant has carried, because a canary that begins has carried next to nothing

It is over where it exceeds that by more than a tenth and by more than two standard errors of a count. Nobody
knows what an endpoint could carry beyond what it has carried: nothing here says that it is enough.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import inf, sqrt
from typing import Any, Final

from canaryproxy.config import text
from canaryproxy.measure.routing import CANARY, STABLE, VARIANTS

SPAN: Final = 7 * 86400.0
"""Seconds for which a load is remembered."""
ACCEPTED: Final = "capacity"
"""What an operator accepts, so that it no longer holds."""
_SLOT: Final = 6 * 3600.0
_TOLERANCE: Final = 1.1
_ERRORS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Load:
    """The load of a variant at one moment."""

    time: float
    """Seconds since the epoch."""
    rate: float
    """Requests a second that did not fail."""
    in_flight: int
    endpoints: int
    """Endpoints that were up."""
    p95: float | None
    """95% quantile of the seconds to the first byte; ``None``: no response."""

    @property
    def each(self) -> float:
        """Requests a second of one endpoint."""
        return self.rate / self.endpoints if self.endpoints else 0.0


class Carried:
    """The highest load of each variant."""

    def __init__(self) -> None:
        self._highest: list[dict[int, Load]] = [{} for _ in VARIANTS]

    def take(self, variant: int, load: Load) -> bool:
        """Take a load of now; return whether it is well above those of its quarter of a day."""
        slots = self._highest[variant]
        slot = int(load.time // _SLOT)
        before = slots.get(slot)
        for old in [at for at in slots if (at + 1) * _SLOT < load.time - SPAN]:
            del slots[old]
        if load.each <= (0.0 if before is None else before.each):
            return False
        slots[slot] = load
        return before is None or load.each > before.each * _TOLERANCE

    def most(self, variant: int) -> Load | None:
        """Return the highest load by endpoint; ``None``: none is known."""
        loads = self._highest[variant].values()
        return max(loads, key=lambda load: load.each, default=None)

    def begin(self, *, promoted: bool) -> None:
        """Begin another release: the canary is another version now.

        ``promoted``: the release before was, so stable runs what was the canary then.
        """
        if promoted and self._highest[CANARY]:
            self._highest[STABLE] = self._highest[CANARY]
        self._highest[CANARY] = {}

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            name: [asdict(load) for load in slots.values()]
            for name, slots in zip(VARIANTS, self._highest, strict=True)
        }

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Carried:
        """Return what was saved. Raises ``KeyError``, ``TypeError`` or ``ValueError``."""
        carried = cls()
        for variant, name in enumerate(VARIANTS):
            for one in saved.get(name, ()):
                p95 = None if one["p95"] is None else float(one["p95"])
                counts = int(one["in_flight"]), int(one["endpoints"])
                carried.take(variant, Load(float(one["time"]), float(one["rate"]), *counts, p95))
        return carried


@dataclass(frozen=True, slots=True)
class Demand:
    """The traffic of now, and the weights that it is split by."""

    rate: float
    """Requests a second of both variants together."""
    seconds: float
    """Over how many seconds they were counted."""
    up: Sequence[int]
    """Endpoints that are up, of each variant."""
    weight: float
    """Percent of users on the canary."""
    following: float | None
    """Percent of users at the next step; ``None``: there is none."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """The load to come, against the load that has been carried."""

    trip: float | None
    """Requests a second that stable has after a trip; ``None``: no user is on the canary, now or next."""
    step: float | None
    """Requests a second that the canary has on the next step; ``None``: there is none."""
    said: tuple[str, ...]
    """All of it, in sentences without their full stops."""
    over: tuple[str, ...]
    """The sentences that say that it is more than has been carried."""


def outlook(now: float, carried: Carried, demand: Demand) -> Outlook:
    """Return what a trip and the next step would bring."""
    stable = carried.most(STABLE)
    either = max(
        (stable, carried.most(CANARY)), key=lambda load: 0.0 if load is None else load.each
    )
    trip = step = None
    found: list[tuple[str, bool]] = []
    weight = demand.weight or demand.following
    if weight:
        trip = demand.rate
        when = "now" if demand.weight else "then"
        tail = f"; a trip {when} would bring it {per_second(trip)}{_up(stable, demand.up[STABLE])}"
        over = stable is not None and _exceeds(trip, stable, demand.up[STABLE], demand)
        found.append((said(now, stable) + tail, over))
    if demand.following is not None:
        step = demand.rate * demand.following / 100.0
        up = demand.up[CANARY]
        brings = f"the step to {text.weight(demand.following)} would bring the canary"
        with_ = text.plural(up, "endpoint")
        most = "; nothing is known of what an endpoint carries"
        if either is not None:
            of = "stable" if either is stable else "canary"
            most = f"; a {of} endpoint has carried at most {per_second(either.each)}"
        over = either is not None and _exceeds(step, either, up, demand)
        found.append((f"{brings} {per_second(step)} with {with_}{most}", over))
    every = tuple(words for words, _ in found) or (said(now, stable),)
    return Outlook(trip, step, every, tuple(words for words, over in found if over))


def planned(
    carried: Carried, now: float, rate: float, up: Sequence[int], weights: Sequence[float]
) -> Outlook:
    """Return the outlook of the first step that is over, or else of the last.

    ``rate`` are the requests a second of both variants, ``weights`` those of the steps.
    """
    steps = [outlook(now, carried, Demand(rate, inf, up, 0.0, weight)) for weight in weights]
    return next((step for step in steps if step.over), steps[-1])


def said(now: float, load: Load | None, variant: int = STABLE) -> str:
    """Say what a variant has carried: ``stable has carried at most 420/s with 2 endpoints (3 h ago)``."""
    name = VARIANTS[variant]
    if load is None:
        return f"what {name} has carried is not known yet"
    ago = text.duration(max(now - load.time, 0.0) // 1)
    with_ = text.plural(load.endpoints, "endpoint")
    return f"{name} has carried at most {per_second(load.rate)} with {with_} ({ago} ago)"


def per_second(rate: float) -> str:
    """``420/s``, ``3.2/s``."""
    return f"{text.count(rate)}/s" if rate >= 10.0 else f"{rate:.1f}/s"


def _up(load: Load | None, up: int) -> str:
    """Say how many endpoints are up, if they are other than they were."""
    if load is None or load.endpoints == up:
        return ""
    return f", with {text.plural(up, 'endpoint')} up"


def _exceeds(rate: float, load: Load, up: int, demand: Demand) -> bool:
    sure = rate - _ERRORS * sqrt(rate / demand.seconds) if demand.seconds > 0.0 else 0.0
    return sure > load.each * up * _TOLERANCE
