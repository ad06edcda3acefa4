"""HAProxy: the backend chosen by a hash of the cookie, shared upstream connections, one thread."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.harness.ports import HOST
from bench.loads import COOKIE
from bench.peers.base import ALL, MAX_CONNECTIONS, Site, ask, missing_program, required


@dataclass(frozen=True, slots=True)
class Haproxy:
    """HAProxy as Debian ships it."""

    name: str = "haproxy"
    title: str = "HAProxy, backend by hash of the cookie, http-reuse always, 1 thread"
    splits: bool = True
    features: frozenset[str] = ALL

    def missing(self) -> str | None:
        return missing_program("haproxy", "Debian, Ubuntu: apt-get install haproxy")

    def version(self) -> str:
        return ask(required("haproxy"), "-v").split()[2]

    def render_config(self, site: Site) -> str:
        # Without TLS, the preface tells HTTP/2 from HTTP/1.
        alpn = " alpn h2" if site.http2 else ""
        ssl = f" ssl crt {site.pair}{alpn}" if site.tls else ""
        proto = " proto h2" if site.http2_upstream else ""
        bucket = f"req.cook({COOKIE}),xxh32,mod(10000)"
        return f"""\
global
    nbthread 1
    maxconn {MAX_CONNECTIONS}
    no strict-limits
defaults
    mode http
    timeout connect 2s
    timeout client 1h
    timeout server 1h
    timeout http-keep-alive 1h
    timeout tunnel 1h
    http-reuse always
    option forwardfor
frontend front
    bind {HOST}:{site.port} backlog 1024{ssl}
    use_backend canary if {{ {bucket} -m int lt {site.weight * 100:.0f} }}
    default_backend stable
backend stable
    server stable1 {HOST}:{site.stable}{proto}
backend canary
    server canary1 {HOST}:{site.canary}{proto}
"""

    def command(self, site: Site, config: Path) -> list[str]:  # noqa: ARG002
        return [required("haproxy"), "-db", "-f", str(config)]
