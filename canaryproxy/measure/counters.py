"""Counters of the data path: plain unsigned 64-bit cells over any writable buffer.

A service has one block for each variant and one for both, and a worker one for what belongs to no service.
Each cell has a single writer and only grows, so a reader (the controller, ``/metrics``) may read at any time
without a lock, and the blocks of several workers add up cell by cell. Requests in flight are the difference
of two growing cells, not a gauge.

A request that was routed ends in exactly one way: with a status code, of its variant or of the proxy in its
place, or as ``client_closed``. Hence

    routed = finished + in flight,   finished = sum of codes + client_closed

Each histogram bucket has an exemplar: a trace whose request was counted in it. Exemplars do not add up; the
newest one of several workers is shown.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from math import ceil, inf
from operator import add
from typing import Final, overload

from canaryproxy.config.grpc import GrpcStatus
from canaryproxy.measure import histogram
from canaryproxy.measure.routing import CANARY, STABLE, VARIANTS

try:
    from canaryproxy.measure.native_cells import Cell, Cells
except ImportError:  # it was not built: the same is counted here
    _HAS_CELLS = False
else:
    _HAS_CELLS = True


class Reason(IntEnum):
    """Why an upstream failed; the value is the offset from ``ERRORS``."""

    CONNECT_REFUSED = 0
    CONNECT_TIMEOUT = 1
    CONNECT_FAILED = 2
    DNS = 3
    TLS = 4
    RESET = 5
    FIRST_BYTE_TIMEOUT = 6
    BROKEN_ANSWER = 7
    INCOMPLETE_ANSWER = 8
    BODY_TIMEOUT = 9
    NO_ENDPOINT = 10
    OVERFLOW = 11
    CERTIFICATE = 12
    SHED = 13
    """The variant was over its measured limit (``measure.shedding``)."""

    @property
    def label(self) -> str:
        """The name used in metrics and in error bodies, for instance ``connect_refused``."""
        return self.name.lower()


class HandshakeFailure(IntEnum):
    """Why a connection ended before its first request; the value is the offset from ``HANDSHAKES_FAILED``."""

    TLS = 0
    """The TLS handshake failed."""
    PROXY_PROTOCOL = 1
    """The PROXY protocol header is malformed or missing."""
    TIMEOUT = 2
    """It took longer than ``limits.handshake_timeout``."""
    CLOSED = 3
    """The client closed it."""

    @property
    def label(self) -> str:
        """The name used in metrics, for instance ``proxy_protocol``."""
        return self.name.lower()


class Http2Failure(IntEnum):
    """Why a connection of HTTP/2 was ended (RFC 9113 §7); the value is the offset from ``HTTP2_FAILED``."""

    PROTOCOL_ERROR = 0
    FLOW_CONTROL_ERROR = 1
    STREAM_CLOSED = 2
    FRAME_SIZE_ERROR = 3
    COMPRESSION_ERROR = 4
    ENHANCE_YOUR_CALM = 5
    """A flood."""

    @property
    def label(self) -> str:
        """The name used in metrics, for instance ``enhance_your_calm``."""
        return self.name.lower()


class NotFollowed(IntEnum):
    """Why a request does not get the variant that it names; the value is the offset from ``NOT_FOLLOWED``."""

    UNTRUSTED = 0
    """It does not come from ``split.follow.from``, or nothing is followed here."""
    MALFORMED = 1
    SIGNATURE = 2
    """It has no signature, or none of a known key."""

    @property
    def label(self) -> str:
        """The name used in metrics, for instance ``untrusted``."""
        return self.name.lower()


class Blind(IntEnum):
    """Why a rule could not look into a body; the value is the offset from ``BLIND`` of its outcome."""

    UNKNOWN_CODING = 0
    """A Content-Encoding other than gzip, deflate, br and zstd."""
    UNDECODABLE = 1
    """The body is not of the coding that it claims."""
    NOT_JSON = 2
    """The rule has a JSON pointer, and the body is not JSON."""
    TOO_LARGE = 3
    """The end of the pointer lies beyond ``outcomes.FURTHEST``."""
    INCOMPLETE = 4
    """The response broke off."""
    NO_TIME = 5
    """Too many bytes of bodies waited for their turn."""

    @property
    def label(self) -> str:
        """The name used in metrics, for instance ``unknown_coding``."""
        return self.name.lower()


ROUTED: Final = 0
"""Requests routed to the variant."""
FINISHED: Final = 1
"""Requests that ended, whether answered or not."""
CLIENT_CLOSED: Final = 2
"""Requests whose client went away before the response was complete; they count against neither variant."""
RESCUED: Final = 3
"""Requests of the canary that failed, and that stable answered in its place."""
TUNNELS_OPENED: Final = 4
TUNNELS_CLOSED: Final = 5
FAILED: Final = 6
"""Requests that ended in an error as the configuration defines it (``judge.metrics.errors``)."""
FORCED: Final = 7
"""Requests that a match rule forced to the variant, and probes; they are counted as routed, too."""
OVER_BUDGET: Final = 8
"""Requests of the canary that failed and were not rescued: ``rescue.budget`` was spent."""
ASSETS_FOUND: Final = 9
"""Requests of the variant for a file that only the other one had (``rescue.assets``)."""
ASSETS_MISSING: Final = 10
"""Those that the other one could not answer either."""
STREAMS_OPENED: Final = 11
"""Responses without an end of their own, such as event streams, whose head was sent."""
STREAMS_CLOSED: Final = 12
LEAVING: Final = 13
"""Tunnels and streams that the proxy was to end: their users had moved to the other variant."""
LEFT: Final = 14
"""Of these, those that it is not to end any more: they are over, or their users have moved back."""
ENDED_CLEANLY: Final = 15
"""Tunnels and streams that the proxy ended between two messages or events."""
ENDED_ROUGHLY: Final = 16
"""Tunnels and streams that it ended within one, or that have none."""
SHED: Final = 17
"""Requests that a variant refused because it was over its measured limit. They ended, and are trials of
nothing; those of a canary are its failures unless stable was late. ``ERRORS + Reason.SHED`` counts both."""
HTTP2: Final = 18
"""Of ``ROUTED``, those that came over HTTP/2."""
OUTCOMES: Final = 19
"""Two cells for each outcome: responses evaluated, and those for which its rule holds."""
MOST_OUTCOMES: Final = 16
"""Maximum number of outcomes in a configuration."""
BLIND: Final = OUTCOMES + 2 * MOST_OUTCOMES
"""``len(Blind)`` cells for each outcome: responses that it applies to and could not evaluate, by reason."""
POINTERS: Final = BLIND + len(Blind) * MOST_OUTCOMES
"""Two cells for each outcome: responses whose JSON pointer was followed, and those with something there."""
ERRORS: Final = POINTERS + 2 * MOST_OUTCOMES
"""First cell of the upstream errors by ``Reason``."""
CODES: Final = ERRORS + len(Reason)
"""``CODES + status`` counts the requests that ended with that status (0..999)."""
_CODE_CELLS: Final = 1000
GRPC: Final = CODES + _CODE_CELLS
"""``GRPC + status`` counts requests of gRPC that ended with that ``GrpcStatus``; ``CODES`` has them, too."""
FIRST_BYTE: Final = GRPC + len(GrpcStatus)
"""Histogram of the time from the complete request to the first byte of the response."""
DURATION: Final = FIRST_BYTE + histogram.CELLS
"""Histogram of the time from the request's head to the last byte of the response."""
VARIANT_CELLS: Final = DURATION + histogram.CELLS
_FIRST_BYTE_SUM: Final = FIRST_BYTE + histogram.SUM
_DURATION_SUM: Final = DURATION + histogram.SUM
_LAYOUT: Final = (
    array("d", histogram.BOUNDS).tobytes(),
    histogram.LOWEST,
    histogram.PER_NEPER,
    ROUTED,
    CODES,
    FINISHED,
    FIRST_BYTE,
    DURATION,
)
"""What the extension is told about the cells."""

