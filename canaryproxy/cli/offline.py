"""Commands that need no running proxy: ``plan`` and ``judge``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, TextIO

import click

from canaryproxy.cli.common import EXIT_CONFIG, config_option, fail, load
from canaryproxy.config.text import count, odds
from canaryproxy.control.settings import judge_settings
from canaryproxy.judging.judge import tripping_metrics
from canaryproxy.judging.replay import RowError, read_rows, replay
from canaryproxy.release.forecast import forecast
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
        metrics=tripping_metrics(judge_settings(config)),
        margin=0.0 if errors is None else errors.margin,
    )
    if as_json:
        click.echo(json.dumps(found.to_dict()))
        return
    from canaryproxy.client.forecast import print_forecast  # noqa: PLC0415 - it imports rich

    print_forecast(found, error_rate)
