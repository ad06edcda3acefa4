"""Users, two versions of a service and a proxy between them, for tests of the judge on real sockets.

The versions are functions from a request to an answer; their servers and the users' connections live in the
test's event loop, the proxy is a process of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, cast

import uvloop

from canaryproxy.measure.routing import bucket_of
from tests.ports import free_port

from .processes import Proxy, proxy, variants

RELEASE = "r1"


@dataclass(frozen=True)
class Ask:
    """What a user asks."""

    user: str | None
    """Value of the sticky cookie or header; ``None``: a user without one."""
    method: str = "GET"
    path: str = "/"
    patience: float = 20.0
    """Seconds after which the user leaves."""
    fields: str = ""
    """More header lines, each with its end."""


@dataclass(frozen=True)
class Request:
    """A request as a version gets it."""

    method: str
    path: str
    user: str
    """Value of the sticky cookie or header, or nothing."""
    head: str
    number: int
    """Of this server's requests, from 0."""


@dataclass(frozen=True)
class Answer:
    """What a version answers."""

    status: int = 200
    delay: float = 0.0
    """Seconds to the first byte; ``inf``: it never answers."""
    body: bytes = b"x" * 200
    fields: str = ""


Version = Callable[[Request], Answer]


def plain(_request: Request) -> Answer:
    return Answer()


def always(status: int) -> Version:
    body = b"" if status in (204, 302, 304) else b"x" * 40
    return lambda _request: Answer(status, body=body)


def hang(_request: Request) -> Answer:
    return Answer(delay=float("inf"))


def slow_by(seconds: float) -> Version:
    return lambda _request: Answer(delay=seconds)


class Service:
    """A version with its server."""

    def __init__(self, version: Version = plain) -> None:
        self.version = version
        self.port = free_port()
        self.requests = 0
        self._server: asyncio.Server | None = None

    async def listen(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Served(self), "127.0.0.1", self.port)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()


class _Served(asyncio.Protocol):
    def __init__(self, service: Service) -> None:
        self._service = service
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while b"\r\n\r\n" in self._buffer:
            head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
            self._answer(head.decode())

    def _answer(self, head: str) -> None:
        service = self._service
        method, path, _ = head.split(" ", 2)
        user = ""
        for line in head.split("\r\n")[1:]:
            name, _, value = line.partition(": ")
            if name.lower() == "x-user":
                user = value
            elif name.lower() == "cookie":
                user = value.partition("canary_id=")[2].partition(";")[0]
        answer = service.version(Request(method, path, user, head, service.requests))
        service.requests += 1
        if answer.delay == float("inf"):
            return
        if answer.delay:
            asyncio.get_running_loop().call_later(answer.delay, self._write, method, answer)
        else:
            self._write(method, answer)

    def _write(self, method: str, answer: Answer) -> None:
        bodiless = answer.status in (204, 304)
        size = "" if bodiless else f"Content-Length: {len(answer.body)}\r\n"
        head = f"HTTP/1.1 {answer.status} X\r\n{answer.fields}{size}\r\n".encode()
        if not self._transport.is_closing():
            self._transport.write(head + (b"" if bodiless or method == "HEAD" else answer.body))


class _Client(asyncio.Protocol):
    """A connection that sends one request at a time."""

    def __init__(self) -> None:
        self._buffer = b""
        self._is_head = False
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, _exc: Exception | None) -> None:
        self.lost = True
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError())

    async def send(self, request: bytes, *, is_head: bool) -> tuple[int, bytes]:
        """Return status and head of the answer."""
        self._is_head = is_head
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, body = self._buffer.partition(b"\r\n\r\n")
        if not end or self._answer is None or self._answer.done():
            return
        status = int(head[9:12])
        if not self._is_head and status not in (204, 304):
            size = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
            if len(body) < int(size or b"0"):
                return
        self._buffer = b""
        self._answer.set_result((status, head))


