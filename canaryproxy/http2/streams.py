"""The states of a stream (RFC 9113 §5.1) as a table, and the streams of a connection.

Theory of operation. A stream that is not remembered and whose number is above all others is IDLE. Nothing
is ever RESERVED, as neither side of us pushes. CLOSED is four states here, because what a late frame means
depends on how the stream was closed:

    OPEN            both sides send
    LOCAL           we have ended our side: half-closed (local)
    REMOTE          the peer has ended its side: half-closed (remote)
    ENDED           both have: the peer sends nothing any more but WINDOW_UPDATE and RST_STREAM
    RESET_BY_PEER   the peer sends nothing any more at all
    RESET_BY_US     anything may still be on its way: it is read for the sake of the tables, and dropped
    FORGOTTEN       it is so long ago that nothing is remembered

What a received frame leads to, by state; ``!`` is a connection error, ``?`` a stream error, ``~`` is dropped:

                    HEADERS      DATA         END          RESET          WINDOW
    IDLE            OPEN         !PROTOCOL                 !PROTOCOL      !PROTOCOL
    OPEN            OPEN         OPEN         REMOTE       RESET_BY_PEER  OPEN
    LOCAL           LOCAL        LOCAL        ENDED        RESET_BY_PEER  LOCAL
    REMOTE          ?CLOSED      ?CLOSED                   RESET_BY_PEER  REMOTE
    ENDED           !CLOSED      !CLOSED                   ~              ~
    RESET_BY_PEER   !CLOSED      !CLOSED                   ~              ~
    RESET_BY_US     ~            ~                         ~              ~
    FORGOTTEN       !PROTOCOL    !CLOSED                   ~              ~

END is the flag END_STREAM, after the frame that carries it. A number below the highest that was never used
looks like FORGOTTEN: its HEADERS break the order of §5.1.1.
"""

from __future__ import annotations

from typing import Final

from canaryproxy.http2.errors import PROTOCOL_ERROR, STREAM_CLOSED, ConnectionFault, StreamFault
from canaryproxy.http2.frames import HIGHEST

IDLE: Final = 0
OPEN: Final = 1
LOCAL: Final = 2
REMOTE: Final = 3
ENDED: Final = 4
RESET_BY_PEER: Final = 5
RESET_BY_US: Final = 6
FORGOTTEN: Final = 7

# Received frames
ON_HEADERS: Final = 0
ON_DATA: Final = 1
ON_END: Final = 2
ON_RESET: Final = 3
ON_WINDOW: Final = 4
_INPUTS: Final = 5

DROPPED: Final = -1
_NEVER: Final = -2
_STREAM_CLOSED: Final = -3
_ALL_CLOSED: Final = -4
_ALL_PROTOCOL: Final = -5

_TABLE: Final[list[int]] = [
    # HEADERS, DATA, END, RESET, WINDOW
    *(OPEN, _ALL_PROTOCOL, _NEVER, _ALL_PROTOCOL, _ALL_PROTOCOL),  # IDLE
    *(OPEN, OPEN, REMOTE, RESET_BY_PEER, OPEN),  # OPEN
    *(LOCAL, LOCAL, ENDED, RESET_BY_PEER, LOCAL),  # LOCAL
    *(_STREAM_CLOSED, _STREAM_CLOSED, _NEVER, RESET_BY_PEER, REMOTE),  # REMOTE
    *(_ALL_CLOSED, _ALL_CLOSED, _NEVER, DROPPED, DROPPED),  # ENDED
    *(_ALL_CLOSED, _ALL_CLOSED, _NEVER, DROPPED, DROPPED),  # RESET_BY_PEER
    *(DROPPED, DROPPED, _NEVER, DROPPED, DROPPED),  # RESET_BY_US
    *(_ALL_PROTOCOL, _ALL_CLOSED, _NEVER, DROPPED, DROPPED),  # FORGOTTEN
]

UNKNOWN_LENGTH: Final = -1
_REMEMBERED: Final = 128
"""Closed streams whose state is remembered at least; twice as many at most."""


