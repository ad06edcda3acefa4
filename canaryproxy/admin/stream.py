"""``/v1/stream``: server-sent events for dashboards and the command line.

A hub serves all streams of a service on one address. It encodes the release view once for all of them, at
most ten times a second. A stream keeps only the newest view, and a bounded number of points and records. A
client that falls behind is disconnected; when it reconnects, ``Last-Event-ID`` gets it the records that it
missed. A service that a reload removes ends its streams with the event ``removed``.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from canaryproxy.admin.guard import secure
from canaryproxy.admin.interfaces import ReleaseControl
from canaryproxy.admin.problem import Problem
from canaryproxy.config.json_text import encode

_log = logging.getLogger(__name__)

BACKLOG = 256
"""Events pending for one client."""
_REPLAY = 1000
"""Records that a client can catch up on."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Intervals of a stream, in seconds."""

    poll: float = 0.1
    """Between checks whether the release has changed."""
    release: float = 1.0
    heartbeat: float = 15.0


PACE = Pace()


class _Stream:
    """The events pending for one client; ``drop`` disconnects it."""

    def __init__(self, drop: Callable[[], None]) -> None:
        self._drop = drop
        self.events: deque[bytes] = deque()
        self.release: bytes | None = None
        self.ended = False
        self.arrived = asyncio.Event()

    def put(self, event: bytes) -> None:
        if len(self.events) >= BACKLOG:
            self._drop()
        else:
            self.events.append(event)
            self.arrived.set()

    def put_release(self, event: bytes) -> None:
        self.release = event
        self.arrived.set()

    def end(self) -> None:
        self.ended = True
        self.arrived.set()

    def take(self) -> bytes:
        self.arrived.clear()
        chunk = b"".join(self.events) + (self.release or b"")
        self.events.clear()
        self.release = None
        return chunk


class Hubs:
    """The open streams of one address, at most ``limit`` for all services together."""

    def __init__(self, limit: int, pace: Pace = PACE) -> None:
        self._limit = limit
        self._pace = pace
        self._hubs: dict[int, _Hub] = {}
        """By the identity of their control, while they have a stream."""
        self._closed = False

    @property
    def open(self) -> int:
        """Number of open streams."""
        return sum(hub.open for hub in self._hubs.values())

    async def serve(
        self, request: web.Request, name: str, control: ReleaseControl, removed: Callable[[], bool]
    ) -> web.StreamResponse:
        """Send events of a service until the client or the server closes the stream.

        ``removed`` tells whether a reload has removed the service; its streams end then, with an event.
        """
        after = _last_event_id(request)
        if self._closed or self.open >= self._limit:
            raise Problem(
                503,
                f"{self._limit} streams are open already; retry later",
                headers={"Retry-After": "5"},
            )
        if request.transport is None:
            raise ConnectionResetError("the client is gone")
        key = id(control)
        hub = self._hubs.setdefault(key, _Hub(name, control, removed, self._pace))
        try:
            return await hub.serve(request, _Stream(request.transport.abort), after)
        finally:
            if not hub.open:
                self._hubs.pop(key, None)

    def close(self) -> None:
        """End every stream and accept no more."""
        self._closed = True
        for hub in self._hubs.values():
            hub.close()


class _Hub:
    """The open streams of one service."""

    def __init__(
        self, name: str, control: ReleaseControl, removed: Callable[[], bool], pace: Pace
    ) -> None:
        self._name = name
        self._control = control
        self._removed = removed
        self._pace = pace
        self._streams: set[_Stream] = set()
        self._unsubscribe: Callable[[], None] | None = None
        self._ticker: asyncio.Task[None] | None = None
        self._sent_etag: str | None = None
        self._due = False

    @property
    def open(self) -> int:
        return len(self._streams)

    async def serve(
        self, request: web.Request, stream: _Stream, after: int | None
    ) -> web.StreamResponse:
        self._begin(stream, after)
        try:
            response = web.StreamResponse(
                headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"}
            )
            response.force_close()
            secure(response, request.path)
            await response.prepare(request)
            while True:
                await response.write(stream.take())
                await request.writer.drain()
                if stream.ended:
                    break
                await stream.arrived.wait()
        except ConnectionError:
            pass  # the client is gone; streams end this way
        finally:
            self._streams.discard(stream)
            if not self._streams:
                self._pause()
        return response

    def close(self) -> None:
        for stream in self._streams:
            stream.end()
        self._pause()

    def _begin(self, stream: _Stream, after: int | None) -> None:
        """Queue the current state, and subscribe the stream to everything after it."""
        if after is not None:
            # A number beyond the newest belongs to another history.
            known = after if after <= self._control.history_id else 0
            missed = self._control.history(known, _REPLAY)
            stream.events.append(b"".join(_record(record) for record in missed))
        stream.events.appendleft(b"retry: 1000\n\n")
        stream.put_release(_event("release", self._control.release_view()))
        if not self._streams:
            self._unsubscribe = self._control.subscribe(self._on_event)
            self._ticker = asyncio.ensure_future(self._tick())
            self._ticker.add_done_callback(self._ticked)
        self._streams.add(stream)

    def _pause(self) -> None:
        """Stop polling while no stream is open."""
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None

    def _on_event(self, kind: str, value: dict[str, Any]) -> None:
        if kind == "record":
            self._put(_record(value))
            if not self._due:  # once for all records of the current callback
                self._due = True
                asyncio.get_running_loop().call_soon(self._send_release)
        else:
            self._put(_event(kind, value))

    def _put(self, event: bytes) -> None:
        for stream in self._streams:
            stream.put(event)

    def _send_release(self) -> None:
        """Send the current release view to every stream."""
        self._due = False
        if not self._streams:
            return
        self._sent_etag = self._control.etag
        event = _event("release", self._control.release_view())
        for stream in self._streams:
            stream.put_release(event)

    async def _tick(self) -> None:
        pace, loop = self._pace, asyncio.get_running_loop()
        sent = beat = loop.time()
        while True:
            await asyncio.sleep(pace.poll)
            now = loop.time()
            if self._removed():
                self._put(_event("removed", {"service": self._name}))
                self.close()
                return
            if now - sent >= pace.release or self._control.etag != self._sent_etag:
                self._send_release()
                sent = now
            if now - beat >= pace.heartbeat:
                self._put(b": heartbeat\n\n")
                beat = now

    def _ticked(self, ticker: asyncio.Task[None]) -> None:
        if not ticker.cancelled() and (error := ticker.exception()) is not None:
            _log.error("closing all streams: the release view failed", exc_info=error)
            for stream in self._streams:
                stream.end()


def _event(kind: str, value: Any, *, number: int | None = None) -> bytes:
    head = "" if number is None else f"id: {number}\n"
    return f"{head}event: {kind}\ndata: ".encode() + encode(value) + b"\n\n"


def _record(record: dict[str, Any]) -> bytes:
    return _event("record", record, number=record["id"])


def _last_event_id(request: web.Request) -> int | None:
    given = request.headers.get("Last-Event-ID")
    if given is None or given == "":
        return None
    if not (given.isascii() and given.isdigit() and len(given) <= 15):
        raise Problem(400, "Last-Event-ID must be the number of a record")
    return int(given)