@dataclass
class Users:
    """Users who ask at a steady rate. A user's cookie is what the proxy set, if it has set one."""

    port: int
    rate: float
    choose: Callable[[Random], Ask]
    header: str | None = None
    """Name of the sticky header; ``None``: the sticky cookie."""
    mint: bool = False
    """Users come without a cookie and keep the one that they are given."""
    statuses: Counter[int] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)
    """Requests whose user lost patience, by user."""
    answered: int = 0
    _idle: deque[_Client] = field(default_factory=deque)
    _cookies: dict[str, str] = field(default_factory=dict)

    async def come(self) -> None:
        """Send until cancelled."""
        source = Random(1)
        loop = asyncio.get_running_loop()
        due = loop.time()
        tasks: set[asyncio.Task[None]] = set()
        try:
            while True:
                # A busy machine is not made busier: what is overdue by a second is not sent.
                due = max(due + 1 / self.rate, loop.time() - 1.0)
                await asyncio.sleep(max(due - loop.time(), 0))
                task = loop.create_task(self.ask(self.choose(source)))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for client in self._idle:
                client.transport.abort()

    async def ask(self, ask: Ask) -> None:
        """Send one request."""
        client = await self._connection()
        try:
            async with asyncio.timeout(ask.patience):
                status, head = await client.send(self._request(ask), is_head=ask.method == "HEAD")
        except TimeoutError:
            self.left[ask.user or ""] += 1
            client.transport.abort()
            return
        except asyncio.CancelledError:
            client.transport.abort()
            raise
        self.answered += 1
        self.statuses[status] += 1
        if self.mint and ask.user is not None and b"canary_id=" in head:
            cookie = head.partition(b"canary_id=")[2]
            self._cookies[ask.user] = cookie.partition(b";")[0].partition(b"\r")[0].decode()
        self._idle.append(client)

    async def _connection(self) -> _Client:
        while self._idle:
            client = self._idle.pop()
            if not client.lost and not client.transport.is_closing():
                return client
        _, client = await asyncio.get_running_loop().create_connection(
            _Client, "127.0.0.1", self.port
        )
        return client

    def _request(self, ask: Ask) -> bytes:
        key = ask.user
        if self.mint and key is not None:
            key = self._cookies.get(key)
        line = ""
        if key is not None:
            line = f"{self.header}: {key}\r\n" if self.header else f"Cookie: canary_id={key}\r\n"
        return f"{ask.method} {ask.path} HTTP/1.1\r\nHost: h\r\n{line}{ask.fields}\r\n".encode()


@dataclass
class World:
    """A release under way."""

    stable: Service
    canary: Service
    users: Users
    proxy: Proxy

    async def view(self) -> dict[str, Any]:
        """Return the release as the admin API shows it."""
        found: dict[str, Any] = json.loads(
            await asyncio.to_thread(self.proxy.ask, "GET", "/v1/release")
        )
        return found

    async def until(
        self, condition: Callable[[dict[str, Any]], object], what: str, seconds: float = 40.0
    ) -> dict[str, Any]:
        """Wait until the view is as wanted, and return it."""
        end = time.monotonic() + seconds
        while not condition(view := await self.view()):
            assert time.monotonic() < end, f"{what} did not come true: {self.told(view)}"
            await asyncio.sleep(0.1)
        return view

    async def observe(self, answers: int) -> None:
        """Wait until stable has answered so often."""
        await self.until(lambda _: self.users.answered >= answers, "answers of stable")

    async def tripped(self, seconds: float = 40.0) -> str:
        """Wait until the circuit is open, and return the cause."""
        view = await self.until(lambda view: view["circuit"]["state"] == "open", "trip", seconds)
        return str(view["circuit"]["cause"])

    async def held(self, words: str, seconds: float = 40.0) -> dict[str, Any]:
        """Wait until the release is held for what the words say, and return the view."""
        return await self.until(lambda view: words in reasons(view), f"held: {words}", seconds)

    async def passes(self, canary_requests: int) -> dict[str, Any]:
        """Wait until the canary got so many more requests; the release must not trip meanwhile."""
        wanted = self.canary.requests + canary_requests
        while True:
            view = await self.view()
            assert view["circuit"]["state"] == "closed", self.told(view)
            if self.canary.requests >= wanted:
                return view
            await asyncio.sleep(0.1)

    def told(self, view: dict[str, Any]) -> str:
        """Return what matters of a view, for the message of a failure."""
        shown = [
            metric["reason"]
            for metric in view["metrics"]
            if metric["level"] != "ok" or metric["worse"]
        ]
        return (
            f"{view['state']} at {view['weight']}%, {view['level']}, {view['circuit']['cause']}, "
            f"hold {view['hold']}, holds {view['holds']}, {shown}; stable got {self.stable.requests}, "
            f"canary {self.canary.requests}, users {dict(self.users.statuses)}"
        )


