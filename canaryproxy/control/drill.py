"""The rollback drill: a rehearsal of the way back with real users.

Opens the circuit of a release in progress, measures when the canary got its last request and when the last
tunnel or stream of the users who moved had left it (``proxy.long_lived``), in a fleet at every replica,
closes the circuit, and records the result. If the process dies in between, or a regression trips meanwhile,
the circuit stays open: users are on stable until an operator resets it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

from canaryproxy.config.text import LONG_LIVED, count, duration, latency, plural
from canaryproxy.control.authority import Overtaken
from canaryproxy.control.controller import Controller
from canaryproxy.measure import counters
from canaryproxy.measure.routing import CANARY
from canaryproxy.release import acts, circuit, rollout

QUIET = 1.0
"""Seconds without a request after which the canary counts as idle."""
LONGEST = 10.0
"""Seconds that the drill waits for it."""
_LATE = 2.0
"""Seconds that connections may take longer than the configuration has it."""
_EVERY = 0.01
_ATTEMPTS = 5
"""Attempts to close the circuit, if acts of other replicas overtake it."""


async def drill(
    controller: Controller,
    cells: Callable[[], Sequence[int]],
    by: str,
    moving: float = 0.0,
    clock: Callable[[], float] = monotonic,
) -> dict[str, Any]:
    """Trip, measure, reset; return the figures.

    ``cells`` gives the canary's counters; ``moving`` is how many seconds long-lived connections may take to
    leave. ``seconds_to_last_request`` counts the requests that the split sent to the canary (those of a match
    rule go on), to 0.01 s, ``None`` if they did not end; ``requests_after`` is their number.
    ``seconds_to_last_connection`` is the same for ``connections``, the long-lived ones, of which
    ``connections_left`` are still there; ``None`` if there were none, too. Raises ``rollout.Refused``, or
    ``controller.Unsaved``.
    """
    status = controller.status()
    weight = status.weight
    if (why := acts.drill_refusal(status.circuit, status.rollout, weight)) is not None:
        raise rollout.Refused(f"no drill: {why}")
    watch = _Watch(cells(), clock())
    authority = controller.authority
    controller.act(circuit.Trip(f"a drill by {by}", {"drill": True}))
    while not watch.is_over and not watch.is_too_late(moving):
        await asyncio.sleep(_EVERY)
        watch.look(cells(), clock(), authority.leaving_elsewhere(CANARY))
    figures = {
        "seconds_to_last_request": watch.seconds_to_last_request,
        "requests_after": watch.requests,
        "seconds_to_last_connection": watch.seconds_to_last_connection,
        "connections": watch.connections,
        "connections_left": watch.leaving,
        "weight": weight,
        "in_flight": counters.in_flight(cells()),
    }
    controller.note("drill", f"by {by}: {watch.sentence}", figures)
    for _ in range(_ATTEMPTS if watch.is_over else 0):
        if not controller.status().circuit.drill:  # closed, or opened in earnest meanwhile
            break
        with contextlib.suppress(Overtaken):
            await controller.act_and_save(circuit.Reset(by=f"{by} (end of the drill)"))
    return figures


class _Watch:
    """Measures when the last request and the last long-lived connection left the canary."""

    def __init__(self, cells: Sequence[int], now: float) -> None:
        self._began = self._now = self._heard = self._seen = now
        self._routed = self._routed_before = counters.routed_by_split(cells)
        self._moved_before = cells[counters.LEAVING]
        self._elsewhere = 0
        """The most that other replicas had at once."""
        self.connections = 0
        """Tunnels and streams whose users had to move."""
        self.leaving = 0
        """Of these, those that have not left."""

    def look(self, cells: Sequence[int], now: float, elsewhere: int = 0) -> None:
        """Take the counters as they are now, and what is to leave the canary at other replicas."""
        self._now = now
        routed = counters.routed_by_split(cells)
        if routed != self._routed:
            self._routed, self._heard = routed, now
        self._elsewhere = max(self._elsewhere, elsewhere)
        self.connections = cells[counters.LEAVING] - self._moved_before + self._elsewhere
        if self.leaving:
            self._seen = now
        self.leaving = max(counters.leaving(cells), 0) + elsewhere

    @property
    def requests(self) -> int:
        """Requests that the canary got after the trip."""
        return self._routed - self._routed_before

    @property
    def _is_quiet(self) -> bool:
        return self._now - self._heard >= QUIET

    @property
    def is_over(self) -> bool:
        """Whether the canary gets no requests any more and all connections have left."""
        return self._is_quiet and not self.leaving

    def is_too_late(self, moving: float) -> bool:
        """Whether it should be over by now; connections may take ``moving`` seconds."""
        longest = max(LONGEST, moving + _LATE) if self._is_quiet else LONGEST
        return self._now - self._began >= longest

    @property
    def seconds_to_last_request(self) -> float | None:
        """Seconds from the trip; ``None``: requests still come."""
        return round(self._heard - self._began, 3) if self._is_quiet else None

    @property
    def seconds_to_last_connection(self) -> float | None:
        """Seconds from the trip; ``None``: there was no connection, or not all have left."""
        gone = self.connections and not self.leaving
        return round(self._seen - self._began, 3) if gone else None

    @property
    def sentence(self) -> str:
        """The result, without its full stop."""
        if not self._is_quiet:
            return f"the canary still got requests {duration(LONGEST)} after the trip"
        if self.requests:
            came = latency(self._heard - self._began)
            said = f"the canary's last request came {came} after the trip"
        else:
            said = "no request reached the canary after the trip"
        if self.leaving:
            of = f"{count(self.leaving)} of {plural(self.connections, *LONG_LIVED)}"
            said += f"; {of} not gone after {latency(self._now - self._began)}"
        elif self.connections:
            gone = latency(self._seen - self._began)
            said += f"; the last of {plural(self.connections, *LONG_LIVED)} left after {gone}"
        return said
