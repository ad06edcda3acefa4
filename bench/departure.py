"""How long-lived connections leave a canary in a drill, as their clients see it.

Opens WebSockets and event streams at weight 50, runs a drill, and lets each client connect again when it is
closed. It fails unless every client of the canary got a clean end within ``close_after`` and ``spread``,
stable never accepted more in a second than the spread has it, and the drill's figures are the clients' own.

Example: python -m bench.departure --websockets 2000 --streams 500 --close-after 5 --spread 30
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import resource
import sys
import tempfile
import time
from dataclasses import dataclass, field
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any, cast

import aiohttp
import uvloop

_HEAD_END = b"\r\n\r\n"
_SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
_STREAM = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"9\r\ndata: 1\n\n\r\n"
)
_CLOSE = b"\x88\x02\x03\xf4"
_REPLY = b"\x88\x82mask\x6e\x95"
_LAST_CHUNK = b"0\r\n\r\n"
_AT_ONCE = 50
"""Connections that are being opened at the same time."""
_TICK = 0.2
"""Seconds: two ticks of the proxy, and what a busy machine adds."""


@dataclass
class Seen:
    """What clients and upstreams saw, in monotonic seconds."""

    opened: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    clean: list[float] = field(default_factory=list)
    broken: int = 0
    accepted: list[float] = field(default_factory=list)
    """When stable accepted a request for one of them."""
    on_canary: int = 0
    over: bool = False
    """Whether clients that are closed stay away."""


class Upstream(asyncio.Protocol):
    """Answers one request with a WebSocket or an event stream that lasts."""

    def __init__(self, seen: Seen, *, canary: bool) -> None:
        self._seen = seen
        self._canary = canary
        self._head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._head.endswith(_HEAD_END):
            return
        self._head += data
        if self._head.endswith(_HEAD_END):
            if self._canary:
                self._seen.on_canary += 1
            else:
                self._seen.accepted.append(time.monotonic())
            self._transport.write(_SWITCH if b"Upgrade:" in self._head else _STREAM)

    def connection_lost(self, _exc: Exception | None) -> None:
        if self._canary and self._head.endswith(_HEAD_END):
            self._seen.on_canary -= 1


class Client(asyncio.Protocol):
    """Opens one connection; when that is ended, it says whether cleanly, and opens it again."""

    def __init__(self, seen: Seen, port: int, number: int, *, websocket: bool) -> None:
        self._seen, self._port, self._number, self._websocket = seen, port, number, websocket
        upgrade = (
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        )
        self._hello = (
            f"GET /live HTTP/1.1\r\nHost: h\r\nCookie: canary_id={number:032x}\r\n"
            f"{upgrade if websocket else ''}\r\n"
        ).encode()
        self._got = b""
        self._is_open = False
        self._tasks: set[asyncio.Task[Any]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._hello)

    def data_received(self, data: bytes) -> None:
        self._got += data
        if not self._is_open and self._got.endswith(_HEAD_END if self._websocket else b"1\n\n\r\n"):
            self._is_open = True
            self._seen.opened.release()
        elif self._is_open and self._got.endswith(_CLOSE if self._websocket else _LAST_CHUNK):
            self._seen.clean.append(time.monotonic())
            self._is_open = False
            if self._websocket:
                self._transport.write(_REPLY)
            self._transport.close()
            if self._seen.over:
                return
            again = partial(Client, self._seen, self._port, self._number, websocket=self._websocket)
            connecting = asyncio.get_running_loop().create_connection(
                again, "127.0.0.1", self._port
            )
            self._tasks.add(asyncio.ensure_future(connecting))

    def connection_lost(self, _exc: Exception | None) -> None:
        self._seen.broken += self._is_open


def _config(folder: Path, ports: tuple[int, int, int], options: argparse.Namespace) -> Path:
    path = folder / "c.yaml"
    path.write_text(
        f"""listen: 127.0.0.1:{ports[0]}
admin: {{socket: {folder}/admin.sock}}
state: {folder}/state.json
workers: {options.workers}
variants:
  stable: {{endpoints: ["http://127.0.0.1:{ports[1]}"]}}
  canary: {{endpoints: ["http://127.0.0.1:{ports[2]}"]}}
