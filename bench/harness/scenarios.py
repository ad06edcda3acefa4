"""What the full benchmark measures: loads, and the variations of canaryproxy whose cost is compared."""

from __future__ import annotations

from dataclasses import replace

from bench.harness.process import StartError
from bench.loads import UPLOAD_BYTES, Load
from bench.peers.nginx import Nginx
from bench.peers.ours import CHECKED, Ours

OURS = Ours(
    title="canaryproxy, compiled, split by cookie, a release under way, all five metrics judged, 1 worker",
    judged=True,
)
"""How canaryproxy is measured throughout: everything on."""

PURE = replace(
    OURS, name="pure", title="the same in plain Python, without a compiler", compiled=False
)

BUILDS = {"compiled": OURS, "checked": replace(OURS, build=CHECKED), "plain": PURE}
"""What is measured, by the name that ``--build`` takes; the quickest one first."""


def build(name: str | None) -> Ours:
    """Return what is measured of this name; without one, the quickest that is there.

    Raises ``StartError`` if it is not there.
    """
    if name is None:
        return next(one for one in BUILDS.values() if not one.missing())
    reason = BUILDS[name].missing()
    if reason:
        raise StartError(reason)
    return BUILDS[name]


OURS_ALONE = replace(OURS, name="no release", title="no release, default metrics", judged=False)
"""Without a release, so with less to do for each request."""

SMALL = Load("small-32", "small answers, 32 kept-alive connections, 1000 returning users in turn")
"""The load that everything else is compared with."""

CLOSED = (
    replace(SMALL, name="small-1", description="small answers, 1 connection", connections=1),
    SMALL,
    replace(SMALL, name="small-256", description="small answers, 256 connections", connections=256),
    replace(
        SMALL,
        name="traced",
        description="small-32 with a trace id of its own in each request: no two requests are alike",
        traced=True,
    ),
    replace(
        SMALL,
        name="connect",
        description="small answers, a new connection for each request, 32 at a time",
        close=True,
    ),
    replace(SMALL, name="10k", description="answers of 10 KiB, 32 connections", path="/10k"),
    replace(
        SMALL, name="1m", description="answers of 1 MiB, 8 connections", path="/1m", connections=8
    ),
    replace(
        SMALL,
        name="upload",
        description="uploads of 64 KiB, 32 connections",
        method="POST",
        upload_bytes=UPLOAD_BYTES,
        users=100,
    ),
    replace(
        SMALL,
        name="chunked",
        description="chunked answers of 10 KiB, 32 connections",
        path="/chunked",
    ),
)
"""Closed model, all peers."""

TLS = replace(SMALL, name="tls", description="small-32 with TLS to the proxy", tls=True)

TLS_CONNECT = Load(
    "tls-connect",
    "TLS with a new connection for each request, 8 at a time, each of which resumes a session",
    users=100,
    connections=8,
    close=True,
    tls=True,
    tool="tls_connect",
)

H2C = Load(
    "h2c",
    "HTTP/2 by prior knowledge, small answers, 8 connections with 16 requests in flight each, "
    "one user: the same request again",
    users=1,
    connections=8,
    streams=16,
    tool="h2load",
)
HTTP2 = (
    H2C,
    replace(H2C, name="h2c-paths", description="h2c with 1000 paths in turn", paths=1000),
    replace(
        H2C,
        name="h2c-1m",
        description="h2c with answers of 1 MiB, one request in flight on each of 8 connections",
        path="/1m",
        streams=1,
    ),
)
HTTP2_BOTH = (
    replace(
        H2C, name="h2c-h2c", description="h2c with HTTP/2 to the upstream, too", http2_upstream=True
    ),
    replace(
        H2C,
        name="grpc",
        description="unary calls of gRPC with messages of 100 bytes, h2c on both sides",
        path="/grpc",
        http2_upstream=True,
        grpc=True,
    ),
)
HTTP2_TLS = replace(H2C, name="h2-tls", description="h2c with TLS to the proxy, by ALPN", tls=True)

WEBSOCKET = Load(
    "websocket",
    "WebSocket echo of 64 bytes, 32 connections with one message in flight each; a request is a message",
    tool="websocket",
)

HALF = Load(
    "latency-half",
    "open model at half of each proxy's own requests/s in small-32",
    connections=256,
    tool="open_model",
)
SAME = replace(
    HALF,
    name="latency-same",
    description="open model at 2,000 requests/s for everybody",
    rate=2000.0,
)
ACTIVE = replace(
    HALF,
    name="latency-active",
    description="open model at 5,000 requests/s for everybody on 5,000 connections in turn, "
    "beside idle connections that have made one request each",
    connections=5000,
    rate=5000.0,
)
OPEN = (HALF, SAME, ACTIVE)
"""Open model, all peers."""

MAX_RATE = 18_000.0
"""Requests/s above which the open-model generator would itself be a good part of the latency."""

IDLE = Load("idle", "small-32 alone, then beside idle connections that have made one request each")

VARIATIONS = (
    OURS,
    OURS_ALONE,
    replace(OURS, name="2 workers", title="2 workers, both on the proxy's core", workers=2),
    replace(OURS, name="8 endpoints", title="8 endpoints a variant", endpoints=8),
    replace(OURS, name="64 endpoints", title="64 endpoints a variant", endpoints=64),
    Nginx(name="nginx"),
    Nginx(name="nginx, 64 endpoints", title="nginx, 64 servers a variant", endpoints=64),
    replace(OURS, name="5 rules", title="5 match rules, none of which holds", rules=5),
    replace(OURS, name="20 rules", title="20 match rules, none of which holds", rules=20),
)
"""canaryproxy in several configurations under ``SMALL``: what a thing costs, and what it costs nginx."""

COST = replace(
    SMALL,
    name="cost",
    description="small-32 on variations of canaryproxy's configuration; "
    "three times as many rounds of half the length",
)

USERS = tuple(
    replace(
        SMALL,
        name=f"{count:,} user{'s' * (count > 1)}",
        description=f"cookies of {count:,} users in turn",
        users=count,
        made=True,
    )
    for count in (1, 1_000, 1_000_000)
)
"""The cost against the number of users; cookies are made by the generator while it sends."""

NAMES = (
    *(load.name for load in CLOSED),
    *(load.name for load in OPEN),
    *("idle", "websocket", "cost", "users", "tls", "tls-connect"),
    *(load.name for load in (*HTTP2, HTTP2_TLS, *HTTP2_BOTH)),
)
"""What ``--load`` takes."""
