"""Hot restart: a new process takes over sockets, counters and release state without a pause.

::

    old process (HandOver, Successor)         new process (Predecessor)
    ─────────────────────────────────         ─────────────────────────
    starts it: sockets, shared memory ──────▶ reads its configuration, takes the sockets
    serves and runs the release      ◀────── prepared
    saves, stops its control plane   ──────▶ go
    serves by the last table                  locks the state file, loads it, serves
    drains, ends                     ◀────── ready

``HandOver`` is the old process's part as a state machine. Both ways of running drive it: they call ``poll``
every ``POLL_EVERY`` seconds and stop or start the control plane when it asks for that::

          begin             prepared             ready
    idle ───────▶ starting ──────────▶ released ───────▶ done
      ▲               │                    │
      │               ▼                    │
      └──────────── failed ◀───────────────┘
       it has ended

Until ``ready`` the old process only has to continue: in ``failed`` it kills the successor, waits for its end,
and starts its own control plane again if that was released. The lock on the state file guarantees that two
processes never run the release at once. If the old process dies before ``go``, the new one takes its place as
soon as that lock is free.

The messages are JSON over a socket pair (``SOCK_SEQPACKET``); descriptors travel with them (unix(7)).
"""

from __future__ import annotations

import contextlib
import enum
import json
import logging
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Any, Final, Protocol

from canaryproxy.measure import shared_memory as shared
from canaryproxy.measure.shared_memory import Block, Configured
from canaryproxy.runtime import systemd
from canaryproxy.runtime.shared_block import SharedBlock
from canaryproxy.runtime.sockets import ListeningSocket
from canaryproxy.runtime.workers import is_alive
from canaryproxy.tls.tickets import SECRET

_log = logging.getLogger(__name__)

ENVIRONMENT: Final = "CANARYPROXY_HANDOVER"
"""Names the descriptor of the socket pair to the new process."""
PREPARED_WITHIN: Final = 60.0
READY_WITHIN: Final = 15.0
"""Seconds. No process judges the canary meanwhile; workers route by the last published table."""
POLL_EVERY: Final = 0.01
CANCELLED: Final = "the proxy is shutting down, and the new process with it"
_VERSION = 1
_LARGEST_MESSAGE = 65536
_LONGEST_CAUSE = 2000
_DESCRIPTORS = 200
"""Descriptors in one message; the kernel allows 253."""
_EXIT_WITHIN = 1.0
"""Seconds for a successor that closed its socket to exit too, so that its exit status can be reported."""


class HandoverError(Exception):
    """The hand-over failed; the text says why."""


class State(enum.Enum):
    """How far a hand-over is; the module says how one follows from another."""

    IDLE = "idle"
    STARTING = "starting"
    RELEASED = "released"
    DONE = "done"
    FAILED = "failed"


class ControlOwner(Protocol):
    """The part of the old process that runs its control plane."""

    def release_control(self) -> None:
        """Begin to save the state and to stop the control plane; workers keep to the last published table."""

    def may_go(self) -> bool:
        """Tell whether the successor may start its control plane.

        Raises ``HandoverError`` if the control plane could not be stopped.
        """

    def take_control_back(self, cause: str) -> None:
        """Start the control plane again, and record that the upgrade failed."""

    def record_failure(self, cause: str) -> None:
        """Record that the upgrade failed."""


