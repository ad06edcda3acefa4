"""From one process of the proxy to the next, with its sockets and without a pause.

::

    the one that runs (Successor)             the one that goes on (Before)
    ─────────────────────────────             ─────────────────────────────
    starts it: sockets, shared memory ──────▶ reads its configuration, takes the sockets
    serves and steers meanwhile      ◀────── prepared
    saves, steers no more            ──────▶ go
    serves by the last table                  takes the lock of the state file, loads, serves
    drains, ends                     ◀────── ready

Until ``ready`` the first one only has to go on with what it did. Who steers holds the lock of the state
file: there are never two. If the first one ends before ``go``, the second takes its place as soon as that
lock is free.

They talk by JSON messages over a socket pair (``SOCK_SEQPACKET``); descriptors travel with the messages.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import mmap
import os
import select
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic
from types import ModuleType
from typing import Any, Literal

from canaryproxy.measure import counters, histogram
from canaryproxy.measure import shared_memory as shared
from canaryproxy.measure import trials as watch
from canaryproxy.measure.shared_memory import Block
from canaryproxy.runtime import systemd
from canaryproxy.runtime.sockets import Given

_log = logging.getLogger(__name__)

ENVIRONMENT = "CANARYPROXY_HANDOVER"
"""Names the descriptor of the socket pair to the process that goes on."""
PREPARED_WITHIN = 60.0
READY_WITHIN = 15.0
"""Seconds; nobody judges meanwhile, traffic goes on by the last table."""
_VERSION = 1
_LARGEST = 65536
_LONGEST_CAUSE = 2000
_DESCRIPTORS = 200
"""Descriptors in one message; the kernel takes 253."""

State = Literal["starting", "prepared", "ready"]


class HandoverError(Exception):
    """The other process cannot go on; the text says why."""


class Memory:
    """The shared block, in memory that another program can map too.

    ``given`` is the descriptor of the block of the one before, whose ``side`` is the other one.
    """

    def __init__(self, workers: int, given: int | None = None, side: int = 0) -> None:
        size = Block.size(workers)
        self.descriptor = os.memfd_create("canaryproxy") if given is None else given
        if given is None:
            os.ftruncate(self.descriptor, size)
        self.block = Block(workers, mmap.mmap(self.descriptor, size), side)
        self.block.heartbeats[side] = 0
        for cells in self.block.workers:
            cells.clear()


def layout() -> str:
    """Return a mark of how the shared block is laid out: of the code that reads and writes it.

    To be asked at start: later there may be other code on the disk.
    """
    found = hashlib.sha256()
    modules: tuple[ModuleType, ...] = (shared, counters, histogram, watch)
    for module in modules:
        found.update(Path(module.__file__ or "").read_bytes())
    return found.hexdigest()


class Successor:
    """The process that is to go on, as the one that runs sees it.

    Starts the program that runs here, with its arguments: its code and its configuration are those that are
    on the disk now. Raises ``HandoverError`` if it cannot be started.
    """

    def __init__(self, given: Sequence[Given], memory: Memory, mark: str) -> None:
        self.state: State = "starting"
        self._end = monotonic() + PREPARED_WITHIN
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._talk = ours
        self.pid = 0
        with its:
            try:
                ours.setblocking(False)
                self._offer(given, memory, mark)
                its.set_inheritable(True)
                environment = systemd.without_marks(dict(os.environ))
                environment[ENVIRONMENT] = str(its.fileno())
                self.pid = os.posix_spawn(
                    sys.executable,
                    [sys.executable, *sys.orig_argv[1:]],
                    environment,
                    setsigmask=(),
                    setsigdef=(signal.SIGPIPE, signal.SIGHUP, signal.SIGINT, signal.SIGCHLD),
                )
            except OSError as error:
                ours.close()
                raise HandoverError(f"it cannot be started: {error.strerror}") from None

    def _offer(self, given: Sequence[Given], memory: Memory, mark: str) -> None:
        block = {
            "layout": mark,
            "workers": len(memory.block.workers),
            "side": 1 - memory.block.side,
        }
        batches = [given[at : at + _DESCRIPTORS] for at in range(0, len(given), _DESCRIPTORS)]
        for at, batch in enumerate(batches or [given]):
            message = {
                "say": "inherit",
                "version": _VERSION,
                "pid": os.getpid(),
                "block": block,
                "sockets": [{"name": one.name, "systemd": one.systemd} for one in batch],
                "more": at + 1 < len(batches),
            }
            descriptors = [memory.descriptor, *(one.sock.fileno() for one in batch)]
            socket.send_fds(self._talk, [json.dumps(message).encode()], descriptors)

    def poll(self) -> State:
        """Return how far it is. Raises ``HandoverError`` if it will not get further."""
        while self.state != "ready" and (message := self._heard()) is not None:
            said = message.get("say")
            if said == "failed":
                raise HandoverError(str(message.get("why"))[:_LONGEST_CAUSE])
            if said in ("prepared", "ready"):
                self.state = said
        if self.state != "ready" and monotonic() > self._end:
            raise HandoverError(f"it was not ready in time (it is {self.state})")
        return self.state

    def _heard(self) -> Mapping[str, Any] | None:
        try:
            data = self._talk.recv(_LARGEST)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        if not data:
            raise HandoverError(self._ending())
        try:
            message = json.loads(data)
        except ValueError:
            raise HandoverError("it says what is not understood") from None
        return message if isinstance(message, dict) else {}

    def _ending(self) -> str:
        """Return how it ended: it hung up, so it does now, or never will say more."""
        end = monotonic() + 1.0
        while monotonic() < end:
            with contextlib.suppress(ChildProcessError):
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                if not pid:
                    select.select([], [], [], 0.01)
                    continue
                self.pid = 0
                code = os.waitstatus_to_exitcode(status)
                how = f"with status {code}" if code >= 0 else f"by {signal.Signals(-code).name}"
                return f"it ended {how} before it was ready; its log says why"
            break
        return "it hung up before it was ready"

    def go(self) -> None:
        """Let it steer and serve. Raises ``HandoverError`` if it is gone."""
        self._end = monotonic() + READY_WITHIN
        try:
            self._talk.send(json.dumps({"say": "go"}).encode())
        except OSError:
            raise HandoverError(self._ending()) from None

    def forget(self) -> None:
        """Close the way to it: for a process that was forked beside."""
        self._talk.close()

    def abandon(self) -> None:
        """End it, if it has not ended, and forget it."""
        self._talk.close()
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.pid, 0)
            self.pid = 0


class Before:
    """The process that ran until now, as the one that goes on sees it."""

    def __init__(self, talk: socket.socket) -> None:
        self._talk = talk
        self.pid = 0
        self.sockets: list[Given] = []
        self._descriptor: int | None = None
        self._block: Mapping[str, Any] = {}
        self._gone = False

    @classmethod
    def from_environment(cls) -> Before | None:
        """Return it if there is one. Raises ``HandoverError`` if what it says is not understood."""
        number = os.environ.pop(ENVIRONMENT, "")
        if not number:
            return None
        try:
            talk = socket.socket(fileno=int(number))
            talk.set_inheritable(False)
        except (OSError, ValueError):
            raise HandoverError(f"{ENVIRONMENT} is {number!r}, which is no socket") from None
        found = cls(talk)
        try:
            found._inherit()
        except HandoverError as error:
            found.failed(str(error))
            raise
        return found

    def _inherit(self) -> None:
        self._talk.settimeout(PREPARED_WITHIN)
        more = True
        while more:
            data, descriptors, _, _ = socket.recv_fds(self._talk, _LARGEST, _DESCRIPTORS + 1)
            try:
                message = json.loads(data)
                if message["version"] != _VERSION:
                    raise HandoverError(
                        f"the proxy that runs hands over in version {message['version']!r}, this one takes"
                        f" version {_VERSION}: stop the one and start the other"
                    )
                self.pid, self._block, more = message["pid"], message["block"], message["more"]
                told = message["sockets"]
            except (ValueError, KeyError, TypeError):
                raise HandoverError("what was handed over is not understood") from None
            if len(descriptors) != len(told) + 1:
                raise HandoverError("descriptors were lost on the way: too many open files?")
            if self._descriptor is not None:
                os.close(self._descriptor)
            self._descriptor = descriptors[0]
            for descriptor, one in zip(descriptors[1:], told, strict=True):
                os.set_inheritable(descriptor, False)
                self.sockets.append(
                    Given(socket.socket(fileno=descriptor), one["name"], one["systemd"])
                )

    def memory(self, workers: int, mark: str) -> Memory:
        """Return the block of the one before, or a new one if this code or configuration has another."""
        same = self._block.get("layout") == mark and self._block.get("workers") == workers
        if same and self._descriptor is not None:
            return Memory(workers, self._descriptor, self._block["side"])
        _log.info("the counters begin anew: workers or the counters' layout differ")
        return Memory(workers)

    def prepared(self) -> None:
        """Say that everything is there to go on, and wait until it may. Raises ``HandoverError``.

        If the other one ends meanwhile, this one goes on all the same: nobody else would.
        """
        self._say({"say": "prepared"})
        self._talk.settimeout(PREPARED_WITHIN + READY_WITHIN)
        try:
            data = self._talk.recv(_LARGEST)
        except TimeoutError:
            raise HandoverError("the proxy that runs does not let this one go on") from None
        except OSError:
            data = b""
        if not data:
            _log.warning("process %d ended in the middle of the hand-over: going on", self.pid)
            self._gone = True
        self._talk.setblocking(False)

    def ready(self) -> None:
        """Say that this one serves: the other may drain."""
        self._say({"say": "ready"})

    def failed(self, why: str) -> None:
        """Say that this one cannot go on."""
        self._say({"say": "failed", "why": why[:_LONGEST_CAUSE]})

    def _say(self, message: Mapping[str, Any]) -> None:
        try:
            self._talk.send(json.dumps(message).encode())
        except OSError:
            self._gone = True

    def forget(self) -> None:
        """Close the way to it: for a process that was forked beside."""
        self._talk.close()

    @property
    def is_gone(self) -> bool:
        """It has ended, drained or not."""
        if not self._gone:
            try:
                self._gone = self._talk.recv(_LARGEST) == b""
            except BlockingIOError:
                pass
            except OSError:
                self._gone = True
        return self._gone
