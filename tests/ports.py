"""Ports that no other process of the tests gets: several run at once, of one checkout or of two."""

from __future__ import annotations

import fcntl
import random
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO

_PORTS = range(10_000, 32_000)
"""Below the ports that the kernel gives to connections (``ip_local_port_range``)."""
_source = random.SystemRandom()
_taken: set[int] = set()


def free_port() -> int:
    """Return a port of 127.0.0.1 that nothing listens on, reserved until this process ends.

    A reservation is a lock on one byte of a file; the kernel lifts it when the process ends.
    """
    while True:
        port = _source.choice(_PORTS)
        if port not in _taken and _reserve(port) and _is_free(port):
            _taken.add(port)
            return port


@contextmanager
def named_ports(*ports: int) -> Iterator[None]:
    """Hold ports that a page names; waits for other tests that use them."""
    for port in ports:
        fcntl.lockf(_locks(), fcntl.LOCK_EX, 1, port)
    try:
        yield
    finally:
        for port in ports:
            fcntl.lockf(_locks(), fcntl.LOCK_UN, 1, port)


def _reserve(port: int) -> bool:
    try:
        fcntl.lockf(_locks(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    return True


@cache
def _locks() -> IO[bytes]:
    return (Path(tempfile.gettempdir()) / "canaryproxy-test-ports").open("ab")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
