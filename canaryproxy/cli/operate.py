"""Commands that operate a running proxy: each describes the change, asks if needed, makes it, and reports."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import click

from canaryproxy.cli.act import carry_out
from canaryproxy.cli.common import EXIT_CONFIG, EXIT_FAILED, EXIT_INTERRUPTED, fail
from canaryproxy.cli.target import Target, login, reaching
from canaryproxy.client import text as words
from canaryproxy.client.api import Client, Refused, Response
from canaryproxy.config import units

Document = Mapping[str, Any]

_yes = click.option("-y", "--yes", is_flag=True, help="Do not ask for confirmation.")
_reason = click.option("--reason", metavar="TEXT", help="Reason, for the history.")

_NOTHING_TO_START = (
    "nothing to start: the configuration has no `release`. Add release.id and release.steps, then run"
    " `canaryproxy reload`"
)


def _percent(_ctx: click.Context, _param: click.Parameter, value: str) -> float:
    """Return a weight as in the configuration: 5, 0.25 or 5%."""
    try:
        return units.weight(float(value.removesuffix("%").strip()))
    except ValueError:
        raise click.BadParameter("expected a percentage from 0 to 100, such as 5 or 0.25") from None


def _operate(
    target: Target,
    operation: str,
    describe: Callable[[Document], str],
    *,
    body: Mapping[str, Any] | None = None,
    asks: Callable[[Document], bool] = lambda _: False,
    yes: bool = True,
) -> Response:
    """Describe an operation, ask if needed, and carry it out unless the release has changed meanwhile."""
    sent = {"by": login(), **(body or {})}
    seen = target.talk(lambda client: client.release())
    before = seen.body
    if operation == "start" and before.get("release") is None and before.get("steps") == []:
        fail(_NOTHING_TO_START)
    allowed = before.get("allowed")
    if not isinstance(allowed, list) or operation in allowed:  # if not, the proxy says why
        click.echo(f"{describe(before)}.")
        if not yes and asks(before) and sys.stdin.isatty():
            _confirm()

    async def act(client: Client) -> Response:
        try:
            return await carry_out(target, client, operation, sent, seen.etag)
        except Refused as error:
            if error.status != 412:
                raise
            now = words.outcome((await client.release()).body)
            fail(
                "someone (or a completed step) changed the release in the meantime:"
                f" now {now}. Nothing was changed; run the command again"
            )

    return target.talk(act)


def _confirm() -> None:
    try:
        sure = click.confirm("Continue?", default=False)
    except click.Abort:  # Ctrl-C or the end of the input
        click.echo()
        sys.exit(EXIT_INTERRUPTED)
    if not sure:
        click.echo("Cancelled; nothing changed.")
        sys.exit(EXIT_FAILED)


def _report(response: Response) -> None:
    click.echo(f"Done: {words.outcome(response.body)}.")


def _with_reason(reason: str | None) -> dict[str, str]:
    return {} if reason is None else {"reason": reason}


def _step(document: Document, step: int) -> str:
    """``step 2 of 5, 25%``; empty if the plan has no such step."""
    steps = document.get("steps")
    if not isinstance(steps, list) or not 1 <= step <= len(steps):
        return ""
    described = steps[step - 1]
    found = words.weight(described.get("weight") if isinstance(described, dict) else None)
    return f"step {step} of {len(steps)}, {found}"


def _here(document: Document) -> str:
    return _step(document, int(words.number(document.get("step")) or 0))


def _the(operation: str, document: Document) -> str:
    """``Trip cart-2.4``; ``Trip`` without a release."""
    return operation if document.get("release") is None else f"{operation} {words.name(document)}"


@click.command()
@click.argument("percent", callback=_percent)
@_reason
@_yes
@reaching
def weight(target: Target, percent: float, reason: str | None, yes: bool) -> None:
    """Set the percentage of users on the canary. A running release pauses there.

    \b
    Example: canaryproxy weight 5
    """

    def describe(before: Document) -> str:
        change = f"from {words.weight(before.get('weight'))} to {words.weight(percent)} of users"
        if before.get("state") == "running":
            return f"Set the canary's weight {change} and pause {words.name(before)}"
        return f"Set the canary's weight {change}"

    def rises(before: Document) -> bool:
        return percent > (words.number(before.get("weight")) or 0.0)

    body = {"weight": percent, **_with_reason(reason)}
    _report(_operate(target, "weight", describe, body=body, asks=rises, yes=yes))


@click.command()
@_reason
@reaching
def start(target: Target, reason: str | None) -> None:
    """Start the release again after an abort.

    It begins with its first step. A configured release starts by itself.

    \b
    Example: canaryproxy start
    """

    def describe(before: Document) -> str:
        return f"{_the('Start', before)} ({_step(before, 1) or 'no steps'})"

    _report(_operate(target, "start", describe, body=_with_reason(reason)))


@click.command()
@_reason
@reaching
def pause(target: Target, reason: str | None) -> None:
    """Keep the current weight until you resume.

    \b
    Example: canaryproxy pause --reason "holidays"
    """

    def describe(before: Document) -> str:
        return f"{_the('Pause', before)} at {words.weight(before.get('weight'))}"

    _report(_operate(target, "pause", describe, body=_with_reason(reason)))


@click.command()
@_reason
@reaching
def resume(target: Target, reason: str | None) -> None:
    """Continue after a pause, or begin the next step (promote: manual).

    \b
    Example: canaryproxy resume
    """

    def describe(before: Document) -> str:
        if before.get("state") != "running":
            return f"{_the('Resume', before)} ({_here(before) or 'no steps'})"
        following = _step(before, int(words.number(before.get("step")) or 0) + 1)
        if following:
            return f"Begin the next step of {words.name(before)} ({following})"
        return f"{_the('Complete', before)}: all users on the canary"

    _report(_operate(target, "resume", describe, body=_with_reason(reason)))


@click.command()
@_reason
@_yes
@reaching
def promote(target: Target, reason: str | None, yes: bool) -> None:
    """End the release with all users on the canary.

    Skips the remaining steps and does not call gates.

    \b
    Example: canaryproxy promote --yes
    """

    def describe(before: Document) -> str:
        skipped = "the remaining steps and gates are skipped"
        return f"{_the('Promote', before)}: all users go to the canary, {skipped}"

    body = _with_reason(reason)
    _report(_operate(target, "promote", describe, body=body, asks=lambda _: True, yes=yes))


@click.command()
@_reason
@_yes
@reaching
def abort(target: Target, reason: str | None, yes: bool) -> None:
    """End the release with all users on stable.

    \b
    Example: canaryproxy abort --yes --reason "wrong build"
    """

    def describe(before: Document) -> str:
        return f"{_the('Abort', before)}: all users go to stable"

    body = _with_reason(reason)
    _report(_operate(target, "abort", describe, body=body, asks=lambda _: True, yes=yes))


@click.command()
@_reason
@reaching
def reset(target: Target, reason: str | None) -> None:
    """Reset the circuit after a trip: the same users return to the canary.

    They return immediately, and the current step begins again.

    \b
    Example: canaryproxy reset --reason "fixed in 2.4.1"
    """

    def describe(before: Document) -> str:
        step = _here(before)
        said = f"{_the('Reset', before)}: the same users return to the canary immediately"
        said += f" ({step})" if step else ""
        circuit = before.get("circuit")
        if not isinstance(circuit, dict) or circuit.get("cause") is None:
            return said
        since = words.number(circuit.get("since"))
        now = words.number(before.get("time")) or time.time()
        ago = "" if since is None else f" {words.duration(now - since)} ago"
        return f"{said}. Tripped{ago}: {words.clean(circuit['cause'], 200)}"

    _report(_operate(target, "reset", describe, body=_with_reason(reason)))


@click.command()
@click.argument("metric", nargs=-1, required=True)
@click.option("--reason", metavar="TEXT", required=True, help="Why it is wanted, for the history.")
@_yes
@reaching
def accept(target: Target, metric: tuple[str, ...], reason: str, yes: bool) -> None:
    """Accept a difference that is wanted, for the rest of this release.

    METRIC is a metric as `canaryproxy status` names it, or a metric and a route. It neither holds the release
    nor opens the circuit any more; all others do.

    \b
    Examples:
      canaryproxy accept client_errors --reason "the login is required now"
      canaryproxy accept errors GET /old --reason "removed"
    """
    name = " ".join(metric)

    def describe(before: Document) -> str:
        of = "" if before.get("release") is None else f" for the rest of {words.name(before)}"
        return f"Accept {words.clean(name, 100)}{of}: it no longer holds or trips"

    body = {"metric": name, "reason": reason}
    _report(_operate(target, "accept", describe, body=body, asks=lambda _: True, yes=yes))


@click.command()
@click.argument("cause", nargs=-1)
@reaching
def trip(target: Target, cause: tuple[str, ...]) -> None:
    """Roll back now: open the circuit, so that all users go to stable. Asks for no confirmation.

    Requests that a rule of split.match sends to the canary still go there.

    \b
    Example: canaryproxy trip "checkout looks wrong"
    """

    def describe(before: Document) -> str:
        return f"{_the('Trip', before)}: all users go to stable immediately"

    body = {"cause": " ".join(cause)} if cause else {}
    _report(_operate(target, "trip", describe, body=body))


@click.command()
@_yes
@reaching
def drill(target: Target, yes: bool) -> None:
    """Rehearse a rollback with live traffic: trip, time it, reset.

    Takes some seconds, at most ten. The current step begins again after it.

    \b
    Example: canaryproxy drill --yes
    """
    if not yes and not sys.stdin.isatty():
        fail("a drill moves users to stable; without a terminal it needs --yes", EXIT_CONFIG)

    def describe(before: Document) -> str:
        moved = f"{words.weight(before.get('weight'))} of users go to stable for some seconds"
        return f"{_the('Drill', before)}: {moved} and come back"

    body = _operate(target, "drill", describe, asks=lambda _: True, yes=yes).body
    figures = body.get("drill")
    found = figures if isinstance(figures, dict) else {}
    if words.number(found.get("seconds_to_last_request")) is None:
        fail(words.drill_result(found))
    click.echo(f"Done: {words.drill_result(found)}.")


@click.command()
@reaching
def reload(target: Target) -> None:
    """Read the configuration file again. An invalid file changes nothing.

    \b
    Example: canaryproxy reload
    """

    async def work(client: Client) -> Response:
        seen = await client.config()
        click.echo(f"Reload {words.clean(seen.body.get('file')) or 'the configuration'}.")
        return await client.operate("reload", {"by": login()}, seen.etag)

    body = target.talk(work).body
    if not isinstance(body.get("changed"), list):
        fail(
            "reload was accepted, but the response does not say what changed; see canaryproxy status"
        )
    changed = _list(body.get("changed"))
    restart = _list(body.get("restart_needed"))
    click.echo(f"Done: {f'changed {changed}' if changed else 'nothing changed'}.")
    if restart:
        click.echo(f"Restart needed to apply {restart}: run canaryproxy upgrade.")


def _list(value: object) -> str:
    return ", ".join(words.clean(one, 100) for one in value) if isinstance(value, list) else ""
