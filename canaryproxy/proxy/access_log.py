"""The access log: a line for each request that ended, written by a thread of its own.

The data path appends a tuple to a bounded queue; the thread formats and writes. A disk or a pipe that blocks
blocks the thread only: the queue fills, and lines that do not fit are dropped and counted. The thread takes
few lines at a time and releases the GIL with each write, so that no request waits long for it.

No line can be forged: what clients send is escaped, so that it stays inside its field and on its line, and
does nothing to a terminal.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import re
import select
import threading
from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from json import JSONEncoder
from time import gmtime, monotonic, time
from typing import Any, Final, NamedTuple

from canaryproxy import config
from canaryproxy.measure.routing import VARIANTS

_log = logging.getLogger(__name__)

CLIENT_CLOSED: Final = 499
"""The status of a request whose client closed before a response began, as nginx has it."""
PROXY: Final = "proxy"
"""``Entry.answered_by`` of a response that the proxy made itself."""

_GATHER: Final = 0.05
"""Seconds that the first line in an empty queue waits for more."""
_SLICE: Final = 16
"""Lines that are formatted before the GIL is released."""
_RETRY: Final = 1.0
"""Seconds until a path that could not be opened is tried again."""
_LOOK_UP: Final = 500
"""Milliseconds after which a writer that waits checks whether it is to stop."""
_MODE: Final = 0o640
_REQUEST_ID: Final = re.compile(rb"\r\nX-Request-Id: (\S+)\r\n")


class Entry(NamedTuple):
    """The log record of one request; times are monotonic seconds, byte strings are as received."""

    started: float
    ended: float
    first_byte: float | None
    """Seconds from the complete request to the first byte of the response."""
    peer: str
    """The address of the connection, empty for a Unix socket."""
    client: bytes
    """The client's address according to a trusted proxy, else empty."""
    method: bytes
    target: bytes
    protocol: bytes
    status: int
    sent: int
    """Bytes of the response's body written to the client's connection."""
    variant: int | None
    """The variant that the request was routed to; ``None`` if it was refused."""
    answered_by: str | None
    rescued: bool
    forced: bool
    bucket: int | None
    endpoint: str
    reason: str
    request_id: bytes
    trace_id: bytes
    user_agent: bytes | None
    referer: bytes | None
    grpc_status: str | None = None
    """The name of the status in which a request of gRPC ended, if it had one."""
    service: str | None = None
    """The service that the request was for; ``None``: there is only one, or it was refused before."""


# Formats

_encode: Final = JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode
_UNSAFE = re.compile(r"[^ !#-\[\]-~]")
_UNSAFE_OR_BLANK = re.compile(r"[^!#-\[\]-~]")
_ESCAPES: Final = {
    '"': '\\"', "\\": "\\\\", "\b": "\\b", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v",
}  # fmt: skip
_MONTHS: Final = (
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
)  # fmt: skip
_URL = re.compile(rb"((?:[A-Za-z][A-Za-z0-9+.\-]*://)?)([^/?#]*)", re.DOTALL)
_HOST = re.compile(rb"(?:[\w.\-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")


def json_line(entry: Entry, epoch: float) -> bytes:
    """Return a JSON object and a line feed; ``epoch`` is the wall clock less the monotonic one.

    Bytes become characters one to one (Latin-1), so that ``text.encode("latin-1")`` gives them back.
    """
    moment = datetime.fromtimestamp(entry.started + epoch, UTC)
    variant = entry.variant
    line: dict[str, Any] = {
        "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "client": entry.client.decode("latin-1") or entry.peer or None,
        "peer": entry.peer or None,
        "method": entry.method.decode("latin-1") or None,
        "target": entry.target.decode("latin-1") or None,
        "protocol": entry.protocol.decode("latin-1") or None,
        "status": entry.status,
        "bytes": entry.sent,
        "duration": round(entry.ended - entry.started, 6),
        "first_byte": None if entry.first_byte is None else round(entry.first_byte, 6),
        "variant": None if variant is None else VARIANTS[variant],
        "answered_by": entry.answered_by,
        "rescued": entry.rescued,
        "forced": entry.forced,
        "bucket": entry.bucket,
        "endpoint": entry.endpoint or None,
        "reason": entry.reason or None,
        "request_id": entry.request_id.decode("latin-1") or None,
        "trace_id": entry.trace_id.decode("latin-1") or None,
        "user_agent": None if entry.user_agent is None else entry.user_agent.decode("latin-1"),
        "grpc_status": entry.grpc_status,
        "referer": None if entry.referer is None else without_user(entry.referer).decode("latin-1"),
    }
    if entry.service is not None:
        line["service"] = entry.service
    return _encode(line).encode("ascii") + b"\n"


