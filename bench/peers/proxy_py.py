"""proxy.py (PyPI) as a canary proxy: variant by hash of the cookie, upstream connections kept.

proxy.py by itself opens an upstream connection for each request. The plugin keeps one to each variant for
as long as the client's connection lasts. What follows the ports and the weight are proxy.py's own options.
Example: python -m bench.peers.proxy_py 9001 9002 10 --port 8080
"""

from __future__ import annotations

import os
import sys
import zlib
from typing import Any

import proxy
from proxy.core.connection import TcpServerConnection
from proxy.http.server import ReverseProxyBasePlugin

from bench.harness.ports import HOST
from bench.loads import COOKIE

_BUCKETS = 10_000
_COOKIE = COOKIE.encode() + b"="
_ENVIRONMENT = "BENCH_PROXY_PY"  # acceptors are processes of their own, which import this again


class Split(ReverseProxyBasePlugin):
    """One for each client connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        stable, canary, weight = os.environ[_ENVIRONMENT].split()
        self._ports = (int(stable), int(canary))
        self._threshold = float(weight) * _BUCKETS / 100
        self._upstreams: dict[bool, TcpServerConnection] = {}

    def routes(self) -> list[str | tuple[str, list[bytes]]]:
        return [r"/"]

    def handle_route(self, request: Any, pattern: Any) -> TcpServerConnection:  # noqa: ARG002
        """Send the request on, and return the connection on which the answer comes."""
        cookie = request.header(b"cookie") if request.has_header(b"cookie") else b""
        user = cookie.partition(_COOKIE)[2].partition(b";")[0]
        on_canary = bool(user) and zlib.crc32(user) % _BUCKETS < self._threshold
        upstream = self._upstreams.get(on_canary)
        if upstream is None:
            upstream = TcpServerConnection(HOST, self._ports[on_canary])
            upstream.connect()
            upstream.connection.setblocking(False)
            self._upstreams[on_canary] = upstream
        upstream.queue(memoryview(request.build()))
        return upstream


if __name__ == "__main__":
    os.environ[_ENVIRONMENT] = " ".join(sys.argv[1:4])
    sys.argv[1:] = [
        *sys.argv[4:],
        "--enable-reverse-proxy",
        "--plugins",
        "bench.peers.proxy_py.Split",
    ]
    proxy.main()