_EXEMPLAR_SIZE: Final = 5
"""Cells of one exemplar: sequence (odd while it is written, 0 before the first), high and low half of the
trace id, the observation in microseconds (rounded up), the time in milliseconds since the epoch."""
EXEMPLAR_CELLS: Final = 2 * histogram.BUCKETS * _EXEMPLAR_SIZE
"""Cells of one variant's exemplars: one for each bucket of ``FIRST_BYTE``, then of ``DURATION``."""

MIRRORED: Final = 0
"""``MIRRORED + result`` counts mirrored requests: ``DROPPED``, ``FAILED_COPY``, or status // 100."""
DROPPED: Final = 0
"""No spare connection for the copy."""
FAILED_COPY: Final = 1
"""The copy got no complete response."""
COPY_RESULTS: Final = ("dropped", "failed", "2xx", "3xx", "4xx", "5xx")
"""Names of the results, by their number."""
PROBES: Final = MIRRORED + len(COPY_RESULTS)
"""Requests of health checks and monitors (``split.probes``)."""
WITHHELD: Final = PROBES + 1
"""Requests whose sticky cookie the browser may have withheld; they get no new one."""
FOLLOWED: Final = WITHHELD + 1
"""Requests that followed the variant of the proxy before this one (``split.follow``)."""
NOT_FOLLOWED: Final = FOLLOWED + 1
"""``NOT_FOLLOWED + reason`` counts those that named a variant and were not believed, by ``NotFollowed``."""
SERVICE_CELLS: Final = NOT_FOLLOWED + len(NotFollowed)

