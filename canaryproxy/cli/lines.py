"""Lines about a running proxy, for logs, pipes and programs. Nothing here draws."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

import click

from canaryproxy.client import text as words
from canaryproxy.client.api import Client
from canaryproxy.client.follow import ConnectionLost, Follower, NewDocument, NewRecord

Document = Mapping[str, Any]


async def watch_lines(client: Client, document: Document) -> None:
    """Print a line for each change."""
    printed = _summary(document)
    print_line(printed)
    lost = False
    async for update in Follower(client, last_record(document)).updates():
        if isinstance(update, NewRecord):
            print_record(update.record)
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


async def show_table(
    client: Client,
    name: Literal["overview", "services"],
    lines_of: Callable[[Document], list[str]],
    *,
    watch: bool,
    as_json: bool,
) -> None:
    """Print a table; with ``watch`` again every two seconds, without a terminal only if it has changed."""
    before: list[str] = []
    while True:
        found = await client.table(name)
        lines = [json.dumps(found)] if as_json else lines_of(found)
        if watch and not as_json and sys.stdout.isatty():
            click.clear()
            click.echo("\n".join(lines))
        elif lines != before:
            click.echo("\n".join(lines))
        before = lines
        if not watch:
            return
        await asyncio.sleep(_EVERY)


_EVERY = 2.0
"""Seconds between two looks at a table."""


def last_record(document: Document) -> int | None:
    """Return the number of the last record before a document."""
    last = document.get("history_id")
    return last if isinstance(last, int) else None


_KINDS = {"breach": "regression", "held": "holds the step", "unknown": "nothing to compare"}
"""Verdicts whose word is not their kind."""


def print_line(text: str, *, err: bool = False) -> None:
    """Print a line with the time of day."""
    click.echo(f"{words.moment(time.time(), time.time())}  {text}", err=err)


def print_record(record: Mapping[str, Any]) -> None:
    """Print a record of the history, unless it says what the one before has said."""
    if not words.repeats(record):
        click.echo(words.record(record, time.time()))


def print_lost(update: ConnectionLost, *, err: bool = False) -> None:
    """Print that the connection is lost."""
    print_line(f"connection lost, reconnecting ({words.clean(update.why, 200)})", err=err)


def _summary(document: Document) -> str:
    """Return the line for a document, without figures that change all the time."""
    circuit, config = document.get("circuit"), document.get("config")
    said = words.outcome(document)
    if isinstance(circuit, Mapping):
        said += f"; circuit {words.clean(circuit.get('state'), 20).replace('_', ' ')}"
    verdict = document.get("verdict")
    if isinstance(verdict, Mapping):
        said += (
            f"; judge: {_KINDS.get(str(verdict.get('kind')), words.clean(verdict.get('kind'), 20))}"
        )
    if document.get("unsaved"):
        said += f"; NOT SAVED: {words.clean(document['unsaved'])}"
    if isinstance(config, Mapping) and config.get("error"):
        said += f"; configuration invalid: {words.clean(config['error'])}"
    return said
