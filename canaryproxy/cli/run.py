"""``canaryproxy run``."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Literal

import click

from canaryproxy.cli.common import config_option
from canaryproxy.runtime import imports, logs


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
    logs.capture()
    gc.disable()  # what is imported stays: to look through it again and again is a tenth of the start
    imports.prepare()
    from canaryproxy.cli.serve import serve  # noqa: PLC0415 - it imports aiohttp

    gc.enable()
    serve(path, pid_file)
