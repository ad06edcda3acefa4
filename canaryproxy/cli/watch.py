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
from canaryproxy.client.follow import Follower, Happened, Lost, News, Shown
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
            async for news in _ticking(Follower(client, known(document))):
                if isinstance(news, Shown):
                    view = View(news.document, kept, time.time())
                elif isinstance(news, Happened):
                    kept.append(news.record)
                    view = View(view.document, kept, time.time(), view.lost)
                elif isinstance(news, Lost):
                    view = View(view.document, kept, time.time(), news.why)
                elif view.lost is None:
                    continue
                else:
                    view = View(view.document, kept, time.time(), view.lost)
                show()
    finally:
        print_status(to, view)


async def _ticking(follower: Follower) -> AsyncIterator[News | None]:
    """Yield the news, and ``None`` after each second without news."""
    queue: asyncio.Queue[News] = asyncio.Queue()

    async def fill() -> None:
        async for news in follower.news():
            queue.put_nowait(news)

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
    say(printed)
    lost = False
    async for news in Follower(client, known(document)).news():
        if isinstance(news, Happened):
            click.echo(words.record(news.record, time.time()))
        elif isinstance(news, Lost):
            if not lost:
                say_lost(news)
            lost = True
        else:
            if lost:
                say("reconnected")
            lost = False
            if _summary(news.document) != printed:
                printed = _summary(news.document)
                say(printed)


async def watch_json(client: Client, document: Document) -> None:
    """Print each document as a line of JSON, and losses of the connection on standard error."""
    async for news in Follower(client, known(document)).news():
        if isinstance(news, Shown):
            click.echo(json.dumps(news.document))
        elif isinstance(news, Lost):
            say_lost(news, err=True)


def known(document: Document) -> int | None:
    """Return the number of the last record before a document."""
    last = document.get("history_id")
    return last if isinstance(last, int) else None


def say(text: str, *, err: bool = False) -> None:
    """Print a line with the time of day."""
    click.echo(f"{words.moment(time.time(), time.time())}  {text}", err=err)


def say_lost(news: Lost, *, err: bool = False) -> None:
    """Print that the connection is lost."""
    say(f"connection lost, reconnecting ({words.clean(news.why, 200)})", err=err)


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
