"""Runs the proxy in this process. It imports all of the proxy, so only ``canaryproxy run`` imports it."""

from __future__ import annotations

from pathlib import Path

from canaryproxy.cli.common import EXIT_CONFIG, Ended, fail, load_with_files
from canaryproxy.config.secrets import SecretError
from canaryproxy.control.state_file import StateError
from canaryproxy.proxy.listener import ListenError
from canaryproxy.runtime.hot_restart import HandoverError, Predecessor
from canaryproxy.runtime.supervisor import StartError, Supervisor


def serve(path: Path, pid_file: Path | None) -> None:
    """Run the proxy of a configuration file until it ends, or exit with the reason why it cannot start."""
    try:
        predecessor = Predecessor.from_environment()
    except HandoverError as error:
        fail(str(error))
    try:
        _serve(path, predecessor, pid_file)
    except Ended as ended:
        if predecessor is not None:
            predecessor.failed(ended.why)
        raise


def _serve(path: Path, predecessor: Predecessor | None, pid_file: Path | None) -> None:
    config, files = load_with_files(path)
    try:
        Supervisor(config, path, files, predecessor=predecessor, pid_file=pid_file).run()
    except (ListenError, StartError, HandoverError, StateError) as error:
        fail(str(error))
    except SecretError as error:
        fail(str(error), EXIT_CONFIG)
