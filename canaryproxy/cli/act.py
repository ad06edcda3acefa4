"""Carries out an operation on a running proxy: sent to a known peer only, and done only if it shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from canaryproxy.cli.common import EXIT_UNREACHABLE, fail
from canaryproxy.cli.target import Target
from canaryproxy.client import text as words
from canaryproxy.client.api import Client, NotAdmin, Refused, Response, Unreachable
from canaryproxy.client.effect import shows


async def carry_out(
    target: Target, client: Client, operation: str, sent: Mapping[str, Any], etag: str | None
) -> Response:
    """Return the response to an operation that was done, or exit with what is known.

    Raises what ``Client.identify`` raises, and ``Refused``: nothing was changed then.
    """
    await client.identify()
    try:
        response = await client.operate(operation, sent, etag)
    except Unreachable as error:
        await _unanswered(target, client, operation, error)
    after = response.body.get("release") if operation == "drill" else response.body
    if not (isinstance(after, dict) and shows(operation, sent, after)):
        now = words.outcome((await client.release()).body)
        fail(f"{operation} was accepted, but the release does not show it: now {now}")
    return response


async def _unanswered(
    target: Target, client: Client, operation: str, error: Unreachable
) -> NoReturn:
    """Exit with what is known after an operation was sent and no response came."""
    try:
        now = f"now {words.outcome((await client.release()).body)}"
    except (Unreachable, NotAdmin, Refused):
        now = "run canaryproxy status to see"
    fail(
        f"{target.address} did not respond to {operation} ({words.clean(error, 200)}), which may or may not"
        f" have been carried out: {now}",
        EXIT_UNREACHABLE,
    )
