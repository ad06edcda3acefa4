"""What is sent: the loads, as plain values."""

from __future__ import annotations

import random
from dataclasses import dataclass

COOKIE = "canary_id"
"""Name of the sticky cookie, in every proxy's configuration."""

ANSWER_BYTES = 103
"""Length of the upstreams' answer body."""


@dataclass(frozen=True, slots=True)
class Load:
    """One way of sending requests.

    name: what ``--load`` takes.
    description: one line for the report.
    users: number of distinct sticky cookies that the requests go through in turn; 0 sends none,
        1 sends the same bytes each time.
    connections: kept-alive connections, each with one request in flight (closed model).
    traced: each request carries a traceparent of its own, so that no two have the same bytes.
    """

    name: str
    description: str
    users: int
    connections: int = 32
    traced: bool = False

    def cookies(self) -> list[str]:
        """Return the value of the Cookie header for each user; the same in every run."""
        source = random.Random(2)
        return [f"{COOKIE}={source.getrandbits(128):032x}" for _ in range(self.users)]


LOADS = {
    load.name: load
    for load in (
        Load("users", "1000 returning users, each with its own sticky cookie, in turn", 1000),
        Load(
            "traced",
            "1000 returning users in turn, each request with a trace id of its own",
            1000,
            traced=True,
        ),
        Load("static", "one user: the same bytes in each request", 1),
        Load("new", "no cookie, as a new user's first request (only ours and plain set one)", 0),
    )
}
"""All loads by name."""
