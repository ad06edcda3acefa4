"""Commands that look at a running proxy."""

from __future__ import annotations

import json
import sys
import time

import click

from canaryproxy.cli.common import Target, reaching
from canaryproxy.client import words
from canaryproxy.client.api import Client
from canaryproxy.client.live import Follower, Happened, Lost

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command()
@_json
@reaching
def status(target: Target, as_json: bool) -> None:
    """Show where the release is.

    \b
    Example: canaryproxy status
    """

    async def work(client: Client) -> None:
        document = (await client.release()).body
        if as_json:
            click.echo(json.dumps(document))
        else:
            click.echo(f"{words.name(document)}: {words.where(document)}")

    target.talk(work)


@click.command()
@_json
@click.option(
    "-n", "number", default=20, show_default=True, type=click.IntRange(1, 1000), help="How many."
)
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens, until Ctrl-C.")
@reaching
def history(target: Target, as_json: bool, number: int, follow: bool) -> None:
    """Show what happened, oldest first, in local time. With --json, one object a line.

    \b
    Example: canaryproxy history -n 5 --follow
    """

    def show(record: dict[str, object]) -> None:
        line = json.dumps(record) if as_json else words.record(record, time.time())
        click.echo(line)
        sys.stdout.flush()

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
                click.echo(
                    f"connection lost, trying again ({words.clean(news.why, 200)})", err=True
                )

    target.talk(work)