CONNECTIONS_OPENED: Final = 0
CONNECTIONS_CLOSED: Final = 1
CONNECTIONS_REFUSED: Final = 2
"""Connections over ``limits.max_connections``: they got a 503, or were closed before TLS."""
REFUSED: Final = 3
"""``REFUSED + status`` counts requests that the proxy refused before routing them (400, 414, 503...)."""
HANDSHAKES_FAILED: Final = REFUSED + _CODE_CELLS
"""``HANDSHAKES_FAILED + reason`` counts connections that ended before HTTP, by ``HandshakeFailure``."""
TOLERATED: Final = HANDSHAKES_FAILED + len(HandshakeFailure)
"""Two cells: requests that were mended and forwarded (``strict: report``), by ``http1.request.Tolerated``."""
TOLERATED_REASONS: Final = ("raw_target", "no_host")
"""Names of the reasons, by their number."""
HTTP2_OPENED: Final = TOLERATED + len(TOLERATED_REASONS)
"""Of ``CONNECTIONS_OPENED``, those that turned out to be of HTTP/2."""
HTTP2_CLOSED: Final = HTTP2_OPENED + 1
HTTP2_RESETS: Final = HTTP2_CLOSED + 1
"""Two cells: streams that clients have reset, and those that the proxy has reset for an error."""
HTTP2_RESETTERS: Final = ("client", "proxy")
"""Their names."""
HTTP2_FAILED: Final = HTTP2_RESETS + len(HTTP2_RESETTERS)
"""``HTTP2_FAILED + reason`` counts connections that the proxy ended for an error, by ``Http2Failure``."""
PROXY_CELLS: Final = HTTP2_FAILED + len(Http2Failure)

_CELL_BYTES: Final = 8
SIZE: Final = ((VARIANT_CELLS + EXEMPLAR_CELLS) * len(VARIANTS) + SERVICE_CELLS) * _CELL_BYTES
"""Bytes of one service's counters in one worker."""
PROXY_SIZE: Final = PROXY_CELLS * _CELL_BYTES
"""Bytes of the counters that belong to a worker and to none of its services."""


class Counters:
    """One service's counters in one worker over ``buffer``: at least ``SIZE`` bytes; ``None``: its own.

    The views index cells by the offsets of this module: ``counters.canary[ROUTED] += 1``. ``exemplars``
    are those of each variant, for ``exemplar``, ``service`` belongs to both variants, and ``proxy`` to the
    worker, whose services share it.
    """

    __slots__ = ("canary", "exemplars", "proxy", "service", "stable", "variants")

    def __init__(
        self,
        buffer: bytearray | memoryview | None = None,
        proxy: memoryview[int] | None = None,
    ) -> None:
        cells = memoryview(bytearray(SIZE) if buffer is None else buffer)[:SIZE].cast("Q")
        self.variants: tuple[memoryview[int], memoryview[int]] = (
            cells[:VARIANT_CELLS],
            cells[VARIANT_CELLS : 2 * VARIANT_CELLS],
        )
        self.stable = self.variants[STABLE]
        self.canary = self.variants[CANARY]
        rest = cells[2 * VARIANT_CELLS :]
        self.service = rest[:SERVICE_CELLS]
        self.proxy = memoryview(bytearray(PROXY_SIZE)).cast("Q") if proxy is None else proxy
        rest = rest[SERVICE_CELLS:]
        self.exemplars: tuple[memoryview[int], memoryview[int]] = (
            rest[:EXEMPLAR_CELLS],
            rest[EXEMPLAR_CELLS:],
        )