def combined_line(entry: Entry, epoch: float) -> bytes:
    r"""Return a line of Apache's combined format, escaped as Apache does: ``\"``, ``\n``, ``\xhh``."""
    at = gmtime(entry.started + epoch)
    request = b" ".join(part for part in (entry.method, entry.target, entry.protocol) if part)
    referer = None if entry.referer is None else without_user(entry.referer)
    return (
        f"{_escaped(entry.client.decode('latin-1') or entry.peer, _UNSAFE_OR_BLANK) or '-'} - - "
        f"[{at.tm_mday:02}/{_MONTHS[at.tm_mon - 1]}/{at.tm_year:04}"
        f":{at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02} +0000] "
        f'"{_text(request or None)}" {entry.status:03} {entry.sent or "-"} '
        f'"{_text(referer)}" "{_text(entry.user_agent)}"\n'
    ).encode("ascii")


FORMATS: Final[dict[str, Callable[[Entry, float], bytes]]] = {
    "json": json_line,
    "combined": combined_line,
}


def _text(value: bytes | None) -> str:
    return "-" if value is None else _escaped(value.decode("latin-1"), _UNSAFE)


def _escaped(text: str, unsafe: re.Pattern[str]) -> str:
    return unsafe.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    return _ESCAPES.get(match[0]) or f"\\x{ord(match[0]):02x}"


def without_user(url: bytes) -> bytes:
    """Return a URL, or a part of one, without its user and password.

    Passwords may be sent unquoted: unless all that comes before the first slash is a host, everything up to
    the last ``@`` is cut off.
    """
    if b"@" not in url or url.startswith(b"/"):
        return url
    match = _URL.match(url)
    assert match is not None
    scheme, authority = match.groups()
    return url if _HOST.fullmatch(authority) else scheme + url[url.rindex(b"@") + 1 :]


def id_and_size(response: bytes) -> tuple[bytes, int]:
    """Return the request id and the size of the body of a response made by ``error_response``."""
    match = _REQUEST_ID.search(response)
    return match[1] if match else b"", len(response.partition(b"\r\n\r\n")[2])


# The writer


def _groups(lines: list[bytes]) -> Iterator[list[bytes]]:
    """Divide lines into groups that a pipe takes at once, so that workers do not mix lines in one."""
    group: list[bytes] = []
    size = 0
    for line in lines:
        size += len(line)
        if group and size > select.PIPE_BUF:
            yield group
            group, size = [], len(line)
        group.append(line)
    if group:
        yield group


