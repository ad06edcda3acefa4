"""Frames that cost us more than the peer, bounded without a clock.

Theory. A connection has points. A frame that asks for work and brings no request forward costs some: a
setting, a ping, an empty frame. What a peer does in good faith earns them back: a message that came to its
end, data that the peer took or sent. The owner of the connection adds a few with each second (``refill``),
for keep-alive on connections where nothing else happens. While the peer does not read what we write,
nothing that it sends earns any. Out of points, the connection ends with ENHANCE_YOUR_CALM. So what a peer can
make us do for nothing is bounded by the points, and in the long run by their rate.

Requests that are given up have points of their own, as they cost most: only a message that came to its end
pays for one, and time. Else a peer could pay for each of them with a byte of data. One that was given up
after a second or more costs nothing: clients with a deadline do that when a service hangs, and there can be
no more of them in a second than streams at a time. A server's resets cost nothing: each of them ends a
request that we have sent.

    rapid reset (CVE-2023-44487)       RST_STREAM from the client             ``Bounds.resets``
    made you reset (CVE-2025-8671)     stream errors, which we answer         ``Bounds.resets``
    settings, ping                     each asks for an acknowledgement       ``ACKNOWLEDGED``
    window update, priority, unknown   read for nothing                       ``IGNORED``
    empty DATA and CONTINUATION        the same                               ``IGNORED``
    frames on closed streams           the same                               ``IGNORED``

A field block is bounded apart (``Bounds.max_block``), which ends the CONTINUATION flood (CVE-2024-27316), and
so are heads that are not read (``Sender.is_unread``): a response without content needs no window.
"""

from __future__ import annotations

from typing import Final

from canaryproxy.http2.errors import ENHANCE_YOUR_CALM, ConnectionFault

RESET: Final = 1
"""Of the points of resets."""
POINTS_A_SECOND: Final = 100
RESETS_A_SECOND: Final = 10
"""What a peer may ask for nothing in the long run: ten resets and 25 pings a second."""
PATIENT: Final = 2
"""Seconds after which a reset costs nothing. They are counted whole, so that one at least has passed."""
ACKNOWLEDGED: Final = 4
IGNORED: Final = 1
MESSAGE_ENDED: Final = 20
"""Earned by a stream that both sides ended."""
DATA_SENT: Final = 10
"""Earned by a DATA frame that we send, unless a window has cut it."""
CUT_DATA_SENT: Final = 8
"""Bits by which the size of a DATA frame that a window has cut is shifted for what it earns: each 256 bytes
pay for an update of a window, and a frame of a byte earns nothing."""
DATA_RECEIVED: Final = 4
"""Earned by a DATA frame with data that we receive: gRPC measures the round trip with a ping."""


class Points:
    """Points of one connection; ``most`` are what it begins with and the most that it can have."""

    __slots__ = ("_left", "_most")

    def __init__(self, most: int) -> None:
        self._most = most
        self._left = most

    def spend(self, points: int, what: str) -> None:
        """Pay for a frame. Raises ``ConnectionFault`` with ENHANCE_YOUR_CALM; ``what`` says for what."""
        self._left -= points
        if self._left < 0:
            raise ConnectionFault(ENHANCE_YOUR_CALM, f"too many {what}")

    def earn(self, points: int) -> None:
        """Add points, up to the most."""
        left = self._left + points
        self._left = left if left < self._most else self._most
