"""Users' time: what business events of single users are counted against. Pure.

The events are posted by the service, or are responses that an outcome recognises. A user's first request in a
step begins an *interval* of half a minute; when it ends, the next one begins, whatever the user does. An
interval is a trial, and it is an event if there was an event of the user in it. So the rate is orders by user
and time. Events of users who have sent no request in this step are left out:
the user is not randomised, or the key is wrong. The request may come a little later than its event: a
service posts the order while it answers.

**Why not events over requests.** How many requests an order takes is the version's doing: a page that
polls, or one that asks for everything at once, changes that rate although users buy as before. And users
who go away because of the version are missing from it. Here they still have their intervals. One customer
with a third of all orders is one event each half minute, like any other.

**Why the lottery stays fair.** When intervals begin and end, and which are events, depends on what users
did and on the clock. If the version changes nothing that a user meets, that is the same on either side.
What a user did before the step is part of no interval.
"""

from __future__ import annotations

from array import array
from collections import deque
from typing import Final

from canaryproxy.judging.batch import BAD, NO_TRIAL
from canaryproxy.judging.growth import with_bytes
from canaryproxy.measure.flat import i64, sum64, u8, vec

INTERVAL: Final = 30.0
"""Seconds; longer where more than ``_MOST`` would end in a second."""
_MOST: Final = 300.0
_UNDER_WAY: Final = 1
_EVENT: Final = 2
_KNOWN: Final = 4
_SEEN: Final = _UNDER_WAY | _EVENT | _KNOWN
"""After it neither a request nor an event changes anything in the interval."""
_ENOUGH: Final = 50
"""Intervals with events after which their users should be known."""
_REMEMBERED: Final = 500


class UserTime:
    """The intervals of a step's users: ``take`` requests and events, ``close`` ten times a second."""

    __slots__ = (*("_begun", "_heard", "_known", "_open", "_states", "_unknown", "_with_events"),)

    def __init__(self) -> None:
        self._states = vec[u8]()
        """By row: whether an interval is under way, has an event, and whether the user has sent a request."""
        self._begun: array[int] = array("I")
        """Rows whose interval has begun since the last tick."""
        self._open: deque[tuple[float, array[int]]] = deque()
        """Rows by when their intervals end; later ones are never shorter."""
        self._known = 0
        self._with_events = 0
        self._unknown = 0
        """Of these, those without a request; both fade."""
        self._heard = False

    def take(self, trial: int) -> None:
        """Take a request or an event of a unit: ``row << 1``, or ``row << 1 | 1``."""
        row = trial >> 1
        states = self._states
        if row >= len(states):
            states = with_bytes(states, row + 1 + row // 8 + 64 - len(states))
            self._states = states
        state: int = states[row]
        if not state:
            self._begun.append(row)
        if trial & 1:
            states[row] = state | _UNDER_WAY | _EVENT
            self._heard = self._heard or bool(state & _KNOWN)
        elif not state & _KNOWN:
            self._known += 1
            states[row] = state | _UNDER_WAY | _KNOWN
            self._heard = self._heard or bool(state & _EVENT)

    def respond(self, rows: vec[sum64], codes: vec[sum64], events: vec[sum64]) -> None:
        """Take requests whose responses may be events.

        ``events``: by code, what a request is to the business metric (``batch``).
        """
        states = self._states
        heard = self._heard
        for row, code in zip(rows, codes):  # noqa: B905 (quick where compiled)
            event: i64 = events[code]
            if event == NO_TRIAL:
                continue
            if row < len(states) and states[row] == _SEEN:
                heard = heard or event == BAD
                continue
            self.take(row << 1)
            if event == BAD:
                self.take(row << 1 | 1)
            states = self._states
        self._heard = self._heard or heard

    def heard(self) -> bool:
        """Return whether there was an event of a user who sent a request, since this was asked last."""
        heard, self._heard = self._heard, False
        return heard

    def close(self, now: float) -> list[int]:
        """End the intervals whose time is over, and return them as trials, ``row << 1 | event``."""
        trials: list[int] = []
        while self._open and now >= self._open[0][0]:
            for row in self._open.popleft()[1]:
                self._end(row, trials)
        if self._begun:
            length = max(INTERVAL, self._known / _MOST)
            self._open.append((now + length, self._begun))
            self._begun = array("I")
        if self._with_events > _REMEMBERED:
            self._with_events //= 2
            self._unknown //= 2
        return trials

    def _end(self, row: int, trials: list[int]) -> None:
        """End an interval; the next one of a known user begins."""
        state: int = self._states[row]
        has_event = bool(state & _EVENT)
        self._with_events += has_event
        if state & _KNOWN:
            trials.append(row << 1 | has_event)
            self._begun.append(row)
            self._states[row] = _KNOWN | _UNDER_WAY
        else:
            self._unknown += 1
            self._states[row] = 0

    @property
    def strangers(self) -> tuple[int, int] | None:
        """Of how many intervals with events the user is unknown, and of how many in all, if of most of them.

        Then the keys of the posted events are hardly those by which requests are split.
        """
        if self._with_events < _ENOUGH or self._unknown * 5 <= self._with_events * 4:
            return None
        return self._unknown, self._with_events
