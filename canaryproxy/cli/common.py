"""Exit statuses, and reading the configuration file."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from canaryproxy import config as configuration
from canaryproxy.config.errors import ConfigError

if TYPE_CHECKING:
    from canaryproxy.config import Config
    from canaryproxy.tls.files import Files

EXIT_FAILED = 1
EXIT_CONFIG = 2
EXIT_UNREACHABLE = 3
EXIT_OPPOSITE = 4
EXIT_TIMEOUT = 5
EXIT_INTERRUPTED = 130

_NAMES = 10
"""Names in a message."""

Command = Callable[..., None]

config_option = click.option(
    "-c",
    "--config",
    "path",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Configuration file (YAML).",
)


def rule_options(when: str = "") -> Callable[[Command], Command]:
    """Return the options of a judge of recorded requests; ``when`` ends their help."""

    def options(command: Command) -> Command:
        for option in (  # the last is applied first
            click.option(
                "--direction",
                default="increase",
                show_default=True,
                type=click.Choice(["increase", "decrease"]),
                help=f"The direction of change that is bad{when}.",
            ),
            click.option(
                "--margin",
                default=0.0,
                show_default=True,
                type=click.FloatRange(0, 1),
                help=f"Smallest difference of the rates that can be a breach, absolute{when}.",
            ),
            click.option(
                "--alpha",
                default=0.001,
                show_default=True,
                type=click.FloatRange(0, 1, min_open=True, max_open=True),
                help=f"Probability of a false breach{when}.",
            ),
        ):
            command = option(command)
        return command

    return options


class Ended(SystemExit):
    """The command ends; the reason ``why`` has been printed."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(status)
        self.why = why


Say = Callable[[int, str], None]
"""Tells the user something: how grave it is (a level of ``logging``), and a line."""


def echo(level: int, line: str) -> None:  # noqa: ARG001
    """Print a line to standard error, as commands do; ``canaryproxy run`` logs it."""
    click.echo(line, err=True)


def fail(message: str, status: int = EXIT_FAILED) -> NoReturn:
    """Print one line and exit."""
    click.echo(f"canaryproxy: {message}", err=True)
    raise Ended(status, message)


def read_text(path: Path, say: Say | None = None) -> str:
    """Return the text of a file, or exit."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        why = f"cannot read {path}: {error.strerror}"
    except UnicodeDecodeError as error:
        why = f"{path} is not UTF-8 text (byte {error.start})"
    if say is None:
        fail(why, EXIT_CONFIG)
    say(logging.ERROR, why)
    raise Ended(EXIT_CONFIG, why)


def load(path: Path) -> Config:
    """Return the configuration in a file, or print its errors and exit."""
    try:
        return configuration.parse(read_text(path), file=str(path))
    except ConfigError as error:
        refuse(error)


def load_one(path: Path, service: str | None) -> Config:
    """Return the configuration of one service in a file, or print what is wrong and exit."""
    found = load(path).by_service()
    if service is None and len(found) == 1:
        return next(iter(found.values()))
    names = list(found)
    known = ", ".join(names[:_NAMES]) + (" and others" if len(names) > _NAMES else "")
    if service is None:
        fail(
            f"{path} has {len(names):,} services: say which one with --service ({known})",
            EXIT_CONFIG,
        )
    if service not in found:
        fail(f"{path} has no service {service!r}, only {known}", EXIT_CONFIG)
    return found[service]


def load_with_files(path: Path, say: Say | None = None) -> tuple[Config, Files]:
    """Return the configuration in a file and its TLS files, or print the errors and exit.

    Prints warnings. ``say`` takes errors and warnings in place of standard error.
    """
    try:
        config, files, warnings = read_with_files(path, say)
    except ConfigError as error:
        refuse(error, say or echo)
    for line in warnings:
        if say is None:
            echo(logging.WARNING, f"{path}: warning: {line}")
        else:
            say(logging.WARNING, f"{path}: {line}")
    return config, files


def read_with_files(path: Path, say: Say | None = None) -> tuple[Config, Files, tuple[str, ...]]:
    """Return the configuration in a file, its TLS files, and warnings about both. Raises ``ConfigError``."""
    from canaryproxy.tls import files as certificates  # noqa: PLC0415 - it loads the model

    text = read_text(path, say)
    config = configuration.parse(text, file=str(path))
    files = certificates.load(config, text, file=str(path))
    return (
        config,
        files,
        (*configuration.warnings(config), *certificates.warnings(config, files, time.time())),
    )


def refuse(error: ConfigError, say: Say = echo) -> NoReturn:
    """Print the errors of a configuration, one a line, and exit."""
    for problem in error.problems:
        say(logging.ERROR, str(problem))
    more = len(error.problems) - 1
    first = str(error.problems[0]).partition(", found ")[0]  # the value found may be a secret
    raise Ended(EXIT_CONFIG, f"{first} (and {more} more)" if more else first)
