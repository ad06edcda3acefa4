"""The part of an exchange whose response has no end of its own, such as a stream of server-sent events."""

from __future__ import annotations

from canaryproxy.http1.endless import BoundaryReader
from canaryproxy.measure import counters
from canaryproxy.measure.counters import Reason
from canaryproxy.proxy.interfaces import CLOSED, TOLD
from canaryproxy.proxy.request_sender import STREAMING
from canaryproxy.proxy.tunnel import Tunnel


class EndlessResponse(Tunnel):
    """Streams an endless response, and ends it between two events when its user has moved.

    ``Exchange`` is one, as it is a ``Tunnel``: another object would cost each request more.
    """

    __slots__ = ("_boundaries",)

    _boundaries: BoundaryReader

    def response_body(self, data: bytes, *, complete: bool, trailers: bytes = b"") -> None:
        raise NotImplementedError

    def begin_stream(self, boundaries: BoundaryReader) -> None:
        """Take note that the response does not end by itself; ``boundaries`` has read what was sent of it."""
        self._boundaries = boundaries
        self._state = STREAMING
        self.service.tallies[self.variant].add(counters.STREAMS_OPENED)
        self.service.long_lived.add(self)

    def stream_data(self, data: bytes, *, complete: bool) -> tuple[bytes, bool]:
        """Return what the client gets of this part of the body, and whether the response ends with it."""
        if self.leaving < TOLD:
            self._boundaries.feed(data)
        elif not complete and (end := self._boundaries.feed_record(data)) >= 0:
            self._stream_ended_by_proxy(cleanly=True)
            data, complete = data[:end], True
        if complete:
            self.end_stream()
        return data, complete

    def end_stream(self) -> None:
        """Take note that the response is over."""
        self.service.tallies[self.variant].add(counters.STREAMS_CLOSED)
        self.service.long_lived.remove(self)

    def _break_off(self, reason: Reason, now: float, *, framed: bool) -> None:  # noqa: ARG002
        """End a response that cannot be completed, so that the client does not take it for complete."""
        self._sink.break_off(framed=framed)

    def leave(self) -> None:
        if self._state != STREAMING:
            super().leave()
        elif self._boundaries.at_boundary:
            self.response_body(b"", complete=False)

    def leave_now(self) -> None:
        if self._state != STREAMING:
            super().leave_now()
        else:
            # Clients ignore an event without its empty line, and cannot parse half a record.
            self._stream_ended_by_proxy(cleanly=False)
            self.response_body(b"", complete=True)

    def _stream_ended_by_proxy(self, *, cleanly: bool) -> None:
        self.leaving = CLOSED
        self.service.long_lived.ended_by_proxy(self, cleanly=cleanly)
        self.record_gone(0.0)
        self.routing, self._outcomes = self.routing.without_record(), ()
