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
from canaryproxy.demo.run import demo as run_demo
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


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")
@click.option(
    "--speed",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0.2, 10),
    help="2: twice as fast.",
)
@click.option("--seed", default=1, show_default=True, help="Chooses the users' moves.")
def demo(as_json: bool, speed: float, seed: int) -> None:
    """Show a release that goes wrong, and what the proxy does about it; needs no configuration.

    Starts two small services, the proxy and some users on 127.0.0.1, and ends by itself in 40 seconds.

    Example: canaryproxy demo --speed 2
    """
    sys.exit(run_demo(as_json=as_json, speed=speed, seed=seed))


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
