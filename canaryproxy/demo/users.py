"""The users of the demo: bounded synthetic load, and what they see."""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from dataclasses import dataclass, field

import aiohttp

from canaryproxy.routing import VARIANTS

_COOKIE = re.compile(r"canary_id=([^;]+)")
_SLOW_SECONDS = 0.25
_PATIENCE_SECONDS = 10.0
"""After this a user gives up; the request counts as broken."""
_MOST_OPEN = 500
"""Requests under way at once; over it nothing is sent, so that a stall does not pile up."""
_LAST_ANSWERS_SECONDS = 5.0
_STABLE, _CANARY = VARIANTS


@dataclass
class Seen:
    """What users saw since the act began. Every request ends: ``sent == answered + broken``."""

    sent: int = 0
    answered: int = 0
    broken: int = 0
    """Requests without an answer: the connection failed, or the user gave up."""
    statuses: Counter[int] = field(default_factory=Counter)
    slow: int = 0
    """Answers that took a quarter of a second or more."""
    empty: int = 0
    """Searches that found nothing."""
    rescued: int = 0
    """Answers that say that stable gave them in the canary's place."""
    to_canary: int = 0
    """Users who went from stable to the canary, as a rising weight does."""
    taken_back: int = 0
    """Users who went from the canary to stable, as a trip does."""
    back_and_forth: int = 0
    """Users who changed sides once more than a release can explain (stable, canary, stable)."""
    heard: int = 0
    """Users who were answered since the weight last changed,"""
    on_canary: int = 0
    """and those of them who were routed to the canary."""

    @property
    def errors(self) -> int:
        """Answers of 500 and above, and requests without an answer."""
        return self.broken + sum(n for status, n in self.statuses.items() if status >= 500)

    @property
    def hurt(self) -> int:
        """Answers that a user would complain about."""
        return self.errors + self.slow + self.empty


class Users:
    """Sends ``rate`` requests a second from ``count`` users to ``url`` until stopped.

    A user waits for an answer before asking again. So the order in which a user's answers come is the
    order in which the proxy routed them, and a change of sides that we see is one that happened.
    """

    def __init__(self, url: str, count: int, rate: float, seed: int) -> None:
        self._url = url
        self._rate = rate
        self._random = random.Random(seed)  # noqa: S311 - a demo
        self._cookies: list[str | None] = [None] * count
        self._busy: set[int] = set()
        self._open: set[asyncio.Task[None]] = set()
        self.begin_act()

    def begin_act(self) -> None:
        """Count from zero; the users keep their cookies."""
        self.seen = Seen()
        self._sides: dict[int, list[str]] = {}
        self.weight_changed()

    def weight_changed(self) -> None:
        """Take the share of users on the canary anew, from what is sent from now on."""
        self._since = self.seen.sent
        self._latest: dict[int, bool] = {}
        self.seen.heard = self.seen.on_canary = 0

    async def run(self) -> None:
        """Send until cancelled; then wait for what is under way."""
        loop = asyncio.get_running_loop()
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=_PATIENCE_SECONDS),
        ) as session:
            due = loop.time()
            try:
                while True:
                    due += 1 / self._rate
                    await asyncio.sleep(max(due - loop.time(), 0))
                    user = self._random.randrange(len(self._cookies))
                    path = "/search" if self._random.random() < 0.5 else "/"
                    if user in self._busy or len(self._open) >= _MOST_OPEN:
                        continue
                    task = loop.create_task(self._ask(session, user, path))
                    self._open.add(task)
                    task.add_done_callback(self._open.discard)
            finally:
                if self._open:
                    await asyncio.wait(self._open, timeout=_LAST_ANSWERS_SECONDS)
                for task in self._open:
                    task.cancel()

    async def _ask(self, session: aiohttp.ClientSession, user: int, path: str) -> None:
        loop = asyncio.get_running_loop()
        seen = self.seen
        cookie = self._cookies[user]
        headers = {} if cookie is None else {"Cookie": f"canary_id={cookie}"}
        seen.sent += 1
        number = seen.sent
        begin = loop.time()
        self._busy.add(user)
        answered = False
        try:
            async with session.get(self._url + path, headers=headers) as response:
                status = response.status
                document = await response.json() if status == 200 else {}
                fields = response.headers
            answered = True
        except (aiohttp.ClientError, TimeoutError):
            return
        finally:
            self._busy.discard(user)
            seen.broken += not answered
        seen.answered += 1
        seen.statuses[status] += 1
        seen.slow += loop.time() - begin >= _SLOW_SECONDS
        seen.empty += document.get("results") == []
        match = _COOKIE.match(fields.get("Set-Cookie", ""))
        if match and cookie is None:
            self._cookies[user] = match[1]
        rescued = fields.get("X-Canary-Rescued") == "1"
        seen.rescued += rescued
        side = _CANARY if rescued else fields.get("X-Version")
        if side is not None:  # else the proxy itself answered, which says nothing of the side
            self._note(user, side, fresh=number > self._since)

    def _note(self, user: int, side: str, *, fresh: bool) -> None:
        """Take down on which side a user was routed."""
        seen = self.seen
        if fresh:
            seen.heard += user not in self._latest
            seen.on_canary += (side == _CANARY) - self._latest.get(user, False)
            self._latest[user] = side == _CANARY
        sides = self._sides.setdefault(user, [])
        if sides[-1:] == [side]:
            return
        if sides:
            seen.to_canary += side == _CANARY
            seen.taken_back += side == _STABLE
            explained = ([_STABLE, _CANARY], [_STABLE, _CANARY, _STABLE], [_CANARY, _STABLE])
            seen.back_and_forth += [*sides, side] not in explained
        sides.append(side)