def reader(cell: memoryview[int]) -> Callable[[], int] | None:
    """Return what reads one cell, for a third of what it costs by itself; ``None`` without the extension."""
    return Cell(cell).value if _HAS_CELLS else None


class Tally:
    """Counts in the cells of one variant, or in those of the proxy, whose only writer it is.

    Reading a cell costs several hundred instructions, as writing does. A copy of the values is kept here, so
    cells are only written. The extension ``native_cells`` (optional, part of the compiled wheel) needs none.
    """

    __slots__ = ("_add", "_add_each", "_finish", "_route", "cells", "copy")

    def __init__(self, cells: memoryview[int]) -> None:
        self.cells = cells
        self.copy: list[int] | None = None
        """A copy of the cells; ``None``: the extension counts."""
        self._add: Callable[[int, int], None] | None = None
        self._add_each: Callable[[tuple[int, ...]], None] | None = None
        self._finish: Callable[[int, float, float, tuple[int, ...]], int] | None = None
        self._route: Callable[[], None] | None = None
        if _HAS_CELLS:
            extension = Cells(cells, *_LAYOUT)
            self._add, self._finish = extension.add, extension.finish
            self._add_each, self._route = extension.add_each, extension.route
        else:
            self.copy = cells.tolist()

    @property
    def values(self) -> Sequence[int]:
        """The values of the cells."""
        return self.cells if self.copy is None else self.copy

    def add(self, at: int, count: int = 1) -> None:
        """Add to a cell."""
        if self._add is not None:
            self._add(at, count)
            return
        values = self.copy
        assert values is not None
        values[at] = self.cells[at] = values[at] + count

    def route(self) -> None:
        """Count a request that is routed to the variant."""
        if self._route is None:
            self.add(ROUTED)
        else:
            self._route()

    def add_each(self, cells: tuple[int, ...]) -> None:
        """Add one to each of these cells, in their order."""
        if self._add_each is not None:
            self._add_each(cells)
            return
        values, written = self.copy, self.cells
        assert values is not None
        for at in cells:
            values[at] = written[at] = values[at] + 1

    def finish(self, status: int, waited: float, took: float, more: tuple[int, ...] = ()) -> int:
        """Count the end of a request: its status, and the seconds to the first and to the last byte.

        ``more`` are other cells that it adds one to, as ``add_each`` does. Returns the bucket of the time to
        the first byte (``histogram.bucket_index``).
        """
        if self._finish is not None:
            return self._finish(status, waited, took, more)
        values, cells = self.copy, self.cells
        assert values is not None
        code = CODES + status
        values[code] = cells[code] = values[code] + 1
        values[FINISHED] = cells[FINISHED] = values[FINISHED] + 1
        index, micros = histogram.bucket_index(took), int(took * 1e6)
        bucket = DURATION + index
        values[bucket] = cells[bucket] = values[bucket] + 1
        values[_DURATION_SUM] = cells[_DURATION_SUM] = values[_DURATION_SUM] + micros
        if waited != took:
            index, micros = histogram.bucket_index(waited), int(waited * 1e6)
        bucket = FIRST_BYTE + index
        values[bucket] = cells[bucket] = values[bucket] + 1
        values[_FIRST_BYTE_SUM] = cells[_FIRST_BYTE_SUM] = values[_FIRST_BYTE_SUM] + micros
        for at in more:
            values[at] = cells[at] = values[at] + 1
        return index


