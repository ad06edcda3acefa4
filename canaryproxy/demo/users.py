"""The simulated users of the demo: a load of fixed rate, and the responses they see."""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from dataclasses import dataclass, field

import aiohttp

_COOKIE = re.compile(r"canary_id=([^;]+)")
_SLOW_SECONDS = 0.25


@dataclass
class Seen:
    """Responses that users saw since the release began."""

    sent: int = 0
    answered: int = 0
    broken: int = 0
    """Requests with a failed connection."""
    statuses: Counter[int] = field(default_factory=Counter)
    slow: int = 0
    """Responses that took a quarter of a second or more."""
    empty: int = 0
    """Searches that found nothing."""
    back_and_forth: int = 0
    """Users who were sent to the canary a second time, after they had gone back to stable."""

    @property
    def errors(self) -> int:
        """Responses with status 500 and above, and failed connections."""
        return self.broken + sum(n for status, n in self.statuses.items() if status >= 500)

    @property
    def bad(self) -> int:
        """Responses that users would complain about."""
        return self.errors + self.slow + self.empty


class Users:
    """Sends ``rate`` requests per second from ``count`` users to ``url`` until cancelled."""

    def __init__(self, url: str, count: int, rate: float, seed: int) -> None:
        self._url = url
        self._rate = rate
        self._random = random.Random(seed)  # noqa: S311 - a demo
        self._cookies: list[str | None] = [None] * count
        self._versions: list[list[str]] = [[] for _ in range(count)]
        self._settled = [0] * count
        """For each user the number of requests sent when the last version was noted.

        Concurrent requests of a user may overtake each other, so the order of versions is known only for
        requests that were sent after the previous response.
        """
        self._open: set[asyncio.Task[None]] = set()
        self.seen = Seen()

    def begin_act(self) -> None:
        """Reset the counts; users keep their cookies."""
        self.seen = Seen()
        self._versions = [[] for _ in self._versions]
        self._settled = [0] * len(self._versions)

    async def run(self) -> None:
        """Send until cancelled, then wait for the requests in flight."""
        loop = asyncio.get_running_loop()
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar()
        ) as session:
            due = loop.time()
            try:
                while True:
                    due += 1 / self._rate
                    await asyncio.sleep(max(due - loop.time(), 0))
                    user = self._random.randrange(len(self._cookies))
                    path = "/search" if self._random.random() < 0.5 else "/"
                    task = loop.create_task(self._send(session, user, path))
                    self._open.add(task)
                    task.add_done_callback(self._open.discard)
            finally:
                if self._open:
                    await asyncio.wait(self._open, timeout=5)

    async def _send(self, session: aiohttp.ClientSession, user: int, path: str) -> None:
        loop = asyncio.get_running_loop()
        seen, versions = self.seen, self._versions[user]
        cookie = self._cookies[user]
        headers = {} if cookie is None else {"Cookie": f"canary_id={cookie}"}
        seen.sent += 1
        number = seen.sent
        begin = loop.time()
        try:
            async with session.get(self._url + path, headers=headers) as response:
                status = response.status
                document = await response.json() if status == 200 else {}
                match = _COOKIE.match(response.headers.get("Set-Cookie", ""))
                rescued = "X-Canary-Rescued" in response.headers
        except aiohttp.ClientError:
            seen.broken += 1
            return
        seen.answered += 1
        seen.statuses[status] += 1
        seen.slow += loop.time() - begin >= _SLOW_SECONDS
        seen.empty += document.get("results") == []
        version = document.get("version")
        if cookie is None:
            if match and self._cookies[user] is None:
                self._cookies[user] = match[1]
        elif (
            version is not None
            and not rescued  # stable answered in the canary's place: the user's version is the same
            and versions is self._versions[user]
            and number > self._settled[user]
        ):
            self._settled[user] = seen.sent
            if versions[-1:] != [version]:
                versions.append(version)
                seen.back_and_forth += versions[-3:] == ["canary", "stable", "canary"]