split: {{weight: 50}}
circuit: {{close_after: {options.close_after:g}s, spread: {options.spread:g}s}}
limits: {{max_endpoint_connections: 20000, connect_timeout: 30s, drain_timeout: 100ms}}
"""
    )
    return path


async def _ask(folder: Path, method: str, path: str) -> Any:
    connector = aiohttp.UnixConnector(str(folder / "admin.sock"))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.request(method, f"http://admin{path}", json={}) as response,
    ):
        response.raise_for_status()
        return await response.json()


async def _ready(folder: Path) -> None:
    for _ in range(600):
        with contextlib.suppress(aiohttp.ClientError, OSError):
            await _ask(folder, "GET", "/v1/release")
            return
        await asyncio.sleep(0.1)
    raise SystemExit("the proxy did not start")


def _busiest_second(moments: list[float]) -> int:
    ordered, first, most = sorted(moments), 0, 0
    for last, moment in enumerate(ordered):
        while moment - ordered[first] > 1.0:
            first += 1
        most = max(most, last - first + 1)
    return most


def _judge(
    seen: Seen, began: float, expected: int, figures: dict[str, Any], options: argparse.Namespace
) -> list[str]:
    """Print what was seen; return what is wrong with it."""
    within = options.close_after + options.spread
    last = max(seen.clean, default=began) - began
    per_second = _busiest_second([one for one in seen.accepted if one >= began])
    slack = _TICK + options.slack
    allowed = ceil(expected / max(options.spread, 1.0)) + ceil(expected * slack / options.spread)
    theirs = figures["seconds_to_last_connection"]
    print(
        f"{expected} connections on the canary: {len(seen.clean)} ended cleanly, {seen.broken} not;"
        f" the last one after {last:.2f} s (at most {within:g}); by the drill {theirs} s;"
        f" stable accepted at most {per_second} in a second (even: {expected / options.spread:.0f})"
    )
    wrong = []
    if len(seen.clean) != expected or seen.broken:
        wrong.append("not every client got a clean end")
    if last > within + options.slack:
        wrong.append("the last one left too late")
    if per_second > allowed:
        wrong.append(f"stable had a rush: more than {allowed} in a second")
    if theirs is None or abs(theirs - last) > slack or figures["connections"] != expected:
        wrong.append(f"the drill says otherwise: {figures}")
    return wrong


async def _run(options: argparse.Namespace, folder: Path) -> list[str]:
    seen, loop = Seen(), asyncio.get_running_loop()
    servers = [
        await loop.create_server(
            partial(Upstream, seen, canary=canary), "127.0.0.1", 0, backlog=4096
        )
        for canary in (False, True)
    ]
    free = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    stable, canary, port = (one.sockets[0].getsockname()[1] for one in (*servers, free))
    free.close()
    await free.wait_closed()
    config = _config(folder, (port, stable, canary), options)
    proxy = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "canaryproxy",
        "run",
        "-c",
        str(config),
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        await _ready(folder)
        total = options.websockets + options.streams
        for first in range(0, total, _AT_ONCE):
            group = range(first, min(first + _AT_ONCE, total))
            for number in group:
                client = partial(Client, seen, port, number, websocket=number < options.websockets)
                await loop.create_connection(client, "127.0.0.1", port)
            for _ in group:
                await asyncio.wait_for(seen.opened.acquire(), 60)
        expected = seen.on_canary
        began = time.monotonic()
        drill = await _ask(folder, "POST", "/v1/release/drill")
        return _judge(seen, began, expected, drill["drill"], options)
    finally:
        seen.over = True
        with contextlib.suppress(ProcessLookupError):
            proxy.terminate()  # its workers write to the folder until it has ended
        await proxy.wait()
        for server in servers:
            server.close()


def main() -> int:
    """Run it; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--websockets", type=int, default=2000)
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument("--close-after", type=float, default=5.0)
    parser.add_argument("--spread", type=float, default=30.0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument(
        "--slack", type=float, default=0.0, help="seconds for a machine that is busy"
    )
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with (
        tempfile.TemporaryDirectory() as folder,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        wrong = runner.run(_run(options, Path(folder)))
    for one in wrong:
        print(f"FAILED: {one}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
