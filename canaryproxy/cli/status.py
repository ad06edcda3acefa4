"""Commands that observe a running proxy: ``status``, ``history`` and ``wait``."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import click

from canaryproxy.cli.common import EXIT_CONFIG, EXIT_OPPOSITE, EXIT_TIMEOUT, fail
from canaryproxy.cli.lines import (
    last_record,
    print_line,
    print_lost,
    print_record,
    show_table,
    watch_json,
    watch_lines,
)
from canaryproxy.cli.target import Target, reaching_service
from canaryproxy.client import text as words
from canaryproxy.client.api import Client, ServiceRemoved, WrongService
from canaryproxy.client.follow import ConnectionLost, Follower, NewRecord
from canaryproxy.client.goal import STATES, Goal, Verdict
from canaryproxy.client.tables import service_lines
from canaryproxy.config import units

_MOST = 1000
"""Records of one request for the history."""


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
@click.option(
    "--all", "every_metric", is_flag=True, help="Show all metrics, not only what matters."
)
@reaching_service
def status(target: Target, watch: bool, as_json: bool, every_metric: bool) -> None:
    """Show the release, both variants' traffic, and the current verdict.

    Of a proxy with several services it shows each in a row, what needs a person first; --service shows one.

    --watch shows a live screen in a terminal and prints a line for each change elsewhere; --watch --json
    prints one JSON object a line.

    \b
    Examples:
      canaryproxy status
      canaryproxy status --watch
      canaryproxy status --service cart
      canaryproxy status --json | jq .weight
    """

    async def work(client: Client) -> None:
        try:
            document = (await client.release()).body
        except WrongService:
            if client.service is not None:
                raise
            await show_table(client, "services", service_lines, watch=watch, as_json=as_json)
            return
        if as_json and watch:
            await watch_json(client, document)
        elif as_json:
            click.echo(json.dumps(document))
        elif watch and not sys.stdout.isatty():
            await watch_lines(client, document)
        else:
            from canaryproxy.cli.watch import show_status, watch_screen  # noqa: PLC0415 - loads rich

            await (watch_screen if watch else show_status)(
                client, document, every_metric=every_metric
            )

    target.talk(work, interrupted=0)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.option(
    "-n",
    "number",
    default=20,
    show_default=True,
    type=click.IntRange(1, _MOST),
    help="Number of records.",
)
@click.option("-f", "--follow", is_flag=True, help="Print new records until Ctrl-C.")
@reaching_service
def history(target: Target, as_json: bool, number: int, follow: bool) -> None:
    """Show the history: what happened and why. Oldest record first, in local time.

    A trip and a reset are one line each; --json has their second records, too (stopped, restored).

    \b
    Example: canaryproxy history -n 5 --follow
    """

    def show(record: dict[str, Any]) -> None:
        if as_json:
            click.echo(json.dumps(record))
        else:
            print_record(record)

    async def work(client: Client) -> None:
        records = await client.history(None, number if as_json else min(2 * number, _MOST))
        shown = records if as_json else [one for one in records if not words.repeats(one)]
        for record in shown[-number:]:
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
@click.option(
    "--release",
    "wanted",
    metavar="ID",
    help="Wait for this release only; default: the one in force at the beginning.",
)
@click.option("--json", "as_json", is_flag=True, help="Print nothing but the result, as JSON.")
@reaching_service
def wait(target: Target, goal: Goal, timeout: float, wanted: str | None, as_json: bool) -> None:
    """Wait until the release reaches a state. Prints the history meanwhile.

    A restart of the proxy does not end the wait, and a drill does not count as a trip.

    \b
    Exit status:
      0  state reached, perhaps long ago: then it says since when
      3  no proxy answers (at the beginning)
      4  ended differently: tripped or aborted instead of promoted,
         promoted instead of aborted, another release is in force,
         or a reload has removed the service
      5  timed out

    \b
    Examples:
      canaryproxy wait --for promoted --timeout 30m
      canaryproxy wait --for promoted --release cart-2.5
    """

    async def work(client: Client) -> tuple[dict[str, Any], Verdict, bool]:
        document = (await client.release()).body
        if wanted is not None and document.get("release") != wanted:
            return document, "opposite", False
        steps = document.get("steps")
        if goal.step and isinstance(steps, list) and 0 < len(steps) < goal.step:
            fail(f"there is no {goal}: the release has {len(steps)} steps", EXIT_CONFIG)
        found = goal.of_document(document)
        if found != "not yet":
            return document, found, True
        if not as_json:
            print_line(f"{words.outcome(document)}; waiting for {goal}")
        try:
            return *await _until(client, document, goal, timeout, quiet=as_json), False
        except ServiceRemoved as error:
            fail(words.clean(error), EXIT_OPPOSITE)

    document, found, already = target.talk(work)
    result = {"reached": "reached", "opposite": "ended differently", "not yet": "timed out"}[found]
    if as_json:
        ended = {"goal": str(goal), "result": result, "already": already, "release": document}
        click.echo(json.dumps(ended))
    _tell(document, found, goal, timeout, wanted, already=already, quiet=as_json)
    sys.exit({"reached": 0, "opposite": EXIT_OPPOSITE, "not yet": EXIT_TIMEOUT}[found])


def _tell(
    document: dict[str, Any],
    found: Verdict,
    goal: Goal,
    timeout: float,
    wanted: str | None,
    *,
    already: bool,
    quiet: bool,
) -> None:
    """Print how a wait ended; ``quiet`` leaves out what is no error."""
    said = words.outcome(document)
    if found == "not yet":
        waited = f"timed out after {units.duration_text(timeout)} waiting for"
        click.echo(f'canaryproxy: {waited} "{goal}"; {said}', err=True)
    elif wanted is not None and document.get("release") != wanted:
        click.echo(f"canaryproxy: {said}; {wanted} is not in force", err=True)
    elif found == "opposite":
        click.echo(f"canaryproxy: {said}", err=True)
    elif already and not quiet:
        print_line(f"{said} already, {words.since(document)}: nothing to wait for")
        if wanted is None:
            print_line("if another release was meant, name it with --release ID")
    elif not quiet:
        print_line(said)


async def _until(
    client: Client, document: dict[str, Any], goal: Goal, timeout: float, *, quiet: bool
) -> tuple[dict[str, Any], Verdict]:
    """Return the last document and its verdict; print the records until then."""
    release = document.get("release")
    lost = reached = False
    try:
        async with asyncio.timeout(timeout):
            async for update in Follower(client, last_record(document)).updates():
                if isinstance(update, NewRecord):
                    if not quiet:
                        print_record(update.record)
                    reached = reached or goal.of_record(update.record) == "reached"
                elif isinstance(update, ConnectionLost):
                    if not lost:
                        print_lost(update, err=quiet)
                    lost = True
                else:
                    document = update.document
                    if lost:
                        print_line("reconnected", err=quiet)
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
