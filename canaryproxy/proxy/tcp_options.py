"""Options of the TCP sockets of the data path.

Between two ends on one machine nothing is lost and nothing has to be paced, yet the kernel's congestion
control counts for every segment. BBR, the default of many hosts at the edge, sets a timer for each piece of a
long body (a response of 1 MiB takes a third more of the processor) and slows down for 0.2 s every ten seconds
to measure the path. Reno does the least, and any process may choose it.
"""

from __future__ import annotations

import contextlib
import socket
from typing import Final

_CONGESTION: Final[int | None] = getattr(socket, "TCP_CONGESTION", None)
"""An option of Linux and FreeBSD; ``None`` elsewhere."""
_RENO: Final = b"reno"


def prepare(sock: socket.socket) -> None:
    """Set the options of a bound or connected TCP socket; those that it accepts inherit them."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if _CONGESTION is not None and stays_here(sock):
        with contextlib.suppress(OSError):  # a kernel without it keeps what it has
            sock.setsockopt(socket.IPPROTO_TCP, _CONGESTION, _RENO)


def stays_here(sock: socket.socket) -> bool:
    """Return whether all that is sent goes to this machine.

    So it is for a socket with a loopback address, and for a connected one whose ends have one address.
    """
    here: str = sock.getsockname()[0]
    if here.startswith("127.") or here == "::1":
        return True
    try:
        there: str = sock.getpeername()[0]
    except OSError:  # it listens
        return False
    return here == there
