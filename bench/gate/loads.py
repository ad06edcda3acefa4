"""The loads of the gate: what is sent, and which server it is sent to."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bench.gate.records import Recorder
from bench.gate.steady import Steady
from bench.gate.streams import Streams

_SHARE_OF_HANDSHAKES = 0.25

Client = Steady | Streams | Recorder
"""What sends a load."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One load of the gate.

    judged: of canaryproxy with a release under way and all five metrics on.
    compiled: of the compiled data path (``make checked``).
    traced: each request has a trace id of its own.
    identified: each request has an id of its own, which is in its response, too.
    unseen: each request is a new user's, with a sticky cookie.
    fresh: each request has a connection of its own, which the server closes.
    tls: over TLS; a fresh connection resumes a session.
    http2: of one user over one connection of HTTP/2, 16 at a time.
    recorded: of the judge alone, which gets the records of requests.
    """

    judged: bool = False
    compiled: bool = False
    traced: bool = False
    identified: bool = False
    unseen: bool = False
    fresh: bool = False
    tls: bool = False
    http2: bool = False
    recorded: bool = False

    @property
    def server(self) -> str:
        """Return the name of the server that it is sent to."""
        if self.recorded:
            return "compiled judge" if self.compiled else "judge"
        if self.compiled:
            return "compiled"
        return "judged" if self.judged else "alone"

    @property
    def share(self) -> float:
        """Return the share of the requests that is sent: a handshake takes as long as many requests."""
        return _SHARE_OF_HANDSHAKES if self.fresh and self.tls else 1.0

    def of_plain(self) -> Kind:
        """Return what the plain aiohttp proxy gets instead: it speaks HTTP/1.1 without TLS."""
        return replace(self, judged=False, compiled=False, http2=False, tls=False, recorded=False)

    def client(self, port: int) -> Client:
        """Return what sends it."""
        if self.recorded:
            return Recorder(port)
        if self.http2:
            return Streams(port)
        return Steady(
            port,
            traced=self.traced,
            identified=self.identified,
            unseen=self.unseen,
            fresh=self.fresh,
            tls=self.tls,
        )


LOADS = {
    "returning users": Kind(),
    "a trace id in each request": Kind(traced=True),
    "a user in each request": Kind(unseen=True),
    "all metrics on": Kind(judged=True),
    "HTTP/2, all metrics on": Kind(judged=True, http2=True),
    "compiled, all metrics on": Kind(judged=True, compiled=True),
    "compiled, a trace id in each request": Kind(judged=True, compiled=True, traced=True),
    "compiled, an id in each request and response": Kind(
        judged=True, compiled=True, identified=True
    ),
    "compiled, a user in each request": Kind(judged=True, compiled=True, unseen=True),
    "compiled, a connection for each request": Kind(judged=True, compiled=True, fresh=True),
    "compiled, TLS": Kind(judged=True, compiled=True, tls=True),
    "compiled, TLS, a connection for each request": Kind(
        judged=True, compiled=True, fresh=True, tls=True
    ),
    "compiled, HTTP/2": Kind(judged=True, compiled=True, http2=True),
    "the judge alone": Kind(recorded=True),
    "compiled, the judge alone": Kind(recorded=True, compiled=True),
}