def reasons(view: dict[str, Any]) -> str:
    """Return everything that holds the release, in words."""
    suspects = [metric["reason"] for metric in view["metrics"] if metric["level"] == "suspect"]
    return "; ".join([view["hold"] or "", *view["holds"], *suspects])


def evenly(number: int, **of: Any) -> Callable[[Random], Ask]:
    """Users who ask equally often; ``of`` is what their requests have in common."""
    return among([f"u{at}" for at in range(number)], **of)


def among(users: Sequence[str], **of: Any) -> Callable[[Random], Ask]:
    return lambda source: Ask(source.choice(users), **of)


def people(stable: int, canary: int, weight: float) -> list[str]:
    """Names of so many users on each side of a weight in percent, the canary's first."""
    sides: tuple[list[str], list[str]] = ([], [])
    number = 0
    while len(sides[0]) < stable or len(sides[1]) < canary:
        user = f"p{number}"
        number += 1
        is_canary = bucket_of(RELEASE.encode(), user.encode()) < weight * 100
        side = sides[is_canary]
        if len(side) < (canary if is_canary else stable):
            side.append(user)
    return sides[1] + sides[0]


@contextlib.asynccontextmanager
async def world(
    folder: Path,
    *,
    weight: float,
    stable: Version = plain,
    canary: Version = plain,
    choose: Callable[[Random], Ask] | None = None,
    rate: float = 150.0,
    bake: str = "1h",
    judge: str = "",
    more: str = "",
    warmup: str = "1s",
    late: bool = False,
    observed: int = 0,
    first: str = "",
    **of_users: Any,
) -> AsyncIterator[World]:
    """Run a release at a weight; ``judge`` and ``more`` are YAML, and so is a step ``first`` before it.

    ``late``: the canary does not listen. ``observed``: so many answers of stable come first, at weight 0.
    """
    sides = Service(stable), Service(canary)
    await sides[0].listen()
    if not late:
        await sides[1].listen()
    steps = [f"{{weight: {weight}, bake: {bake}}}", "{weight: 100}"]
    if first:
        steps.insert(0, first)
    if observed:
        steps.insert(0, "{weight: 0}")
    section = f"judge: {{baseline: 0s, warmup: {warmup}{', ' if judge else ''}{judge}}}"
    running = proxy(
        folder,
        variants([sides[0].port], [sides[1].port]),
        f"state: {folder}/state.json\n"
        f"release: {{id: {RELEASE}, steps: [{', '.join(steps)}]}}\n"
        f"{section}\n{more}",
    )
    async with contextlib.AsyncExitStack() as stack:
        for side in sides:
            stack.callback(side.close)
        started = await asyncio.to_thread(running.__enter__)
        stack.push_async_callback(asyncio.to_thread, running.__exit__, None, None, None)
        users = Users(started.port, rate, choose or evenly(1000), **of_users)
        sending = asyncio.create_task(users.come())
        stack.push_async_callback(_end, sending)
        found = World(*sides, users, started)
        if observed:
            await found.observe(observed)
            await asyncio.to_thread(started.ask, "PUT", "/v1/weight", {"weight": weight})
        yield found
        assert not sending.done(), sending.exception()


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def play(story: Awaitable[None]) -> None:
    """Run a story to its end."""

    async def told() -> None:
        await story

    uvloop.run(told())
