"""Records for a judge that is measured alone: what workers would leave for it of requests, tick by tick."""

from __future__ import annotations

import socket
from array import array
from collections.abc import Iterator
from random import Random
from typing import Final

from bench.harness.ports import HOST
from canaryproxy.measure import records
from canaryproxy.measure.records import pack_first, pack_second, pack_third, template_of
from canaryproxy.measure.routing import FINE, POSITIONS

WEIGHT: Final = 10
"""Percent of the users that are on the canary."""
EPOCH: Final = 7
NAMES: Final = {template_of(name.encode()): name for name in (f"GET /r{at}" for at in range(8))}
A_TICK: Final = 300
"""Records of a tick at most."""
LENGTH_BYTES: Final = 4
DONE: Final = b"."

SERVED: Final = 1
"""The bit of the outcome of the business metric, which every response has that has not failed."""
TINY: Final = 2
"""The bit of a bad outcome, which none has."""
_OUTCOMES: Final = SERVED | TINY
_USERS = 200
_FAILED = 0.01
_SECONDS = 20.0


class Traffic:
    """Requests of some users on some routes; one in a hundred fails. The same ones each time."""

    def __init__(self) -> None:
        self._luck = Random(1)
        self._positions = [self._luck.randrange(POSITIONS) for _ in range(_USERS)]
        self._routes = list(NAMES)
        self._type = records.type_code(b"text/html")

    def words(self, count: int, weight: int) -> array[int]:
        """Return the words of so many records, with this percentage of the users on the canary."""
        luck, found = self._luck, array("Q")
        for _ in range(count):
            position = luck.choice(self._positions)
            failed = luck.random() < _FAILED
            flags = records.ENDED | (records.FAILED if failed else 0)
            is_canary = position < weight * 100 * FINE
            status = 500 if failed else 200
            found.append(pack_first(position, is_canary, EPOCH, status, self._type, flags))
            found.append(pack_second(luck.choice(self._routes), _OUTCOMES, 0 if failed else SERVED))
            found.append(pack_third(luck.uniform(0.01, 0.03), 20 if failed else 1000))
        return found


class Recorder:
    """Sends records to ``judge_alone`` on a port, as a client sends requests to a proxy."""

    def __init__(self, port: int) -> None:
        self._traffic = Traffic()
        self._socket = socket.create_connection((HOST, port), timeout=_SECONDS)

    def close(self) -> None:
        """Close what it has opened."""
        self._socket.close()

    def send(self, count: int) -> int:
        """Have so many records judged; return how many."""
        for number in _ticks(count):
            words = self._traffic.words(number, WEIGHT).tobytes()
            self._socket.sendall(len(words).to_bytes(LENGTH_BYTES, "little") + words)
            if self._socket.recv(len(DONE)) != DONE:
                raise ConnectionError("the judge has closed the connection")
        return count


def _ticks(count: int) -> Iterator[int]:
    while count > 0:
        yield min(count, A_TICK)
        count -= A_TICK
