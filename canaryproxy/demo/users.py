"""The users of the demo: bounded synthetic load, and what they see."""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from dataclasses import dataclass, field

import aiohttp

_COOKIE = re.compile(r"canary_id=([^;]+)")


@dataclass
class Seen:
    """What users saw since the phase began."""

    sent: int = 0
    answered: int = 0
    broken: int = 0
    """Requests whose connection failed."""
    statuses: Counter[int] = field(default_factory=Counter)
    moved: int = 0
    """Users who got another version than before, rescued answers aside."""

    @property
    def errors(self) -> int:
        """Answers of 500 and above, and broken connections."""
        return self.broken + sum(n for status, n in self.statuses.items() if status >= 500)


class Users:
    """Sends ``rate`` requests a second from ``count`` users to ``url`` until stopped."""

    def __init__(self, url: str, count: int, rate: float, seed: int) -> None:
        self._url = url
        self._rate = rate
        self._random = random.Random(seed)  # noqa: S311 - a demo
        self._cookies: list[str | None] = [None] * count
        self._versions: list[str | None] = [None] * count
        self._open: set[asyncio.Task[None]] = set()
        self.seen = Seen()
        self.everything = Seen()

    def begin_phase(self) -> None:
        """Count from zero."""
        self.seen = Seen()

    async def run(self) -> None:
        """Send until cancelled; then wait for what is under way."""
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
                    task = loop.create_task(
                        self._ask(session, self._random.randrange(len(self._cookies)))
                    )
                    self._open.add(task)
                    task.add_done_callback(self._open.discard)
            finally:
                if self._open:
                    await asyncio.wait(self._open, timeout=5)

    async def _ask(self, session: aiohttp.ClientSession, user: int) -> None:
        seen, everything = self.seen, self.everything
        cookie = self._cookies[user]
        headers = {} if cookie is None else {"Cookie": f"canary_id={cookie}"}
        seen.sent += 1
        everything.sent += 1
        try:
            async with session.get(self._url, headers=headers) as response:
                body = await response.text()
                status = response.status
                rescued = "X-Canary-Rescued" in response.headers
                match = _COOKIE.match(response.headers.get("Set-Cookie", ""))
        except aiohttp.ClientError:
            seen.broken += 1
            everything.broken += 1
            return
        for count in (seen, everything):
            count.answered += 1
            count.statuses[status] += 1
        if match and self._cookies[user] is None:
            self._cookies[user] = match[1]
        elif cookie is not None and status == 200 and not rescued:
            if self._versions[user] not in (None, body):
                seen.moved += 1
                everything.moved += 1
            self._versions[user] = body
