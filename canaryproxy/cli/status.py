"""Commands that observe a running proxy: ``status``, ``history`` and ``wait``."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import click

from canaryproxy.cli.common import EXIT_CONFIG, EXIT_OPPOSITE, EXIT_TIMEOUT, fail
from canaryproxy.cli.lines import last_record, print_line, print_lost, watch_json, watch_lines
from canaryproxy.cli.target import Target, reaching
from canaryproxy.client import text as words
from canaryproxy.client.api import Client
from canaryproxy.client.follow import ConnectionLost, Follower, NewRecord
from canaryproxy.client.goal import STATES, Goal, Verdict
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
@click.option("-w", "--watch", is_flag=True, help="Keep the display up to date until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print the release document as JSON.")
@reaching
def status(target: Target, watch: bool, as_json: bool) -> None:
    """Show the release, both variants' traffic, and the current verdict.

    --watch shows a live screen in a terminal and prints a line for each change elsewhere; --watch --json
    prints one JSON object a line.

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
            from canaryproxy.cli.watch import show_status, watch_screen  # noqa: PLC0415 - loads rich

            await (watch_screen if watch else show_status)(client, document)

    target.talk(work, interrupted=0)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.option(
    "-n",
    "number",
    default=20,
    show_default=True,
    type=click.IntRange(1, 1000),
    help="Number of records.",
)
@click.option("-f", "--follow", is_flag=True, help="Print new records until Ctrl-C.")
@reaching
def history(target: Target, as_json: bool, number: int, follow: bool) -> None:
    """Show the history: what happened and why. Oldest record first, in local time.

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
        async for update in Follower(client, last if isinstance(last, int) else None).updates():
            if isinstance(update, NewRecord):
                show(update.record)
            elif isinstance(update, ConnectionLost):
                print_lost(update, err=True)

    target.talk(work, interrupted=0)


@click.command()
@click.option(
    "--for",
    "goal",
    required=True,
    callback=_goal,
    shell_complete=lambda _ctx, _param, begun: [one for one in STATES if one.startswith(begun)],
    metavar="STATE",
    help="promoted, tripped, aborted, paused, ready, step=N, or ended (one of the first three).",
)
@click.option(
    "--timeout",
    default="30m",
    show_default=True,
    callback=_duration,
    metavar="DURATION",
    help="Longest time to wait, such as 90s or 30m.",
)
@reaching
def wait(target: Target, goal: Goal, timeout: float) -> None:
    """Wait until the release reaches a state. Prints the history meanwhile.

    A restart of the proxy does not end the wait, and a drill does not count as a trip.

    \b
    Exit status:
      0  state reached
      3  no proxy answers (at the beginning)
      4  ended differently: tripped or aborted instead of promoted,
         promoted instead of aborted, or replaced by another release
      5  timed out

    \b
    Example: canaryproxy wait --for promoted --timeout 30m
    """

    async def work(client: Client) -> Verdict:
        document = (await client.release()).body
        steps = document.get("steps")
        if goal.step and isinstance(steps, list) and 0 < len(steps) < goal.step:
            fail(f"there is no {goal}: the release has {len(steps)} steps", EXIT_CONFIG)
        print_line(f"{words.outcome(document)}; waiting for {goal}")
        found = goal.of_document(document)
        if found == "not yet":
            document, found = await _until(client, document, goal, timeout)
        if found == "opposite":
            click.echo(f"canaryproxy: {words.outcome(document)}", err=True)
        elif found == "not yet":
            click.echo(
                f"canaryproxy: timed out after {units.duration_text(timeout)} waiting for"
                f' "{goal}"; {words.outcome(document)}',
                err=True,
            )
        else:
            print_line(words.outcome(document))
        return found

    found = target.talk(work)
    sys.exit({"reached": 0, "opposite": EXIT_OPPOSITE, "not yet": EXIT_TIMEOUT}[found])


async def _until(
    client: Client, document: dict[str, Any], goal: Goal, timeout: float
) -> tuple[dict[str, Any], Verdict]:
    """Return the last document and its verdict; print the records until then."""
    release = document.get("release")
    lost = reached = False
    try:
        async with asyncio.timeout(timeout):
            async for update in Follower(client, last_record(document)).updates():
                if isinstance(update, NewRecord):
                    click.echo(words.record(update.record, time.time()))
                    reached = reached or goal.of_record(update.record) == "reached"
                elif isinstance(update, ConnectionLost):
                    if not lost:
                        print_lost(update)
                    lost = True
                else:
                    document = update.document
                    if lost:
                        print_line("reconnected")
                        lost = False
                    found = goal.of_document(document)
                    if release is not None and document.get("release") != release:
                        found = "opposite"
                    elif reached:
                        found = "reached"
                    if found != "not yet":
                        return document, found
    except TimeoutError:
        pass
    return document, "not yet"
