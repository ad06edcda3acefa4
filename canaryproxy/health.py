"""``python -m canaryproxy.health [ADDRESS]``: whether the proxy is ready, as an exit status.

For health checks that run a command, such as a container's: exit status 0 if ``/readyz`` answers 200, else
1 with one line why. ADDRESS is the path of the admin socket, or ``http://host:port`` of ``admin.listen``; by
default ``CANARYPROXY_ADMIN``, then ``./run/admin.sock``. Only the standard library is loaded, so that asking
every few seconds costs little.
"""

from __future__ import annotations

import http.client
import os
import socket
import sys
from urllib.parse import urlsplit

from canaryproxy import DEFAULT_SOCKET

TIMEOUT = 2.0
"""Seconds for each step of the conversation."""


class _OverSocket(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        """Connect. Raises ``OSError``."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(self._path)


def unready(address: str) -> str | None:
    """Return why the proxy at an address is not ready, or None if it is."""
    url = urlsplit(address)
    if url.scheme == "http":
        connection = http.client.HTTPConnection(url.netloc, timeout=TIMEOUT)
    else:
        connection = _OverSocket(address)
    try:
        connection.request("GET", "/readyz")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"no answer: {error}"
    finally:
        connection.close()
    return None if status == http.client.OK else f"status {status}"


def main(arguments: list[str]) -> int:
    """Return the exit status."""
    address = arguments[0] if arguments else os.environ.get("CANARYPROXY_ADMIN") or DEFAULT_SOCKET
    why = unready(address)
    if why is not None:
        print(f"{address}: {why}", file=sys.stderr)
    return 0 if why is None else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