class Total(Sequence[int]):
    """The same block of several workers as one, for readers: each cell is summed when it is read."""

    __slots__ = ("_parts",)

    def __init__(self, parts: Sequence[Sequence[int]]) -> None:
        self._parts = tuple(parts)

    def __len__(self) -> int:
        return len(self._parts[0])

    @overload
    def __getitem__(self, at: int) -> int: ...
    @overload
    def __getitem__(self, at: slice) -> list[int]: ...
    def __getitem__(self, at: int | slice) -> int | list[int]:
        if isinstance(at, slice):
            cells = list(self._parts[0][at])
            for part in self._parts[1:]:
                cells = list(map(add, cells, part[at]))
            return cells
        total = 0
        for part in self._parts:
            total += part[at]
        return total


class Totals:
    """The counters of all workers as one, for readers. With a single worker they are that worker's."""

    __slots__ = ("_parts", "canary", "proxy", "service", "stable", "variants")

    def __init__(self, workers: Sequence[Counters]) -> None:
        self._parts = [worker.variants for worker in workers]

        def total(parts: Sequence[memoryview[int]]) -> Sequence[int]:
            return parts[0] if len(parts) == 1 else Total(parts)

        self.variants: tuple[Sequence[int], Sequence[int]] = (
            total([worker.stable for worker in workers]),
            total([worker.canary for worker in workers]),
        )
        self.stable, self.canary = self.variants
        self.service = total([worker.service for worker in workers])
        self.proxy = total([worker.proxy for worker in workers])

    def untimed(self, variant: int) -> bytes:
        """Return the cells of a variant but for its histograms: equal while nothing else is counted there.

        They are quicker to compare than to read.
        """
        return b"".join([part[variant][:FIRST_BYTE].tobytes() for part in self._parts])


def in_flight(cells: Sequence[int]) -> int:
    """Return the requests in flight of one variant's cells."""
    return cells[ROUTED] - cells[FINISHED]


def answered(cells: Sequence[int]) -> int:
    """Return the requests of one variant's cells that ended and say something of it."""
    refused = cells[SHED]  # before the ends, which are written later
    return cells[FINISHED] - cells[CLIENT_CLOSED] - refused


def shed(cells: Sequence[int]) -> int:
    """Return the requests of one variant's cells that found it over its measured limit."""
    return cells[ERRORS + Reason.SHED]


def tunnels(cells: Sequence[int]) -> int:
    """Return the open upgraded connections of one variant's cells."""
    return cells[TUNNELS_OPENED] - cells[TUNNELS_CLOSED]


def streams(cells: Sequence[int]) -> int:
    """Return the open responses without an end of one variant's cells."""
    return cells[STREAMS_OPENED] - cells[STREAMS_CLOSED]


def leaving(cells: Sequence[int]) -> int:
    """Return the tunnels and streams that wait to be closed because their users have moved."""
    return cells[LEAVING] - cells[LEFT]


def http2_connections(cells: Sequence[int]) -> int:
    """Return the open connections of HTTP/2; ``cells`` are the proxy's own."""
    closed = cells[HTTP2_CLOSED]
    return cells[HTTP2_OPENED] - closed


def routed_by_split(cells: Sequence[int]) -> int:
    """Return the requests that the split routed to the variant of these cells, not a match rule."""
    return cells[ROUTED] - cells[FORCED]


def slots(names: Sequence[str], before: Mapping[str, int]) -> dict[str, int]:
    """Give each outcome a slot for its two cells; an outcome that had one before keeps it.

    New outcomes get slots that were free before, as long as there are any: requests in flight may still count
    in a slot that was given up, and must not be counted for another outcome.
    """
    kept = {name: before[name] for name in names if name in before}
    fresh = [slot for slot in range(MOST_OUTCOMES) if slot not in before.values()]
    taken = {*kept.values(), *fresh}
    free = iter(fresh + [slot for slot in range(MOST_OUTCOMES) if slot not in taken])
    return {name: kept[name] if name in kept else next(free) for name in names}


@dataclass(frozen=True, slots=True)
class OutcomeCounts:
    """Counts of one outcome and one variant."""

    trials: int
    """Responses that were evaluated."""
    events: int
    """Of these, those for which the rule holds."""
    followed: int
    """Responses whose JSON pointer was followed to its end."""
    found: int
    """Of these, those that have something there."""
    blind: tuple[int, ...]
    """Responses that the rule applies to and that could not be evaluated, by ``Blind``."""

    @property
    def matched(self) -> int:
        """All responses that the rule applies to, as far as they were chosen to be looked at."""
        return self.trials + sum(self.blind)


