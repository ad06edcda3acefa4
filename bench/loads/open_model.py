"""A load generator with an open model: requests are sent when they are due, whatever has come back.

The k-th request is due at start + k / rate, and its latency is counted from then: a proxy that stalls is
charged for all requests that were due meanwhile (no coordinated omission). A request that finds all
connections in use waits, and its waiting counts. Needs Linux (timerfd).
Example: python -m bench.loads.open_model http://127.0.0.1:8080 --rate 5000 --seconds 2 --connections 256
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import select
import socket
import time
from collections import deque
from urllib.parse import SplitResult, urlsplit

from bench.loads import ANSWER_BYTES, Load, wrk
from bench.loads.quantiles import in_microseconds

NANOSECONDS = 1_000_000_000
WARM_UP_SECONDS = 0.2
"""Requests due in the first part are sent but not counted."""

_LAST_SECONDS = 10.0  # as long as wrk waits for an answer
_READ_BYTES = 4096
_USERS = 1000
_CLOCK_MONOTONIC = 1
_NONE = range(0)


class Schedule:
    """When requests are due: the k-th at ``start + k / rate``. Times in nanoseconds. Pure."""

    def __init__(self, start: int, rate: float, seconds: float) -> None:
        self.start = start
        self.count = round(rate * seconds)
        self._interval = NANOSECONDS / rate
        self._next = 0
        self._next_due = start

    def due(self, number: int) -> int:
        """Return the time at which a request is due; exact, errors of rounding do not add up."""
        return self.start + round(number * self._interval)

    def take(self, now: int) -> range:
        """Return the numbers of the requests that have become due since the last call."""
        if now < self._next_due:
            return _NONE
        # One more than there may be: floating point is off by one around a due time.
        reached = min(self.count, int((now - self.start) / self._interval) + 2)
        while reached > self._next and self.due(reached - 1) > now:
            reached -= 1
        taken = range(self._next, max(self._next, reached))
        self._next = taken.stop
        self._next_due = self.due(taken.stop)
        return taken

    @property
    def exhausted(self) -> bool:
        return self._next >= self.count


class _TimeSpec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Timer(ctypes.Structure):
    _fields_ = (("interval", _TimeSpec), ("value", _TimeSpec))


def periodic(interval: int) -> int:
    """Return a file descriptor that is readable each ``interval`` nanoseconds (timerfd_create(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor: int = libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
    step = _TimeSpec(interval // NANOSECONDS, interval % NANOSECONDS)
    timer = _Timer(step, step)
    if descriptor < 0 or libc.timerfd_settime(descriptor, 0, ctypes.byref(timer), None) != 0:
        raise OSError(ctypes.get_errno(), "timerfd")
    return descriptor


class _Connection:
    """A connection, and the request that it has in flight: its number, or ``-1``, and when it was due."""

    __slots__ = ("due", "receive", "request", "send", "socket")

    def __init__(self, made: socket.socket) -> None:
        self.socket = made
        self.send = made.send
        self.receive = made.recv
        self.request = -1
        self.due = 0


class Sender:
    """Connections, the requests that wait for one, and what came back."""

    def __init__(self, parts: SplitResult, connections: int) -> None:
        self._address = (parts.hostname or "", parts.port or 80)
        self._poll = select.epoll()
        self._connections: dict[int, _Connection] = {}
        self._free: list[_Connection] = []
        self._waiting: deque[tuple[int, int]] = deque()
        self._requests = [
            f"GET / HTTP/1.1\r\nHost: {parts.netloc}\r\nCookie: {cookie}\r\n\r\n".encode()
            for cookie in Load("", "", users=_USERS).cookies()
        ]
        self._first_counted = 0
        self.latencies: list[int] = []
        self.bytes = 0
        self.connect_errors = self.read_errors = self.status_errors = 0
        for _ in range(connections):
            self._connect()

    def _connect(self) -> None:
        try:
            made = socket.create_connection(self._address, timeout=_LAST_SECONDS)
        except OSError:
            self.connect_errors += 1
            return
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.setblocking(False)
        connection = self._connections[made.fileno()] = _Connection(made)
        self._free.append(connection)
        self._poll.register(made, select.EPOLLIN)

    def run(self, rate: float, seconds: float) -> float:
        """Send all requests of the schedule, wait for their answers, return the seconds it took."""
        timer = periodic(max(1, round(NANOSECONDS / rate)))
        self._poll.register(timer, select.EPOLLIN)
        now, poll, connections = time.perf_counter_ns, self._poll.poll, self._connections
        waiting, free = self._waiting, self._free
        self._first_counted = round(rate * WARM_UP_SECONDS)
        schedule = Schedule(now(), rate, seconds + WARM_UP_SECONDS)
        deadline = schedule.due(schedule.count) + round(_LAST_SECONDS * NANOSECONDS)
        while not schedule.exhausted or self.unanswered:
            if not connections or now() > deadline:
                break
            for number, _ in poll(0.1):
                connection = connections.get(number)
                if connection is not None:
                    self._receive(connection)
                elif number == timer:
                    os.read(timer, 8)
            for request in schedule.take(now()):
                waiting.append((request, schedule.due(request)))
            while waiting and free:
                self._send(free.pop(), *waiting.popleft())
        os.close(timer)
        return (now() - schedule.due(self._first_counted)) / NANOSECONDS

    def _send(self, connection: _Connection, request: int, due: int) -> None:
        connection.request, connection.due = request, due
        try:
            connection.send(self._requests[request % _USERS])
        except OSError:
            self._broken(connection)

    def _receive(self, connection: _Connection) -> None:
        try:
            data = connection.receive(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        request = connection.request
        if not data or request < 0:
            self._broken(connection)
            return
        # The upstreams' answer comes in one piece from every peer; another is read to its end.
        if data[-ANSWER_BYTES - 4 : -ANSWER_BYTES] != b"\r\n\r\n" and not _is_whole(data):
            rest = self._read_slowly(connection.socket, data)
            if rest is None:
                self._broken(connection)
                return
            data = rest
        self.bytes += len(data)
        connection.request = -1
        self._free.append(connection)
        if not data.startswith(b"HTTP/1.1 200"):
            self.status_errors += 1
        elif request >= self._first_counted:
            self.latencies.append(time.perf_counter_ns() - connection.due)

    def _read_slowly(self, connection: socket.socket, data: bytes) -> bytes | None:
        connection.settimeout(_LAST_SECONDS)
        try:
            while not _is_whole(data):
                more = connection.recv(_READ_BYTES)
                if not more:
                    return None
                data += more
        except OSError:
            return None
        finally:
            connection.setblocking(False)
        return data

    def _broken(self, connection: _Connection) -> None:
        self._poll.unregister(connection.socket)
        del self._connections[connection.socket.fileno()]
        connection.socket.close()
        if connection.request < 0:
            self._free.remove(connection)
        else:
            self.read_errors += 1
        self._connect()

    @property
    def unanswered(self) -> int:
        """Requests that were due and have no answer."""
        return len(self._connections) - len(self._free) + len(self._waiting)


def _is_whole(data: bytes) -> bool:
    """Whether an answer with Content-Length, or a chunked one, is there to its end."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return False
    head = data[:end].lower()
    at = head.find(b"\r\ncontent-length:")
    if at < 0:
        return data.endswith(b"0\r\n\r\n")
    return len(data) - end - 4 >= int(head[at + 17 :].partition(b"\r\n")[0])


def main() -> None:
    """Read the command line and send."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--connections", type=int, required=True)
    arguments = parser.parse_args()
    sender = Sender(urlsplit(arguments.url), arguments.connections)
    gc.disable()  # a collection would be taken for a stall of the proxy
    took = sender.run(arguments.rate, arguments.seconds)
    print(
        wrk.result_line(
            {
                "requests": len(sender.latencies),
                "bytes": sender.bytes,
                "duration_us": took * 1e6,
                "connect": sender.connect_errors,
                "read": sender.read_errors,
                "status": sender.status_errors,
                "timeout": sender.unanswered,
                **in_microseconds(sender.latencies),
            }
        ),
        flush=True,
    )


if __name__ == "__main__":
    main()
