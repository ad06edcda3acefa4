"""Commands that operate a running proxy: each previews its act, asks if need be, acts and reports."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import click

from canaryproxy.cli.act import carry_out
from canaryproxy.cli.begin import NewRelease
from canaryproxy.cli.common import EXIT_CONFIG, EXIT_FAILED, EXIT_INTERRUPTED, fail
from canaryproxy.cli.target import Target, login, reaching, reaching_service
from canaryproxy.client import text as words
from canaryproxy.client.api import Client, Refused, Response, WrongService
from canaryproxy.config import units

Document = Mapping[str, Any]

_reason = click.option("--reason", metavar="TEXT", help="Reason, for the history.")
_json = click.option(
    "--json", "as_json", is_flag=True, help="Print the preview and the release after it as JSON."
)


def _percent(_ctx: click.Context, _param: click.Parameter, value: str) -> float:
    """Return a weight as in the configuration: 5, 0.25 or 5%."""
    try:
        return units.weight(float(value.removesuffix("%").strip()))
    except ValueError:
        raise click.BadParameter("expected a percentage from 0 to 100, such as 5 or 0.25") from None


def _acting(command: Callable[..., None]) -> Callable[..., None]:
    """Add ``--yes`` and ``--json``, and pass the ``_Operator`` that they make in the place of the target."""

    @click.option("-y", "--yes", is_flag=True, help="Do not ask for confirmation.")
    @_json
    @reaching_service
    @wraps(command)
    def found(target: Target, yes: bool, as_json: bool, **options: Any) -> None:
        command(_Operator(target, yes, as_json), **options)

    return found


class _Operator:
    """Carries out one act: preview, question, act, report."""

    def __init__(self, target: Target, yes: bool, as_json: bool) -> None:
        self._target = target
        self._yes = yes
        self._as_json = as_json

    @property
    def _of_service(self) -> str:
        """``cart: ``, if a service was named."""
        return "" if self._target.service is None else f"{words.clean(self._target.service, 100)}: "

    def needs_yes(self, why: str) -> None:
        """Exit unless there is a terminal to ask in, or ``--yes``."""
        if not self._yes and not sys.stdin.isatty():
            fail(f"{why}; without a terminal it needs --yes", EXIT_CONFIG)

    def act(self, operation: str, **body: Any) -> None:
        """Carry out an operation; ``body`` without its ``None`` is sent with who does it."""
        sent = {"by": login()} | {key: value for key, value in body.items() if value is not None}
        seen = self._target.talk(
            lambda client: client.acts(body.get("weight"), body.get("metric"), body.get("now"))
        )
        preview = _of(seen.body, operation)
        if preview.get("already") is True:
            self._already(preview)
            return
        if preview.get("refusal") is None:  # if not, the proxy says why
            self._announce(preview)
        # An act towards stable is right whatever has changed since: it must not be refused for that.
        careful = preview.get("asks") is True or operation == "weight"
        response = self._target.talk(
            lambda client: self._carry_out(client, operation, sent, seen.etag if careful else None)
        )
        if response is None:
            self._already(preview)
        else:
            self._report(operation, preview, response.body)

    def begin(self, release_id: str, reason: str | None) -> bool:
        """Begin a new release; return ``False`` if it is the present one."""
        begun = NewRelease(release_id, login(), reason, self._target.service)
        preview = self._target.talk(begun.prepare)
        if preview is None:
            return False
        self._announce(preview)
        changes = self._target.talk(begun.carry_out)
        if self._as_json:
            self._print(preview, {"done": True, **changes})
        else:
            click.echo(f"Done: {self._of_service}{words.outcome(changes['release'])}.")
        return True

    def _announce(self, preview: Document) -> None:
        """Say what will change, and ask in a terminal if the proxy says so."""
        asks = preview.get("asks") is True and not self._yes and sys.stdin.isatty()
        if preview.get("irreversible") is True and not asks:
            self.needs_yes(
                "stable may not be able to serve these users (release.reversible: false)"
            )
        if self._as_json and not asks:
            return
        for line in _lines(preview, self._of_service):
            click.echo(line, err=self._as_json)
        if asks:
            _confirm(err=self._as_json)

    async def _carry_out(
        self, client: Client, operation: str, sent: Mapping[str, Any], etag: str | None
    ) -> Response | None:
        """Return the response; ``None`` if what the act is for has come meanwhile without it."""
        try:
            return await carry_out(self._target, client, operation, sent, etag)
        except Refused as error:
            if error.status == 409 and _of((await client.acts()).body, operation).get("already"):
                return None
            if error.status != 412:
                raise
            now = words.outcome((await client.release()).body)
            fail(
                "someone (or a completed step) changed the release in the meantime:"
                f" now {now}. Nothing was changed; run the command again"
            )

    def _already(self, preview: Document) -> None:
        """Report that there is nothing to do, which is no failure."""
        document = self._target.talk(lambda client: client.release()).body
        if self._as_json:
            self._print(preview, {"done": False, "release": document})
        else:
            click.echo(f"Nothing to do: {self._of_service}{words.outcome(document)} already.")

    def _report(self, operation: str, preview: Document, body: Document) -> None:
        figures = body.get("drill") if operation == "drill" else None
        failed = isinstance(figures, dict) and figures.get("seconds_to_last_request") is None
        if self._as_json:
            result = {"release": body} if figures is None else body
            self._print(preview, {"done": not failed, **result})
        said = words.outcome(body) if figures is None else words.drill_result(figures)
        if failed:
            fail(said)
        if not self._as_json:
            click.echo(f"Done: {self._of_service}{said}.")

    def _print(self, preview: Document, result: Mapping[str, Any]) -> None:
        service = {} if self._target.service is None else {"service": self._target.service}
        act = preview.get("act")
        click.echo(json.dumps({"act": act, **service, **result, "preview": preview}))


def _of(body: Document, operation: str) -> Document:
    """Return the preview of an operation, empty if there is none."""
    found = body.get("acts")
    listed = found if isinstance(found, list) else []
    return next(
        (one for one in listed if isinstance(one, dict) and one.get("act") == operation), {}
    )


def _lines(preview: Document, service: str) -> list[str]:
    """Return what an act does, a sentence a line; ``service`` is the beginning of the first."""
    says = preview.get("says")
    first, *rest = (
        [words.clean(one, 300) for one in says] if isinstance(says, list) and says else [""]
    )
    sentences = [f"{service}{words.clean(preview.get('title'), 100)}: {first}.".replace(": .", ".")]
    return sentences + [f"  {one[:1].upper()}{one[1:]}." for one in rest]


def _confirm(*, err: bool) -> None:
    try:
        sure = click.confirm("Continue?", default=False, err=err)
    except click.Abort:  # Ctrl-C or the end of the input
        click.echo(err=err)
        sys.exit(EXIT_INTERRUPTED)
    if not sure:
        click.echo("Cancelled; nothing changed.", err=err)
        sys.exit(EXIT_FAILED)


@click.command()
@click.argument("percent", callback=_percent)
@_reason
@_acting
def weight(operator: _Operator, percent: float, reason: str | None) -> None:
    """Set the percentage of users on the canary. A running release pauses there.

    A higher weight asks for confirmation.

    \b
    Example: canaryproxy weight 5
    """
    operator.act("weight", weight=percent, reason=reason)


@click.command()
@click.option(
    "--id",
    "release_id",
    metavar="ID",
    help="Begin a new release with this id, which is written into the configuration file.",
)
@_reason
@_acting
def start(operator: _Operator, release_id: str | None, reason: str | None) -> None:
    """Start the release again after an abort, or begin a new one.

    It begins with its first step and a new judge. A configured release starts by itself: if it has begun
    already, there is nothing to do, and the exit status is 0. A release that was promoted cannot start again:
    it needs a new id.

    --id is for pipelines: the proxy writes the id into its configuration file and loads it, as if it had been
    edited there. Use the name of the build.

    \b
    Examples:
      canaryproxy start
      canaryproxy start --id cart-2.5
    """
    if release_id is None or not operator.begin(release_id, reason):
        operator.act("start", reason=reason)


@click.command()
@_reason
@_acting
def pause(operator: _Operator, reason: str | None) -> None:
    """Keep the current weight until you resume.

    \b
    Example: canaryproxy pause --reason "holidays"
    """
    operator.act("pause", reason=reason)


@click.command()
@_reason
@_acting
def resume(operator: _Operator, reason: str | None) -> None:
    """Continue after a pause, or begin the next step (promote: manual).

    Asks for confirmation: more users get the canary, at once or by the next steps.

    \b
    Example: canaryproxy resume
    """
    operator.act("resume", reason=reason)


@click.command()
@_reason
@_acting
def promote(operator: _Operator, reason: str | None) -> None:
    """End the release with all users on the canary.

    Skips the remaining steps and does not call gates. Asks for confirmation.

    \b
    Example: canaryproxy promote --yes
    """
    operator.act("promote", reason=reason)


@click.command()
@click.option(
    "--now", is_flag=True, help="Take every user back at once, whatever release.ramp_down says."
)
@_reason
@_acting
def abort(operator: _Operator, now: bool, reason: str | None) -> None:
    """End the release with all users on stable.

    Asks only if release.reversible is false. Else it is never refused because the release has changed
    meanwhile. With release.ramp_down the users go back over that time; --now, or a second abort, takes them
    back at once. A later start begins with the first step and a new judge.

    \b
    Example: canaryproxy abort --reason "wrong build"
    """
    operator.act("abort", now=now or None, reason=reason)


@click.command()
@_reason
@_acting
def reset(operator: _Operator, reason: str | None) -> None:
    """Reset the circuit after a trip: the same users return to the canary.

    They return immediately, and the current step begins again with a new judge. Asks for confirmation.

    \b
    Example: canaryproxy reset --reason "fixed in 2.4.1"
    """
    operator.act("reset", reason=reason)


@click.command()
@click.argument("metric", nargs=-1, required=True)
@click.option("--reason", metavar="TEXT", required=True, help="Why it is wanted, for the history.")
@_acting
def accept(operator: _Operator, metric: tuple[str, ...], reason: str) -> None:
    """Accept a difference that is wanted, for the rest of this release.

    METRIC is a metric as `canaryproxy status` names it, or a metric and a route. It neither holds the release
    nor opens the circuit any more; all others do.

    \b
    Examples:
      canaryproxy accept client_errors --reason "the login is required now"
      canaryproxy accept errors GET /old --reason "removed"
    """
    operator.act("accept", metric=" ".join(metric), reason=reason)


@click.command()
@click.argument("cause", nargs=-1)
@_acting
def trip(operator: _Operator, cause: tuple[str, ...]) -> None:
    """Roll back now: open the circuit, so that all users go to stable.

    Also after the promotion, while stable runs the version before it. Asks for confirmation only if
    release.reversible is false. "canaryproxy rollback" does the same.

    Requests that a rule of split.match sends to the canary still go there.

    \b
    Example: canaryproxy trip "checkout looks wrong"
    """
    operator.act("trip", cause=" ".join(cause) or None)


@click.command()
@_acting
def drill(operator: _Operator) -> None:
    """Rehearse a rollback with live traffic: trip, time it, reset.

    Takes some seconds, at most ten. The current step begins again after it.

    \b
    Example: canaryproxy drill --yes
    """
    operator.needs_yes("a drill moves users to stable")
    operator.act("drill")


@click.command()
@_json
@reaching
def reload(target: Target, as_json: bool) -> None:
    """Read the configuration file again. An invalid file changes nothing.

    \b
    Example: canaryproxy reload
    """

    async def work(client: Client) -> tuple[Response, dict[str, Any]]:
        seen = await client.config()
        if not as_json:
            file = words.clean(seen.body.get("file")) or "the configuration"
            click.echo(f"Reload {file}.")
        done = await client.operate("reload", {"by": login()}, seen.etag)
        try:
            return done, {"release": (await client.release()).body}
        except WrongService:  # the proxy has several
            return done, {"services": (await client.table("services"))["services"]}

    done, after = target.talk(work)
    body, document = done.body, after.get("release", {})
    if not isinstance(body.get("changed"), list):
        fail(
            "reload was accepted, but the response does not say what changed; see canaryproxy status"
        )
    if as_json:
        click.echo(json.dumps({"act": "reload", "done": True, **body, **after}))
    else:
        changed = _list(body.get("changed"))
        restart = _list(body.get("restart_needed"))
        click.echo(f"Done: {f'changed {changed}' if changed else 'nothing changed'}.")
        if restart:
            click.echo(f"Restart needed to apply {restart}: run canaryproxy upgrade.")
    if document.get("state") in ("promoted", "aborted") and document.get("release") is not None:
        click.echo(
            f"Note: {words.outcome(document)}. It ended {words.since(document)}, and no release runs:"
            " to release a new build, give release.id a new value and reload again.",
            err=as_json,
        )


def _list(value: object) -> str:
    return ", ".join(words.clean(one, 100) for one in value) if isinstance(value, list) else ""
