"""Visits: the trials of business events that a service posts for single users. Pure.

A user's request begins a *visit*, unless one is under way. It ends half a minute later and is then a trial;
it is an event if an event of the user was posted meanwhile. An event without a visit under way begins one,
so that a payment that is confirmed an hour later counts. Events of users who sent no request in this step
are left out: the user is not randomised, or the key is wrong.

**Why not events over requests.** How many requests an order takes is the version's doing: a page that
polls, or one that asks for everything at once, changes that rate although users buy as before. Visits are
counted by the clock. And one customer with a third of all orders is one visit each half minute, like any
other.

**Why the lottery stays fair.** When a visit begins and ends, and whether it is an event, depends on what
its user did and on the clock. If the version changes nothing that a user meets, that is the same on either
side. What a user did before the step is part of no visit.
"""

from __future__ import annotations

from collections import deque
from typing import Final

LENGTH: Final = 30.0
"""Seconds of a visit."""
_UNDER_WAY: Final = 1
_EVENT: Final = 2
_KNOWN: Final = 4
_OF_REQUEST: Final = _UNDER_WAY | _KNOWN
_OF_EVENT: Final = _UNDER_WAY | _EVENT
_ENOUGH: Final = 50
"""Visits with events after which their users should be known."""
_REMEMBERED: Final = 500


class Visits:
    """The visits of a step: ``take`` requests and events, ``close`` ten times a second."""

    __slots__ = ("_begun", "_open", "_states", "_unknown", "_with_events")

    def __init__(self) -> None:
        self._states = bytearray()
        """By row: whether a visit is under way, has an event, and whether the user has sent a request."""
        self._begun: list[int] = []
        """Rows whose visit has begun since the last tick."""
        self._open: deque[tuple[float, list[int]]] = deque()
        self._with_events = 0
        self._unknown = 0
        """Of these, those without a request; both fade."""

    def take(self, trial: int) -> None:
        """Take a request or an event of a unit: ``row << 1``, or ``row << 1 | 1``."""
        row = trial >> 1
        states = self._states
        if row >= len(states):
            states.extend(bytes(row + 1 + row // 8 + 64 - len(states)))
        state = states[row]
        if not state & _UNDER_WAY:
            self._begun.append(row)
        states[row] = state | (_OF_EVENT if trial & 1 else _OF_REQUEST)

    def close(self, now: float) -> list[int]:
        """End the visits whose time is over, and return them as trials, ``row << 1 | event``."""
        if self._begun:
            self._open.append((now, self._begun))
            self._begun = []
        trials: list[int] = []
        while self._open and now - self._open[0][0] >= LENGTH:
            for row in self._open.popleft()[1]:
                state = self._states[row]
                self._states[row] = state & _KNOWN
                has_event = state & _EVENT
                if has_event:
                    self._with_events += 1
                if state & _KNOWN:
                    trials.append(row << 1 | bool(has_event))
                else:
                    self._unknown += 1
        if self._with_events > _REMEMBERED:
            self._with_events //= 2
            self._unknown //= 2
        return trials

    @property
    def strangers(self) -> tuple[int, int] | None:
        """Of how many visits with events the user is unknown, and of how many in all, if it is most of them.

        Then the keys of the posted events are hardly those by which requests are split.
        """
        if self._with_events < _ENOUGH or self._unknown * 5 <= self._with_events * 4:
            return None
        return self._unknown, self._with_events
