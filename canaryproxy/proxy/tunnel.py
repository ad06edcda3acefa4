"""The part of an exchange that begins when the upstream switches protocols: bytes both ways, and the end."""

from __future__ import annotations

import os
from time import monotonic
from typing import Final

from canaryproxy.http1.websocket import FrameReader, close_frame
from canaryproxy.measure import counters
from canaryproxy.proxy.interfaces import CLOSED, TOLD
from canaryproxy.proxy.request_sender import FINISHED, TUNNEL
from canaryproxy.proxy.trial_recorder import TrialRecorder

_WEBSOCKET: Final = b"websocket"
_FAILURES: Final = (1002, 1007, 1011, 1014)
"""Codes of Close frames by which a server says that something went wrong: protocol error, invalid payload,
internal error, bad gateway."""


class Tunnel(TrialRecorder):
    """Carries bytes both ways once the handshake is over. Which side ends the tunnel is recorded.

    The proxy ends a WebSocket with a Close frame to the client, which may send to the upstream until it has
    replied with its own. The upstream takes that for the client's Close.
    """

    __slots__ = (
        "_client_ended",
        "_from_client",
        "_from_upstream",
        "_responded_at",
        "_upstream_ended",
    )

    # Set by the subclass, as those of ``RequestSender``.
    _responded_at: float
    """When the head of the final response came; 0: not yet."""
    _from_client: FrameReader | None
    """Reads the frames of a tunnel, if it is a WebSocket."""
    _from_upstream: FrameReader | None
    _client_ended: bool
    """The client sends no more: the upstream may go on, but the tunnel may not be silent for ever."""
    _upstream_ended: bool

    def begin_tunnel(self, protocol: bytes, data: bytes) -> None:
        """Become a tunnel; ``data`` came from the upstream with its handshake."""
        is_websocket = protocol.lower() == _WEBSOCKET
        self._from_client = FrameReader() if is_websocket else None
        self._from_upstream = reader = FrameReader() if is_websocket else None
        if reader is not None:
            reader.feed(data)
        self._client_ended = self._upstream_ended = False
        self._state = TUNNEL
        self.service.tallies[self.variant].add(counters.TUNNELS_OPENED)
        self.service.long_lived.add(self)

    def tunnel_data(self, data: bytes) -> None:
        """Pass bytes from the upstream to the client."""
        reader = self._from_upstream
        if reader is not None:
            if self.leaving >= TOLD:
                self._tunnel_data_until_closed(reader, data)
                return
            reader.feed(data)
            self._note_close(reader)
        self._sink.write(data)

    def _tunnel_data_until_closed(self, reader: FrameReader, data: bytes) -> None:
        """Pass on what belongs to the current message, then the proxy's Close frame, then nothing."""
        if self.leaving == CLOSED:
            return
        end = reader.feed_message(data)
        self._note_close(reader)
        self._sink.write(data if end < 0 else data[:end])
        if end >= 0:
            self._send_close()

    def _note_close(self, reader: FrameReader) -> None:
        """Take note that the upstream closes the WebSocket, once it does."""
        if reader.close_code:
            self._tunnel_ends(by_client=False, failed=reader.close_code in _FAILURES)

    def tunnel_send(self, data: bytes) -> None:
        """Pass bytes from the client to the upstream."""
        reader = self._from_client
        if reader is not None:
            reader.feed(data)
            if reader.close_code:
                self._tunnel_ends(by_client=True)
        if self._upstream is not None:
            self._upstream.write(data)
        if reader is not None and reader.close_code and self.leaving == CLOSED:
            self._end_both()

    def tunnel_client_eof(self) -> None:
        """The client sends no more: pass that on to the upstream, which may still send."""
        self._tunnel_ends(by_client=True)
        self._client_ended = True
        if self._upstream_ended:
            self._end_both()
        elif self.leaving == CLOSED:
            self.leave_now()
        elif self._upstream is not None:
            self._upstream.end_tunnel()

    def tunnel_eof(self) -> None:
        """The upstream sends no more: pass that on to the client, which may still send."""
        self._tunnel_ends(by_client=False)
        self._upstream_ended = True
        if self._client_ended:
            self._end_both()
        else:
            self._sink.tunnel_eof()

    def _end_both(self) -> None:
        """Neither side sends any more."""
        self.tunnel_over()
        self._sink.close()

    def tunnel_over(self) -> None:
        """Both sides send no more: close the upstream's connection once everything is written."""
        upstream, self._upstream = self._upstream, None
        self._end_tunnel()
        if upstream is not None:
            upstream.end()

    def tunnel_closed(self, *, reset: bool) -> None:
        """The upstream closed: close the client's connection once everything is written."""
        self._tunnel_ends(by_client=False, failed=reset)
        self._upstream = None
        self._end_tunnel()
        if reset:
            self._sink.tunnel_reset()
        else:
            self._sink.close()

    # The user has moved to the other variant

    def leave(self) -> None:
        reader = self._from_upstream
        if reader is None or self._upstream_ended:
            self.leave_now()
        elif reader.between_messages and not self._is_closing():
            self._send_close()

    def leave_now(self) -> None:
        client, upstream = self._from_client, self._from_upstream
        if self.leaving != CLOSED:
            cleanly = self._is_closing()
            if (
                upstream is not None
                and upstream.between_frames
                and not (cleanly or self._upstream_ended)
            ):
                # It may stand between the fragments of a message, too, which then never ends.
                self._sink.write(close_frame(self.service.long_lived.close_code))
                cleanly = True
            self._ended_by_proxy(cleanly=cleanly)
        link = self._upstream
        if link is not None and link.is_stuck():
            self._drop_upstream()  # it does not read, so no end would reach it
        elif (
            link is not None
            and client is not None
            and client.between_frames
            and not self._client_ended
        ):
            link.write(close_frame(self.service.long_lived.close_code, os.urandom(4)))
        self.tunnel_over()
        self._sink.linger()

    def _send_close(self) -> None:
        """Begin to close a WebSocket whose upstream is between two messages."""
        self._sink.write(close_frame(self.service.long_lived.close_code))
        self._ended_by_proxy(cleanly=True)

    def _ended_by_proxy(self, *, cleanly: bool) -> None:
        self.leaving = CLOSED
        self._tunnel_ends(by_client=True)
        self.service.long_lived.ended_by_proxy(self, cleanly=cleanly)

    def _is_closing(self) -> bool:
        """Tell whether a side has begun to close the WebSocket."""
        sides = (self._from_client, self._from_upstream)
        return any(side is not None and side.close_code for side in sides)

    # The end

    def _tunnel_ends(self, *, by_client: bool, failed: bool = False) -> None:
        lasted = monotonic() - self._responded_at
        self.record_tunnel_ends(lasted, by_client=by_client, failed=failed)

    def _end_tunnel(self) -> None:
        if self._state != FINISHED:
            self.record_tunnel()
            self._state = FINISHED
            self._leave_endpoint()
            self.service.tallies[self.variant].add(counters.TUNNELS_CLOSED)
            self.service.long_lived.remove(self)
