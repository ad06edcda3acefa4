"""Reads the workers' counters and records for the judge."""

from __future__ import annotations

import logging
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from canaryproxy.control.event_inbox import EventInbox, PostedEvent
from canaryproxy.control.front_watch import Front, FrontWatch
from canaryproxy.control.record_losses import RecordLosses
from canaryproxy.control.record_reader import Drained, RecordCounts, RecordReader
from canaryproxy.control.settings import ControlSettings
from canaryproxy.judging.posted import POSTED
from canaryproxy.judging.verdict import (
    BLIND,
    CLIENT_ERRORS,
    FOUND,
    REQUESTS,
    UNREACHED,
    Counts,
    Sample,
)
from canaryproxy.measure import counters
from canaryproxy.measure.concentration import Concentration, KeyCounter
from canaryproxy.measure.counters import Blind, Reason, Totals
from canaryproxy.measure.outcomes import looks_into_bodies
from canaryproxy.measure.routing import CANARY, STABLE, VARIANTS, RouteTable
from canaryproxy.release.rollout import Refused

_log = logging.getLogger(__name__)

_UNREACHED = (
    Reason.CONNECT_REFUSED,
    Reason.CONNECT_TIMEOUT,
    Reason.CONNECT_FAILED,
    Reason.DNS,
    Reason.TLS,
    Reason.CERTIFICATE,
    Reason.NO_ENDPOINT,
)
"""Why an attempt reached no upstream."""