class HandOver:
    """The hand-over from this process to a successor. See the module for its states.

    ``start`` starts a successor on the ``block`` of this process; it raises ``HandoverError`` if it cannot.
    """

    def __init__(
        self,
        owner: ControlOwner,
        block: Block,
        start: Callable[[], Successor],
        predecessor: Predecessor | None = None,
    ) -> None:
        self.state = State.IDLE
        self._owner = owner
        self._block = block
        self._start = start
        self._predecessor = predecessor
        self._successor: Successor | None = None
        self._sent_go = False
        self.control_is_released = False
        """The control plane of this process must stay stopped."""
        self._configured: Configured | None = None
        """The configuration that was in force when the control plane was released."""
        self._cause = ""

    @property
    def is_active(self) -> bool:
        """Whether ``poll`` must be called."""
        return self.state in (State.STARTING, State.RELEASED, State.FAILED)

    def begin(self) -> None:
        """Start a successor, unless one is being started already."""
        if self.state is not State.IDLE:
            return
        try:
            self._refuse_for_now()
            _log.info("starting the new process")
            self._successor = self._start()
        except HandoverError as error:
            self._owner.record_failure(self._failure(error))
        else:
            self.state = State.STARTING

    def poll(self) -> State:
        """Take the next step, if it is due, and return the state."""
        try:
            self._advance()
        except HandoverError as error:
            self._cause = self._failure(error)
            self.state = State.FAILED
            if self._successor is not None:
                self._successor.kill()
        return self.state

    def cancel(self) -> None:
        """End the successor: this process is shutting down."""
        if self._successor is not None and self.state is not State.DONE:
            if not self.control_is_released:  # the one who waits for the upgrade reads it
                self._owner.record_failure(CANCELLED)
            self._successor.kill()
            self._successor.wait()
            self._successor = None
            self.state = State.IDLE

    def close_after_fork(self) -> None:
        """Close the socket to the successor, in a process forked from this one."""
        if self._successor is not None:
            self._successor.close()

    def _refuse_for_now(self) -> None:
        """Raise ``HandoverError`` if this process cannot hand over at the moment."""
        if os.getpid() == 1:
            raise HandoverError(
                "this is process 1, and its container ends with it: replace the container instead"
            )
        others = [worker.status[shared.PID] for worker in self._block.others]
        if any(pid and is_alive(pid) for pid in others) or (
            self._predecessor is not None and not self._predecessor.has_ended
        ):
            raise HandoverError("the predecessor is still draining; try again later")

    def _advance(self) -> None:
        successor = self._successor
        if successor is None or self.state is State.DONE:
            return
        if self.state is State.FAILED:
            if successor.has_ended():
                self._recover()
            return
        progress = successor.progress()
        if self.state is State.STARTING and progress == "prepared":
            self.state = State.RELEASED
            self._configured = self._block.config.read()
            self._sent_go, self.control_is_released = False, True
            self._owner.release_control()
        if self.state is State.RELEASED and not self._sent_go and self._owner.may_go():
            successor.go()
            self._sent_go = True
        if progress == "ready":
            self.state = State.DONE
            systemd.notify(f"MAINPID={successor.pid}")
            _log.info("process %d has taken over", successor.pid)

    def _recover(self) -> None:
        """Continue as before: the successor has failed, and has ended."""
        self._successor = None
        self.state = State.IDLE
        if not self.control_is_released:
            self._owner.record_failure(self._cause)
            return
        self.control_is_released = False
        mine = self._configured
        if mine is not None and self._block.config.read() != mine:
            self._block.config.publish(mine.text, mine.services, mine.files)
        self._owner.take_control_back(self._cause)

    @staticmethod
    def _failure(error: HandoverError) -> str:
        return f"this process continues: {error}"


