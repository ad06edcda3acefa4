"""Commands that need no running proxy: ``plan`` and ``judge``."""

from __future__ import annotations

import json
from math import inf
from pathlib import Path
from typing import Literal, TextIO

import click

from canaryproxy.cli.common import EXIT_CONFIG, config_option, fail, load_one, rule_options
from canaryproxy.config.text import NONE, count, duration, odds, percent
from canaryproxy.judging.replay import RowError, read_rows, replay, time_of
from canaryproxy.judging.user_replay import (
    UserReplay,
    read_user_rows,
    replay_users,
    seconds_of,
    settings_of,
)
from canaryproxy.release.rollout import Step


@click.command()
@click.argument("file", type=click.File("r", encoding="utf-8-sig"))
@rule_options()
@click.option("--users", "by_user", is_flag=True, help="FILE has one row for each request.")
@click.option(
    "--weight",
    "share",
    type=click.FloatRange(0, 100, min_open=True, max_open=True),
    help="Percent of users on the canary (with --users).",
)
@click.option("--start", help="When the step began; earlier rows are history (with --users).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def judge(
    file: TextIO,
    alpha: float,
    margin: float,
    direction: Literal["increase", "decrease"],
    by_user: bool,
    share: float | None,
    start: str | None,
    as_json: bool,
) -> None:
    """Judge a recording: would this release have been rolled back, and when?

    FILE (- for standard input) is CSV with the columns t, stable_trials, stable_events, canary_trials and
    canary_events, with one row for each tick. Counts have no users: they are judged as independent requests.

    With --users the columns are t, user, variant (stable or canary) and bad (0 or 1), with one row for each
    request in the order of time, and users are judged as the proxy does.

    \b
    Examples:
      canaryproxy judge counts.csv --alpha 0.001 --json
      canaryproxy judge requests.csv --users --weight 5
    """
    if by_user and share is None:
        raise click.UsageError("--users needs --weight, the percentage of users on the canary")
    if not by_user and (share is not None or start is not None):
        raise click.UsageError("--weight and --start need --users")
    try:
        if share is not None:
            since = -inf if start is None else _start(start)
            rows = read_user_rows(file, since)
            settings = settings_of(alpha, margin, direction, 0.05)
            _show_users(replay_users(rows, share, settings, since), as_json)
            return
        found = replay(read_rows(file), alpha=alpha, margin=margin, direction=direction)
    except RowError as error:
        fail(f"{file.name}: {error}", EXIT_CONFIG)
    except UnicodeDecodeError:
        fail(f"{file.name} is not UTF-8 text", EXIT_CONFIG)
    except ValueError as error:
        fail(f"{file.name}: {error}", EXIT_CONFIG)
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
    click.echo(
        "note: counts have no users, so requests are taken as independent of each other; where few users "
        "cause many events, give one row for each request and --users"
    )


def _start(text: str) -> float:
    try:
        return seconds_of(time_of(text, 0))
    except ValueError:
        raise click.BadParameter(
            f"start: found {text!r}, expected seconds or a date such as 2026-01-31T12:00:00Z"
        ) from None


def _show_users(found: UserReplay, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(found.to_dict()))
        return
    click.echo(f"verdict: {found.verdict}")
    click.echo(f"highest evidence: {odds(found.log_evidence)} (limit {odds(found.limit)})")
    if found.tripped_at is not None:
        click.echo(
            f"tripped at t = {found.tripped_at}, after {count(found.canary_requests)} canary requests; "
            f"{count(found.hurt)} users of the canary had a bad answer"
        )
    for name, users, (trials, bad) in (
        ("stable", found.users[0], found.stable),
        ("canary", found.users[1], found.canary),
    ):
        rate = percent(bad / trials) if trials else NONE
        click.echo(
            f"{name}: {rate} ({count(bad)} of {count(trials)} requests, {count(users)} users)"
        )
    if found.difference is not None and found.error is not None:
        click.echo(
            f"difference: {found.difference * 100:+.2f} points, "
            f"standard error {found.error * 100:.2f} by user"
        )


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
@click.option(
    "--users",
    type=click.IntRange(1),
    help="Users who make these requests while a step lasts; without it each request is of another user.",
)
@click.option(
    "--service",
    metavar="NAME",
    help="The service whose release it is, where the file has several; its traffic is meant.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def plan(
    path: Path, rps: float, error_rate: float, users: int | None, service: str | None, as_json: bool
) -> None:
    """Estimate how quickly each step detects a regression, and how many users it affects until then.

    With the proxy's state file at hand, it also says whether stable or the canary would get more
    requests than endpoints have carried so far.

    \b
    Example: canaryproxy plan -c config/example.yaml --rps 200 --error-rate 0.005 --users 20000
    """
    config = load_one(path, service)
    if config.release is None:
        who = path if config.service is None else f"{path}: the service {config.service}"
        fail(f"{who} has no release: add release.id and release.steps", EXIT_CONFIG)
    from canaryproxy.control.settings import ControlSettings  # noqa: PLC0415 - they load the model
    from canaryproxy.release.forecast import Traffic, forecast  # noqa: PLC0415

    found = forecast(
        [
            Step(step.weight, step.bake, step.min_requests, step.min_users or 0, cohort=step.cohort)
            for step in config.release.plan
        ],
        Traffic(rps, error_rate, users),
        settings=ControlSettings.of(config).judge,
    )
    from canaryproxy.cli.capacity import outlook_of  # noqa: PLC0415

    ahead = outlook_of(config, rps)
    if as_json:
        capacity = None if ahead is None else {"said": ahead.said, "over": ahead.over}
        click.echo(json.dumps({**found.to_dict(), "capacity": capacity}))
        return
    from canaryproxy.client.forecast import print_forecast  # noqa: PLC0415 - it imports rich

    print_forecast(found, error_rate)
    if ahead is not None:
        for words in ahead.said:
            click.echo(f"{'warning' if words in ahead.over else 'capacity'}: {words}")
    ramp = None if config.release is None else config.release.ramp_down
    if ramp is not None:
        over = duration(ramp.over)
        click.echo(f"abort: users go back to stable over {over}; after a trip at once")
    if users is None:
        click.echo(
            "note: each request is taken to be of another user; where users ask often, give --users"
        )
