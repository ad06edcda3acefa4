"""What a proxy does, as it happens: from its stream, by asking where there is none, across restarts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from canaryproxy.client.api import Client, Refused, Unreachable

_FOR_EVER = (401, 403, 421)
"""Answers that asking again does not change."""
_POLL = 1.0
_POLLS = 30
"""Polls until the stream is tried again."""
_SOONEST, _LATEST = 0.2, 2.0
"""Seconds between attempts to connect."""
_RECORDS = 1000


@dataclass(frozen=True, slots=True)
class Shown:
    """A release document."""

    document: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Happened:
    """A record of the history."""

    record: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection is lost, and why; what comes next says that it is back."""

    why: str


News = Shown | Happened | Lost


class Follower:
    """Follows a proxy for ever; ``after`` is the number of the last record that is known, if any."""

    def __init__(self, client: Client, after: int | None = None) -> None:
        self._client = client
        self._after = after
        self._delay = _SOONEST

    async def news(self) -> AsyncIterator[News]:
        """Yield everything that comes. Raises ``Refused`` if the proxy will not have us."""
        while True:
            try:
                async for one in self._stream():
                    yield one
                why = "the proxy closed it"
            except Unreachable as error:
                why = str(error)
            except Refused as error:
                if error.status in _FOR_EVER:
                    raise
                try:
                    async for one in self._polls():
                        yield one
                    continue
                except Unreachable as gone:
                    why = str(gone)
                except Refused as refusal:
                    if refusal.status in _FOR_EVER:
                        raise
                    why = str(refusal)
            yield Lost(why)
            await asyncio.sleep(self._delay)
            self._delay = min(self._delay * 2, _LATEST)

    async def _stream(self) -> AsyncIterator[News]:
        async for message in self._client.stream(self._after):
            try:
                found = json.loads(message.data)
            except ValueError:
                continue  # an event of a kind that is not known
            if not isinstance(found, dict):
                continue
            if message.event == "record":
                yield self._happened(found)
            elif message.event == "release":
                yield self._shown(found)

    async def _polls(self) -> AsyncIterator[News]:
        for _ in range(_POLLS):
            document = (await self._client.release()).body
            newest = document.get("history_id")
            if self._after is not None and isinstance(newest, int) and newest != self._after:
                known = self._after if newest > self._after else 0
                for record in await self._client.history(known, _RECORDS):
                    yield self._happened(record)
            yield self._shown(document)
            await asyncio.sleep(_POLL)

    def _happened(self, record: dict[str, Any]) -> Happened:
        if isinstance(record.get("id"), int):
            self._after = record["id"]
        return Happened(record)

    def _shown(self, document: dict[str, Any]) -> Shown:
        """Records come before the document that knows of them, so its number is the last one."""
        self._delay = _SOONEST
        if isinstance(document.get("history_id"), int):
            self._after = document["history_id"]
        return Shown(document)
