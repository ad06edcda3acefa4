"""``status --watch``: a live screen in a terminal, lines in logs and pipes, JSON for programs."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Any

import click
from rich.console import Console, RenderableType
from rich.live import Live

from canaryproxy.client import text as words
from canaryproxy.client.api import Client
from canaryproxy.client.follow import ConnectionLost, Follower, NewDocument, NewRecord, Update
from canaryproxy.client.screen import EVENTS, Ascii, View, has_unicode, screen

Document = Mapping[str, Any]

_TICK = 1.0
"""Seconds between two updates of the age of the figures."""


def console() -> Console:
    """Return a console on standard output, without markup and highlighting."""
    return Console(highlight=False, markup=False, emoji=False)


def print_status(to: Console, view: View) -> None:
    """Print the status in full."""
    to.print(_shown(to, screen(view, to.width)))


def _shown(to: Console, what: RenderableType) -> RenderableType:
    return what if has_unicode(to.encoding) else Ascii(what)


async def watch_screen(client: Client, document: Document, records: list[dict[str, Any]]) -> None:
    """Keep the status on the screen until Ctrl-C, then print its last state."""
    to = console()
    kept = deque(records, EVENTS)
    view = View(document, kept, time.time())
    try:
        with Live(console=to, screen=True, auto_refresh=False, vertical_overflow="crop") as live:

            def show() -> None:
                # the last column stays free: some terminals wrap after it
                live.update(_shown(to, screen(view, to.width, to.height)), refresh=True)

            show()
            async for update in _ticking(Follower(client, last_record(document))):
                if isinstance(update, NewDocument):
                    view = View(update.document, kept, time.time())
                elif isinstance(update, NewRecord):
                    kept.append(update.record)
                    view = View(view.document, kept, time.time(), view.lost)
                elif isinstance(update, ConnectionLost):
                    view = View(view.document, kept, time.time(), update.why)
                elif view.lost is None:
                    continue
                else:
                    view = View(view.document, kept, time.time(), view.lost)
                show()
    finally:
        print_status(to, view)


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


async def watch_lines(client: Client, document: Document) -> None:
    """Print a line for each change."""
    printed = _summary(document)
    print_line(printed)
    lost = False
    async for update in Follower(client, last_record(document)).updates():
        if isinstance(update, NewRecord):
            click.echo(words.record(update.record, time.time()))
        elif isinstance(update, ConnectionLost):
            if not lost:
                print_lost(update)
            lost = True
        else:
            if lost:
                print_line("reconnected")
            lost = False
            if _summary(update.document) != printed:
                printed = _summary(update.document)
                print_line(printed)


async def watch_json(client: Client, document: Document) -> None:
    """Print each document as a line of JSON, and losses of the connection on standard error."""
    async for update in Follower(client, last_record(document)).updates():
        if isinstance(update, NewDocument):
            click.echo(json.dumps(update.document))
        elif isinstance(update, ConnectionLost):
            print_lost(update, err=True)


def last_record(document: Document) -> int | None:
    """Return the number of the last record before a document."""
    last = document.get("history_id")
    return last if isinstance(last, int) else None


def print_line(text: str, *, err: bool = False) -> None:
    """Print a line with the time of day."""
    click.echo(f"{words.moment(time.time(), time.time())}  {text}", err=err)


def print_lost(update: ConnectionLost, *, err: bool = False) -> None:
    """Print that the connection is lost."""
    print_line(f"connection lost, reconnecting ({words.clean(update.why, 200)})", err=err)


def _summary(document: Document) -> str:
    """Return the line for a document, without figures that change all the time."""
    circuit, config = document.get("circuit"), document.get("config")
    said = words.outcome(document)
    if isinstance(circuit, Mapping):
        said += f"; circuit {words.clean(circuit.get('state'), 20).replace('_', ' ')}"
    said += f"; judge: {words.clean(document.get('level'), 20)}"
    if document.get("unsaved"):
        said += f"; NOT SAVED: {words.clean(document['unsaved'])}"
    if isinstance(config, Mapping) and config.get("error"):
        said += f"; configuration invalid: {words.clean(config['error'])}"
    return said
