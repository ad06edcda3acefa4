"""Users of a proxy under fault, and accounts that have to agree with its counters."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections import Counter
from time import monotonic

import uvloop

from ..system.processes import Proxy, until

PATIENCE = 40.0
"""Seconds that nobody waits for an answer: longer than any timeout of the proxies here."""


class Users:
    """Clients that ask one after the other, each time as another user. Use as a context.

    ``seen`` counts statuses, ``cut`` answers that broke off, ``bodies`` what was answered with 200.
    """

    def __init__(
        self, port: int, clients: int = 8, *, pause: float = 0.02, body: bytes = b""
    ) -> None:
        self._port = port
        self._clients = clients
        self._pause = pause
        self._body = body
        self._end = threading.Event()
        self._thread = threading.Thread(target=lambda: uvloop.run(self._run()))
        self._numbers = itertools.count()
        self.sent = 0
        self.seen: Counter[int] = Counter()
        self.bodies: Counter[bytes] = Counter()
        self.cut = 0
        self.refused = 0
        """Connections that were not taken, or closed before a request was sent."""
        self.longest = 0.0
        """Seconds that an answer took at the most."""

    def __enter__(self) -> Users:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End when everybody has an answer."""
        self._end.set()
        self._thread.join(3 * PATIENCE)
        assert not self._thread.is_alive()

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(self._clients):
                group.create_task(self._client())

    async def _client(self) -> None:
        while not self._end.is_set():
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError:
                self.refused += 1
                await asyncio.sleep(0.05)
                continue
            goes_on = True
            while goes_on and not self._end.is_set():
                goes_on = await self._ask(reader, writer)
                await asyncio.sleep(self._pause)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Send a request; return whether the connection goes on."""
        self.sent += 1
        began = monotonic()
        method = b"POST" if self._body else b"GET"
        length = b"Content-Length: %d\r\n" % len(self._body) if self._body else b""
        user = b"u%d" % (next(self._numbers) % 5000)
        writer.write(
            b"%b / HTTP/1.1\r\nHost: h\r\nCookie: canary_id=%b\r\n%b\r\n%b"
            % (method, user, length, self._body)
        )
        try:
            async with asyncio.timeout(PATIENCE):
                head = await reader.readuntil(b"\r\n\r\n")
                size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                body = await reader.readexactly(size)
        except (OSError, asyncio.IncompleteReadError):
            self.cut += 1
            return False
        finally:
            self.longest = max(self.longest, monotonic() - began)
        status = int(head[9:12])
        self.seen[status] += 1
        if status == 200:
            self.bodies[body] += 1
        return b"\r\nconnection: close" not in head.lower()

    def agree(self, proxy: Proxy) -> None:
        """Every request ended, and the proxy's counters say the same."""
        assert self.sent == self.seen.total() + self.cut

        def counted() -> float:
            found = proxy.metrics()
            names = (
                "canaryproxy_requests_total",
                "canaryproxy_client_closed",
                "canaryproxy_refused_total",
            )
            return sum(value for key, value in found.items() if key.startswith(names))

        until(lambda: counted() == self.sent, f"{self.sent} counted requests")
        found = proxy.metrics()
        in_flight = [v for k, v in found.items() if k.startswith("canaryproxy_inflight_requests")]
        assert sum(in_flight) == 0