class Successor:
    """The new process, as the old one sees it.

    Starts the program that runs here with its arguments, so its code and its configuration are those on the
    disk now. Raises ``HandoverError`` if it cannot be started.
    """

    def __init__(
        self, sockets: Sequence[ListeningSocket], memory: SharedBlock, layout: str
    ) -> None:
        self._progress = "starting"
        self._deadline = monotonic() + PREPARED_WITHIN
        self.pid = 0
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self._channel.setblocking(False)
                self._send_inheritance(sockets, memory, layout)
                theirs.set_inheritable(True)
                environment = systemd.environment_for_successor(dict(os.environ))
                environment[ENVIRONMENT] = str(theirs.fileno())
                self.pid = os.posix_spawn(
                    sys.executable,
                    [sys.executable, *sys.orig_argv[1:]],
                    environment,
                    setsigmask=(),
                    setsigdef=(signal.SIGPIPE, signal.SIGHUP, signal.SIGINT, signal.SIGCHLD),
                )
            except OSError as error:
                self._channel.close()
                raise HandoverError(f"it cannot be started: {error.strerror}") from None

    def _send_inheritance(
        self, sockets: Sequence[ListeningSocket], memory: SharedBlock, layout: str
    ) -> None:
        block = {
            "layout": layout,
            "workers": len(memory.block.workers),
            "side": 1 - memory.block.side,
        }
        batches = [sockets[at : at + _DESCRIPTORS] for at in range(0, len(sockets), _DESCRIPTORS)]
        for at, batch in enumerate(batches or [sockets]):
            message = {
                "say": "inherit",
                "version": _VERSION,
                "pid": os.getpid(),
                "tickets": SECRET.write(),
                "block": block,
                "sockets": [{"name": one.name, "systemd": one.systemd} for one in batch],
                "more": at + 1 < len(batches),
            }
            descriptors = [memory.descriptor, *(one.sock.fileno() for one in batch)]
            socket.send_fds(self._channel, [json.dumps(message).encode()], descriptors)

    def progress(self) -> str:
        """Return ``starting``, ``prepared`` or ``ready``. Raises ``HandoverError`` once it has failed."""
        while self._progress != "ready" and (message := self._receive()) is not None:
            said = message.get("say")
            if said == "failed":
                raise HandoverError(str(message.get("why"))[:_LONGEST_CAUSE])
            if said in ("prepared", "ready"):
                self._progress = said
        if self._progress != "ready" and monotonic() > self._deadline:
            raise HandoverError(f"the new process was not ready in time (it is {self._progress})")
        return self._progress

    def _receive(self) -> Mapping[str, Any] | None:
        try:
            data = self._channel.recv(_LARGEST_MESSAGE)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        if not data:
            raise HandoverError(self._how_it_ended())
        try:
            message = json.loads(data)
        except ValueError:
            raise HandoverError("the new process sent a message that is not JSON") from None
        return message if isinstance(message, dict) else {}

    def _how_it_ended(self) -> str:
        """Describe the end of a successor that closed its socket: it exits about now, if it does at all."""
        deadline = monotonic() + _EXIT_WITHIN
        while monotonic() < deadline:
            with contextlib.suppress(ChildProcessError):
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                if not pid:
                    select.select([], [], [], POLL_EVERY)
                    continue
                self.pid = 0
                code = os.waitstatus_to_exitcode(status)
                how = f"with status {code}" if code >= 0 else f"by {signal.Signals(-code).name}"
                return f"the new process ended {how} before it was ready; its log says why"
            break
        return "the new process closed the connection before it was ready"

    def go(self) -> None:
        """Let it start its control plane and serve. Raises ``HandoverError`` if it has ended."""
        self._deadline = monotonic() + READY_WITHIN
        try:
            self._channel.send(json.dumps({"say": "go"}).encode())
        except OSError:
            raise HandoverError(self._how_it_ended()) from None

    def close(self) -> None:
        """Close the socket to it."""
        self._channel.close()

    def kill(self) -> None:
        """Kill it and close the socket to it; returns before it has ended."""
        self._channel.close()
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def has_ended(self) -> bool:
        """Tell whether it has ended, after ``kill``."""
        if self.pid:
            with contextlib.suppress(ChildProcessError):
                pid, _ = os.waitpid(self.pid, os.WNOHANG)
                if not pid:
                    return False
            self.pid = 0
        return True

    def wait(self) -> None:
        """Wait for its end, after ``kill``."""
        if self.pid:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.pid, 0)
            self.pid = 0


