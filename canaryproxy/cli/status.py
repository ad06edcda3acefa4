"""Commands that look at a running proxy: ``status``, ``history`` and ``wait``."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import click

from canaryproxy.cli.common import EXIT_CONFIG, EXIT_OPPOSITE, EXIT_TIMEOUT, fail
from canaryproxy.cli.target import Target, reaching
from canaryproxy.cli.watch import (
    console,
    known,
    print_status,
    say,
    say_lost,
    watch_json,
    watch_lines,
    watch_screen,
)
from canaryproxy.client import text as words
from canaryproxy.client.api import Client
from canaryproxy.client.follow import Follower, Happened, Lost
from canaryproxy.client.goal import Goal, Verdict
from canaryproxy.client.screen import EVENTS, View
from canaryproxy.config import units


def _duration(_ctx: click.Context, _param: click.Parameter, value: str) -> float:
    try:
        return units.duration(value)
    except ValueError as error:
        raise click.BadParameter(f"expected {error}") from None


def _goal(_ctx: click.Context, _param: click.Parameter, value: str) -> Goal:
    try:
        return Goal.of(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command()
@click.option("-w", "--watch", is_flag=True, help="Go on until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print the release document as JSON.")
@reaching
def status(target: Target, watch: bool, as_json: bool) -> None:
    """Show where the release is, how both variants do, and what the judge knows.

    With --watch it is a live screen in a terminal, and a line for each change elsewhere; with --watch --json
    one JSON object a line.

    \b
    Examples:
      canaryproxy status
      canaryproxy status --watch
      canaryproxy status --json | jq .weight
    """

    async def work(client: Client) -> None:
        document = (await client.release()).body
        if as_json and watch:
            await watch_json(client, document)
        elif as_json:
            click.echo(json.dumps(document))
        elif watch and not sys.stdout.isatty():
            await watch_lines(client, document)
        else:
            records = await client.history(None, EVENTS)
            if watch:
                await watch_screen(client, document, records)
            else:
                print_status(console(), View(document, records, time.time()))

    target.talk(work, interrupted=0)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.option(
    "-n", "number", default=20, show_default=True, type=click.IntRange(1, 1000), help="How many."
)
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens, until Ctrl-C.")
@reaching
def history(target: Target, as_json: bool, number: int, follow: bool) -> None:
    """Show what happened and why, oldest first, in local time.

    \b
    Example: canaryproxy history -n 5 --follow
    """

    def show(record: dict[str, Any]) -> None:
        click.echo(json.dumps(record) if as_json else words.record(record, time.time()))

    async def work(client: Client) -> None:
        records = await client.history(None, number)
        for record in records:
            show(record)
        if not follow:
            return
        last = records[-1].get("id") if records else 0
        async for news in Follower(client, last if isinstance(last, int) else None).news():
            if isinstance(news, Happened):
                show(news.record)
            elif isinstance(news, Lost):
                say_lost(news, err=True)

    target.talk(work, interrupted=0)


@click.command()
@click.option(
    "--for",
    "goal",
    required=True,
    callback=_goal,
    metavar="STATE",
    help="promoted, tripped, aborted, paused, ready, step=N, or ended (one of the first three).",
)
@click.option(
    "--timeout",
    default="30m",
    show_default=True,
    callback=_duration,
    metavar="DURATION",
    help="How long at most, such as 90s or 30m.",
)
@reaching
def wait(target: Target, goal: Goal, timeout: float) -> None:
    """Wait until the release gets somewhere, and print what happens meanwhile.

    A restart of the proxy does not end the wait. A drill is not taken for a trip.

    \b
    Exit status:
      0  it came
      3  no proxy answers, at the beginning
      4  the opposite end came: it tripped or was aborted when it was to be promoted,
         it was promoted when it was to be aborted, or another release follows
      5  the timeout has passed

    \b
    Example: canaryproxy wait --for promoted --timeout 30m
    """

    async def work(client: Client) -> Verdict:
        document = (await client.release()).body
        steps = document.get("steps")
        if goal.step and isinstance(steps, list) and 0 < len(steps) < goal.step:
            fail(f"the release has {len(steps)} steps", EXIT_CONFIG)
        say(f"{words.name(document)}: {words.where(document)}; waiting for {goal}")
        found = goal.of_document(document)
        if found == "not yet":
            try:
                async with asyncio.timeout(timeout):
                    document, found = await _until(client, document, goal)
            except TimeoutError:
                pass  # it is not yet so
        if found == "opposite":
            click.echo(f"canaryproxy: {words.name(document)} is {words.where(document)}", err=True)
        elif found == "not yet":
            limit = units.duration_text(timeout)
            click.echo(f"canaryproxy: {goal} did not come within {limit}", err=True)
        else:
            say(f"{words.name(document)}: {words.where(document)}")
        return found

    found = target.talk(work)
    sys.exit({"came": 0, "opposite": EXIT_OPPOSITE, "not yet": EXIT_TIMEOUT}[found])


async def _until(
    client: Client, document: dict[str, Any], goal: Goal
) -> tuple[dict[str, Any], Verdict]:
    """Return the document that decides, and how; print what happens until then."""
    release = document.get("release")
    lost = came = False
    async for news in Follower(client, known(document)).news():
        if isinstance(news, Happened):
            click.echo(words.record(news.record, time.time()))
            came = came or goal.of_record(news.record) == "came"
            continue
        if isinstance(news, Lost):
            if not lost:
                say_lost(news)
            lost = True
            continue
        document = news.document
        if lost:
            say("connected again")
            lost = False
        if release is not None and document.get("release") != release:
            return document, "opposite"
        if came:
            return document, "came"
        if (found := goal.of_document(document)) != "not yet":
            return document, found
    raise AssertionError("news never end")