class AccessLog:
    """Writes entries to a file, a named pipe or standard output.

    ``start`` needs a running loop; until then, and after ``stop``, every entry is dropped.
    """

    def __init__(self, settings: config.AccessLog) -> None:
        self._path = settings.path
        self._format = FORMATS[settings.format]
        self._size = settings.queue
        self._limit = 0
        self._queue: deque[Entry] = deque()
        self._wake = threading.Event()
        self._waking = False
        """A timer to wake the thread is set."""
        self._reopen = False
        self._stopping = False
        self._given_up = False
        self._descriptor: int | None = None
        self._retry_at = 0.0
        self._cut = b""
        """The rest of a line whose beginning was written."""
        self._broken = False
        """Writing fails, and a warning was logged."""
        self.written = 0
        """Lines written."""
        self._overflowed = 0  # written by the event loop only,
        self._lost = 0  # and by the thread only: neither needs a lock
        self._thread = threading.Thread(target=self._run, name="access log", daemon=True)

    @property
    def dropped(self) -> int:
        """Lines that were dropped: the queue was full, or writing failed."""
        return self._overflowed + self._lost

    def check(self) -> None:
        """Raise ``OSError`` if the log cannot be opened; a named pipe without a reader is no error."""
        try:
            descriptor = self._open()
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
        else:
            if self._path != "-":
                os.close(descriptor)

    def start(self) -> None:
        """Open the log and begin to write; if it cannot be opened, it is tried again every second."""
        self._loop = asyncio.get_running_loop()
        try:
            self._descriptor = self._open()
        except OSError as error:
            self._complain(error)
        self._limit = self._size
        self._thread.start()

    async def stop(self, timeout: float = 2.0) -> None:
        """Write the queue and close; after ``timeout`` seconds the rest is dropped."""
        if not self._thread.ident:
            return
        self._limit = 0
        self._stopping = True
        self._wake.set()
        await asyncio.to_thread(self._thread.join, timeout)
        if self._thread.is_alive():
            self._given_up = True
            self._overflowed += len(self._queue)
            _log.warning(
                "access log: %d lines dropped: not written in time for the shutdown",
                len(self._queue),
            )

    def reopen(self) -> None:
        """Open the path again before the next line, because the file was rotated. Does not block."""
        self._reopen = True
        self._wake.set()

    def add(self, entry: Entry) -> None:
        """Queue an entry; it is dropped if the queue is full. To be called in the event loop."""
        queue = self._queue
        waiting = len(queue)
        if waiting >= self._limit:
            self._overflowed += 1
            return
        queue.append(entry)
        if not self._waking:
            self._waking = True
            self._loop.call_later(_GATHER, self._wake_up)
        elif waiting == self._limit // 2:
            self._wake.set()

    def _wake_up(self) -> None:
        self._waking = False
        self._wake.set()

    # The thread's side

    def _run(self) -> None:
        queue = self._queue
        while True:
            self._wake.wait()
            self._wake.clear()
            while queue and not self._given_up:
                self._open_again()
                epoch = time() - monotonic()
                entries = [queue.popleft() for _ in range(min(len(queue), _SLICE))]
                for group in _groups([self._format(entry, epoch) for entry in entries]):
                    self._write(group)
            self._open_again()
            if self._stopping:
                break
        self._close()

    def _open(self) -> int:
        if self._path == "-":
            return 1
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(self._path, flags | os.O_NONBLOCK, _MODE)  # a pipe must not block here
        os.set_blocking(descriptor, True)
        return descriptor

    def _open_again(self) -> None:
        """Open the log if ``reopen`` was called or the last attempt failed."""
        if self._reopen:
            self._reopen = False
        elif self._descriptor is not None or monotonic() < self._retry_at:
            return
        try:
            descriptor = self._open()
        except OSError as error:
            self._retry_at = monotonic() + _RETRY
            self._complain(error)
            return
        self._close()
        self._descriptor = descriptor

    def _close(self) -> None:
        if self._cut:
            self._cut = b""
            self._lost += 1
        if self._descriptor is not None and self._path != "-":
            os.close(self._descriptor)
        self._descriptor = None

    def _write(self, lines: list[bytes]) -> None:
        if self._descriptor is None:
            self._lost += len(lines)
            return
        resumed = bool(self._cut)
        if resumed:
            lines.insert(0, self._cut)
            self._cut = b""
        data = b"".join(lines)
        done = 0
        try:
            while done < len(data) and not self._given_up:
                done += self._write_some(self._descriptor, data[done:])
        except OSError as error:  # no space, no reader, no device: the log is not worth a request
            self._complain(error)
        else:
            if self._broken:
                self._broken = False
                _log.warning("access log %s: writing again", self._path)
        for at, line in enumerate(lines):
            if done >= len(line):
                self.written += 1
            elif done > 0 or (resumed and at == 0):
                self._cut = line[done:]
            else:
                self._lost += 1
            done = max(done - len(line), 0)

    def _write_some(self, descriptor: int, data: bytes) -> int:
        try:
            return os.write(descriptor, data)
        except BlockingIOError:  # another process may have made standard output non-blocking
            waiting = select.poll()
            waiting.register(descriptor, select.POLLOUT)
            waiting.poll(_LOOK_UP)
            return 0

    def _complain(self, error: OSError) -> None:
        if not self._broken:
            self._broken = True
            _log.warning("access log %s: %s; lines are dropped", self._path, error.strerror)
