"""Log lines about endpoints: down, up, none left, requests that begin and cease to fail.

Theory of operation. ``UpstreamWatch.observe`` is called twice a second with the state of every endpoint,
summed over all workers, so each event is logged once however many workers saw it:

    an endpoint is ejected or comes back -> a line with the reason and what is left of the variant
    its errors grow                      -> a line when they begin, one a minute while they last, and one when
                                            there were none for half a minute
    requests find no endpoint            -> the same for the variant
    a variant panics                     -> a line when that begins, and one when it is over

An endpoint that flaps gets a line each ten seconds, with the number of changes since the last one; so does a
panic that comes and goes. Pure; time is an argument.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from canaryproxy.config.text import count, duration, plural
from canaryproxy.measure.counters import Reason
from canaryproxy.measure.failures import WORDS, describe, errno_text
from canaryproxy.measure.rate_limit import RateLimit

QUIET: Final = 30.0
"""Seconds without an error after which requests fail no more."""
AGAIN: Final = 60.0
"""Seconds between two lines about requests that go on failing."""
_CHANGES: Final = 6
_CHANGES_PER_SECOND: Final = 0.1

_WITHOUT: Final = {
    "stable": "no stable endpoint left: requests are tried on all of them all the same",
    "canary": "no canary endpoint left: stable answers the canary's requests where they can be sent again",
}


@dataclass(frozen=True, slots=True)
class EndpointState:
    """One endpoint, summed over the workers."""

    url: str
    usable: bool
    """Every worker sends it requests."""
    errors: int
    """Attempts of requests that failed there; falls where a worker is missing."""
    reason: Reason
    """Of the last failure."""
    errno: int
    out: str = ""
    """Why the control plane has taken it out of service."""


@dataclass(frozen=True, slots=True)
class VariantState:
    """The endpoints of a variant, and the requests that found none."""

    endpoints: Sequence[EndpointState]
    unserved: int
    panic: bool = False
    """No endpoint is up, and requests are tried all the same."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the log; ``fields`` are those of its JSON."""

    level: int
    text: str
    fields: Mapping[str, Any]


