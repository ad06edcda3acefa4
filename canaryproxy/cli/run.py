"""Commands that run the proxy, or look at its configuration before."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Literal

import click

from canaryproxy import config as configuration
from canaryproxy.admin.guard import TokenError
from canaryproxy.cli.common import EXIT_CONFIG, Ended, config_option, fail, load_with_files
from canaryproxy.control.state_file import StateError
from canaryproxy.demo.run import demo as run_demo
from canaryproxy.proxy.listener import ListenError
from canaryproxy.runtime import logs
from canaryproxy.runtime.hot_restart import Before, HandoverError
from canaryproxy.runtime.supervisor import StartError, Supervisor


@click.command()
@config_option
@click.option(
    "--log-format",
    default="text",
    show_default=True,
    type=click.Choice(["text", "json"]),
    help="How the proxy's own log, on standard error, is written.",
)
@click.option(
    "--pid-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Holds the process id while the proxy serves.",
)
def run(path: Path, log_format: Literal["text", "json"], pid_file: Path | None) -> None:
    """Run the proxy until SIGTERM or SIGINT; requests in flight may end first.

    SIGHUP reads the configuration again, SIGUSR1 reopens the access log, SIGUSR2 starts the program anew and
    hands everything over to it.

    Example: canaryproxy run -c config/minimal.yaml --log-format json
    """
    logs.configure(log_format)
    try:
        before = Before.from_environment()
    except HandoverError as error:
        fail(str(error))
    try:
        _run(path, before, pid_file)
    except Ended as ended:
        if before is not None:
            before.failed(ended.why)
        raise


def _run(path: Path, before: Before | None, pid_file: Path | None) -> None:
    config, files = load_with_files(path)
    try:
        Supervisor(config, path, files, before=before, pid_file=pid_file).run()
    except (ListenError, StartError, HandoverError, StateError) as error:
        fail(str(error))
    except TokenError as error:
        fail(str(error), EXIT_CONFIG)


@click.command()
@config_option
def check(path: Path) -> None:
    """Check a configuration file: exit status 0 if it is valid, 2 if not.

    Prints every error as file:line:column: field: what was found and what is allowed, and warns about plans
    that are valid but risky. The files of TLS are looked into, too: keys must fit their certificates, and
    what has expired or soon will is warned about.

    Example: canaryproxy check -c config/example.yaml
    """
    load_with_files(path)
    click.echo(f"{path}: ok")


@click.command()
def schema() -> None:
    """Print the JSON Schema of the configuration, for editors.

    Example: canaryproxy schema > canaryproxy.schema.json
    """
    click.echo(json.dumps(configuration.schema(), indent=2))


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")
@click.option(
    "--speed",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0.2, 10),
    help="2: bakes half as long.",
)
@click.option("--seed", default=1, show_default=True, help="Chooses the users' moves.")
@click.option(
    "--dashboard",
    is_flag=False,
    flag_value=9900,
    type=click.IntRange(0, 65535),
    help="Serve the dashboard on this port (9900 if none is given, 0: a free one), until Ctrl-C.",
)
def demo(as_json: bool, speed: float, seed: int, dashboard: int | None) -> None:
    """Show four releases, three of which go wrong, and what the proxy does about it.

    Needs no configuration: starts two small services, the proxy and some users on 127.0.0.1, and ends by
    itself in about a minute.

    Example: canaryproxy demo --speed 2
    """
    sys.exit(run_demo(as_json=as_json, speed=speed, seed=seed, dashboard=dashboard))
