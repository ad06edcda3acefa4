"""``canaryproxy upgrade``: another process goes on, with the program and the configuration of now."""

from __future__ import annotations

import os
import signal
import time

import click

from canaryproxy.cli.common import EXIT_TIMEOUT, fail
from canaryproxy.cli.target import Target, reaching
from canaryproxy.client.api import Client, Unreachable
from canaryproxy.client.text import clean

_LOOK_EVERY = 0.1
_RECORDS = 1000


@click.command()
@click.option(
    "--timeout",
    default=120.0,
    show_default=True,
    type=click.FloatRange(min=1),
    help="Seconds to wait for it.",
)
@reaching
def upgrade(target: Target, timeout: float) -> None:
    """Start the program anew and hand everything over to it, without a refused or broken request.

    Sends SIGUSR2 to the proxy, on this machine only, and waits until the new process steers. If that cannot
    start, the old one goes on, and why is said here and in the history.

    Example: canaryproxy upgrade
    """
    if target.address.socket is None:
        fail("an upgrade needs the admin socket: it sends a signal on this machine")
    before = target.talk(lambda client: client.release()).body
    main_pid, seen = int(before["main_pid"]), int(before["history_id"])
    try:
        os.kill(main_pid, signal.SIGUSR2)
    except (ProcessLookupError, PermissionError) as error:
        fail(f"process {main_pid} cannot be told to upgrade: {os.strerror(error.errno or 0)}")
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        time.sleep(_LOOK_EVERY)
        for what, cause in target.talk(lambda client: _news(client, seen)):
            if what == "upgrade_failed":
                fail(clean(cause))
            click.echo(f"done: {clean(cause)}")
            return
    fail("no other process goes on yet; canaryproxy history tells", EXIT_TIMEOUT)


async def _news(client: Client, seen: int) -> list[tuple[str, str]]:
    """Return what was written about upgrades since; nothing while nobody answers."""
    try:
        records = await client.history(seen, _RECORDS)
    except Unreachable:
        return []
    return [
        (str(record["what"]), str(record["cause"]))
        for record in records
        if record["what"] in ("upgrade", "upgrade_failed")
    ]
