"""The command line: the help that lists the commands, and where each of them is.

A command's module is imported when the command is used: ``--help`` loads click and nothing of the proxy, and
``check`` loads no HTTP client.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, NoReturn

import click

import canaryproxy
from canaryproxy.measure.compiled import COMPILED

SECTIONS = {
    "Run": {
        "run.run": "Run the proxy until SIGTERM or SIGINT; requests in flight may end first.",
        "check.check": "Check a configuration file: exit status 0 if it is valid, 2 if not.",
        "check.schema": "Print the JSON Schema of the configuration, for editors.",
        "demo.demo": (
            "Show four releases, three of which go wrong, and what the proxy does about it."
        ),
    },
    "Look": {
        "status.status": (
            "Show where the release is, how both variants do, and what the judge knows."
        ),
        "status.history": "Show what happened and why, oldest first, in local time.",
        "status.wait": "Wait until the release gets somewhere, and print what happens meanwhile.",
    },
    "Release": {
        "operate.start": "Start the release with its first step.",
        "operate.pause": "Stay at this weight until somebody resumes.",
        "operate.resume": "Go on after a pause; with promote: manual, go on to the next step.",
        "operate.weight": "Set the percentage of users on the canary.",
        "operate.promote": "End the release with every user on the canary.",
        "operate.abort": "End the release with every user on stable.",
    },
    "Safety": {
        "operate.trip": "Open the circuit: every user is on stable with the next request.",
        "operate.reset": (
            "Close the circuit after a trip: the same users come back to the canary, and the "
            "step begins anew."
        ),
        "operate.drill": (
            "Try the way back with real users: trip, measure the last request to the canary, reset."
        ),
    },
    "Configuration": {
        "operate.reload": "Read the configuration file again.",
        "upgrade.upgrade": (
            "Start the program anew and hand everything over to it, without a refused or "
            "broken request."
        ),
    },
    "Before and after": {
        "offline.plan": (
            "Say what each step of a release can see at your traffic, and whom a regression "
            "would hurt."
        ),
        "offline.judge": (
            "Judge recorded counts: would this release have been rolled back, and when?"
        ),
    },
    "Shell": {
        "completion.completion": (
            "Print the script that completes commands and options in a shell."
        ),
    },
}
"""The sections of the help: each command as ``module.name``, and the first sentence of its help."""
COMMANDS = {
    name: module
    for commands in SECTIONS.values()
    for module, _, name in (path.partition(".") for path in commands)
}
"""The module of each command."""


def command_named(name: str) -> click.Command:
    """Return a command, whose module is imported now. Raises ``KeyError`` if there is none of that name."""
    found: click.Command = getattr(import_module(f"canaryproxy.cli.{COMMANDS[name]}"), name)
    return found


class Sections(click.Group):
    """A group that imports a command when it is used, and lists all commands in sections.

    An error is one line.
    """

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command; None if there is none of that name."""
        return command_named(cmd_name) if cmd_name in COMMANDS else None

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Parse what comes before the command."""
        try:
            return super().make_context(*args, **extra)
        except click.UsageError as error:
            _misused(error)

    def invoke(self, ctx: click.Context) -> Any:
        """Find the command, parse what comes after it, and do it."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            _misused(error)

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a section for each group of commands."""
        widest = max(map(len, COMMANDS))
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl(
                    [
                        (f"{path.partition('.')[2]:<{widest}}", summary)
                        for path, summary in commands.items()
                    ]
                )


def _misused(error: click.UsageError) -> NoReturn:
    """Print one line and exit; help that was not asked for is still help."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        raise error
    from canaryproxy.cli.common import EXIT_CONFIG, fail  # noqa: PLC0415 - --help needs neither

    command = "canaryproxy" if error.ctx is None else error.ctx.command_path
    message = " ".join(error.format_message().split())
    fail(f"{message.rstrip('.')} (see {command} --help)", EXIT_CONFIG)


@click.group(cls=Sections, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(
    canaryproxy.__version__,
    prog_name="canaryproxy",
    message="%(prog)s, version %(version)s" + (" (compiled)" if COMPILED else ""),
)
def main() -> None:
    """A reverse proxy in front of two versions of a service, to release the new one safely.

    \b
    Examples:
      canaryproxy run -c canaryproxy.yaml
      canaryproxy status --watch
      canaryproxy start && canaryproxy wait --for promoted --timeout 30m

    A running proxy is reached on ./run/admin.sock; --admin or CANARYPROXY_ADMIN name another socket or an
    http:// address, -c or CANARYPROXY_CONFIG the configuration that does.

    \b
    Exit status: 0 done; 1 refused or failed; 2 usage or configuration; 3 no proxy answers;
    of wait also 4 the opposite end came, 5 timeout; 130 Ctrl-C.
    """
