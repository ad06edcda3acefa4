"""Free ports on the loopback."""

from __future__ import annotations

import random
import socket

HOST = "127.0.0.1"
# Below the range from which the kernel takes ports of outgoing connections (32768 and up), so
# that a port found free is still free when its server starts.
_RANGE = range(18_000, 32_000)


def free(count: int) -> list[int]:
    """Return ``count`` different ports on which nothing listens."""
    found: list[int] = []
    candidates = random.sample(_RANGE, len(_RANGE))
    for port in candidates:
        if len(found) == count:
            return found
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            found.append(port)
    raise RuntimeError(f"no {count} free ports on {HOST}")


def address(number: int) -> str:
    """Return the loopback address of a number: 127.0.0.1 for 0, and up to 200 others."""
    return f"127.0.0.{number + 1}"