def after(state: int, received: int) -> int:
    """Return the state after a received frame, or ``DROPPED``.

    Raises ``StreamFault`` or ``ConnectionFault`` where it is not allowed in this state.
    """
    following = _TABLE[state * _INPUTS + received]
    if following >= DROPPED:
        return following
    if following == _STREAM_CLOSED:
        raise StreamFault(STREAM_CLOSED, "the peer has ended this stream")
    if following == _ALL_CLOSED:
        raise ConnectionFault(STREAM_CLOSED, "frame on a closed stream")
    reason = "frame on an idle stream" if state == IDLE else "stream numbers do not ascend"
    raise ConnectionFault(PROTOCOL_ERROR, reason)


class Stream:
    """One stream: its state, its windows, and what waits to be sent on it.

    ``owner`` is for whatever answers or asks on this stream.
    """

    __slots__ = (
        "at",
        "bodiless",
        "ends",
        "has_head",
        "left",
        "number",
        "opened",
        "owner",
        "pending",
        "receive_window",
        "send_window",
        "state",
        "taken",
        "trailers",
    )

    def __init__(self, number: int, state: int, receive_window: int, send_window: int) -> None:
        self.number = number
        self.state = state
        self.receive_window = receive_window
        """Bytes that the peer may send."""
        self.taken = 0
        """Bytes that were passed on and not yet given back to the peer."""
        self.left = UNKNOWN_LENGTH
        """Bytes that are still to come by Content-Length."""
        self.has_head = False
        """The head of the request or of the final response has come."""
        self.bodiless = False
        """The message to come has no content, whatever its Content-Length says: it answers HEAD."""
        self.send_window = send_window
        """Bytes that we may send; below 0 after a smaller SETTINGS_INITIAL_WINDOW_SIZE."""
        self.pending = b""
        """Data to send; before ``at`` it was sent."""
        self.at = 0
        self.ends = False
        """We send nothing after ``pending`` and ``trailers``."""
        self.trailers = b""
        """Trailer lines to send after ``pending``."""
        self.opened = 0
        """When the peer opened it, in the seconds that the connection was told of (``refill``)."""
        self.owner: object | None = None


class StreamTable:
    """The streams of a connection that are not closed, and how others were closed.

    ``ours``: 1 if we open the odd numbers, as a client does.
    """

    __slots__ = (
        "_closed",
        "_closed_before",
        "_highest_ours",
        "_ours",
        "_reset_until",
        "active",
        "highest",
    )

    def __init__(self, *, client: bool) -> None:
        self.active: dict[int, Stream] = {}
        self.highest = 0
        """The highest number that the peer has opened."""
        self._highest_ours = -1 if client else 0
        self._ours = 1 if client else 0
        self._closed: dict[int, int] = {}
        """The states of the streams that were closed last."""
        self._closed_before: dict[int, int] = {}
        """Of as many that were closed before them."""
        self._reset_until = 0
        """Up to this number streams were reset by us and are not remembered for it any more."""

    def state_of(self, number: int) -> int:
        """Return the state of a stream that is not ``active``."""
        highest = self._highest_ours if number & 1 == self._ours else self.highest
        if number > highest:
            return IDLE
        state = self._closed.get(number, -1)
        if state < 0:
            state = self._closed_before.get(number, -1)
        if state >= 0:
            return state
        return RESET_BY_US if number <= self._reset_until else FORGOTTEN

    @property
    def is_used_up(self) -> bool:
        """There is no number left for a stream that we open (§5.1.1)."""
        return self._highest_ours + 2 > HIGHEST

    def next_number(self) -> int:
        """Return the number of a stream that we open."""
        self._highest_ours += 2
        return self._highest_ours

    def close(self, number: int, state: int) -> None:
        """Forget a stream, and remember for a while how it was closed."""
        self.active.pop(number, None)
        self._closed[number] = state
        if len(self._closed) >= _REMEMBERED:
            for old, was in self._closed_before.items():
                if was == RESET_BY_US and old > self._reset_until:
                    self._reset_until = old
            self._closed_before, self._closed = self._closed, {}
