"""A front and two proxies behind it, each a process of its own, and the front's fleet in a real Redis.

The user asks the front for the page of ``web``, which asks ``cart`` through the second proxy, which asks
``stock`` through the third; each service copies ``X-Canary``, and the page names the version of all three.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from canaryproxy.http1.propagated import read
from canaryproxy.measure.routing import VARIANTS, bucket_of
from tests.ports import free_port

from ..fleet.server import RedisServer, needs_redis, redis_server
from .processes import Proxy, proxy, variants
from .test_release import soon

pytestmark = [pytest.mark.slow, needs_redis]

RELEASE = "shop-7"
WEIGHTS = (5, 50)
SERVICES = "127.0.0.2"
"""The address that services call from: the proxies behind believe it, and no other."""
BEHIND = ("cart", "stock")
CLIENTS = 4

FRONT = """
state: {folder}/state.json
propagate: {{header: X-Canary}}
release: {{id: {release}, steps: [{{weight: 5, bake: 1h}}, {{weight: 50, bake: 1h}}, {{weight: 100}}]}}
judge: {{baseline: 0s}}
fleet: {{redis: "{redis}", group: shop}}
"""
FOLLOWER = """
state: {folder}/state.json
propagate: {{header: X-Canary}}
split:
  follow:
    header: X-Canary
    from: [{services}/32]
    tell: {{redis: "{redis}", group: shop, service: {name}}}
