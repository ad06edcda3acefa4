"""``canaryproxy run``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from canaryproxy.cli.common import EXIT_CONFIG, Ended, config_option, fail, load_with_files
from canaryproxy.config.secrets import SecretError
from canaryproxy.control.state_file import StateError
from canaryproxy.proxy.listener import ListenError
from canaryproxy.runtime import logs
from canaryproxy.runtime.hot_restart import HandoverError, Predecessor
from canaryproxy.runtime.supervisor import StartError, Supervisor


@click.command()
@config_option
@click.option(
    "--log-format",
    default="text",
    show_default=True,
    type=click.Choice(["text", "json"]),
    help="Format of the proxy's log on standard error.",
)
@click.option(
    "--pid-file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="File for the process id while the proxy runs.",
)
def run(path: Path, log_format: Literal["text", "json"], pid_file: Path | None) -> None:
    """Run the proxy until SIGTERM or SIGINT. Requests in flight may finish.

    SIGHUP reloads the configuration, SIGUSR1 reopens the access log, SIGUSR2 restarts in place without
    dropping connections.

    Example: canaryproxy run -c config/minimal.yaml --log-format json
    """
    logs.configure(log_format)
    try:
        predecessor = Predecessor.from_environment()
    except HandoverError as error:
        fail(str(error))
    try:
        _run(path, predecessor, pid_file)
    except Ended as ended:
        if predecessor is not None:
            predecessor.failed(ended.why)
        raise


def _run(path: Path, predecessor: Predecessor | None, pid_file: Path | None) -> None:
    config, files = load_with_files(path)
    try:
        Supervisor(config, path, files, predecessor=predecessor, pid_file=pid_file).run()
    except (ListenError, StartError, HandoverError, StateError) as error:
        fail(str(error))
    except SecretError as error:
        fail(str(error), EXIT_CONFIG)
