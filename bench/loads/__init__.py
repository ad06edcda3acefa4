"""What is sent: the loads, as plain values."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

COOKIE = "canary_id"
"""Name of the sticky cookie, in every proxy's configuration."""

ANSWER_BYTES = 103
"""Length of the upstreams' answer body."""

BODIES = {"/10k": 10 * 1024, "/1m": 1024 * 1024, "/chunked": 10 * 1024}
"""Length of the answer body by path, for the paths of the upstreams that answer with more."""

UPLOAD_BYTES = 64 * 1024

GRPC_MESSAGE = b"\0\0\0\0\x64" + b"x" * 100
"""A message of gRPC, of 100 bytes: request and answer of a unary call."""


@dataclass(frozen=True, slots=True)
class Load:
    """One way of sending requests.

    name: what ``--load`` takes.
    description: one line for the report.
    users: number of distinct sticky cookies that the requests go through in turn; 0 sends none,
        1 sends the same bytes each time.
    connections: kept-alive connections, each with one request in flight (closed model).
    traced: each request carries a traceparent of its own, so that no two have the same bytes.
    made: cookies are made while sending, so that there may be millions of users; else they are
        made before, at most some thousand.
    path, method, upload_bytes: of each request.
    close: a new connection for each request.
    tls: to the proxy, not to the upstream.
    streams: requests in flight on each connection of HTTP/2.
    http2_upstream: HTTP/2 to the upstream, too.
    grpc: unary calls, with ``GRPC_MESSAGE`` each way.
    paths: so many targets in turn; HTTP/2 only.
    tool: what sends: wrk, h2load (HTTP/2), or a module of this package.
    rate: requests/s that are sent whatever comes back (open model); None: a closed model.
    """

    name: str
    description: str
    users: int = 1000
    connections: int = 32
    traced: bool = False
    made: bool = False
    path: str = "/"
    method: str = "GET"
    upload_bytes: int = 0
    close: bool = False
    tls: bool = False
    streams: int = 1
    http2_upstream: bool = False
    grpc: bool = False
    paths: int = 1
    tool: Literal["wrk", "h2load", "open_model", "websocket", "tls_connect"] = "wrk"
    rate: float | None = None

    def cookies(self) -> list[str]:
        """Return the value of the Cookie header for each user; the same in every run."""
        source = random.Random(2)
        return [f"{COOKIE}={source.getrandbits(128):032x}" for _ in range(self.users)]


LOADS = {
    load.name: load
    for load in (
        Load("users", "1000 returning users, each with its own sticky cookie, in turn"),
        Load(
            "traced",
            "1000 returning users in turn, each request with a trace id of its own",
            traced=True,
        ),
        Load("static", "one user: the same bytes in each request", 1),
        Load("new", "no cookie, as a new user's first request (only ours and plain set one)", 0),
    )
}
"""The loads of ``bench.quick``, by name."""
