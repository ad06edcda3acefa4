"""The command line: one file per group of commands, and the help that lists them."""

from __future__ import annotations

from typing import Any, NoReturn

import click

import canaryproxy
from canaryproxy.cli import (
    completion as shell,
)
from canaryproxy.cli import (
    offline,
    upgrade,
)
from canaryproxy.cli import (
    operate as steer,
)
from canaryproxy.cli import (
    run as proxy,
)
from canaryproxy.cli import (
    status as look,
)
from canaryproxy.cli.common import EXIT_CONFIG, fail
from canaryproxy.measure.compiled import COMPILED

_SECTIONS: tuple[tuple[str, tuple[click.Command, ...]], ...] = (
    ("Run", (proxy.run, proxy.check, proxy.schema, proxy.demo)),
    ("Look", (look.status, look.history, look.wait)),
    ("Release", (steer.start, steer.pause, steer.resume, steer.weight, steer.promote, steer.abort)),
    ("Safety", (steer.trip, steer.reset, steer.drill)),
    ("Configuration", (steer.reload, upgrade.upgrade)),
    ("Before and after", (offline.plan, offline.judge)),
    ("Shell", (shell.completion,)),
)


class Sections(click.Group):
    """A group whose help lists its commands by what they are for, and whose errors are one line."""

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
        widest = max(len(name) for name in self.commands)
        for title, commands in _SECTIONS:
            with formatter.section(title):
                formatter.write_dl(
                    [
                        (f"{one.name or '':<{widest}}", one.get_short_help_str(100))
                        for one in commands
                    ]
                )


def _misused(error: click.UsageError) -> NoReturn:
    """Print one line and exit; help that was not asked for is still help."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        raise error
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


for _, _commands in _SECTIONS:
    for _command in _commands:
        main.add_command(_command)
