"""What the data path writes down for the judge, as ``watch`` asks for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from canaryproxy.config import Config
from canaryproxy.http1.response import Response
from canaryproxy.measure import counters
from canaryproxy.measure.counters import Tally
from canaryproxy.measure.outcomes import INSPECTED, OutcomeRules, status_table
from canaryproxy.measure.routing import Headers
from canaryproxy.measure.trials import TICKS_PER_SECOND, UserReducer
from canaryproxy.proxy.body_sampler import BodySampler


class Witness:
    """Decides which requests are trials, before their outcome is known.

    One for all connections of a worker; the exchanges count.
    """

    __slots__ = (
        "_business",
        "_by_user",
        "_cells",
        "_conversions",
        "_exposures",
        "_inspector",
        "_reducer",
        "error_statuses",
        "exposes",
        "outcomes",
    )

    def __init__(
        self,
        config: Config,
        slots: Mapping[str, int],
        users: Sequence[UserReducer],
        inspector: BodySampler,
    ) -> None:
        """``slots``: ``counters.slots`` of the outcomes. ``users``: tried for errors, exposed, converted."""
        self._inspector = inspector
        metrics = config.judge.metrics
        errors = metrics.errors
        self.error_statuses = status_table(("5xx",) if errors is None else errors.statuses)
        """Whether a status is an error, by status."""
        self._by_user = errors is not None and errors.unit == "user"
        self._reducer, self._exposures, self._conversions = users
        self.outcomes = OutcomeRules(config.judge.outcomes)
        names = [rule.name for rule in self.outcomes.rules]
        self._cells = tuple(counters.OUTCOMES + 2 * slots[name] for name in names)
        self._business = -1
        """Index of the outcome that is a conversion; -1 without one."""
        if metrics.business is not None and metrics.business.outcome in names:
            self._business = names.index(metrics.business.outcome)
        self.exposes = metrics.business is not None
        """Whether users exposed are counted."""

    def claim(self, bucket: int, tick: int) -> bool:
        """Tell whether a request, routed now (tenths of a second), is a trial of the metric errors."""
        return not self._by_user or self._reducer.claim(bucket, tick)

    def failed(self, bucket: int) -> None:
        """Learn that a trial was an event."""
        if self._by_user:
            self._reducer.failed(bucket)

    def inspection(
        self, watching: tuple[int, ...], bucket: int, tick: int
    ) -> SampledResponse | None:
        """Return what collects the answer to a request, or ``None`` if nobody looks at it.

        ``watching`` are the outcomes whose rules look at such requests; ``tick`` is when it was routed, in
        tenths of a second.
        """
        exposed = self.exposes and self._exposures.claim(bucket, tick)
        looks_inside = False
        if watching and self.outcomes.needs_body:
            rules = self.outcomes.rules
            looks_inside = any(rules[at].needs_body for at in watching)
            if looks_inside and not self._inspector.chosen():
                looks_inside = False
                watching = tuple(at for at in watching if not rules[at].needs_body)
        if exposed or watching:
            return SampledResponse(
                self, watching, bucket, exposed=exposed, looks_inside=looks_inside
            )
        return None

    def judge(self, inspection: SampledResponse, tally: Tally, now: float) -> None:
        """Count what the rules say of an complete answer, later if there is no time to look inside."""
        if inspection.looks_inside:
            self._inspector.look(partial(self._count, inspection, tally, now))
        else:
            self._count(inspection, tally, now)

    def _count(self, inspection: SampledResponse, tally: Tally, now: float) -> None:
        if inspection.exposed:
            tally.add(counters.EXPOSED)
        converted = False
        body = self.outcomes.body_of(inspection)
        for at in inspection.watching:
            held = self.outcomes.held(at, inspection, body)
            if held is None:
                continue
            trials = self._cells[at]
            tally.add(trials)
            if held:
                tally.add(trials + 1)
                converted = converted or at == self._business
        if converted and self._conversions.claim(inspection.bucket, int(now * TICKS_PER_SECOND)):
            tally.add(counters.CONVERTED)


class SampledResponse:
    """The answer to one request, as outcomes need to see it (``outcomes.Answer``)."""

    __slots__ = (
        "_keeps",
        "_parts",
        "bucket",
        "exposed",
        "headers",
        "looks_inside",
        "size",
        "status",
        "watching",
        "witness",
    )

    def __init__(
        self,
        witness: Witness,
        watching: tuple[int, ...],
        bucket: int,
        *,
        exposed: bool,
        looks_inside: bool,
    ) -> None:
        self.witness = witness
        """Whose rules watch, also when the configuration changes meanwhile."""
        self.watching = watching
        """Indexes of the rules that look at this answer."""
        self.bucket = bucket
        self.exposed = exposed
        """This request counts as a user exposed."""
        self.looks_inside = looks_inside
        """A rule wants its body."""
        self.status = 0
        self.headers: Headers = ()
        self.size = 0
        self._keeps = INSPECTED if looks_inside else 0
        """How many more bytes of the body are kept."""
        self._parts: list[bytes] = []

    @property
    def prefix(self) -> bytes:
        return b"".join(self._parts)

    def answer(self, response: Response, body: bytes) -> None:
        """Take the head of the answer and the beginning of its body."""
        self.status = response.status
        self.headers = response.fields
        if self._keeps:
            self.body(body)
        else:
            self.size = len(body)

    def body(self, data: bytes) -> None:
        """Take more of the body."""
        self.size += len(data)
        if self._keeps and data:
            data = data[: self._keeps]
            self._keeps -= len(data)
            self._parts.append(data)
