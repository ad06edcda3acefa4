"""Settings that both ways of running the proxy take."""

from __future__ import annotations

import contextlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import canaryproxy
from canaryproxy.config import Config
from canaryproxy.config.atomic import replace_file
from canaryproxy.config.text import plural
from canaryproxy.measure.shared_memory import Block
from canaryproxy.runtime import systemd
from canaryproxy.runtime.hot_restart import ControlOwner, HandOver, Predecessor, Successor
from canaryproxy.runtime.shared_block import SharedBlock
from canaryproxy.runtime.sockets import Sockets, address_of
from canaryproxy.tls.files import Files

_log = logging.getLogger(__name__)

CHILD_GRACE = 5.0
"""Seconds for a worker to end after its drain, before it is killed."""
CONTROL_GRACE = 20.0
"""Seconds for the control plane to save and to end."""


@dataclass(frozen=True, slots=True)
class RunContext:
    """A proxy that is ready to run: its configuration, sockets and shared memory."""

    config: Config
    path: Path | None
    """The configuration file, to be read again on a reload."""
    files: Files
    """The files that the configuration names."""
    sockets: Sockets
    memory: SharedBlock
    layout: str
    """``shared_block.layout`` of the running code."""
    predecessor: Predecessor | None
    pid_file: Path | None

    @property
    def block(self) -> Block:
        """The shared memory of the workers and the control plane."""
        return self.memory.block

    def hand_over(self, owner: ControlOwner) -> HandOver:
        """Return the hand-over to a successor, which has not begun."""

        def start() -> Successor:
            return Successor(self.sockets.all, self.memory, self.layout)

        return HandOver(owner, self.block, start, self.predecessor)

    def announce(self) -> None:
        """Report that the proxy serves: to the log, the predecessor, systemd, and in the pid file."""
        self.sockets.drop()
        _log.info("canaryproxy %s %s", canaryproxy.__version__, self._addresses())
        if self.predecessor is not None:
            self.predecessor.ready()
        systemd.notify("READY=1")
        if self.pid_file is not None:
            _write_pid(self.pid_file)

    def _addresses(self) -> str:
        listen = [address_of(sock) for _, sock in self.sockets.workers[0]]
        admin = [address_of(sock) for sock in self.sockets.admin_tcp]
        admin += [str(path) for path in (self.config.admin.socket,) if path is not None]
        return (
            f"listening on {' + '.join(listen)}, admin {' + '.join(admin) or 'off'},"
            f" state {self.config.state}, {plural(len(self.block.workers), 'worker')}"
        )

    def log_shutdown(self, why: str) -> None:
        """Log that the proxy shuts down, and how many requests it waits for."""
        waiting = sum(map(self.block.in_flight, self.block.workers))
        plural = "" if waiting == 1 else "s"
        _log.info("shutting down (%s): waiting for %d request%s", why, waiting, plural)

    def clean_up(self) -> None:
        """Remove the files by which others find this proxy."""
        self.sockets.remove()
        if self.pid_file is not None:
            with contextlib.suppress(OSError, ValueError):
                if int(self.pid_file.read_text(encoding="ascii")) == os.getpid():
                    self.pid_file.unlink()


def _write_pid(path: Path) -> None:
    try:
        replace_file(path, b"%d\n" % os.getpid(), durable=False)
    except OSError as error:
        _log.error("pid file %s cannot be written: %s", path, error.strerror)
