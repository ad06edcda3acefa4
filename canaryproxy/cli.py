"""The command line."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from pathlib import Path
from typing import NoReturn

import click
import uvloop

import canaryproxy
from canaryproxy import config as configuration
from canaryproxy.config import Config, ConfigError
from canaryproxy.proxy.listener import ListenError
from canaryproxy.supervisor import Supervisor

EXIT_CONFIG = 2
EXIT_FAILED = 1

_config_option = click.option(
    "-c",
    "--config",
    "path",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The configuration file (YAML).",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(canaryproxy.__version__, prog_name="canaryproxy")
def main() -> None:
    """A reverse proxy in front of two versions of a service, to release the new one safely."""


@main.command()
@_config_option
def run(path: Path) -> None:
    """Run the proxy until SIGTERM or SIGINT; requests in flight may end first.

    Example: canaryproxy run -c config/minimal.yaml
    """
    config = _load(path)
    for line in configuration.warnings(config):
        click.echo(f"{path}: warning: {line}", err=True)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(config))
    except ListenError as error:
        _fail(str(error))


async def _serve(config: Config) -> None:
    await Supervisor(config).run()


@main.command()
@_config_option
def check(path: Path) -> None:
    """Check a configuration file: exit status 0 if it is valid, 2 if not.

    Prints every error as file:line:column: field: what was found and what is allowed, and warns about plans
    that are valid but risky.

    Example: canaryproxy check -c config/example.yaml
    """
    config = _load(path)
    for line in configuration.warnings(config):
        click.echo(f"{path}: warning: {line}", err=True)
    click.echo(f"{path}: ok")


@main.command()
def schema() -> None:
    """Print the JSON Schema of the configuration, for editors.

    Example: canaryproxy schema > canaryproxy.schema.json
    """
    click.echo(json.dumps(configuration.schema(), indent=2))


def _load(path: Path) -> Config:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        _fail(f"{path}: cannot be read: {error.strerror}", EXIT_CONFIG)
    except UnicodeDecodeError as error:
        _fail(f"{path}: is not UTF-8 text (byte {error.start})", EXIT_CONFIG)
    try:
        return configuration.parse(text, file=str(path))
    except ConfigError as error:
        for problem in error.problems:
            click.echo(str(problem), err=True)
        sys.exit(EXIT_CONFIG)


def _fail(message: str, status: int = EXIT_FAILED) -> NoReturn:
    click.echo(f"canaryproxy: {message}", err=True)
    sys.exit(status)
