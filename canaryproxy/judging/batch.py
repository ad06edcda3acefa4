"""Records that the tests of a step have not taken yet, kept once for all of them. Pure.

Most records of a moment are of a few kinds. So what each is to a test is looked up by its kind, and tests to
which all kinds are the same share what was found: rows of units, and a mark for each record.
"""

from __future__ import annotations

from typing import Final

from canaryproxy.measure.flat import append, extend, i64, sum64, vec

GOOD: Final = 0
BAD: Final = 1
NO_TRIAL: Final = 2
"""The mark of a record: what it is to a metric."""
EVENTS_SHIFT: Final = 32
TRIALS: Final = (1 << EVENTS_SHIFT) - 1
"""The bits of a sum of trials above are events, those below trials."""
ONE_EVENT: Final = 1 << EVENTS_SHIFT


class ByUnit:
    """Trials added up by unit, in order of the first one of each."""

    __slots__ = ("added", "bad", "first", "rows")

    def __init__(self, rows: vec[sum64], marks: vec[sum64], places: vec[sum64]) -> None:
        """``places``: zeros by row, which it uses and leaves as they were."""
        units = vec[sum64]()
        added = vec[sum64]()
        first = vec[sum64]()
        bad = vec[sum64]()
        for row, mark in zip(rows, marks):  # noqa: B905 (quick where compiled)
            if mark:
                bad = append(bad, row)
            place = places[row]
            if place:
                added[place - 1] += 1 + mark * ONE_EVENT
            else:
                units = append(units, row)
                first = append(first, mark)
                added = append(added, 1 + mark * ONE_EVENT)
                places[row] = len(units)
        for row in units:
            places[row] = 0
        self.rows = units
        self.first = first
        """The mark of the first trial."""
        self.added = added
        """Trials, and the bad ones at ``EVENTS_SHIFT``."""
        self.bad = bad
        """Rows of all bad trials, in order of time."""


class Trials:
    """Trials in order of time: the row of the unit of each, and its mark."""

    __slots__ = ("_by_unit", "marks", "rows")

    def __init__(self, rows: vec[sum64], marks: vec[sum64]) -> None:
        self.rows = rows
        self.marks = marks
        self._by_unit: ByUnit | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def by_unit(self, places: vec[sum64]) -> ByUnit:
        """Return them by unit; ``places``: zeros by row, as many as there are units."""
        if self._by_unit is None:
            self._by_unit = ByUnit(self.rows, self.marks, places)
        return self._by_unit

    def listed(self) -> list[int]:
        """Return them as ``row << 1 | bad``."""
        pairs = zip(list(self.rows), list(self.marks), strict=True)
        return [row << 1 | mark for row, mark in pairs]


def unlisted(trials: list[int]) -> Trials:
    """Return trials that are given as ``row << 1 | bad``."""
    rows = vec[sum64]([trial >> 1 for trial in trials])
    return Trials(rows, vec[sum64]([trial & 1 for trial in trials]))


class Batch:
    """Records in order of time: the row of the unit of each, and the code of its kind.

    ``marks``: what a kind is to each test, by its code; those of kinds that records have must be there.
    """

    __slots__ = ("_distinct", "_found", "_marks", "codes", "rows")

    def __init__(self, marks: list[bytes]) -> None:
        self._marks = marks
        self.rows = vec[sum64]()
        """Another one whenever records are added, as ``codes``."""
        self.codes = vec[sum64]()
        self._distinct: list[int] = []
        """Codes that records have, once it is asked for trials."""
        self._found: dict[int, Trials] = {}
        """By the marks of all these, as one number."""

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, rows: vec[sum64], codes: vec[sum64]) -> None:
        """Add records."""
        self.rows = extend(self.rows, rows)
        self.codes = extend(self.codes, codes)

    def trials(self, test: int) -> Trials:
        """Return the trials of a test, given by its number. No record may be added after it."""
        if not self._distinct:
            self._note_codes()
        key = 0
        for code in self._distinct:
            key = 3 * key + self._marks[code][test]
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = self._select(test)
        return found

    def _note_codes(self) -> None:
        """Note which codes there are."""
        seen = vec[sum64]([0] * len(self._marks))
        for code in self.codes:
            if not seen[code]:
                seen[code] = 1
                self._distinct.append(code)

    def _select(self, test: int) -> Trials:
        """Return the trials of a test."""
        by_code = vec[sum64]([NO_TRIAL] * len(self._marks))
        for code in self._distinct:
            by_code[code] = self._marks[code][test]
        rows, codes = self.rows, self.codes
        kept, marks = vec[sum64]([0] * len(rows)), vec[sum64]([0] * len(rows))
        count: i64 = 0
        for row, of in zip(rows, codes):  # noqa: B905 (quick where compiled)
            mark = by_code[of]
            if mark != NO_TRIAL:
                kept[count] = row
                marks[count] = mark
                count += 1
        if count == len(rows):
            return Trials(rows, marks)
        return Trials(kept[:count], marks[:count])
