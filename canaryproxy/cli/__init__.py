"""The command line: the list of commands for the help, and the module of each.

A command's module is imported when the command is used: ``--help`` loads click and nothing of the proxy, and
``check`` loads no HTTP client.
"""

from __future__ import annotations

from importlib import import_module
from keyword import iskeyword
from pathlib import Path
from typing import Any, NoReturn

import click

import canaryproxy
from canaryproxy.deferred import defer
from canaryproxy.measure.compiled import COMPILED

SECTIONS = {
    "Run": {
        "run.run": "Run the proxy until SIGTERM or SIGINT.",
        "check.check": "Check a configuration file.",
        "check.schema": "Print the JSON Schema of the configuration, for editors.",
        "demo.demo": ("Run four simulated releases, three of which are rolled back."),
    },
    "Observe": {
        "status.status": ("Show the release, both variants' traffic, and the current verdict."),
        "tables.overview": ("Show several proxies side by side, with what needs a person first."),
        "tables.endpoints": (
            "Show each endpoint: requests, failures, statuses, latency, and whether it is up."
        ),
        "tables.routes": (
            "Show each route: requests, failures, statuses and latency, of stable and canary side by side."
        ),
        "status.history": ("Show the history: what happened and why."),
        "status.wait": "Wait until the release reaches a state.",
    },
    "Release": {
        "operate.start": "Start the release again after an abort, or begin a new one.",
        "operate.pause": "Keep the current weight until you resume.",
        "operate.resume": "Continue after a pause, or begin the next step (promote: manual).",
        "operate.weight": "Set the percentage of users on the canary.",
        "operate.promote": "End the release with all users on the canary.",
        "operate.abort": "End the release with all users on stable.",
        "operate.accept": "Accept a difference that is wanted, for the rest of this release.",
    },
    "Safety": {
        "operate.trip": ("Roll back now: open the circuit, so that all users go to stable."),
        "operate.reset": ("Reset the circuit after a trip: the same users return to the canary."),
        "operate.drill": ("Rehearse a rollback with live traffic: trip, time it, reset."),
    },
    "Configuration": {
        "import_.import": (
            "Convert the configuration of another tool, and print it as one of ours."
        ),
        "operate.reload": "Read the configuration file again.",
        "upgrade.upgrade": (
            "Restart in place with the installed version and current configuration."
        ),
    },
    "Plan and review": {
        "offline.plan": (
            "Estimate how quickly each step detects a regression, and how many users it affects until "
            "then."
        ),
        "offline.judge": "Judge a recording: would this release have been rolled back, and when?",
        "aa.aa": "Test the judge itself: how often does it raise an alarm where nothing differs?",
    },
    "Monitoring": {
        "alerts.alerts": "Print the alerting rules for Prometheus.",
    },
    "Shell": {
        "completion.completion": ("Print a shell script that completes commands and options."),
    },
}
"""The sections of the help: each command as ``module.name``, with the first sentence of its help."""
COMMANDS = {
    name: module
    for commands in SECTIONS.values()
    for module, _, name in (path.partition(".") for path in commands)
}
"""The module of each command."""
ALIASES = {"rollback": "trip"}
"""Other names of commands, which the help does not list."""
_ARGUMENTS = "canaryproxy.arguments"


def command_named(name: str) -> click.Command:
    """Import the module of a command and return the command. Raises ``KeyError`` for an unknown name.

    What it imports of the configuration is not its model, which takes longer than anything else: help and
    completion of options need none.
    """
    defer("canaryproxy.config")
    attribute = f"{name}_" if iskeyword(name) else name
    found: click.Command = getattr(import_module(f"canaryproxy.cli.{COMMANDS[name]}"), attribute)
    return found


class Sections(click.Group):
    """A group that imports a command when it is used, and lists the commands in sections.

    An error is one line.
    """

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, or ``None`` for an unknown name."""
        name = ALIASES.get(cmd_name, cmd_name)
        return command_named(name) if name in COMMANDS else None

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        """Return the commands that begin so, without importing any, or else the options."""
        from click.shell_completion import CompletionItem  # noqa: PLC0415 - only shells ask

        summaries = {
            path.partition(".")[2]: summary
            for commands in SECTIONS.values()
            for path, summary in commands.items()
        }
        found = [
            CompletionItem(name, help=summary)
            for name, summary in summaries.items()
            if name.startswith(incomplete)
        ]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the arguments for ``_misused``."""
        ctx.meta[_ARGUMENTS] = list(args)
        return super().parse_args(ctx, args)

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Parse the options before the command."""
        try:
            return super().make_context(*args, **extra)
        except click.UsageError as error:
            _misused(error)

    def invoke(self, ctx: click.Context) -> Any:
        """Find the command, parse its options, and run it."""
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
    """Print one line and exit, or print the help if there is no command at all."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        raise error
    from canaryproxy.cli.common import EXIT_CONFIG, fail  # noqa: PLC0415 - --help needs neither

    command = "canaryproxy" if error.ctx is None else error.ctx.command_path
    if (file := _file_without_option(error)) is not None:
        fail(f"the file goes after -c: {command} -c {file}", EXIT_CONFIG)
    if _lacks_file(error):
        fail(f"name the configuration file: {command} -c FILE", EXIT_CONFIG)
    message = " ".join(error.format_message().split())
    fail(f"{message.rstrip('.')} (see {command} --help)", EXIT_CONFIG)


def _lacks_file(error: click.UsageError) -> bool:
    """Return whether -c is missing."""
    missing = error.param if isinstance(error, click.MissingParameter) else None
    return missing is not None and missing.name == "path"


def _file_without_option(error: click.UsageError) -> str | None:
    """Return the file in ``canaryproxy check FILE``, in which -c is missing."""
    if not _lacks_file(error) or error.ctx is None:
        return None
    last: str = error.ctx.meta.get(_ARGUMENTS, [""])[-1]
    named = last.endswith((".yaml", ".yml", ".json")) or Path(last).is_file()
    return last if named else None


@click.group(cls=Sections, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(
    canaryproxy.__version__,
    prog_name="canaryproxy",
    message="%(prog)s, version %(version)s" + (" (compiled)" if COMPILED else ""),
)
def main() -> None:
    """A reverse proxy that releases a new version of a service step by step, and rolls it back by itself.

    \b
    Examples:
      canaryproxy run -c canaryproxy.yaml
      canaryproxy status --watch
      canaryproxy reload && canaryproxy wait --for promoted --timeout 30m

    Commands reach a running proxy through ./run/admin.sock. --admin or CANARYPROXY_ADMIN name another socket
    or an http:// address; -c or CANARYPROXY_CONFIG name a configuration file to read it from.

    \b
    Exit status: 0 done; 1 refused or failed; 2 usage or configuration error;
    3 no proxy answers, or something else does; 4 ended differently (wait);
    5 timed out (wait, upgrade); 130 Ctrl-C.
    """
