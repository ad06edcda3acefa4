"""``endpoints``, ``routes`` and ``overview``: tables of a running proxy."""

from __future__ import annotations

import json
from typing import Any

import click

from canaryproxy.cli.lines import show_table
from canaryproxy.cli.target import Target, reaching, reaching_service
from canaryproxy.client.api import Client
from canaryproxy.client.tables import endpoint_lines, overview_lines, route_lines


@click.command()
@click.option(
    "--total", is_flag=True, help="Count since the proxy started, not over the last minute."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@reaching_service
def endpoints(target: Target, total: bool, as_json: bool) -> None:
    """Show each endpoint: requests, failures, statuses, latency, and whether it is up.

    Attempts are counted: a request that fails on one endpoint and is answered by another is a failure of
    the first and a response of the second. Failed are errors as judge.metrics.errors defines them, and
    attempts without a complete response. P95 is the 95% quantile of the time to the first byte.

    \b
    Examples:
      canaryproxy endpoints
      canaryproxy endpoints --json | jq '.endpoints[] | select(.up | not) | .url'
    """

    async def work(client: Client) -> dict[str, Any]:
        return await client.table("endpoints")

    found = target.talk(work)
    lines = [json.dumps(found)] if as_json else endpoint_lines(found, total=total)
    click.echo("\n".join(lines))


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@reaching_service
def routes(target: Target, as_json: bool) -> None:
    """Show each route: requests, failures, statuses and latency, of stable and canary side by side.

    Routes are those that the judge compares: the busiest, by method and path, or those of judge.routes.
    Requests of randomised users of the last minute are counted. P95 is the 95% quantile of the time to the
    first byte.

    \b
    Example: canaryproxy routes
    """

    async def work(client: Client) -> dict[str, Any]:
        return await client.table("routes")

    found = target.talk(work)
    click.echo(json.dumps(found) if as_json else "\n".join(route_lines(found)))


@click.command()
@click.option("-w", "--watch", is_flag=True, help="Keep the table up to date until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@reaching
def overview(target: Target, watch: bool, as_json: bool) -> None:
    """Show several proxies side by side, with what needs a person first.

    They are this proxy and those of admin.overview in its configuration, a row for each of their services; it
    asks them without a token. --watch asks every two seconds, and elsewhere than in a terminal prints what
    has changed; --watch --json prints one object a line.

    \b
    Examples:
      canaryproxy overview
      canaryproxy overview --json | jq -r '.overview[] | select(.attention != "none") | .name'
    """

    async def work(client: Client) -> None:
        await show_table(client, "overview", overview_lines, watch=watch, as_json=as_json)

    target.talk(work, interrupted=0)
