"""The status in a terminal, printed once or as a live screen."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live

from canaryproxy.cli.lines import last_record
from canaryproxy.client.api import Client
from canaryproxy.client.follow import ConnectionLost, Follower, NewDocument, NewRecord, Update
from canaryproxy.client.screen import EVENTS, MOST_EVENTS, Ascii, View, has_unicode, screen

Document = Mapping[str, Any]

_TICK = 1.0
"""Seconds between two updates of the age of the figures."""


def console() -> Console:
    """Return a console on standard output, without markup and highlighting."""
    return Console(highlight=False, markup=False, emoji=False)


def print_status(to: Console, view: View, *, every_metric: bool = False) -> None:
    """Print the status in full."""
    to.print(_shown(to, screen(view, to.width, every_metric=every_metric)))


def _shown(to: Console, what: RenderableType) -> RenderableType:
    return what if has_unicode(to.encoding) else Ascii(what)


async def show_status(client: Client, document: Document, *, every_metric: bool) -> None:
    """Print the status once."""
    records = await client.history(None, 2 * EVENTS)
    view = View(document, records, time.time(), service=client.service)
    print_status(console(), view, every_metric=every_metric)


async def watch_screen(client: Client, document: Document, *, every_metric: bool) -> None:
    """Keep the status on the screen until Ctrl-C, then print its last state."""
    to = console()
    kept = deque(await client.history(None, 2 * MOST_EVENTS), 2 * MOST_EVENTS)
    view = View(document, kept, time.time(), service=client.service)
    try:
        with Live(console=to, screen=True, auto_refresh=False, vertical_overflow="crop") as live:

            def show() -> None:
                # the last column stays free: some terminals wrap after it
                shown = screen(view, to.width, to.height, every_metric=every_metric)
                live.update(_shown(to, shown), refresh=True)

            show()
            async for update in _ticking(Follower(client, last_record(document))):
                if isinstance(update, NewDocument):
                    view = replace(view, document=update.document, now=time.time(), lost=None)
                elif isinstance(update, NewRecord):
                    kept.append(update.record)
                    view = replace(view, now=time.time())
                elif isinstance(update, ConnectionLost):
                    view = replace(view, now=time.time(), lost=update.why)
                elif view.lost is None:
                    continue
                else:
                    view = replace(view, now=time.time())
                show()
    finally:
        print_status(to, view, every_metric=every_metric)


async def _ticking(follower: Follower) -> AsyncIterator[Update | None]:
    """Yield the updates, and ``None`` after each second without one."""
    queue: asyncio.Queue[Update] = asyncio.Queue()

    async def fill() -> None:
        async for update in follower.updates():
            queue.put_nowait(update)

    filling = asyncio.create_task(fill())
    try:
        while True:
            taking = asyncio.create_task(queue.get())
            await asyncio.wait((taking, filling), timeout=_TICK, return_when="FIRST_COMPLETED")
            if taking.done():
                yield taking.result()
                continue
            taking.cancel()
            if filling.done():
                await filling  # raises its exception
                return
            yield None
    finally:
        filling.cancel()
        with suppress(asyncio.CancelledError):
            await filling