class Failing:
    """Whether requests fail, told from a count that grows."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._failed = 0
        self._told = 0
        self._began = self._last = self._told_at = 0.0
        self.active = False
        """Whether requests fail now, as it was told last."""

    def observe(self, now: float, total: int) -> tuple[str, int, float] | None:
        """Return ``began``, ``continue`` or ``ended`` with a count of requests and its seconds."""
        new, self._total = max(total - self._total, 0), total
        if new:
            self._last = now
            self._failed += new
        if new and not self.active:
            self.active = True
            self._began = self._told_at = now
            self._told = self._failed
            return "began", self._failed, 0.0
        if self.active and now - self._last >= QUIET:
            found = "ended", self._failed, self._last - self._began
            self.active, self._failed, self._told = False, 0, 0
            return found
        if self.active and now - self._told_at >= AGAIN and self._failed > self._told:
            found = "continue", self._failed - self._told, now - self._told_at
            self._told, self._told_at = self._failed, now
            return found
        return None


@dataclass(slots=True)
class _Known:
    """An endpoint as the log has it."""

    failing: Failing
    usable: bool = True
    """As the log has it."""
    seen: bool = True
    """As it was last."""
    changes: int = 0
    """Changes since the last line."""
    since: float = 0.0
    """When it went down."""
    limit: RateLimit = field(default_factory=lambda: RateLimit(_CHANGES, _CHANGES_PER_SECOND))

    def see(self, now: float, usable: bool) -> None:
        if usable != self.seen:
            self.seen = usable
            self.changes += 1
            if not usable:
                self.since = now


@dataclass(slots=True)
class _Panic:
    """The panic of a variant as the log has it."""

    on: bool = False
    since: float = 0.0
    limit: RateLimit = field(default_factory=lambda: RateLimit(_CHANGES, _CHANGES_PER_SECOND))


class UpstreamWatch:
    """Turns states of endpoints into lines of the log."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], _Known] = {}
        self._unserved: dict[str, Failing] = {}
        self._lost: set[str] = set()
        """Variants with endpoints of which none is up."""
        self._panics: dict[str, _Panic] = {}
        self.is_calm = False
        """All is well: there is nothing to say until something changes."""

    def observe(self, now: float, variants: Mapping[str, VariantState]) -> list[Line]:
        """Return the lines that are due. ``now`` is in seconds and never goes back."""
        lines: list[Line] = []
        before, self._known = self._known, {}
        self._lost = {
            variant
            for variant, state in variants.items()
            if state.endpoints and not any(one.usable for one in state.endpoints)
        }
        for variant, state in variants.items():
            for one in state.endpoints:
                key = (variant, one.url)
                self._known[key] = before.get(key) or _Known(Failing(one.errors))
                self._known[key].see(now, one.usable)
        for variant, state in variants.items():
            for one in state.endpoints:
                lines += self._endpoint(now, variant, one)
            lines += self._none_left(now, variant, state)
            lines += self._panic(now, variant, state)
        known = self._known.values()
        failing = [*self._unserved.values(), *[one.failing for one in known]]
        self.is_calm = (
            all(one.usable and one.seen for one in known)
            and not any(one.active for one in failing)
            and not any(one.on for one in self._panics.values())
        )
        return lines

    def _endpoint(self, now: float, variant: str, one: EndpointState) -> list[Line]:
        known = self._known[variant, one.url]
        lines = []
        found = known.failing.observe(now, one.errors)
        if found is not None:
            cause = describe(one.reason, errno_text(one.errno))
            where = f"{variant} endpoint {one.url}"
            lines.append(_failing_line(found, where, cause, _fields(variant, one)))
        if one.usable != known.usable and known.limit.admit(now) is not None:
            known.usable = one.usable
            lines.append(self._change(now, variant, one, known))
            known.changes = 0
        return lines

    def _change(self, now: float, variant: str, one: EndpointState, known: _Known) -> Line:
        ours = [known.usable for (which, _), known in self._known.items() if which == variant]
        left, total = sum(ours), len(ours)
        fields = {**_fields(variant, one), "left": left, "endpoints": total}
        flaps = f" (changed {known.changes} times since the last line)" if known.changes > 1 else ""
        what = f"{variant} endpoint {one.url} is"
        if one.usable:
            after = duration(now - known.since)
            text = f"{what} up again after {after}{flaps}; {left} of {total} {variant} endpoints up"
            del fields["reason"], fields["errno"]
            return Line(logging.INFO, text, {"event": "endpoint_up", **fields})
        cause = one.out or describe(one.reason, errno_text(one.errno))
        if one.out:
            fields |= {"reason": "out", "cause": one.out, "errno": None}
        if left:
            rest = f"{left} of {plural(total, f'{variant} endpoint')} left"
        elif self._lost < set(_WITHOUT):
            rest = _WITHOUT[variant]
        else:
            rest = (
                "no endpoint of either variant left: requests are tried on all of them all the same"
            )
        level = logging.WARNING if left else logging.ERROR
        return Line(
            level, f"{what} down: {cause}{flaps}; {rest}", {"event": "endpoint_down", **fields}
        )

    def _none_left(self, now: float, variant: str, state: VariantState) -> list[Line]:
        failing = self._unserved.setdefault(variant, Failing(state.unserved))
        found = failing.observe(now, state.unserved)
        if found is None:
            return []
        fields = {"variant": variant, "reason": Reason.NO_ENDPOINT.label}
        return [_failing_line(found, variant, WORDS[Reason.NO_ENDPOINT], fields)]

    def _panic(self, now: float, variant: str, state: VariantState) -> list[Line]:
        known = self._panics.setdefault(variant, _Panic())
        if state.panic == known.on or known.limit.admit(now) is None:
            return []
        known.on = state.panic
        fields = {"variant": variant, "endpoints": len(state.endpoints)}
        if state.panic:
            known.since = now
            text = (
                f"{variant} panics: none of {plural(len(state.endpoints), 'endpoint')} is up,"
                " so requests are tried all the same"
            )
            return [Line(logging.ERROR, text, {"event": "panic_began", **fields})]
        seconds = now - known.since
        text = f"{variant} panics no more after {duration(seconds)}: an endpoint is up"
        event = {"event": "panic_ended", **fields, "seconds": round(seconds, 1)}
        return [Line(logging.INFO, text, event)]


def _fields(variant: str, one: EndpointState) -> dict[str, Any]:
    return {
        "variant": variant,
        "endpoint": one.url,
        "reason": one.reason.label,
        "errno": one.errno or None,
    }


def _failing_line(
    found: tuple[str, int, float], where: str, cause: str, fields: Mapping[str, Any]
) -> Line:
    phase, failed, seconds = found
    event = {"event": f"failures_{phase}", **fields, "requests": failed}
    if phase == "began":
        return Line(logging.WARNING, f"{where}: requests fail: {cause}", event)
    event["seconds"] = round(seconds, 1)
    many = "request" if failed == 1 else "requests"
    if phase == "ended":
        text = f"{where}: no failed request for {QUIET:g} s; {count(failed)} {many} had failed"
        return Line(logging.INFO, f"{text} in {duration(seconds)}" if seconds else text, event)
    text = f"{where}: {count(failed)} {many} failed in the last {duration(seconds)}: {cause}"
    return Line(logging.WARNING, text, event)
