"""Units of the judge: positions of the lottery that were seen, and who is whose by it.

A user's position is a salted hash of the sticky key (``measure.routing.position_of``), so users fall on
positions uniformly and independently. A *unit* is all that happens at one position: nearly one user.
Positions that nothing was seen of are units, too; they have the same chance of being the canary's.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import unpack
from typing import Final

from mmh3 import mmh3_x64_128_uintdigest

from canaryproxy.judging.growth import with_ints, with_longs, with_sums
from canaryproxy.measure.flat import append, i32, i64, sum64, vec
from canaryproxy.measure.records import POSITION_MASK

_PAGE_BITS: Final = 10
_PAGE: Final = 1 << _PAGE_BITS
_PAGES: Final = POSITION_MASK + 1 >> _PAGE_BITS
_PACKED: Final = 2048
"""Packed rows that are remembered; each has 200 bytes with twenty virtual canaries."""
_RECENT: Final = 64
"""Lists of rows whose sums are remembered: those of a tick, which tests take one after the other."""
_DRAWN: Final = 1 << 61
"""Bit of a mask that says that it was drawn."""
ROW_BITS: Final = 24
ROW_MASK: Final = (1 << ROW_BITS) - 1
_PHASE: Final = 0.6180339887498949

_Sums = tuple[dict[int, int], dict[int, int]]


@dataclass(frozen=True, slots=True)
class Lottery:
    """A step of a release: it moves the positions from ``first`` up to ``limit`` to the canary and leaves
    those from ``limit`` up to ``last`` on stable.

    Lemma 1: let the weight be set to ``limit`` at a moment, and by a rule, that depend only on what was
    known until then, and let ``first`` and ``last`` be the neighbouring weights ever in force. If the
    version changes nothing that a user meets, the arrangement of units over ``[first, last)`` is uniform,
    given all that was known and all histories, past and future. Users who were moved by an earlier step
    are not in this lottery.
    """

    first: int
    limit: int
    last: int

    def __post_init__(self) -> None:
        if not 0 <= self.first <= self.limit <= self.last:
            raise ValueError(
                f"first <= limit <= last, found {self.first}, {self.limit}, {self.last}"
            )

    @property
    def canary(self) -> int:
        """Number of positions of the canary."""
        return self.limit - self.first

    @property
    def stable(self) -> int:
        """Number of positions of stable."""
        return self.last - self.limit

    @property
    def odds(self) -> float:
        """Positions of the canary for each of stable; 0 where there are none of stable."""
        return self.canary / self.stable if self.stable else 0.0


class VirtualCanaries:
    """Virtual canaries of a lottery's share, drawn among its stable units: what an alarm does where
    nothing is wrong.

    Virtual canary j has a unit with probability ``share``, independently, by a hash of the position: so
    the next unit that is looked up is its own with probability ``share`` exactly, whatever was seen
    before.
    """

    __slots__ = ("_cut", "_masks", "_packed", "_recent", "_spread", "_units", "count", "share")

    def __init__(self, units: Units, lottery: Lottery, count: int) -> None:
        self.count = count
        size = lottery.canary + lottery.stable
        self._cut = (lottery.canary << 32) // max(size, 1)
        self.share = self._cut / 2**32
        self._units = units
        self._masks = vec[i64]()
        self._packed: dict[int, int] = {}
        """Of some rows: the tests of a tick ask for the same ones."""
        self._recent: dict[tuple[int, int, int], tuple[list[int], _Sums]] = {}
        """What ``sums`` was asked last, by length and both ends."""
        self._spread = [
            sum([1 << FIELD * bit for bit in range(8) if value >> bit & 1]) for value in range(256)
        ]

    def of(self, row: int) -> int:
        """Return who has this row: a field of ``FIELD`` bits for each virtual canary, 1 or 0."""
        packed = self._packed.get(row)
        if packed is not None:
            return packed
        if row >= len(self._masks):
            self._masks = with_longs(self._masks, row + 1 + row // 8 + 64 - len(self._masks))
        mask: int = self._masks[row]
        if not mask:
            position: int = self._units.positions[row]
            mask = self._masks[row] = self._draw(position)
        spread = self._spread
        packed = spread[mask & 255]
        for byte in range(1, (self.count + 7) // 8):
            packed |= spread[mask >> 8 * byte & 255] << 8 * FIELD * byte
        if len(self._packed) >= _PACKED:
            self._packed.clear()
        self._packed[row] = packed
        return packed

    def sums(self, coded: list[int]) -> _Sums:
        """Return for each code how many rows have it, and for each who has them, added up.

        ``coded``: ``code << ROW_BITS | row``. Most tests have the same trials in a tick, and so the same
        list: it is added up once.
        """
        key = (len(coded), coded[0], coded[-1])
        known = self._recent.get(key)
        if known is not None and known[0] == coded:
            return known[1]
        numbers: dict[int, int] = {}
        fields: dict[int, int] = {}
        for one in coded:
            code = one >> ROW_BITS
            theirs = self.of(one & ROW_MASK)
            before = fields.get(code)
            if before is None:
                numbers[code] = 1
                fields[code] = theirs
            else:
                numbers[code] += 1
                fields[code] = before + theirs
        if len(self._recent) >= _RECENT:
            del self._recent[next(iter(self._recent))]
        self._recent[key] = coded, (numbers, fields)
        return numbers, fields

    def _draw(self, position: int) -> int:
        mask = _DRAWN
        key = position.to_bytes(4, "little")
        for start in range(0, self.count, 4):
            digest = mmh3_x64_128_uintdigest(key, start)
            for j in range(start, min(start + 4, self.count)):
                if digest & 0xFFFFFFFF < self._cut:
                    mask |= 1 << j
                digest >>= 32
        return mask


FIELD: Final = 64
"""Bits of the counter of one virtual canary; the counters of all are one integer, added to at once."""


def unpacked(fields: int, count: int) -> tuple[int, ...]:
    """Return the counters of so many virtual canaries."""
    return unpack(f"<{count}Q", fields.to_bytes(count * FIELD // 8, "little"))


BUDGET: Final = 1500
"""Records that all tests together may look at again in one tick, two or three milliseconds."""


class Units:
    """Rows, from 0 on, for positions in the order in which they are seen; all tests of a step share them.

    ``known``: the units of the judge, by whose rows histories are kept. A step has rows of its own, so that
    what its tests keep of a unit takes time and memory for those who came, and not for all who are known.
    """

    __slots__ = (
        *(
            "_known",
            "_pages",
            "_places",
            "_rows",
            "_spent",
            "_spent_at",
            "_tests",
            "_virtual",
            "known_rows",
            "positions",
        ),
    )

    def __init__(self, known: Units | None = None) -> None:
        self._known = known
        self.positions = vec[i32]()
        """By row. Another one whenever a row is added."""
        self.known_rows = vec[i32]()
        """The same for the rows among ``known``; without it, its own."""
        self._places = vec[sum64]()
        """Zeros by row."""
        self._rows = with_ints(vec[i32](), _PAGE)
        """Rows and one, by page and position; with ``known`` by the row there. The first page is empty."""
        self._pages = with_ints(vec[i32](), _PAGES)
        """Where pages begin. Those without rows are all the first one."""
        self._virtual: dict[tuple[Lottery, int], VirtualCanaries] = {}
        self._tests = 0
        self._spent = 0
        self._spent_at = -1.0

    def __len__(self) -> int:
        return len(self.positions)

    def row(self, position: int) -> int:
        """Return the row of a position; a new one if it has not been seen."""
        known = self._known
        at = position if known is None else known.row(position)
        page: int = self._pages[at // _PAGE]
        row: int = self._rows[page + at % _PAGE]
        return row - 1 if row else self._add(position, at)

    def _add(self, position: int, at: int) -> int:
        """Add a row; ``at``: the position, with ``known`` the row there."""
        page: int = self._pages[at // _PAGE]
        if not page:
            page = len(self._rows)
            self._pages[at // _PAGE] = page
            self._rows = with_ints(self._rows, _PAGE)
        row: int = len(self.positions)
        self.known_rows = append(self.known_rows, row if self._known is None else at)
        self.positions = append(self.positions, position)
        self._rows[page + at % _PAGE] = row + 1
        return row

    def rows(self, words: vec[sum64], chosen: vec[sum64], begin: i64, count: i64) -> vec[sum64]:
        """Return the rows of the units of records.

        ``chosen`` has the places of their words; the first one's is at ``begin``.
        """
        found = vec[sum64]([0] * count)
        for i in range(count):
            found[i] = words[chosen[begin + i]] & POSITION_MASK
        if self._known is not None:
            known = self._known._find(found, found)
            return self._find(known, found)
        return self._find(found, found)

    def _find(self, places: vec[sum64], positions: vec[sum64]) -> vec[sum64]:
        """Return the rows of positions; ``places``: the same, with ``known`` the rows there."""
        pages, rows = self._pages, self._rows
        found = vec[sum64]([0] * len(places))
        for i in range(len(places)):
            at: i64 = places[i]
            page: int = pages[at >> _PAGE_BITS]
            one: int = rows[page + (at & _PAGE - 1)]
            if not one:
                one = self._add(positions[i], at) + 1
                rows = self._rows
            found[i] = one - 1
        return found

    def places(self) -> vec[sum64]:
        """Return zeros by row, to count with; a count clears them when it ends."""
        more = len(self.positions) - len(self._places)
        if more > 0:
            self._places = with_sums(self._places, more + _PAGE)
        return self._places

    @property
    def known(self) -> int:
        """Number of units that a history may know."""
        return len(self) if self._known is None else len(self._known)

    def virtual(self, lottery: Lottery, count: int) -> VirtualCanaries:
        """Return the virtual canaries of a lottery, the same for each test; older ones are dropped."""
        key = (lottery, count)
        if key not in self._virtual:
            self._virtual = {key: VirtualCanaries(self, lottery, count)}
        return self._virtual[key]

    def phase(self) -> float:
        """Return a number in [0, 1) well apart from those before, so that rare work is spread over ticks."""
        if self._known is not None:
            return self._known.phase()
        self._tests += 1
        return self._tests * _PHASE % 1.0

    def spend(self, now: float, cost: int) -> bool:
        """Return whether a test may do rare work at this tick: all tests together, ``BUDGET`` records' worth.

        Looks and rounds at surges that have to wait begin a tick later; that depends on no label.
        """
        if self._known is not None:
            return self._known.spend(now, cost)
        if now != self._spent_at:
            self._spent, self._spent_at = 0, now
        if self._spent and self._spent + cost > BUDGET:
            return False
        self._spent += cost
        return True
