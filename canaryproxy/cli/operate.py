"""Commands that change what a running proxy does: look first, say what will change, ask, do, say what is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import click

from canaryproxy.cli.common import EXIT_CONFIG, EXIT_FAILED, EXIT_INTERRUPTED, fail
from canaryproxy.cli.target import Target, login, reaching
from canaryproxy.client import text as words
from canaryproxy.client.api import Answer, Client
from canaryproxy.config import units

Document = Mapping[str, Any]

_yes = click.option("-y", "--yes", is_flag=True, help="Do not ask.")
_reason = click.option("--reason", metavar="TEXT", help="Why, for the history.")


def _percent(_ctx: click.Context, _param: click.Parameter, value: str) -> float:
    """Return a weight as the configuration has it: 5, 0.25, or 5%."""
    try:
        return units.weight(float(value.removesuffix("%").strip()))
    except ValueError:
        raise click.BadParameter("a percentage from 0 to 100, such as 5 or 0.25") from None


def _operate(
    target: Target,
    name: str,
    says: Callable[[Document], str],
    *,
    body: Mapping[str, Any] | None = None,
    asks: Callable[[Document], bool] = lambda _: False,
    yes: bool = True,
) -> Answer:
    """Do it to the release that is shown in one line before."""
    sent = {"by": login(), **(body or {})}

    seen = target.talk(lambda client: client.release())
    before = seen.body
    allowed = before.get("allowed")
    if not isinstance(allowed, list) or name in allowed:  # else the proxy says why not
        click.echo(f"{words.name(before)}: {words.where(before)} -> {says(before)}")
        if not yes and asks(before) and sys.stdin.isatty():
            _confirm()
    return target.talk(lambda client: client.operate(name, sent, seen.etag))


def _confirm() -> None:
    try:
        sure = click.confirm("Do it?", default=False)
    except click.Abort:  # Ctrl-C or the end of the input
        click.echo()
        sys.exit(EXIT_INTERRUPTED)
    if not sure:
        click.echo("Nothing was done.")
        sys.exit(EXIT_FAILED)


def _done(answer: Answer) -> None:
    click.echo(f"done: {words.name(answer.body)} is {words.where(answer.body)}")


def _why(reason: str | None) -> dict[str, str]:
    return {} if reason is None else {"reason": reason}


def _step_weight(document: Document, step: int) -> str:
    steps = document.get("steps") or []
    if not 1 <= step <= len(steps) or not isinstance(steps[step - 1], dict):
        return words.NONE
    return words.weight(steps[step - 1].get("weight"))


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

    def says(before: Document) -> str:
        pauses = " and paused" if before.get("state") == "running" else ""
        return f"{words.weight(percent)} of users on the canary{pauses}"

    def up(before: Document) -> bool:
        return percent > (words.number(before.get("weight")) or 0.0)

    body = {"weight": percent, **_why(reason)}
    _done(_operate(target, "weight", says, body=body, asks=up, yes=yes))


@click.command()
@_reason
@reaching
def start(target: Target, reason: str | None) -> None:
    """Start the release with its first step.

    \b
    Example: canaryproxy start
    """

    def says(before: Document) -> str:
        return f"running, step 1 at {_step_weight(before, 1)}"

    _done(_operate(target, "start", says, body=_why(reason)))


@click.command()
@_reason
@reaching
def pause(target: Target, reason: str | None) -> None:
    """Stay at this weight until somebody resumes.

    \b
    Example: canaryproxy pause --reason "holidays"
    """

    def says(before: Document) -> str:
        return f"paused at {words.weight(before.get('weight'))}"

    _done(_operate(target, "pause", says, body=_why(reason)))


@click.command()
@_reason
@reaching
def resume(target: Target, reason: str | None) -> None:
    """Go on after a pause; with promote: manual, go on to the next step.

    \b
    Example: canaryproxy resume
    """

    def says(before: Document) -> str:
        step = int(words.number(before.get("step")) or 0)
        if before.get("state") == "running":
            return f"step {step + 1} at {_step_weight(before, step + 1)}"
        return f"running, step {step} at {_step_weight(before, step)}"

    _done(_operate(target, "resume", says, body=_why(reason)))


@click.command()
@_reason
@_yes
@reaching
def promote(target: Target, reason: str | None, yes: bool) -> None:
    """End the release with every user on the canary.

    Steps that are left are left out, and gates are not asked.

    \b
    Example: canaryproxy promote --yes
    """
    _done(
        _operate(
            target,
            "promote",
            lambda _: "promoted: every user on the canary",
            body=_why(reason),
            asks=lambda _: True,
            yes=yes,
        )
    )


@click.command()
@_reason
@_yes
@reaching
def abort(target: Target, reason: str | None, yes: bool) -> None:
    """End the release with every user on stable.

    \b
    Example: canaryproxy abort --yes --reason "wrong build"
    """
    _done(
        _operate(
            target,
            "abort",
            lambda _: "aborted: every user on stable",
            body=_why(reason),
            asks=lambda _: True,
            yes=yes,
        )
    )


@click.command()
@_reason
@reaching
def reset(target: Target, reason: str | None) -> None:
    """Close the circuit after a trip: the same users come back to the canary, and the step begins anew.

    \b
    Example: canaryproxy reset --reason "fixed in 2.4.1"
    """

    def says(before: Document) -> str:
        circuit = before.get("circuit")
        cause = words.clean(circuit.get("cause"), 200) if isinstance(circuit, dict) else ""
        return "the circuit closes" + (f" (it had opened because: {cause})" if cause else "")

    _done(_operate(target, "reset", says, body=_why(reason)))


@click.command()
@click.argument("cause", nargs=-1)
@reaching
def trip(target: Target, cause: tuple[str, ...]) -> None:
    """Open the circuit: every user is on stable with the next request. It never asks.

    \b
    Example: canaryproxy trip "checkout looks wrong"
    """
    body = {"cause": " ".join(cause)} if cause else {}
    _done(_operate(target, "trip", lambda _: "tripped: every user on stable", body=body))


@click.command()
@_yes
@reaching
def drill(target: Target, yes: bool) -> None:
    """Try the way back with real users: trip, measure the last request to the canary, reset.

    Takes some seconds, at most ten. The step begins anew after it.

    \b
    Example: canaryproxy drill --yes
    """
    if not yes and not sys.stdin.isatty():
        fail("a drill moves users: without a terminal it needs --yes", EXIT_CONFIG)

    def says(before: Document) -> str:
        moved = words.weight(before.get("weight"))
        return f"tripped, measured and reset: {moved} of users on stable meanwhile"

    body = _operate(target, "drill", says, asks=lambda _: True, yes=yes).body
    figures = body.get("drill")
    found = figures if isinstance(figures, dict) else {}
    click.echo(f"drill: {words.drilled(found)}")
    if words.number(found.get("seconds_to_last_request")) is None:
        sys.exit(EXIT_FAILED)


@click.command()
@reaching
def reload(target: Target) -> None:
    """Read the configuration file again. An invalid one changes nothing.

    \b
    Example: canaryproxy reload
    """

    async def work(client: Client) -> Answer:
        seen = await client.config()
        click.echo(f"reads {words.clean(seen.body.get('file')) or 'the configuration'} again")
        return await client.operate("reload", {"by": login()}, seen.etag)

    body = target.talk(work).body
    changed = _listed(body.get("changed"))
    restart = _listed(body.get("restart_needed"))
    click.echo(
        f"done: {f'changed {changed}' if changed else 'nothing has changed'}"
        + (f"; restart needed for {restart}" if restart else "")
    )


def _listed(value: object) -> str:
    return ", ".join(words.clean(one, 100) for one in value) if isinstance(value, list) else ""
