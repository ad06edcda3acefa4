"""The rollback drill: a rehearsal of the way back with real users.

Opens the circuit of a release in progress, measures when the canary got its last request, closes the circuit,
and records the result. If the process dies in between, or a regression trips meanwhile, the circuit stays
open: users are on stable until an operator resets it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

from canaryproxy.config.text import duration, latency
from canaryproxy.control.authority import Overtaken
from canaryproxy.control.controller import Controller
from canaryproxy.measure import counters
from canaryproxy.release import acts, circuit, rollout

QUIET = 1.0
"""Seconds without a request after which the canary counts as idle."""
LONGEST = 10.0
"""Seconds that the drill waits for it."""
_EVERY = 0.01
_ATTEMPTS = 5
"""Attempts to close the circuit, if acts of other replicas overtake it."""


async def drill(
    controller: Controller,
    cells: Callable[[], Sequence[int]],
    by: str,
    clock: Callable[[], float] = monotonic,
) -> dict[str, Any]:
    """Trip, measure, reset; return the figures.

    ``cells`` gives the canary's counters. ``seconds_to_last_request`` counts the requests that the split sent
    to the canary (those of a match rule go on), to 0.01 s, ``null`` if they did not end; ``requests_after``
    is their number. Raises ``rollout.Refused``, or ``controller.Unsaved``.
    """
    status = controller.status()
    weight = status.weight
    if (why := acts.drill_refusal(status.circuit, status.rollout, weight)) is not None:
        raise rollout.Refused(f"no drill: {why}")
    before = last = counters.routed_by_split(cells())
    began = heard = clock()
    controller.act(circuit.Trip(f"a drill by {by}", {"drill": True}))
    ended = False
    while clock() - began < LONGEST:
        await asyncio.sleep(_EVERY)
        routed = counters.routed_by_split(cells())
        if routed != last:
            last, heard = routed, clock()
        elif clock() - heard >= QUIET:
            ended = True
            break
    figures = {
        "seconds_to_last_request": round(heard - began, 3) if ended else None,
        "requests_after": last - before,
        "weight": weight,
        "in_flight": counters.in_flight(cells()),
    }
    if ended and last == before:
        cause = f"by {by}: no request reached the canary after the trip"
    elif ended:
        cause = f"by {by}: the canary's last request came {latency(heard - began)} after the trip"
    else:
        cause = f"by {by}: the canary still got requests {duration(LONGEST)} after the trip"
    controller.note("drill", cause, figures)
    for _ in range(_ATTEMPTS if ended else 0):
        if not controller.status().circuit.drill:  # closed, or opened in earnest meanwhile
            break
        with contextlib.suppress(Overtaken):
            await controller.act_and_save(circuit.Reset(by=f"{by} (end of the drill)"))
    return figures
