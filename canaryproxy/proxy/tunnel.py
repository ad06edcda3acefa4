"""The part of an exchange that begins when the upstream switches protocols: bytes both ways, and the end."""

from __future__ import annotations

from time import monotonic

from canaryproxy.measure import counters
from canaryproxy.proxy.framing import is_close_frame
from canaryproxy.proxy.request_sender import FINISHED
from canaryproxy.proxy.trial_recorder import TrialRecorder


class Tunnel(TrialRecorder):
    """Carries bytes both ways once the handshake is over. Which side ends the tunnel is recorded."""

    __slots__ = ("_responded_at",)

    # Set by the subclass, as those of ``RequestSender``.
    _responded_at: float
    """When the head of the final response came; 0: not yet."""

    def tunnel_data(self, data: bytes) -> None:
        """Pass bytes from the upstream to the client."""
        if is_close_frame(data):
            self._tunnel_ends(by_client=False)
        self._sink.write(data)

    def tunnel_send(self, data: bytes) -> None:
        """Pass bytes from the client to the upstream."""
        if is_close_frame(data):
            self._tunnel_ends(by_client=True)
        if self._upstream is not None:
            self._upstream.transport.write(data)

    def tunnel_client_eof(self) -> None:
        """The client sends no more: pass that on to the upstream, which may still send."""
        self._tunnel_ends(by_client=True)
        if self._upstream is not None:
            self._upstream.transport.write_eof()

    def tunnel_eof(self) -> None:
        """The upstream sends no more: pass that on to the client, which may still send."""
        self._tunnel_ends(by_client=False)
        self._sink.tunnel_eof()

    def tunnel_over(self) -> None:
        """Both sides send no more: close the upstream's connection once everything is written."""
        upstream, self._upstream = self._upstream, None
        self._end_tunnel()
        if upstream is not None:
            upstream.end()

    def tunnel_closed(self, *, reset: bool) -> None:
        """The upstream closed: close the client's connection once everything is written."""
        self._tunnel_ends(by_client=False, reset=reset)
        self._upstream = None
        self._end_tunnel()
        self._sink.close()

    def _tunnel_ends(self, *, by_client: bool, reset: bool = False) -> None:
        lasted = monotonic() - self._responded_at
        self.record_tunnel_ends(lasted, by_client=by_client, reset=reset)

    def _end_tunnel(self) -> None:
        if self._state != FINISHED:
            self.record_tunnel()
            self._state = FINISHED
            self._leave_endpoint()
            self._context.tallies[self.variant].add(counters.TUNNELS_CLOSED)
