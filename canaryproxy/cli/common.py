"""Exit statuses, and reading the configuration file."""

from __future__ import annotations

import time
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

config_option = click.option(
    "-c",
    "--config",
    "path",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Configuration file (YAML).",
)


class Ended(SystemExit):
    """The command ends; the reason ``why`` has been printed."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(status)
        self.why = why


def fail(message: str, status: int = EXIT_FAILED) -> NoReturn:
    """Print one line and exit."""
    click.echo(f"canaryproxy: {message}", err=True)
    raise Ended(status, message)


def read_text(path: Path) -> str:
    """Return the text of a file, or exit."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        fail(f"cannot read {path}: {error.strerror}", EXIT_CONFIG)
    except UnicodeDecodeError as error:
        fail(f"{path} is not UTF-8 text (byte {error.start})", EXIT_CONFIG)


def load(path: Path) -> Config:
    """Return the configuration in a file, or print its errors and exit."""
    try:
        return configuration.parse(read_text(path), file=str(path))
    except ConfigError as error:
        refuse(error)


def load_with_files(path: Path) -> tuple[Config, Files]:
    """Return the configuration in a file and its TLS files, or print the errors and exit.

    Prints warnings.
    """
    from canaryproxy.tls import files as certificates  # noqa: PLC0415 - it loads the model

    text = read_text(path)
    try:
        config = configuration.parse(text, file=str(path))
        files = certificates.load(config, text, file=str(path))
    except ConfigError as error:
        refuse(error)
    for line in (
        *configuration.warnings(config),
        *certificates.warnings(config, files, time.time()),
    ):
        click.echo(f"{path}: warning: {line}", err=True)
    return config, files


def refuse(error: ConfigError) -> NoReturn:
    """Print the errors of a configuration, one a line, and exit."""
    for problem in error.problems:
        click.echo(str(problem), err=True)
    more = len(error.problems) - 1
    first = str(error.problems[0]).partition(", found ")[0]  # the value found may be a secret
    raise Ended(EXIT_CONFIG, f"{first} (and {more} more)" if more else first)