class Predecessor:
    """The old process, as the new one sees it."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self.pid = 0
        self.sockets: list[ListeningSocket] = []
        self._descriptor: int | None = None
        self._block: Mapping[str, Any] = {}
        self._has_ended = False

    @classmethod
    def from_environment(cls) -> Predecessor | None:
        """Return the predecessor, None if there is none. Raises ``HandoverError`` for an unknown message."""
        number = os.environ.pop(ENVIRONMENT, "")
        if not number:
            return None
        try:
            channel = socket.socket(fileno=int(number))
            channel.set_inheritable(False)
        except (OSError, ValueError):
            raise HandoverError(f"{ENVIRONMENT} is {number!r}, which is not a socket") from None
        found = cls(channel)
        try:
            found._inherit()
        except HandoverError as error:
            found.failed(str(error))
            raise
        return found

    def _inherit(self) -> None:
        self._channel.settimeout(PREPARED_WITHIN)
        more = True
        while more:
            data, descriptors, _, _ = socket.recv_fds(
                self._channel, _LARGEST_MESSAGE, _DESCRIPTORS + 1
            )
            try:
                message = json.loads(data)
                if message["version"] != _VERSION:
                    raise HandoverError(
                        f"the running proxy hands over in version {message['version']!r}, this one expects"
                        f" version {_VERSION}: stop the old one and start the new one"
                    )
                self.pid, self._block, more = message["pid"], message["block"], message["more"]
                sockets = message["sockets"]
                if "tickets" in message:  # older versions have none
                    SECRET.take_over(str(message["tickets"]))
            except (ValueError, KeyError, TypeError):
                raise HandoverError("the message of the running proxy is malformed") from None
            if len(descriptors) != len(sockets) + 1:
                raise HandoverError("descriptors were lost on the way: too many open files?")
            if self._descriptor is not None:
                os.close(self._descriptor)
            self._descriptor = descriptors[0]
            for descriptor, one in zip(descriptors[1:], sockets, strict=True):
                os.set_inheritable(descriptor, False)
                self.sockets.append(
                    ListeningSocket(socket.socket(fileno=descriptor), one["name"], one["systemd"])
                )

    def memory(self, workers: int, layout: str) -> SharedBlock:
        """Return the predecessor's block, or a new one if its layout or number of workers differs."""
        same = self._block.get("layout") == layout and self._block.get("workers") == workers
        if same and self._descriptor is not None:
            return SharedBlock(workers, self._descriptor, self._block["side"])
        _log.info("counters start at 0: the number of workers or the counters' layout has changed")
        return SharedBlock(workers)

    def prepared(self) -> None:
        """Report that everything is ready to start, and wait for ``go``. Raises ``HandoverError``.

        If the old process ends meanwhile, this one starts all the same: no other process would.
        """
        self._send({"say": "prepared"})
        self._channel.settimeout(PREPARED_WITHIN + READY_WITHIN)
        try:
            data = self._channel.recv(_LARGEST_MESSAGE)
        except TimeoutError:
            raise HandoverError("the running proxy did not let this one take over") from None
        except OSError:
            data = b""
        if not data:
            _log.warning("process %d ended during the hand-over: taking over", self.pid)
            self._has_ended = True
        self._channel.setblocking(False)

    def ready(self) -> None:
        """Report that this process serves: the old one may drain."""
        self._send({"say": "ready"})

    def failed(self, why: str) -> None:
        """Report that this process cannot take over."""
        self._send({"say": "failed", "why": why[:_LONGEST_CAUSE]})

    def _send(self, message: Mapping[str, Any]) -> None:
        try:
            self._channel.send(json.dumps(message).encode())
        except OSError:
            self._has_ended = True

    def close(self) -> None:
        """Close the socket to it, in a process forked from this one."""
        self._channel.close()

    @property
    def has_ended(self) -> bool:
        """Whether it has ended, drained or not."""
        if not self._has_ended:
            try:
                self._has_ended = self._channel.recv(_LARGEST_MESSAGE) == b""
            except BlockingIOError:
                pass
            except OSError:
                self._has_ended = True
        return self._has_ended
