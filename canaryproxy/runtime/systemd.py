"""systemd's two protocols for services: sockets that it opened, and telling it how the service fares.

Both are a few environment variables and a datagram: sd_listen_fds(3), sd_notify(3). Considered: sdnotify
(knows nothing of sockets, hides errors, last release 2017), systemd-python and cysystemd (need libsystemd and
a compiler for the same datagram).
"""

from __future__ import annotations

import logging
import os
import socket
from dataclasses import dataclass
from time import clock_gettime_ns

_log = logging.getLogger(__name__)

_FIRST_DESCRIPTOR = 3


class SocketsError(Exception):
    """What systemd handed over cannot be listened on; the text says why."""


@dataclass(frozen=True, slots=True)
class Passed:
    """A listening socket that systemd opened; ``name`` is its ``FileDescriptorName=``."""

    sock: socket.socket
    name: str


def passed_sockets() -> list[Passed]:
    """Return the sockets that systemd opened for this process, and forget them. Raises ``SocketsError``."""
    pid, count, names = (
        os.environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
    )
    if pid != str(os.getpid()):  # they were for a process before
        return []
    if not count.isdecimal():
        raise SocketsError(f"LISTEN_FDS is {count!r}, not a number")
    named = names.split(":") if names else []
    found = []
    for at in range(int(count)):
        descriptor = _FIRST_DESCRIPTOR + at
        name = named[at] if at < len(named) else "unknown"
        try:
            os.set_inheritable(descriptor, False)
            sock = socket.socket(fileno=descriptor)
            listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError as error:
            raise SocketsError(
                f"descriptor {descriptor} ({name}) of LISTEN_FDS: {error.strerror}"
            ) from None
        if not listens or sock.type != socket.SOCK_STREAM:
            raise SocketsError(
                f"descriptor {descriptor} ({name}) of LISTEN_FDS does not listen for connections: the"
                " socket unit needs ListenStream= and Accept=no"
            )
        found.append(Passed(sock, name))
    return found


def notify(*assignments: str) -> None:
    """Tell systemd, such as ``READY=1``; does nothing where nobody wants to know.

    Whether it hears is no reason to fail: what goes wrong is logged.
    """
    where = os.environ.get("NOTIFY_SOCKET", "")
    if not where.startswith(("/", "@")):
        return
    address = "\0" + where[1:] if where.startswith("@") else where
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto("\n".join(assignments).encode(), address)
    except OSError as error:
        _log.warning("systemd was not told %s: %s", assignments[0], error.strerror)


def reloading() -> None:
    """Tell that a reload begins, and when: ``Type=notify-reload`` wants the time. ``READY=1`` ends it."""
    clock = 1  # CLOCK_MONOTONIC
    notify("RELOADING=1", f"MONOTONIC_USEC={clock_gettime_ns(clock) // 1000}")


def stopping(seconds: float) -> None:
    """Tell that the service ends, and how long it may take."""
    notify(
        "STOPPING=1", "STATUS=draining", f"EXTEND_TIMEOUT_USEC={round(max(seconds, 1) * 1_000_000)}"
    )


def watchdog_every() -> float | None:
    """Return the seconds between two ``WATCHDOG=1``, half of what systemd allows; ``None``: not wanted."""
    allowed = os.environ.get("WATCHDOG_USEC", "")
    wanted_of = os.environ.get("WATCHDOG_PID", "")
    if not allowed.isdecimal() or int(allowed) == 0 or wanted_of not in ("", str(os.getpid())):
        return None
    return int(allowed) / 2_000_000


def without_marks(environment: dict[str, str]) -> dict[str, str]:
    """Return an environment for the process that goes on: it gets sockets another way, and the watchdog."""
    gone = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID")
    return {name: value for name, value in environment.items() if name not in gone}
