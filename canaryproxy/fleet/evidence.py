"""The evidence of a replica: one judge of the fleet's records, one of the replica's own. Pure.

The judge of the fleet is given the ticks of the log (``record_log``), the same at every replica: replicas
that have read the same log hold the same evidence. After a reset each goes on with what it has read of
stable, which may differ by the requests of an exchange; a replica that has joined since has the leader's
limits, and does not know what users did before. The judge of the fleet has half of α, the judge of the own
records a share of the other half (α/2 divided by the most replicas seen), so that a healthy release is rolled
back with probability α at most, by whichever replica.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from canaryproxy.fleet import counts
from canaryproxy.fleet.record_log import Entry, LogReader, Outbox, StoredEntry
from canaryproxy.judging.judge import Judge
from canaryproxy.judging.settings import JudgeSettings
from canaryproxy.judging.verdict import Assessment, Sample
from canaryproxy.measure.routing import RouteTable


class FleetEvidence:
    """Both judges. ``patience`` is how long a replica lets the leader trip first, in seconds."""

    def __init__(self, settings: JudgeSettings, patience: float) -> None:
        self._settings = _half(settings)
        self._patience = patience
        self._own = Judge(self._settings)
        self._combined = Judge(self._settings)
        self._sums = counts.Sums()
        self.sample = Sample({}, {})
        """The replica's own counters and records as of the last tick."""
        self._outbox = Outbox()
        self._log = LogReader()
        self.seen: Assessment | None = None
        """The latest verdict on the fleet's records; ``None`` before the first tick of the log."""
        self.wants_past = True
        """Whether the leader's evidence is better than this one, which has missed a part of the log."""
        self._most = 1
        """The most replicas seen."""
        self._breach_since: float | None = None

    @property
    def cursor(self) -> str:
        """Id of the last entry of the log that was read."""
        return self._log.cursor

    def configure(self, settings: JudgeSettings, *, renew: bool) -> None:
        """Judge by other settings; ``renew``: the judges are replaced."""
        self._settings = _half(settings)
        if renew:
            self.renew(same_users=False)

    def renew(self, *, same_users: bool) -> None:
        """Replace both judges: another round begins, with a log of its own.

        ``same_users``: positions are those of the round before, and the judges go on with what they know of
        stable.
        """
        own, combined = (self._own, self._combined) if same_users else (None, None)
        self._own, self._combined = Judge(self._settings, own), Judge(self._settings, combined)
        self._log, self.seen, self.wants_past = LogReader(), None, True
        self._breach_since = None

    @property
    def limits(self) -> tuple[float, float]:
        """Seconds to the first and to the last byte after which a request in flight is reported at once.

        Those of the fleet's judge, the same at every replica, as soon as it knows any.
        """
        judge = self._combined if self._combined.limits.known else self._own
        return judge.published

    def seen_replicas(self, count: int) -> None:
        """Note how many replicas share α."""
        self._most = max(self._most, count)

    def observe_own(self, now: float, sample: Sample) -> Generator[None, None, Assessment | None]:
        """Judge the replica's own sample, in parts; ``None`` if the judges are replaced meanwhile."""
        self.sample = sample
        self._outbox.add(sample, self._group_of(sample.cohort))
        own = self._own
        own.share(self._settings.alpha / self._most)
        seen = yield from own.parts(now, sample)
        return seen if own is self._own else None

    def to_write(self, now: float, table: RouteTable, replicas: int) -> Entry | None:
        """Return the replica's own records to be written (``Outbox.take``); ``table`` is in force."""
        return self._outbox.take(now, table.drawn, replicas, self._group_of(table.drawn_cohort))

    @property
    def _cohorts(self) -> list[str]:
        """The cohorts of the plan, in its order; the same at every replica that adds to the log."""
        return list(dict.fromkeys(name for name, _ in self._settings.cohort_steps))

    def _group_of(self, cohort: str | None) -> int:
        """Return the number that stands for a cohort in the log; a cohort of no plan has none's."""
        cohorts = self._cohorts
        return cohorts.index(cohort) + 1 if cohort in cohorts else 0

    def observe_combined(
        self, now: float, key: str, sums: str, entries: Sequence[StoredEntry]
    ) -> None:
        """Judge the entries that the log shows, with the sums that the store shows under ``key``.

        ``now`` is the server's clock. Raises ``ValueError`` or ``OverflowError``.
        """
        here = self.sample
        self._sums.take(key, counts.names(here), counts.numbers(sums))
        total = self._sums.sample
        cohorts = (None, *self._cohorts)
        for tick in self._log.take(now, entries):
            if tick.group >= len(cohorts):
                raise ValueError(f"a cohort with the number {tick.group}, of {len(cohorts) - 1}")
            sample = replace(
                total,
                records=tick.records,
                limit=tick.limit,
                cohort=cohorts[tick.group],
                epoch=tick.epoch,
                names=tick.names,
                lost=tick.lost,
                accepted=here.accepted,
                holds=here.holds,
                shed=here.shed,
            )
            self.seen = self._combined.observe(tick.time, sample)
        if self._log.has_gap:
            self._log.has_gap, self.wants_past = False, True

    def must_trip(self, now: float, *, exposed: bool, leads: bool) -> bool:
        """Whether a breach of the fleet's records is this replica's to act on: the leader acts first.

        ``exposed``: users are on the canary.
        """
        if self.seen is None or self.seen.level != "breach" or not exposed:
            self._breach_since = None
            return False
        if self._breach_since is None:
            self._breach_since = now
        return leads or now - self._breach_since >= self._patience

    def lost(self) -> None:
        """Drop the verdict on the fleet's records: the store is away."""
        self.seen = self._breach_since = None

    def to_dict(self) -> dict[str, Any]:
        """Return the judge of the fleet's records, and up to where it has read them, as JSON values."""
        return {"judge": self._combined.to_dict(), "log": self._log.to_dict()}

    def join(self, key: str, kept: str | None) -> None:
        """Go on from the text that the leader has kept, if it is of the round with this key.

        Raises ``ValueError`` for a text of another kind.
        """
        self.wants_past = False
        try:
            state = json.loads(kept) if kept is not None else {"of": ""}
            if state["of"] == key:
                self.restore(state)
        except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise ValueError(repr(error)) from None

    def keep(self, key: str) -> str:
        """Return the text for ``join``."""
        return json.dumps({"of": key, **self.to_dict()})

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from ``to_dict``. Raises ``KeyError``, ``TypeError`` or ``ValueError``."""
        log = LogReader.from_dict(state["log"])
        self._combined = Judge.from_dict(self._settings, state["judge"], self._combined)
        self._log, self.seen, self.wants_past = log, None, False


def _half(settings: JudgeSettings) -> JudgeSettings:
    return replace(settings, alpha=settings.alpha / 2)
