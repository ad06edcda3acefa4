"""``python -m canaryproxy.health [ADDRESS]``: the readiness of the proxy as an exit status.

For health checks that run a command, such as those of containers: exit status 0 if ``/readyz`` returns 200,
otherwise 1 and one line that says why. ADDRESS is the path of the admin socket, or ``http://host:port`` of
``admin.listen``; by default ``CANARYPROXY_ADMIN``, then ``./run/admin.sock``. It imports only the standard
library, so a check every few seconds costs little.
"""

from __future__ import annotations

import http.client
import os
import socket
import sys
from urllib.parse import urlsplit

from canaryproxy import DEFAULT_SOCKET

TIMEOUT = 2.0
"""Seconds to connect, and to wait for each part of the response."""


class _UnixConnection(http.client.HTTPConnection):
    """A connection over a Unix socket."""

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
        connection = _UnixConnection(address)
    try:
        connection.request("GET", "/readyz")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"no response: {error}"
    finally:
        connection.close()
    return None if status == http.client.OK else f"status {status}"


def main(arguments: list[str]) -> int:
    """Print why the proxy is not ready, if it is not, and return the exit status."""
    address = arguments[0] if arguments else os.environ.get("CANARYPROXY_ADMIN") or DEFAULT_SOCKET
    why = unready(address)
    if why is not None:
        print(f"{address}: {why}", file=sys.stderr)
    return 0 if why is None else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
