"""The judge's part of an exchange: the records that it leaves of a randomised request (``measure.records``).

A record says what happened; the judge decides what it means (``judging.metrics``). Seconds are counted from
the end of the request. Like ``RequestSender`` a part of one object, because a second object in each request
would cost more than they do.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from canaryproxy.http1.response import Response
from canaryproxy.measure.counters import Tally
from canaryproxy.measure.records import (
    ABANDONED,
    BODILESS,
    BROKEN,
    CLIENT_GONE,
    ENDED,
    FAILED,
    FALLBACK_LATE,
    FLAGS_SHIFT,
    LARGEST,
    LATE,
    NO_FIRST_BYTE,
    OVERDUE,
    SHORT_TUNNEL,
    SIZE_SHIFT,
    STALLED,
    STATUS_SHIFT,
    TUNNEL,
    pack_third,
)
from canaryproxy.proxy.body_sampler import SampledBody
from canaryproxy.proxy.request_sender import RequestSender
from canaryproxy.proxy.trial_rules import Evaluation, TrialRules

_ENDED: Final = ENDED << FLAGS_SHIFT
_LONG: Final = 4000.0
"""Seconds that a record can hold with certainty."""
_NO_RESPONSE: Final = Response(0)
"""What outcomes see of a response that never came, and of a tunnel."""


class TrialRecorder(RequestSender):
    """Records one request, and looks at its response for outcomes."""

    __slots__ = (
        "_body",
        "_flags",
        "_outcomes",
        "_response",
        "_rules",
        "_size",
        "_tally",
        "_word",
    )

    # Set by the subclass, as those of ``RequestSender``.
    _flags: int
    """What the last record will say, as far as it is known."""
    _rules: TrialRules
    _tally: Tally
    """Counts of the variant that the request was routed to."""
    _outcomes: tuple[int, ...]
    """Indexes of the outcomes that look at the response."""
    _body: SampledBody | None
    """The body of the response, if one of them looks into it. Set where ``_rules.reads_bodies`` and there are
    outcomes, from the head on."""
    _response: Response | None
    """The head of the final response, once it has come."""
    _size: int
    """Bytes of the response's body so far."""
    _word: int
    """What the outcomes add to the record of a tunnel."""

    def record_late(self, waited: float, *, overdue: bool = False) -> None:
        """Write an early record if the request has passed a limit since the last one.

        ``overdue``: it has passed that of ``records.OVERDUE``.
        """
        table, response = self.routing.table, self._response
        if self.routing.mark < 0:
            return
        passed = OVERDUE if overdue else 0
        if response is None and waited > table.late > 0.0:
            passed |= LATE
        is_open = self._flags & TUNNEL or (response is not None and response.is_event_stream)
        if waited > table.stall_after > 0.0 and not is_open:
            passed |= STALLED
        passed &= ~self._flags
        if passed:
            self._flags |= passed
            self._write(passed)

    def sample_head(self) -> None:
        """Prepare for the body of the response, if an outcome looks into it."""
        assert self._response is not None
        self._body = self._rules.body_of(self._outcomes, self._response)

    def sample_body(self, data: bytes) -> None:
        """Take more of the body."""
        if self._body is not None and data:
            self._body.add(data)

    # A tunnel

    def record_switch(self, response: Response, failed: bool, waited: float) -> None:
        """Take the handshake of a tunnel."""
        self._response = response
        self._first_byte = waited
        self._size = 0
        self._flags |= TUNNEL | FAILED if failed else TUNNEL
        known = self._rules.recall(self._outcomes, _NO_RESPONSE, 0)
        self._tally.add_each(known.cells)
        self._word = known.word

    def record_tunnel_ends(self, lasted: float, *, by_client: bool, failed: bool) -> None:
        """Take note that a side ends the tunnel: the first to do so is the one that counts.

        ``lasted`` in seconds since the handshake. ``failed``: the upstream has reset it, or said that
        something went wrong.
        """
        if not self._flags & ENDED:
            self._flags |= ENDED
            if not by_client and (failed or lasted < SHORT_TUNNEL):
                self._flags |= BROKEN

    def record_tunnel(self) -> None:
        """Record the end of the tunnel."""
        self._write(self._flags | ENDED, word=self._word)

    # The end

    def record_gone(self, waited: float) -> None:
        """Record that the client left. ``waited`` is 0 if it had not sent its request to the end."""
        flags = self._flags | ENDED | CLIENT_GONE
        response = self._response
        if response is None:
            # While the canary warms up the published limit is far longer than a user's patience.
            limit = min(self.routing.table.late or FALLBACK_LATE, FALLBACK_LATE)
            if flags & LATE or waited > limit:
                flags |= ABANDONED
        elif response.is_event_stream:
            flags |= TUNNEL
        self._write(flags)

    def record_end(
        self,
        status: int,
        failed: bool,
        now: float,
        flags: int = 0,
        known: Evaluation | None = None,
    ) -> None:
        """Record the end of the request at ``now`` (monotonic seconds). To be called once.

        ``flags``: ``records.UNREACHED``, ``RESCUED`` and ``FAILED`` where they apply, and ``BROKEN`` if the
        upstream broke its response off. ``known`` is what the outcomes make of the response, if that is
        counted already.
        """
        rules, response = self._rules, self._response
        word, body = 0, None
        if self._outcomes:
            if response is not None and rules.reads_bodies:
                body = self._body
            if known is not None:
                word = known.word
            elif body is None:
                size = 0 if response is None else self._size
                known = rules.recall(self._outcomes, response or _NO_RESPONSE, size)
                self._tally.add_each(known.cells)
                word = known.word
        if (
            response is None
            or failed
            or flags
            or self._flags
            or body is not None
            or response.is_event_stream
            or self._first_byte > _LONG
            or self._size > LARGEST
        ):
            self._settle(failed, now, flags)
            self._write_last(status, word, body)
        elif self.routing.mark >= 0:
            # ``_words``, written out: calls are dear where this is not compiled.
            routes, records = rules.routes, rules.records
            rule_key = self.request.rule_key
            if rule_key[1] is routes.last_path and rule_key[0] is routes.last_method:
                word |= routes.last_template
            else:
                word |= routes.find(rule_key)
            first = self.routing.mark | response.word
            third = int(self._first_byte * 1e6) | self._size << SIZE_SHIFT
            listed = records.listed
            if listed is None:
                records.add(first, word, third)
            else:
                listed.extend((first, word, third))

    def _settle(self, failed: bool, now: float, flags: int) -> None:
        """Complete what the last record says."""
        flags |= FAILED | ENDED if failed else ENDED
        response = self._response
        if response is not None and response.is_event_stream and not self._flags & BODILESS:
            flags |= TUNNEL
            if now - self._received - self._first_byte < SHORT_TUNNEL:
                flags |= BROKEN
        self._flags |= flags

    def _write_last(self, status: int, word: int, body: SampledBody | None) -> None:
        """Write the last record, if need be when the body has been looked into."""
        response, rules = self._response, self._rules
        if response is None or body is None:
            self._write(self._flags, status, word)
            return
        words = self._words(self._flags, status, word)
        then = partial(
            rules.settle, words, self._outcomes, response, self._size, body.reader, self._tally
        )
        # A response that breaks off ends with the status of the failure.
        body.close(then, whole=status == response.status)

    def _write(self, flags: int, status: int = 0, word: int = 0) -> None:
        """Write a record, if the request was randomised.

        ``status`` counts if the upstream sent none. ``word``: what outcomes add to the second word.
        """
        if self.routing.mark >= 0:
            self._rules.records.add(*self._words(flags, status, word))

    def _words(self, flags: int, status: int, word: int) -> tuple[int, int, int]:
        """Return a record; its first word is negative if the request was not randomised."""
        response = self._response
        if response is None:
            first, third = status << STATUS_SHIFT, NO_FIRST_BYTE
        else:
            first, third = response.word & ~_ENDED, pack_third(self._first_byte, self._size)
        second = word | self._rules.routes.find(self.request.rule_key)
        return self.routing.mark | first | flags << FLAGS_SHIFT, second, third
