"""The part of an exchange in which the other variant answers.

* *Rescue.* The canary fails: stable answers in its place, if ``RescueRules`` and ``Budget`` allow it.
* *Lookup.* One variant has no such file (404): the other is asked, in both directions. If it has none either,
  or fails, the client gets the first 404.

Either happens at most once for a request. What the first variant did is counted before, and nothing after.
"""

from __future__ import annotations

from time import monotonic
from typing import Final

from canaryproxy.http1.response import Response, ResponseParser
from canaryproxy.measure import counters, records
from canaryproxy.measure.counters import Reason, Tally
from canaryproxy.measure.routing import CANARY, STABLE
from canaryproxy.proxy.endless_response import EndlessResponse
from canaryproxy.proxy.request_sender import RESPONDING, WAITING

_NOT_FOUND_TEXT: Final = b"Not found\n"
_NOT_FOUND: Final = ResponseParser().parse(
    b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nCache-Control: no-store\r\n"
    b"Content-Length: %d\r\n\r\n" % len(_NOT_FOUND_TEXT)
)
"""In place of a 404 whose body had not come whole when the other variant was asked."""


class Rescuer(EndlessResponse):
    """Decides whether the other variant answers, and asks it."""

    __slots__ = ("_own", "_rescued", "_tally")

    # Set by the subclass, as those of ``RequestSender``.
    _tally: Tally
    """Counts of the variant that the request was routed to."""
    _rescued: int
    """The cell that counts it once the response is complete, if the other variant was asked; else 0.

    The request itself is counted by then."""
    _own: tuple[Response, bytes, bytes]
    """The 404 that a lookup may replace: head, body, trailers. Set when it begins."""

    def _count(self, status: int, responded: float, now: float, *, failed: bool) -> None:
        """Count the request once, for the variant that it was routed to."""
        raise NotImplementedError

    def _passes_on(
        self, response: Response, body: bytes, now: float, *, complete: bool, trailers: bytes
    ) -> bool:
        """Tell whether something else than this response, of 400 or above, goes to the client."""
        status, rules = response.status, self.service.rescue
        if self._rescued:
            return self._rescued == counters.ASSETS_FOUND and self._finds_nothing(
                status, now, complete=complete
            )
        is_file = status == 404 and rules.is_asset(self.request.method, self.request.rule_key[1])
        if is_file:
            if not self._may_look_up():
                return False
            self._own = (
                (response, body, trailers) if complete else (_NOT_FOUND, _NOT_FOUND_TEXT, b"")
            )
        elif not (
            self.variant == CANARY
            and rules.is_failure(self.request.method, status)
            and self._has_whole_request()
            and self._stable_has_room()
        ):
            return False
        elif not rules.budget.take(now, self._routed_to_stable()):
            self._tally.add(counters.OVER_BUDGET)
            return False
        flags = 0 if is_file else records.RESCUED | records.FAILED
        failed = self._is_error(status)
        self._count(status, now, now, failed=failed)
        self.record_end(status, failed, now, flags)
        self._give_back(status, now, complete=complete)
        self._ask_other(counters.ASSETS_FOUND if is_file else counters.RESCUED)
        return True

    def _ask_other(self, cell: int) -> None:
        """Let the other variant answer; the request is counted already. ``cell``: see ``_rescued``."""
        self._rescued = cell
        self.routing = self.routing.without_record()
        self._outcomes = ()
        self._response = None
        self.variant = STABLE if self.variant == CANARY else CANARY
        self._tried = ()
        self._sink.await_response(monotonic())
        self.start()

    def _give_back(self, status: int, now: float, *, complete: bool) -> None:
        """Let go of the connection: its response does not go to the client."""
        self._count_on_endpoint(status, now - self._received)
        upstream, self._upstream = self._upstream, None
        assert upstream is not None
        upstream.finish(now, reusable=complete and self._request_done)
        self._leave_endpoint()

    def _has_whole_request(self) -> bool:
        return self._replay is None or self._replay.whole

    def _stable_has_room(self) -> bool:
        service = self.service
        return service.load.of[STABLE].has_room(service.in_flight_of(STABLE))

    def _routed_to_stable(self) -> int:
        return self.service.tallies[STABLE].values[counters.ROUTED]

    # Rescue

    def _needs_rescue(self, reason: Reason) -> bool:
        """Tell whether stable shall answer in place of a canary that failed without a response.

        Without a usable endpoint it does even if rescue is off, unless the release is irreversible.
        """
        rules = self.service.rescue
        enabled = rules.enabled or (reason == Reason.NO_ENDPOINT and rules.reversible)
        return enabled and self._may_rescue()

    def _may_rescue(self) -> bool:
        """Tell whether stable can get the request."""
        return (
            self.variant == CANARY
            and not self._rescued
            and self._stable_has_room()
            and self._can_repeat()
        )

    def _can_repeat(self) -> bool:
        """Whether stable can be sent the request now: nothing can happen twice that must not."""
        return self._has_whole_request() and (
            self._state == WAITING or self.request.method in self.service.rescue.methods
        )

    def _has_waited(self, now: float) -> bool:
        """Whether it has waited for ``rescue.after``, and stable would answer if it was the canary's.

        The same for both variants: asked of no budget and of no load.
        """
        service = self.service
        return (
            now - self._received > service.rescue_after
            and self._state < RESPONDING
            and service.rescue.enabled
            and self._can_repeat()
        )

    def _is_overdue(self, now: float) -> bool:
        """Tell whether the canary has had its time (``rescue.after``), and stable can answer."""
        service = self.service
        return (
            self.variant == CANARY
            and self._state < RESPONDING
            and now - self._received > service.rescue_after
            and (
                self._rescued != 0
                or (
                    service.rescue.enabled
                    and self._may_rescue()
                    and service.rescue.budget.allows(now, self._routed_to_stable())
                )
            )
        )

    def wait_no_longer(self) -> None:
        """Act on ``_is_overdue``: the canary has failed, if there is still a budget."""
        if not self._is_overdue(monotonic()):
            return
        after = self.service.rescue_after
        self._failed(Reason.FIRST_BYTE_TIMEOUT, f"nothing came within {after:.3g} s (rescue.after)")

    # Lookup

    def _may_look_up(self) -> bool:
        other = self.service.pools[STABLE if self.variant == CANARY else CANARY]
        return self._request_done and self._replay is None and bool(other.usable)

    def _finds_nothing(self, status: int, now: float, *, complete: bool) -> bool:
        """Act on an error of the other variant in a lookup; tell whether the first 404 goes out instead."""
        if self._own[0] is _NOT_FOUND and status < 500:
            self._rescued = counters.ASSETS_MISSING  # its own 404 is as good, and whole
            return False
        self._give_back(status, now, complete=complete)
        self._send_own()
        return True

    def _send_own(self) -> None:
        """Send the 404 of the request's own variant after all."""
        self._rescued = counters.ASSETS_MISSING
        self.variant = self.routing.variant
        response, body, trailers = self._own
        if self.request.method == b"HEAD":
            body = b""
        self.response_head(response, body, complete=True, trailers=trailers)
