"""``canaryproxy upgrade``: a hot restart."""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import click

from canaryproxy.cli.common import EXIT_TIMEOUT, EXIT_UNREACHABLE, fail
from canaryproxy.cli.target import Target, reaching
from canaryproxy.client.api import Client, Unreachable, WrongService
from canaryproxy.client.text import clean

_POLL = 0.1
"""Seconds between two looks at the history."""
_ORPHAN = 5.0
"""Seconds that the new process has to answer once the old one has ended without handing over."""
_RECORDS = 1000
_UNDER_WAY = ("running", "paused", "tripped", "probing", "aborting")
_HISTORIES = 4
"""Releases under way in whose history it looks."""


@click.command()
@click.option(
    "--timeout",
    default=120.0,
    show_default=True,
    type=click.FloatRange(min=1),
    help="Seconds to wait until the new process has taken over.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@reaching
def upgrade(target: Target, timeout: float, as_json: bool) -> None:
    """Restart in place with the installed version and current configuration.

    Sends SIGUSR2 to the proxy, on this machine only, and waits until the new process has taken over; no
    connection is dropped. If the new process fails, the old one continues, and the reason is printed here and
    recorded in the history. If the proxy is stopped meanwhile, the command says so at once.

    Example: canaryproxy upgrade
    """
    if target.address.socket is None:
        fail(
            "upgrade works on the proxy's own machine only, through the admin socket: use --admin PATH",
            EXIT_UNREACHABLE,
        )
    main_pid: object = None
    seen: dict[Target, object] = {}
    for one in target.talk(_histories, any_version=True):
        to = replace(target, service=one)
        before = to.talk(lambda client: client.release(), any_version=True).body
        main_pid, seen[to] = before.get("main_pid"), before.get("history_id")
    if not (isinstance(main_pid, int) and main_pid > 1):
        fail("the proxy does not tell its process id: send SIGUSR2 to it yourself")
    try:
        process = os.pidfd_open(main_pid)  # tells of its end, whoever reaps it
        signal.pidfd_send_signal(process, signal.SIGUSR2)
    except (ProcessLookupError, PermissionError) as error:
        fail(f"cannot send SIGUSR2 to process {main_pid}: {os.strerror(error.errno or 0)}")
    end = time.monotonic() + timeout
    ended_at: float | None = None
    while (now := time.monotonic()) < end:
        if ended_at is None:
            ended_at = now if select.select([process], [], [], _POLL)[0] else None
        else:
            time.sleep(_POLL)
        for what, cause in _news_of_all(seen):
            if what == "upgrade_failed":
                fail(clean(cause))
            done = json.dumps({"act": "upgrade", "done": True, "cause": cause})
            click.echo(done if as_json else f"Done: {clean(cause)}.")
            return
        if ended_at is not None and now - ended_at >= _ORPHAN:
            fail(
                f"the proxy (process {main_pid}) ended during the upgrade, and no other has answered"
                f" within {_ORPHAN:g}s; see its log, then start it",
                EXIT_UNREACHABLE,
            )
    fail(
        f"timed out after {timeout:g}s waiting for the new process; see canaryproxy history and the"
        " proxy's log",
        EXIT_TIMEOUT,
    )


async def _histories(client: Client) -> list[str | None]:
    """Return the services whose history will tell of the upgrade; ``None`` is the only one.

    With several it is in that of every release that is under way, or else in that of the first service.
    """
    try:
        await client.release()
    except WrongService as error:
        rows = (await client.table("services"))["services"]
        under_way = [row["name"] for row in rows if row.get("state") in _UNDER_WAY]
        return [*under_way[:_HISTORIES], *error.names[:1]]
    return [None]


def _news_of_all(seen: Mapping[Target, object]) -> list[tuple[str, str]]:
    """Return the new records of upgrades in the first history that has one."""
    for target, last in seen.items():
        after = last if isinstance(last, int) else 0
        found = target.talk(partial(_news, seen=after), any_version=True)
        if found:
            return found
    return []


async def _news(client: Client, seen: int) -> list[tuple[str, str]]:
    """Return the records of upgrades since; none while the proxy is unreachable."""
    try:
        records = await client.history(seen, _RECORDS)
    except (Unreachable, WrongService):  # not yet there, or the service is gone
        return []
    return [
        (str(record["what"]), str(record["cause"]))
        for record in records
        if record["what"] in ("upgrade", "upgrade_failed")
    ]