class Sampler:
    """The counters and records of all workers as the judge compares them, plus the posted business events."""

    def __init__(
        self,
        cells: Totals,
        settings: ControlSettings,
        reader: RecordReader | None = None,
        service: str | None = None,
    ) -> None:
        self._service = service
        self._cells = cells
        self._reader = reader
        self._settings = settings
        self._inbox = EventInbox()
        self._ended: tuple[int, ...] = ()
        """Requests of each variant that had ended at the last sample."""
        self._front = FrontWatch()
        self._keys = KeyCounter()
        self._told = False
        self._losses = RecordLosses()
        self._last: dict[int, tuple[bytes, Counts]] = {}
        """By variant: the cells as they were read last, and the counts that they gave."""

    @property
    def concentration(self) -> Concentration | None:
        """How many keys carry the traffic; ``None``: not known yet."""
        return self._keys.last

    @property
    def record_counts(self) -> RecordCounts:
        """Numbers of records of requests, by what has become of them."""
        return RecordCounts() if self._reader is None else self._reader.counts

    def losses(self, now: float) -> str | None:
        """Say that records were dropped within the last minute before ``now``."""
        return self._losses.notice(now)

    @property
    def front(self) -> Front | None:
        """The front's split, if the proxy follows one and a request has told it."""
        return self._front.front if self._settings.follows else None

    def to_dict(self) -> dict[str, str]:
        """Return the front's release that is compared, if there is one."""
        front = self.front
        return {} if front is None else {"front": front.release}

    def restore(self, document: Mapping[str, Any], now: float) -> None:
        """Continue with the front's release that was compared before a restart."""
        if "front" in document:
            self._front.restore(str(document["front"]), now)

    def _tell(self) -> None:
        """Log once that few keys carry the traffic, and again only after they have been many."""
        found = self._keys.last
        notice = None if found is None else found.notice
        if notice is not None and not self._told:
            _log.warning("%s", notice, extra={"service": self._service})
        self._told = notice is not None

    def configure(self, settings: ControlSettings) -> None:
        """Read by other settings from now on."""
        if settings.follows != self._settings.follows:
            self._front = FrontWatch()
        self._settings = settings
        self._last.clear()

    def post_events(self, events: Sequence[PostedEvent], table: RouteTable) -> int:
        """Take posted business events; ``table`` is in force (``EventInbox.post``)."""
        if self._settings.follows and any(event.key is not None for event in events):
            raise Refused("users are the front's here (split.follow): post events with a key there")
        signed = self._settings.split.sticky.sign is not None
        return self._inbox.post(events, table, signed=signed)

    @property
    def has_news(self) -> bool:
        """Whether requests ended, left records, or events were posted since the last sample."""
        has_unread = self._reader is not None and self._reader.has_unread
        return has_unread or self._inbox.has_words or self._ended != self._finished()

    def _finished(self) -> tuple[int, ...]:
        return tuple([cells[counters.FINISHED] for cells in self._cells.variants])

    def drain(self, now: float, cohort: str | None = None) -> Drained:
        """Take the records since the last sample, for people only; ``cohort``: they are of its users."""
        if self._reader is None:
            return Drained()
        drained = self._reader.drain()
        if cohort is None and self._keys.add(drained.records):
            self._tell()
        if self._losses.take(now, self._reader.counts.dropped):
            _log.warning("%s", self._losses.notice(now), extra={"service": self._service})
        return drained

    def skip(self) -> None:
        """Take no records, as nothing is compared."""
        if self._reader is not None:
            self._reader.skip()

    def counts(self) -> Sample:
        """Read the counters of both variants."""
        return Sample(self._counts(STABLE), self._counts(CANARY))

    def sample(
        self,
        table: RouteTable,
        accepted: frozenset[str],
        now: float,
        holds: tuple[str, ...] = (),
    ) -> Sample:
        """Read the counters of both variants, and take the records since the last sample.

        ``table`` is in force, ``accepted`` is what operators have accepted, ``now`` in seconds, ``holds`` is
        why the step is held. Where the
        proxy follows a front, it is the front's split that was drawn, and it is compared in place of ours.
        """
        cohort = table.drawn_cohort
        self._ended = self._finished()
        drained = self.drain(now, cohort)
        sample = Sample(
            self._counts(STABLE),
            self._counts(CANARY),
            records=drained.records + array("Q", self._inbox.take()),
            limit=table.drawn,
            cohort=cohort,
            epoch=table.epoch,
            names=drained.names,
            lost=drained.lost,
            accepted=accepted,
            holds=holds,
            shed=(counters.shed(self._cells.stable), counters.shed(self._cells.canary)),
        )
        if not self._settings.follows:
            return sample
        records = self._front.take(now, sample.records, drained.names)
        front = self._front.front
        limit = 0 if front is None or table.circuit_open else front.limit
        epoch = -1 if front is None else front.epoch
        return replace(sample, records=records, limit=limit, epoch=epoch, cohort=None)

    def _counts(self, variant: int) -> Counts:
        """Return the counts of a variant: the same object while nothing has been counted."""
        cells = self._cells.untimed(variant)
        last = self._last.get(variant)
        if last is None or last[0] != cells:
            last = self._last[variant] = cells, self._read(self._cells.variants[variant])
        counts = last[1]
        if not self._settings.posts_events:
            return counts
        ended, _ = counts[REQUESTS]
        return {**counts, POSTED: (ended, self._inbox.counts[VARIANTS[variant]])}

    def _read(self, cells: Sequence[int]) -> Counts:
        failed = cells[counters.FAILED]
        refused = sum(cells[counters.CODES + 400 : counters.CODES + 500])
        unreached = sum(cells[counters.ERRORS + reason] for reason in _UNREACHED)
        ended = counters.answered(cells)
        counts = {
            REQUESTS: (ended, failed),
            CLIENT_ERRORS: (ended, refused),
            UNREACHED: (ended, unreached),
        }
        for name, slot in self._settings.slots.items():
            seen = counters.outcome(cells, slot)
            blind = sum(seen.blind)
            counts[name] = seen.trials, seen.events
            counts[name + BLIND] = seen.matched, blind
            if looks_into_bodies(self._settings.evidence_of.outcomes[name]):
                counts[name + FOUND] = seen.followed, seen.found
                for reason, of_it in zip(Blind, seen.blind, strict=True):
                    counts[f"{name}{BLIND}.{reason.label}"] = blind, of_it
        return counts
