"""Runs the proxy in this process. It imports all of the proxy, so only ``canaryproxy run`` imports it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NoReturn

from canaryproxy.cli.common import EXIT_CONFIG, EXIT_FAILED, Ended, load_with_files
from canaryproxy.config.secrets import SecretError
from canaryproxy.control.state_file import StateError
from canaryproxy.proxy.listener import ListenError
from canaryproxy.runtime.hot_restart import HandoverError, Predecessor
from canaryproxy.runtime.supervisor import StartError, Supervisor

_log = logging.getLogger(__name__)


def serve(path: Path, pid_file: Path | None) -> None:
    """Run the proxy of a configuration file until it ends, or exit with the reason why it cannot start."""
    try:
        predecessor = Predecessor.from_environment()
    except HandoverError as error:
        _fail(str(error))
    try:
        _serve(path, predecessor, pid_file)
    except Ended as ended:
        if predecessor is not None:
            predecessor.failed(ended.why)
        raise


def _serve(path: Path, predecessor: Predecessor | None, pid_file: Path | None) -> None:
    config, files = load_with_files(path, _say)
    try:
        Supervisor(config, path, files, predecessor=predecessor, pid_file=pid_file).run()
    except (ListenError, StartError, HandoverError, StateError) as error:
        _fail(str(error))
    except SecretError as error:
        _fail(str(error), EXIT_CONFIG)


def _say(level: int, line: str) -> None:
    """Log a line: the log is in one format from its first line to its last."""
    _log.log(level, "%s", line)


def _fail(message: str, status: int = EXIT_FAILED) -> NoReturn:
    _log.error("%s", message)
    raise Ended(status, message)
