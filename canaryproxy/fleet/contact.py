"""A replica's contact with the store: the last reply, the server's clock, the lease. Pure."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

from canaryproxy.fleet.redis_store import ExchangeReply, StoreUnavailable
from canaryproxy.fleet.report import Report, shed
from canaryproxy.measure.routing import VARIANTS

_READERS = 16
"""Replicas that all read the fleet's records; of more, the leader does and about a quarter as many others."""


class Contact:
    """The store as last seen. Times are seconds on the replica's own clock, if nothing else is said."""

    def __init__(self) -> None:
        self.reply: ExchangeReply | None = None
        """The last reply; ``None`` while the store cannot be reached."""
        self.error: str | None = "not connected yet"
        """Why it cannot be reached."""
        self.term = 0
        """The newest term of the lease that was seen."""
        self.token = 0
        """The term by which this replica leads; 0: it does not."""
        self.lag: float | None = None
        """Seconds that the newest document took to get here."""
        self._left = (0, 0)
        """The replica's own part of ``leaving``, as last told."""
        self._reached_at: float | None = None
        self._replied_at: float | None = None
        self._offset = 0.0
        """The server's clock less ours."""

    @property
    def connected(self) -> bool:
        """Whether the store replied last time."""
        return self.reply is not None

    @property
    def replicas(self) -> int:
        """Replicas seen within a lease's time, 0 while the store is away."""
        return 0 if self.reply is None else self.reply.replicas

    def entries(self, me: str) -> int:
        """Return how many entries of the log to take: four times what the fleet writes meanwhile, or none."""
        share = zlib.crc32(me.encode()) / 2**32 * self.replicas
        reads = self.leads or self.replicas <= _READERS or share < _READERS / 4
        return 4 * self.replicas + _READERS if reads and self.connected else 0

    @property
    def leads(self) -> bool:
        """Whether this replica leads, as far as it knows."""
        return self.reply is not None and self.reply.leads

    def replied(self, reply: ExchangeReply, now: float) -> None:
        """Take a reply."""
        self.reply, self.error, self._replied_at = reply, None, now
        self._reached_at = now if self._reached_at is None else self._reached_at
        self._offset = reply.now - now
        self.term = max(self.term, reply.term)
        self.token = reply.term if reply.leads else 0

    @property
    def leaving(self) -> tuple[int, int]:
        """The tunnels and streams of all replicas that are to leave stable and the canary."""
        return (0, 0) if self.reply is None else self.reply.leaving

    @property
    def reports(self) -> Mapping[str, Report]:
        """The reports of the replicas, by name."""
        return {} if self.reply is None else self.reply.reports

    def leaving_elsewhere(self, variant: int) -> int:
        """Return those of the other replicas."""
        return max(self.leaving[variant] - self._left[variant], 0)

    def tells(self, leaving: tuple[int, int]) -> tuple[int, int] | None:
        """Return the replica's own part of ``leaving`` if it is to be told."""
        before, self._left = self._left, leaving
        return leaving if any(leaving) or any(before) else None

    def lost(self, error: StoreUnavailable) -> bool:
        """Note that the store cannot be reached; return whether that is news."""
        is_news = self.reply is not None or self.error != str(error)
        self.reply, self.error, self._reached_at, self.token = None, str(error), None, 0
        return is_news

    def has_document(self, act: str) -> None:
        """Measure how long the document of an act took to get here."""
        if self.reply is not None and self.reply.act == act:
            self.lag = max(self.reply.now - self.reply.acted_at, 0.0)

    def lasts(self, now: float, seconds: float) -> bool:
        """Whether the store has been reachable without a gap for that long."""
        return self._reached_at is not None and now - self._reached_at >= seconds

    def silent(self, now: float) -> float | None:
        """Return the seconds since the last reply."""
        return None if self._replied_at is None else now - self._replied_at

    def view(self, now: float) -> dict[str, Any]:
        """Return its part of the ``fleet`` part of the release document."""
        return {
            "connected": self.connected,
            "error": self.error,
            "leader": None if self.reply is None else self.reply.leader or None,
            "leads": self.leads,
            "replicas": self.replicas,
            "propagation": self.lag,
            "silent": self.silent(now),
            "leaving": dict(zip(VARIANTS, self.leaving, strict=True)),
            "shed": shed(self.reports),
        }

    def server_time(self, now: float) -> float:
        """Return seconds since the epoch by the server's clock, as far as it is known."""
        return now + self._offset