def outcome(cells: Sequence[int], slot: int) -> OutcomeCounts:
    """Read the cells of an outcome. A trial is written before its event, so it is read after it."""
    at, pointers, blind = (
        OUTCOMES + 2 * slot,
        POINTERS + 2 * slot,
        BLIND + len(Blind) * slot,
    )
    found = cells[pointers + 1]
    events = cells[at + 1]
    return OutcomeCounts(
        cells[at], events, cells[pointers], found, tuple(cells[blind : blind + len(Blind)])
    )


def codes(cells: Sequence[int]) -> Iterable[tuple[int, int]]:
    """Yield ``(status, count)`` for every status that occurred in one variant's cells."""
    for status, count in enumerate(cells[CODES : CODES + _CODE_CELLS]):
        if count:
            yield status, count


def refused(cells: Sequence[int]) -> Iterable[tuple[int, int]]:
    """Yield ``(status, count)`` for every status with which the proxy itself refused requests."""
    for status, count in enumerate(cells[REFUSED : REFUSED + _CODE_CELLS]):
        if count:
            yield status, count


@dataclass(frozen=True, slots=True)
class Exemplar:
    """A trace of a request that a histogram bucket counted."""

    trace_id: str
    """32 hex digits in lower case (W3C Trace Context)."""
    seconds: float
    """The observation, within the bucket."""
    time: float
    """When, in seconds since the epoch."""


def exemplar(cells: memoryview[int], offset: int, bucket: int) -> Exemplar | None:
    """Return the last exemplar of a histogram bucket, or ``None`` if there is none (or just being written).

    ``cells`` are a variant's (``Counters.exemplars``), ``offset`` says which histogram (``FIRST_BYTE`` or
    ``DURATION``), ``bucket`` is ``histogram.bucket_index`` of the observation.
    """
    at = _exemplar_number(offset, bucket) * _EXEMPLAR_SIZE
    sequence, high, low, micros, millis = cells[at : at + _EXEMPLAR_SIZE]
    if not sequence or sequence % 2 or cells[at] != sequence:
        return None
    seconds = micros / 1e6
    if bucket < len(histogram.BOUNDS):
        seconds = min(seconds, histogram.BOUNDS[bucket])
    return Exemplar(f"{high:016x}{low:016x}", seconds, millis / 1e3)


EXEMPLAR_EVERY: Final = 0.1
"""Minimum seconds between two exemplars of a bucket: one is as good as another."""


class ExemplarWriter:
    """The exemplars of a variant, for the worker that writes them into its cells (``Counters.exemplars``)."""

    __slots__ = ("_cells", "_next")

    def __init__(self, cells: memoryview[int]) -> None:
        self._cells = cells
        self._next: list[float] = []
        """By exemplar, when another may replace it: most services have no traces."""

    def keep(
        self,
        offset: int,
        bucket: int,
        seconds: float,
        trace: bytes,
        now: float,
        clock: Callable[[], float],
    ) -> None:
        """Store a trace (32 hex digits) for the bucket of an observation, unless its exemplar is recent.

        ``offset`` and ``bucket`` are as ``exemplar`` has them; ``now`` is a monotonic time, and ``clock``
        returns that since the epoch.
        """
        number = _exemplar_number(offset, bucket)
        if not self._next:
            self._next = [-inf] * (2 * histogram.BUCKETS)
        if now < self._next[number]:
            return
        self._next[number] = now + EXEMPLAR_EVERY
        cells, at = self._cells, number * _EXEMPLAR_SIZE
        cells[at] += 1
        cells[at + 1], cells[at + 2] = int(trace[:16], 16), int(trace[16:], 16)
        cells[at + 3] = ceil(seconds * 1e6)
        cells[at + 4] = int(clock() * 1e3)
        cells[at] += 1


def _exemplar_number(offset: int, bucket: int) -> int:
    return histogram.BUCKETS + bucket if offset == DURATION else bucket
