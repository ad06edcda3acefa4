"""Commands that need no running proxy: ``plan`` and ``judge``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, TextIO

import click
from rich import box
from rich.console import Console
from rich.table import Table

from canaryproxy.cli.common import EXIT_CONFIG, config_option, fail, load
from canaryproxy.config.text import NONE, count, duration, odds, percent, weight
from canaryproxy.control.settings import ControlSettings
from canaryproxy.judging.families import specs
from canaryproxy.judging.metrics import FALLBACK
from canaryproxy.judging.replay import RowError, read_rows, replay
from canaryproxy.release.forecast import Forecast, forecast
from canaryproxy.release.rollout import Step

_RATIO = click.FloatRange(0, 1, min_open=True, max_open=True)


@click.command()
@click.argument("file", type=click.File("r", encoding="utf-8-sig"))
@click.option(
    "--alpha", default=0.001, show_default=True, type=_RATIO, help="Probability of a false breach."
)
@click.option(
    "--margin",
    default=0.0,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Smallest difference of the rates that can be a breach, absolute.",
)
@click.option(
    "--direction",
    default="increase",
    show_default=True,
    type=click.Choice(["increase", "decrease"]),
    help="The direction of change that is bad.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def judge(
    file: TextIO,
    alpha: float,
    margin: float,
    direction: Literal["increase", "decrease"],
    as_json: bool,
) -> None:
    """Judge recorded counts: would this release have been rolled back, and when?

    FILE (- for standard input) is CSV with the columns t, stable_trials, stable_events, canary_trials and
    canary_events, with one row for each tick.

    Example: canaryproxy judge counts.csv --alpha 0.001 --json
    """
    try:
        found = replay(read_rows(file), alpha=alpha, margin=margin, direction=direction)
    except RowError as error:
        fail(f"{file.name}: {error}", EXIT_CONFIG)
    except UnicodeDecodeError:
        fail(f"{file.name} is not UTF-8 text", EXIT_CONFIG)
    if as_json:
        click.echo(json.dumps(found.to_dict()))
        return
    low, high = found.rate_ratio_interval
    click.echo(f"verdict: {found.verdict}")
    click.echo(f"evidence: {odds(found.log_evidence)} (highest {odds(found.max_log_evidence)})")
    if found.tripped_at is not None:
        click.echo(
            f"tripped at t = {found.tripped_at}, after {count(found.canary_trials_at_trip)} canary requests"
        )
    click.echo(f"canary's rate: {low:.3g}× to {high:.3g}× stable's")


@click.command()
@config_option
@click.option(
    "--rps",
    required=True,
    type=click.FloatRange(0),
    help="Requests per second, both variants together.",
)
@click.option(
    "--error-rate",
    required=True,
    type=click.FloatRange(0, 1, max_open=True),
    help="Stable's error rate, 0 to 1.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def plan(path: Path, rps: float, error_rate: float, as_json: bool) -> None:
    """Estimate how quickly each step detects a regression, and how many requests fail until then.

    \b
    Example: canaryproxy plan -c config/example.yaml --rps 200 --error-rate 0.005
    """
    config = load(path)
    if config.release is None:
        fail(f"{path} has no release: add release.id and release.steps", EXIT_CONFIG)
    errors = config.judge.metrics.errors
    found = forecast(
        [Step(step.weight, step.bake, step.min_requests) for step in config.release.steps],
        rps,
        error_rate,
        alpha=config.judge.alpha,
        metrics=sum(spec.trips for spec in specs(ControlSettings.of(config).judge, FALLBACK)),
        margin=0.0 if errors is None else errors.margin,
    )
    if as_json:
        click.echo(json.dumps(found.to_dict()))
        return
    print_forecast(Console(), found, error_rate)


def print_forecast(console: Console, found: Forecast, error_rate: float) -> None:
    """Print a forecast as a table and its warnings."""
    console.print(f"Stable's error rate is {percent(error_rate)}. If the canary's is higher:\n")
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in (
        "weight",
        "lasts",
        "canary\nrequests",
        "error\nrate",
        "requests\nto detect",
        "time\nto detect",
        "failed\nrequests",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    notes: set[str] = set()
    for step in found.steps:
        lasts = "no end" if step.lasts is None else duration(step.lasts)
        first = (weight(step.weight), lasts, count(step.requests))
        if not step.catches:
            table.add_row(*first, NONE, NONE, NONE, NONE)
            notes.add(f"{NONE}  no stable traffic to compare with")
        for catch in step.catches:
            rate = percent(catch.canary_rate)
            if catch.requests is None or catch.seconds is None:
                table.add_row(*first, rate, "never", NONE, NONE)
            else:
                late = "" if catch.in_time else "*"
                when = f"{duration(catch.seconds)}{late}"
                table.add_row(*first, rate, count(catch.requests), when, count(catch.hurt))
                notes |= set() if catch.in_time else {"*  after the end of the step"}
            first = ("", "", "")
    console.print(table)
    for note in sorted(notes):
        console.print(note, soft_wrap=True)
    for warning in found.warnings:
        console.print(f"warning: {warning}", soft_wrap=True)