"""


def users_between(low: float, high: float, number: int) -> list[str]:
    """Return users who get the canary at ``high`` percent, and not at ``low``."""
    found: list[str] = []
    at = 0
    while len(found) < number:
        user = f"u{at}"
        if low * 100 <= bucket_of(RELEASE.encode(), user.encode()) < high * 100:
            found.append(user)
        at += 1
    return found


EARLY, LATE, NEVER = users_between(0, 5, 8), users_between(5, 50, 8), users_between(50, 100, 8)
EVERYONE = [*EARLY, *LATE, *NEVER]


def expected(weight: int) -> dict[str, str]:
    """Return the version of each user."""
    on_canary = {0: [], 5: EARLY, 50: [*EARLY, *LATE]}[weight]
    return {user: "canary" if user in on_canary else "stable" for user in EVERYONE}


async def get(
    port: int, *fields: str, user: str | None = None, source: str | None = None
) -> tuple[int, str]:
    """Ask on a connection of its own; return status and body."""
    cookie = () if user is None else (f"Cookie: canary_id={user}",)
    lines = ("GET / HTTP/1.1", "Host: shop", "Connection: close", *fields, *cookie)
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, local_addr=None if source is None else (source, 0)
    )
    try:
        writer.write("".join(f"{line}\r\n" for line in (*lines, "")).encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        await close(writer)
    return int(head[9:12]), body.decode()


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


class Chain:
    """The services in this process, and the proxies before them, which are processes of their own."""

    def __init__(self, folder: Path, redis: RedisServer) -> None:
        self.folder = folder
        self.redis = redis
        self.proxies: dict[str, Proxy] = {}
        self.misled: list[str] = []
        """What was received and names another version than that of the service."""
        self._answering: set[asyncio.Task[Any] | None] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            names = ("web", *BEHIND)
            made = [
                self._proxy(name, *[await self._serve(stack, name, one) for one in VARIANTS])
                for name in names
            ]
            started = [asyncio.to_thread(stack.enter_context, one) for one in made]
            self.proxies = dict(zip(names, await asyncio.gather(*started), strict=True))
            yield
        await asyncio.gather(*(one for one in self._answering if one))  # the proxies have ended

    async def _serve(self, stack: contextlib.AsyncExitStack, name: str, version: str) -> int:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._answering.add(asyncio.current_task())
            with contextlib.suppress(asyncio.IncompleteReadError, OSError):
                while True:
                    head = await reader.readuntil(b"\r\n\r\n")
                    page = (await self._page(name, version, head)).encode()
                    writer.write(
                        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(page) + page
                    )
            await close(writer)

        port = free_port()
        server = await asyncio.start_server(answer, "127.0.0.1", port)
        stack.callback(server.close)
        return port

    async def _page(self, name: str, version: str, head: bytes) -> str:
        """Answer as a version of a service: with its name, and the answer of the service that it calls."""
        lines = head.split(b"\r\n")
        told = [line.split(b":", 1)[1].strip() for line in lines if line.startswith(b"X-Canary:")]
        if len(told) != 1 or VARIANTS[read(told[0])[0].variant] != version:
            self.misled.append(f"{name} {version} got {told}")
        following = {"web": "cart", "cart": "stock"}.get(name)
        if following is None:
            return version
        fields = [f"X-Canary: {one.decode()}" for one in told]
        port = self.proxies[following].port
        status, rest = await get(port, *fields, source=SERVICES)
        return f"{version} {rest}" if status == 200 else f"{version} {status}"

    @contextmanager
    def _proxy(self, name: str, stable: int, canary: int) -> Iterator[Proxy]:
        folder = self.folder / name
        folder.mkdir()
        more = (FRONT if name == "web" else FOLLOWER).format(
            folder=folder, redis=self.redis.url, release=RELEASE, services=SERVICES, name=name
        )
        with proxy(folder, variants([stable], [canary]), more) as running:
            yield running

    # What operators see and do

    async def view(self, name: str) -> dict[str, Any]:
        text = await asyncio.to_thread(self.proxies[name].ask, "GET", "/v1/release")
        found: dict[str, Any] = json.loads(text)
        return found

    async def act(self, name: str, method: str, path: str, body: object = None) -> None:
        await asyncio.to_thread(self.proxies[name].ask, method, path, body)

    def says_no_trip(self, name: str) -> bool:
        """Tell whether a service behind says to the front's fleet that its circuit is closed."""
        return '"trip": ""' in self.redis.cli("HGET", "canaryproxy:{shop}:behind", name)

    async def until(self, name: str, what: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """Wait until the release of a proxy is seen to be so; return what is seen."""
        async with asyncio.timeout(60):
            while not what(found := await self.view(name)):  # noqa: ASYNC110 - another process's state
                await asyncio.sleep(0.02)
        return found


@dataclass
class Users:
    """Users that ask the front all the time, and the versions that each page named."""

    port: int
    pages: list[tuple[str, str]] = field(default_factory=list)
    _next: int = 0
    _round: int = 0
    _latest: list[tuple[str, str]] = field(default_factory=list)
    """Pages that were asked for since ``round`` was called."""

    async def run(self, story: Awaitable[None]) -> None:
        """Send until the story has ended; a request that fails fails the test."""
        sending = [asyncio.ensure_future(self._send()) for _ in range(CLIENTS)]
        telling = asyncio.ensure_future(story)
        try:
            await asyncio.wait([*sending, telling], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in sending:
                one.cancel()
            results = await asyncio.gather(*sending, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result
        await telling

    async def _send(self) -> None:
        while True:
            user, began = EVERYONE[self._next % len(EVERYONE)], self._round
            self._next += 1
            status, page = await get(self.port, user=user)
            assert status == 200, page
            self.pages.append((user, page))
            if began == self._round:
                self._latest.append((user, page))

    async def round(self) -> list[tuple[str, str]]:
        """Return pages of every user, all of them asked for after the call."""
        self._round += 1
        self._latest = []
        await soon(lambda: len(self._latest) >= 2 * len(EVERYONE), "pages of all users")
        return self._latest

    async def all_get(self, versions: dict[str, str]) -> None:
        """Fail unless each user gets this version of all three services."""
        found = await self.round()
        assert {user for user, _ in found} == set(EVERYONE)
        wrong = [(user, page) for user, page in found if page != " ".join([versions[user]] * 3)]
        assert not wrong


def follows(weight: int, view: dict[str, Any]) -> bool:
    """Whether a proxy behind knows the front's weight."""
    return view["front"] is not None and view["front"]["weight"] == weight


def test_users_meet_one_version_through_three_proxies_and_through_trips(tmp_path: Path) -> None:
    async def story(chain: Chain, users: Users) -> None:
        await chain.until("web", lambda it: it["weight"] == WEIGHTS[0])
        for weight in WEIGHTS:
            if weight != WEIGHTS[0]:
                await chain.act("web", "PUT", "/v1/weight", {"weight": weight})
            await users.all_get(expected(weight))
            for name in BEHIND:
                await chain.until(name, partial(follows, weight))

        await chain.act("web", "POST", "/v1/release/trip", {"cause": "by hand"})
        await users.all_get(expected(0))
        await chain.act("web", "POST", "/v1/release/reset")
        await users.all_get(expected(50))
        assert all(len(set(page.split())) == 1 for _, page in users.pages), "one version, always"

        before = len(users.pages)
        await chain.act("stock", "POST", "/v1/release/trip", {"cause": "stock is broken"})
        tripped = await chain.until("web", lambda it: it["state"] == "tripped")
        assert "service stock, which follows this release, has tripped" in json.dumps(tripped)
        await users.all_get(expected(0))
        mixed = {page for _, page in users.pages[before:] if len(set(page.split())) > 1}
        assert mixed <= {"canary canary stable"}, "only until the front knows"
        assert (await chain.view("cart"))["state"] != "tripped"

        await chain.act("stock", "POST", "/v1/release/reset")
        await soon(lambda: chain.says_no_trip("stock"), "news of the reset")
        while (await chain.view("web"))[
            "state"
        ] == "tripped":  # again, if it asked just before that
            await chain.act("web", "POST", "/v1/release/reset")
            await users.round()
        await users.all_get(expected(50))
        assert chain.misled == []

    async def play() -> None:
        chain = Chain(tmp_path, stack.enter_context(redis_server(tmp_path)))
        async with chain.running():
            users = Users(chain.proxies["web"].port)
            await users.run(story(chain, users))
            await strangers_are_not_followed(chain)

    with ExitStack() as stack:
        asyncio.run(play())


async def strangers_are_not_followed(chain: Chain) -> None:
    """Ask each proxy with the field of a canary user, from an address that is not believed."""
    field = 'X-Canary: canary;release="shop-7";unit=1;weight=50'
    for user in NEVER:
        assert await get(chain.proxies["web"].port, field, user=user) == (
            200,
            "stable stable stable",
        )
    cart = chain.proxies["cart"]
    assert await get(cart.port, field, user=EARLY[0]) == (200, "stable stable")
    assert await get(cart.port, field, source=SERVICES) == (200, "canary canary")
    for name, number in (("web", len(NEVER)), ("cart", 1), ("stock", 0)):
        series = 'canaryproxy_not_followed_total{reason="untrusted"}'
        found = await asyncio.to_thread(chain.proxies[name].metrics)
        assert found[series] == number, name
    assert chain.misled == []
