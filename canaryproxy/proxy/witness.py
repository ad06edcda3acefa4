"""What the data path writes down for the judge, as ``watch`` asks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from canaryproxy import counters
from canaryproxy.config import Config
from canaryproxy.outcomes import INSPECTED, Answer, OutcomeRules
from canaryproxy.proxy.answer_head import Response
from canaryproxy.routing import Headers
from canaryproxy.watch import TICKS_PER_SECOND, UserReducer

_INSPECTED_A_TICK: Final = 20
"""Bodies that are looked into in each tick of the judge: the first ones to be routed, whatever they are."""


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
        "_inspections",
        "_reducer",
        "claim",
        "error_statuses",
        "exposes",
        "outcomes",
    )

    def __init__(
        self, config: Config, slots: Mapping[str, int], users: Sequence[UserReducer]
    ) -> None:
        """``slots``: ``counters.slots`` of the outcomes. ``users``: tried for errors, exposed, converted."""
        metrics = config.judge.metrics
        errors = metrics.errors
        self.error_statuses = _statuses(("5xx",) if errors is None else errors.statuses)
        """Whether a status is an error, by status."""
        self._by_user = errors is not None and errors.unit == "user"
        self._reducer, self._exposures, self._conversions = users
        self.claim: Callable[[int, int], bool] = (
            self._reducer.claim if self._by_user else lambda _bucket, _now: True
        )
        """Whether a request of a bucket, routed now (tenths of a second), is a trial of the metric errors."""
        self.outcomes = OutcomeRules(config.judge.outcomes)
        names = [rule.name for rule in self.outcomes.rules]
        self._cells = tuple(counters.OUTCOMES + 2 * slots[name] for name in names)
        self._business = -1
        """Index of the outcome that is a conversion; -1 without one."""
        if metrics.business is not None and metrics.business.outcome in names:
            self._business = names.index(metrics.business.outcome)
        self.exposes = metrics.business is not None
        """Whether users exposed are counted."""
        self._inspections = _INSPECTED_A_TICK

    def failed(self, bucket: int) -> None:
        """Learn that a trial was an event."""
        if self._by_user:
            self._reducer.failed(bucket)

    def inspection(self, watching: tuple[int, ...], bucket: int, now: float) -> Inspection | None:
        """Return what collects the answer to a request routed now, or ``None`` if nobody looks at it.

        ``watching`` are the outcomes whose rules look at such requests.
        """
        exposed = self.exposes and self._exposures.claim(bucket, int(now * TICKS_PER_SECOND))
        rules = self.outcomes.rules
        if watching and any(rules[at].needs_body for at in watching):
            self._inspections -= 1
            if self._inspections < 0:
                watching = tuple(at for at in watching if not rules[at].needs_body)
        if not (exposed or watching):
            return None
        return Inspection(self, watching, bucket, exposed=exposed)

    def judge(self, watching: tuple[int, ...], answer: Answer) -> Iterable[tuple[int, int, bool]]:
        """Yield index, cell of the trials, and result of each rule whose result can be told."""
        for at, held in self.outcomes.judge(watching, answer):
            yield at, self._cells[at], held

    def converts(self, at: int, bucket: int, now: float) -> bool:
        """Return whether an answer for which the rule ``at`` holds is a user converted now."""
        return at == self._business and self._conversions.claim(bucket, int(now * TICKS_PER_SECOND))

    def tick(self) -> None:
        """Begin a tick of the judge."""
        self._inspections = _INSPECTED_A_TICK


def _statuses(patterns: tuple[str, ...]) -> bytes:
    wanted = bytearray(1000)
    for text in patterns:
        low = int(text.replace("x", "0"))
        for status in range(low, low + (100 if "x" in text else 1)):
            wanted[status] = 1
    return bytes(wanted)


class Inspection:
    """The answer to one request, as outcomes need to see it."""

    __slots__ = (
        "_headers",
        "_held",
        "_parts",
        "_seen",
        "_size",
        "_status",
        "_witness",
        "bucket",
        "exposed",
        "watching",
    )

    def __init__(
        self, witness: Witness, watching: tuple[int, ...], bucket: int, *, exposed: bool
    ) -> None:
        self._witness = witness  # whose rules watch, also when the configuration changes meanwhile
        self.watching = watching
        """Indexes of the rules that look at this answer."""
        self.bucket = bucket
        self.exposed = exposed
        """This request counts as a user exposed."""
        self._status = 0
        self._headers: Headers = ()
        self._parts: list[bytes] = []
        self._seen = 0
        self._size = 0
        self._held: list[int] = []

    def answer(self, response: Response, body: bytes) -> None:
        """Take the head of the answer and the beginning of its body."""
        self._status = response.status
        self._headers = response.fields
        self.body(body)

    def body(self, data: bytes) -> None:
        """Take more of the body; no more than ``INSPECTED`` bytes are kept."""
        self._size += len(data)
        room = INSPECTED - self._seen
        if room > 0 and data:
            self._parts.append(data[:room])
            self._seen += min(len(data), room)

    def judge(self) -> Iterable[tuple[int, bool]]:
        """Yield the cell of the trials and the result of each rule whose result can be told."""
        answer = Answer(self._status, self._headers, self._size, b"".join(self._parts))
        for at, cell, held in self._witness.judge(self.watching, answer):
            if held:
                self._held.append(at)
            yield cell, held

    def converts(self, now: float) -> bool:
        """Return whether the answer, which was judged, is a user converted."""
        return any(self._witness.converts(at, self.bucket, now) for at in self._held)
