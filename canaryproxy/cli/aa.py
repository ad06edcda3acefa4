"""``aa``: the judge's own test, on recorded requests or on a running proxy."""

from __future__ import annotations

import json
from typing import Any, Literal, TextIO

import click

from canaryproxy.cli.common import EXIT_CONFIG, fail, rule_options
from canaryproxy.cli.target import Target, reaching_service
from canaryproxy.client.api import Client
from canaryproxy.client.text import clean
from canaryproxy.config.text import count, odds, percent
from canaryproxy.config.text import weight as weight_text
from canaryproxy.judging.replay import RowError
from canaryproxy.judging.user_replay import (
    PlaceboTest,
    placebo_test,
    read_user_rows,
    settings_of,
)

_MOST = 10_000


@click.command()
@click.argument("file", required=False, type=click.File("r", encoding="utf-8-sig"))
@click.option(
    "--weight",
    default=5.0,
    show_default=True,
    type=click.FloatRange(0, 100, min_open=True, max_open=True),
    help="Percent of users of each virtual canary (with FILE).",
)
@click.option(
    "--placebos",
    default=100,
    show_default=True,
    type=click.IntRange(1, _MOST),
    help="Number of virtual canaries (with FILE).",
)
@rule_options(" (with FILE)")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@reaching_service
def aa(
    target: Target,
    file: TextIO | None,
    weight: float,
    placebos: int,
    alpha: float,
    margin: float,
    direction: Literal["increase", "decrease"],
    as_json: bool,
) -> None:
    """Test the judge itself: how often does it raise an alarm where nothing differs?

    Virtual canaries are drawn among the users of stable and judged like a release. None of them differs
    from stable, so every trip is a false alarm: about one in 1/alpha, and none in most runs.

    FILE (- for standard input) is CSV with the columns t, user and bad (and variant, of which the rows of
    stable are used), with one row for each request in the order of time. Without FILE the running proxy
    says what its virtual canaries have shown so far.

    \b
    Examples:
      canaryproxy aa requests.csv --weight 5 --placebos 200
      canaryproxy aa --admin ./run/admin.sock
    """
    if file is None:
        _running(target, as_json)
        return
    try:
        rows = read_user_rows(file)
    except RowError as error:
        fail(f"{file.name}: {error}", EXIT_CONFIG)
    except UnicodeDecodeError:
        fail(f"{file.name} is not UTF-8 text", EXIT_CONFIG)
    found = placebo_test(rows, weight, settings_of(alpha, margin, direction, 0.05), placebos)
    if as_json:
        click.echo(json.dumps(found.to_dict()))
        return
    _print(found, weight)


def _print(found: PlaceboTest, weight: float) -> None:
    click.echo(
        f"{count(found.tripped)} of {count(found.of)} virtual canaries would have tripped, "
        f"{count(found.held)} would have been held"
    )
    click.echo(
        f"highest evidence against any of them: {odds(found.log_evidence)} (limit {odds(found.limit)})"
    )
    rate = percent(found.bad / found.requests) if found.requests else "none"
    click.echo(
        f"each with {weight_text(weight)} of {count(found.users)} users; {count(found.requests)} requests, "
        f"{rate} of them bad"
    )
    _explain(found.tripped)


def _explain(tripped: object) -> None:
    """Say what the figures mean, and what to do."""
    click.echo(
        "virtual canaries are users of stable, chosen at random: each alarm would be a false one"
    )
    if tripped:
        click.echo(
            "a share of alpha of them may trip by chance; if it is more, no rollback on this traffic "
            "can be trusted: please report it"
        )


def _running(target: Target, as_json: bool) -> None:
    """Print what the virtual canaries of a running proxy have shown."""

    async def work(client: Client) -> dict[str, Any]:
        return (await client.release()).body

    placebo = target.talk(work).get("placebo")
    if not isinstance(placebo, dict):
        fail(
            "no virtual canaries yet: they are chosen when a release begins a step. Before one, record "
            "requests of stable as CSV (columns t, user, bad) and run: canaryproxy aa FILE"
        )
    if as_json:
        click.echo(json.dumps(placebo))
        return
    click.echo(clean(placebo.get("said")))
    _explain(placebo.get("tripped"))
