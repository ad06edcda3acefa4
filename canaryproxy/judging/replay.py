"""The judge offline: recorded counts in, the proxy's verdict out.

One row is one tick: ``t,stable_trials,stable_events,canary_trials,canary_events``. Counts have no users, so
they are judged as requests that are independent of each other; where users differ, a false breach is more
likely than α, and ``user_replay`` is right. The evidence is ``evidence.EProcess`` with r = 1, nothing else:
no smoothing, one metric with the whole α. Rows are taken in the order given; ``t`` is a label and need not
rise.

* ``breach``: at some row the evidence had reached 1/α and, with a margin, the difference of the pooled
  rates over all rows so far had reached the margin. The verdict stays, as a trip does.
* ``suspect``: no breach, but at some row the evidence had reached 1/α_hold: the release would have been
  held. This verdict stays too, so that it does not depend on how a file ends.
* ``ok``: neither.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import inf, isfinite, log
from sys import float_info
from typing import Any, Literal

from canaryproxy.judging.evidence import Direction, EProcess, RatioInterval, as_float

FIELDS = ("t", "stable_trials", "stable_events", "canary_trials", "canary_events")
"""The columns; any order."""

Time = int | float | str
"""The label of a row, as it appears: an integer stays one; a date and time stays text."""

_MOST = 2**63 - 1
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}([T ]\S.*)?")


class RowError(ValueError):
    """A row cannot be read: gives its place, the text found and the values allowed."""

    def __init__(self, line: int, field: str | None, found: str, allowed: str) -> None:
        self.line = line
        self.field = field
        self.found = found
        self.allowed = allowed
        where = f"line {line}" if field is None else f"line {line}, {field}"
        super().__init__(f"{where}: found {found}, expected {allowed}")


@dataclass(frozen=True, slots=True)
class Row:
    """One tick of recorded counts."""

    t: Time
    stable_trials: int
    stable_events: int
    canary_trials: int
    canary_events: int


@dataclass(frozen=True, slots=True)
class Replay:
    """The verdict that the proxy would have reached."""

    verdict: Literal["breach", "suspect", "ok"]
    log_evidence: float
    """Natural logarithm of the last e-value."""
    max_log_evidence: float
    """Natural logarithm of the largest e-value; at least 0, for evidence starts at 1."""
    tripped_at: Time | None
    """``t`` of the first row at which the breach rule holds."""
    canary_trials_at_trip: int | None
    """Canary trials up to and with that row."""
    rate_ratio_interval: tuple[float, float]
    """Anytime-valid interval at 1 - α for the canary's rate over stable's; ``inf`` if not bounded."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values, with numbers that every JSON reader takes.

        E-values beyond the range of floats are given as the largest float; ``log_evidence`` and
        ``max_log_evidence`` are exact. An interval without an upper end has ``null`` there.
        """
        low, high = self.rate_ratio_interval
        return {
            "verdict": self.verdict,
            "evidence": _number(self.log_evidence),
            "max_evidence": _number(self.max_log_evidence),
            "tripped_at": self.tripped_at,
            "canary_trials_at_trip": self.canary_trials_at_trip,
            "rate_ratio_interval": [low, None if high == inf else high],
            "log_evidence": self.log_evidence,
            "max_log_evidence": self.max_log_evidence,
            "unit": "request",
        }


def _number(log_e: float) -> float:
    return min(as_float(log_e), float_info.max)


def replay(
    rows: Iterable[Row],
    alpha: float = 0.001,
    margin: float = 0.0,
    direction: Direction = "increase",
    alpha_hold: float = 0.05,
) -> Replay:
    """Judge recorded rows.

    ``alpha`` and ``alpha_hold`` are the chances of a false breach and of a false suspicion. ``margin``
    is absolute, in the unit of the rate; at 0 a breach is a matter of evidence alone.
    """
    for name, value in (("alpha", alpha), ("alpha_hold", alpha_hold)):
        if not 0.0 < value < 1.0:
            raise ValueError(f"{name} must lie between 0 and 1, found {value!r}")
    if not 0.0 <= margin <= 1.0:
        raise ValueError(f"margin must lie between 0 and 1, found {margin!r}")
    process = EProcess(direction)
    alike: dict[tuple[int, int], list[int]] = {}
    limit = -log(alpha)
    log_e = highest = 0.0
    n_s = e_s = n_c = e_c = 0
    tripped_at: Time | None = None
    at_trip: int | None = None
    for row in rows:
        counts = (row.stable_trials, row.stable_events, row.canary_trials, row.canary_events)
        n_s += counts[0]
        e_s += counts[1]
        n_c += counts[2]
        e_c += counts[3]
        process.add(*counts)
        if counts[1] or counts[3]:
            events = alike.setdefault((counts[0], counts[2]), [0, 0])
            events[0] += counts[1]
            events[1] += counts[3]
        log_e = process.log_e
        highest = max(highest, log_e)
        if at_trip is None and log_e >= limit:
            difference = _rate(e_c, n_c) - _rate(e_s, n_s)
            if not margin or (difference if direction == "increase" else -difference) >= margin:
                tripped_at, at_trip = row.t, n_c
    interval = RatioInterval()
    # Ticks with equal n_c/n_s can be merged without loss.
    for (trials_s, trials_c), (events_s, events_c) in alike.items():
        interval.add(trials_s, events_s, trials_c, events_c)
    verdict: Literal["breach", "suspect", "ok"] = "ok"
    if at_trip is not None:
        verdict = "breach"
    elif highest >= -log(alpha_hold):
        verdict = "suspect"
    return Replay(verdict, log_e, highest, tripped_at, at_trip, interval.bounds(alpha))


def _rate(events: int, trials: int) -> float:
    return events / trials if trials else 0.0


def read_rows(lines: Iterable[str]) -> Iterator[Row]:
    """Yield the rows of a CSV text given as lines.

    The first line that is not blank is the header. Blank lines, a byte order mark, CRLF and spaces
    around values are fine; counts are whole numbers (``12`` or ``12.0``). Raises ``RowError``.
    """
    reader = csv.reader(texts(lines), strict=True)
    order: list[str] | None = None
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            if order is None:
                order = header_of(cells, reader.line_num, FIELDS)
            else:
                yield _row(order, cells, reader.line_num)
    except csv.Error as error:
        raise RowError(reader.line_num, None, str(error), "comma-separated values") from None
    if order is None:
        raise RowError(1, None, "no header", f"the columns {','.join(FIELDS)}")


def texts(lines: Iterable[str]) -> Iterator[str]:
    """Yield lines for a CSV reader: without a byte order mark, each with one line end."""
    for number, line in enumerate(lines):
        text = line.removeprefix("\ufeff") if number == 0 else line
        yield text.rstrip("\r\n") + "\n"


def header_of(
    cells: list[str], line: int, fields: Sequence[str], optional: Sequence[str] = ()
) -> list[str]:
    """Return the names of the columns. Raises ``RowError`` for one that is unknown, twice or missing."""
    expected = f"the columns {','.join(fields)}, each once"
    for name in cells:
        if name not in fields:
            raise RowError(line, None, f"the column {name!r}", expected)
        if cells.count(name) > 1:
            raise RowError(line, None, f"the column {name!r} twice", expected)
    missing = [name for name in fields if name not in cells and name not in optional]
    if missing:
        raise RowError(line, None, f"no column {missing[0]!r}", expected)
    return cells


def _row(order: list[str], cells: list[str], line: int) -> Row:
    if len(cells) != len(order):
        raise RowError(line, None, f"{len(cells)} values", f"{len(order)}: {','.join(order)}")
    values = dict(zip(order, cells, strict=True))
    counts = {name: _count(values[name], name, line) for name in FIELDS[1:]}
    for variant in ("stable", "canary"):
        events, trials = counts[f"{variant}_events"], counts[f"{variant}_trials"]
        if events > trials:
            field = f"{variant}_events"
            raise RowError(line, field, str(events), f"at most {variant}_trials, which is {trials}")
    return Row(t=time_of(values["t"], line), **counts)


def _count(text: str, field: str, line: int) -> int:
    allowed = f"a whole number of at least 0 and at most {_MOST}"
    try:
        value = int(text) if text.isascii() and text.isdigit() else _whole(float(text))
    except (ValueError, OverflowError):
        raise RowError(line, field, repr(text), allowed) from None
    if not 0 <= value <= _MOST or "_" in text:
        raise RowError(line, field, repr(text), allowed)
    return value


def _whole(value: float) -> int:
    if value != int(value):
        raise ValueError(value)
    return int(value)


def time_of(text: str, line: int) -> Time:
    """Return a time as it appears: a number, or a date as text. Raises ``RowError``."""
    try:
        if "_" not in text:
            return int(text)
    except ValueError:
        pass
    try:
        number = float(text)
        if isfinite(number) and "_" not in text:
            return number
    except ValueError:
        if _DATE.fullmatch(text):
            return text
    raise RowError(line, "t", repr(text), "a number, or a date such as 2026-01-31T12:00:00Z")
