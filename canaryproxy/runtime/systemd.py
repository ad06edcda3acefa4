"""systemd's protocols for services: socket activation and notifications.

Both are a few environment variables and a datagram: sd_listen_fds(3), sd_notify(3). Alternatives considered:
sdnotify (no sockets, hides errors, last release 2017), systemd-python and cysystemd (need libsystemd and a
compiler for the same datagram).
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
    """A descriptor that systemd passed is not a listening socket; the text says why."""


@dataclass(frozen=True, slots=True)
class PassedSocket:
    """A listening socket that systemd opened; ``name`` is its ``FileDescriptorName=``."""

    sock: socket.socket
    name: str


def passed_sockets() -> list[PassedSocket]:
    """Return the sockets that systemd opened for this process. Raises ``SocketsError``.

    The variables that announce them are removed, so that no child process takes them for its own.
    """
    pid, count, names = (
        os.environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
    )
    if pid != str(os.getpid()):  # they are for another process
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
        found.append(PassedSocket(sock, name))
    return found


def notify(*assignments: str) -> None:
    """Send assignments such as ``READY=1`` to systemd; does nothing without ``NOTIFY_SOCKET``.

    Errors are logged: a failed notification is no reason to fail.
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
        _log.warning("cannot notify systemd of %s: %s", assignments[0], error.strerror)


def reloading() -> None:
    """Notify systemd that a reload begins, with the time for ``Type=notify-reload``; ``READY=1`` ends it."""
    clock = 1  # CLOCK_MONOTONIC
    notify("RELOADING=1", f"MONOTONIC_USEC={clock_gettime_ns(clock) // 1000}")


def stopping(seconds: float) -> None:
    """Notify systemd that the service shuts down within so many seconds."""
    notify(
        "STOPPING=1", "STATUS=draining", f"EXTEND_TIMEOUT_USEC={round(max(seconds, 1) * 1_000_000)}"
    )


def watchdog_every() -> float | None:
    """Return the seconds between two ``WATCHDOG=1``, half of what systemd allows; None without a watchdog."""
    allowed = os.environ.get("WATCHDOG_USEC", "")
    pid = os.environ.get("WATCHDOG_PID", "")
    if not allowed.isdecimal() or int(allowed) == 0 or pid not in ("", str(os.getpid())):
        return None
    return int(allowed) / 2_000_000


def environment_for_successor(environment: dict[str, str]) -> dict[str, str]:
    """Return an environment without the variables that are for this process only.

    A successor gets its sockets by the hand-over, and feeds the watchdog in its own name.
    """
    own = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID")
    return {name: value for name, value in environment.items() if name not in own}
