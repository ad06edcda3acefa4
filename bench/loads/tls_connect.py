"""A load generator for TLS with a new connection for each request, each of which resumes a session.

wrk and h2load make a full handshake each time, which no browser does. Here each connection offers the session
of the one before (RFC 8446 §2.2); one that is not resumed counts as an error. A closed model.
Example: python -m bench.loads.tls_connect https://127.0.0.1:8443 --seconds 2 --connections 8
"""

from __future__ import annotations

import argparse
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from bench.loads import ANSWER_BYTES, Load, wrk
from bench.loads.quantiles import in_microseconds

_SECONDS = 10.0
_READ_BYTES = 65536
_USERS = 100


@dataclass
class Found:
    """What one client has counted; ``latencies`` in nanoseconds, from before it connects to the end."""

    latencies: list[int] = field(default_factory=list)
    bytes: int = 0
    full_handshakes: int = 0
    errors: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("connect", "read", "status", "timeout"), 0)
    )


class Client:
    """Connects, asks and reads to the end, again and again."""

    def __init__(self, host: str, port: int, cookies: list[str]) -> None:
        self._address = (host, port)
        self._requests = [
            f"GET / HTTP/1.1\r\nHost: {host}:{port}\r\nCookie: {cookie}\r\n"
            "Connection: close\r\n\r\n".encode()
            for cookie in cookies
        ]
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.check_hostname = False
        self._context.verify_mode = ssl.CERT_NONE
        self._session: ssl.SSLSession | None = None
        self._at = 0
        """How many requests were sent."""
        self.found = Found()

    def run(self, until: float) -> None:
        """Send once, and then until that time, in seconds of ``time.monotonic``."""
        self.send()
        while time.monotonic() < until:
            self.send()

    def send(self) -> None:
        """Send one request over a connection of its own."""
        request = self._requests[self._at % len(self._requests)]
        self._at += 1
        began = time.perf_counter_ns()
        try:
            self._send(request)
        except TimeoutError:
            self.found.errors["timeout"] += 1
        except OSError:
            self.found.errors["read"] += 1
        else:
            self.found.latencies.append(time.perf_counter_ns() - began)

    def _send(self, request: bytes) -> None:
        found = self.found
        raw = socket.create_connection(self._address, timeout=_SECONDS)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._context.wrap_socket(raw, session=self._session) as connection:
            if not connection.session_reused:
                found.full_handshakes += 1
                found.errors["connect"] += self._session is not None
            connection.sendall(request)
            answer = b""
            while piece := connection.recv(_READ_BYTES):
                answer += piece
            # In TLS 1.3 tickets come after the handshake.
            self._session = connection.session
        found.bytes += len(answer)
        head, _, body = answer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 ") or len(body) != ANSWER_BYTES:
            found.errors["status"] += 1


def send(url: str, seconds: float, connections: int) -> str:
    """Send over so many connections at a time, and return the line with the figures."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 443
    cookies = Load("", "", users=_USERS).cookies()
    clients = [Client(host, port, cookies[at:] + cookies[:at]) for at in range(connections)]
    began = time.monotonic()
    threads = [
        threading.Thread(target=client.run, args=(began + seconds,), daemon=True)
        for client in clients
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.monotonic() - began
    return figures([client.found for client in clients], took)


def figures(found: Sequence[Found], took: float) -> str:
    """Return the line with what all clients have found in so many seconds."""
    latencies = [one for each in found for one in each.latencies]
    return wrk.result_line(
        {
            "requests": len(latencies),
            "bytes": sum(each.bytes for each in found),
            "duration_us": took * 1e6,
            "full_handshakes": sum(each.full_handshakes for each in found),
            **{kind: sum(each.errors[kind] for each in found) for kind in found[0].errors},
            **in_microseconds(latencies),
        }
    )


def main() -> None:
    """Read the command line and send."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--connections", type=int, required=True)
    arguments = parser.parse_args()
    print(send(arguments.url, arguments.seconds, arguments.connections), flush=True)


if __name__ == "__main__":
    main()
