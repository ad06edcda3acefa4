"""Records that the tests of a step have not taken yet, kept once for all of them. Pure.

Most records of a moment are of a few kinds. So what each is to a test is looked up by its kind, and tests to
which all kinds are the same share what was found: rows of units, and a mark for each record.
"""

from __future__ import annotations

from typing import Final

from canaryproxy.measure.flat import append, sum64, vec

GOOD: Final = 0
BAD: Final = 1
NO_TRIAL: Final = 2
"""The mark of a record: what it is to a metric."""


class Trials:
    """Trials in order of time: the row of the unit of each, and its mark."""

    __slots__ = ("marks", "rows")

    def __init__(self, rows: vec[sum64], marks: vec[sum64]) -> None:
        self.rows = rows
        self.marks = marks

    def __len__(self) -> int:
        return len(self.rows)

    def listed(self) -> list[int]:
        """Return them as ``row << 1 | bad``."""
        pairs = zip(list(self.rows), list(self.marks), strict=True)
        return [row << 1 | mark for row, mark in pairs]


def unlisted(trials: list[int]) -> Trials:
    """Return trials that are given as ``row << 1 | bad``."""
    rows = vec[sum64]([trial >> 1 for trial in trials])
    return Trials(rows, vec[sum64]([trial & 1 for trial in trials]))


class MarkedKind:
    """Marks of all records of a kind, by the number of the test."""

    __slots__ = ("code", "marks")

    def __init__(self, marks: bytes) -> None:
        self.marks = marks
        self.code = -1
        """Its number in the batch; -1: it is not in it."""


class Batch:
    """Records in order of time: the row of the unit of each, and its kind."""

    __slots__ = ("_codes", "_found", "_kinds", "_rows")

    def __init__(self) -> None:
        self._rows = vec[sum64]()
        self._codes = vec[sum64]()
        self._kinds: list[MarkedKind] = []
        self._found: dict[int, Trials] = {}
        """By the marks of all kinds, as one number."""

    def __len__(self) -> int:
        return len(self._codes)

    def add(self, row: int, kind: MarkedKind) -> None:
        """Add a record of a unit."""
        if kind.code < 0:
            kind.code = len(self._kinds)
            self._kinds.append(kind)
        self._rows = append(self._rows, row)
        self._codes = append(self._codes, kind.code)

    def trials(self, test: int) -> Trials:
        """Return the trials of a test, given by its number."""
        key = 0
        for kind in self._kinds:
            key = 3 * key + kind.marks[test]
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = self._select([kind.marks[test] for kind in self._kinds])
        return found

    def _select(self, by_kind: list[int]) -> Trials:
        """Return the trials, where each kind has a mark."""
        rows, codes = self._rows, self._codes
        marks = vec[sum64](by_kind)
        if NO_TRIAL in by_kind:
            rows = vec[sum64](
                [row for row, code in zip(rows, codes) if marks[code] != NO_TRIAL]  # noqa: B905
            )
            codes = vec[sum64]([code for code in codes if marks[code] != NO_TRIAL])
        return Trials(rows, vec[sum64]([marks[code] for code in codes]))

    def end(self) -> None:
        """Let its kinds be part of another batch."""
        for kind in self._kinds:
            kind.code = -1
