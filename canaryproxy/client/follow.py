"""The changes and events of a proxy as they happen: streamed, or polled, and across restarts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from canaryproxy.client.api import (
    Client,
    NotAdmin,
    OtherVersion,
    Refused,
    ServiceRemoved,
    Unreachable,
    WrongService,
)

_FINAL = (401, 403, 421)
"""Statuses that a retry does not change."""
_POLL = 1.0
_POLLS = 30
"""Number of polls before the next attempt to stream."""
_SHORTEST_DELAY, _LONGEST_DELAY = 0.2, 2.0
"""Shortest and longest delay between attempts to connect, in seconds."""
_RECORDS = 1000


@dataclass(frozen=True, slots=True)
class NewDocument:
    """A release document."""

    document: dict[str, Any]


@dataclass(frozen=True, slots=True)
class NewRecord:
    """A record of the history."""

    record: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ConnectionLost:
    """The connection is lost; the next update means that it is back."""

    why: str


Update = NewDocument | NewRecord | ConnectionLost


def _is_final(error: Refused) -> bool:
    """Return whether a retry cannot help."""
    return error.status in _FINAL or isinstance(error, WrongService | ServiceRemoved)


class Follower:
    """Follows a proxy until cancelled; ``after`` is the number of the last known record, if any."""

    def __init__(self, client: Client, after: int | None = None) -> None:
        self._client = client
        self._after = after
        self._delay = _SHORTEST_DELAY

    async def updates(self) -> AsyncIterator[Update]:
        """Yield documents, records and losses of the connection.

        Raises ``Refused`` for a final refusal, ``ServiceRemoved`` when a reload removes the service, and
        ``OtherVersion`` after an upgrade to another API.
        """
        while True:
            try:
                async for one in self._stream():
                    yield one
                why = "the proxy closed it"
            except OtherVersion:
                raise
            except (Unreachable, NotAdmin) as error:
                why = str(error)
            except Refused as error:
                if _is_final(error):
                    raise
                try:
                    async for one in self._polls():
                        yield one
                    continue
                except OtherVersion:
                    raise
                except (Unreachable, NotAdmin) as gone:
                    why = str(gone)
                except Refused as refusal:
                    if _is_final(refusal):
                        raise
                    why = str(refusal)
            yield ConnectionLost(why)
            await asyncio.sleep(self._delay)
            self._delay = min(self._delay * 2, _LONGEST_DELAY)

    async def _stream(self) -> AsyncIterator[Update]:
        async for message in self._client.stream(self._after):
            try:
                found = json.loads(message.data)
            except ValueError:
                continue  # an unknown kind of event
            if not isinstance(found, dict):
                continue
            if message.event == "record":
                yield self._new_record(found)
            elif message.event == "release":
                yield self._new_document(found)
            elif message.event == "removed":
                name = found.get("service")
                raise ServiceRemoved(404, f"a reload has removed the service {name}")

    async def _polls(self) -> AsyncIterator[Update]:
        for _ in range(_POLLS):
            document = (await self._client.release()).body
            newest = document.get("history_id")
            if self._after is not None and isinstance(newest, int) and newest != self._after:
                known = self._after if newest > self._after else 0
                for record in await self._client.history(known, _RECORDS):
                    yield self._new_record(record)
            yield self._new_document(document)
            await asyncio.sleep(_POLL)

    def _new_record(self, record: dict[str, Any]) -> NewRecord:
        if isinstance(record.get("id"), int):
            self._after = record["id"]
        return NewRecord(record)

    def _new_document(self, document: dict[str, Any]) -> NewDocument:
        """Note the number of the document's last record, which the stream has sent before it."""
        self._delay = _SHORTEST_DELAY
        if isinstance(document.get("history_id"), int):
            self._after = document["history_id"]
        return NewDocument(document)
