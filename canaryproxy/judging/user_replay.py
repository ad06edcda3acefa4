"""The judge offline, by user: recorded requests in, the verdict of one metric's test out; and the A/A test.

One row is one request, in the order of time: ``t,user,variant,bad``. ``t`` is seconds or a date and time,
``user`` any text that tells users apart, ``variant`` is stable or canary, ``bad`` is 1 or 0. Rows before
``start`` are the users' history: there, all of them are on stable. A file is one step of a release, so a user
has one variant from ``start`` on.

The test is ``lottery.LotteryTest``, as in the proxy, with the whole α for one metric. The share of users on
the canary must be given: it is what the lottery drew with, and the file tells only how the draw came out.

The A/A test (``placebo_test``) uses stable's rows alone. It draws virtual canaries among the users, each by a
lottery of its own, and runs the same test on each. None of them differs from stable, so each alarm is a false
one.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from math import inf, isfinite, log
from typing import Any, Final, Literal

from mmh3 import mmh3_32_uintdigest

from canaryproxy.judging.evidence import Direction
from canaryproxy.judging.history import History
from canaryproxy.judging.lottery import LotteryTest, TestSettings
from canaryproxy.judging.replay import RowError, Time, header_of, texts, time_of
from canaryproxy.judging.units import Lottery, Units

USER_FIELDS: Final = ("t", "user", "variant", "bad")
"""The columns; any order."""
TICK: Final = 0.1
"""Seconds between two looks, as in the proxy."""
_FINEST: Final = 1_280_000
_ROOM: Final = 10
_WORDS: Final = {"0": False, "1": True, "false": False, "true": True}


@dataclass(frozen=True, slots=True)
class UserRow:
    """One recorded request."""

    t: float
    """Seconds."""
    label: Time
    """``t`` as it appears in the file."""
    user: str
    canary: bool
    bad: bool


@dataclass(frozen=True, slots=True)
class UserReplay:
    """The verdict that the proxy would have reached on these rows."""

    verdict: Literal["breach", "suspect", "ok"]
    log_evidence: float
    """Natural logarithm of the highest evidence of any part of the test, its stake taken off; at least 0."""
    limit: float
    """The ``log_evidence`` of a breach."""
    tripped_at: Time | None
    """``t`` of the row with which the breach came."""
    canary_requests: int
    """Requests of the canary until then; without a breach, all of them."""
    hurt: int
    """Users of the canary with a bad answer until then."""
    users: tuple[int, int]
    """Users of stable and of the canary that were compared."""
    stable: tuple[int, int]
    """Requests of stable, and the bad ones among them."""
    canary: tuple[int, int]
    difference: float | None
    """Canary rate less stable's, in excess of what was expected of the same users; 0..1."""
    error: float | None
    """Standard error of the difference, by users."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {"unit": "user", **asdict(self)}


@dataclass(frozen=True, slots=True)
class PlaceboTest:
    """How often the test raises an alarm where nothing differs."""

    tripped: int
    """Virtual canaries that would have tripped."""
    held: int
    """Virtual canaries that would have been held."""
    of: int
    log_evidence: float
    """Natural logarithm of the highest evidence against any of them; at least 0."""
    limit: float
    """The ``log_evidence`` of a breach."""
    users: int
    requests: int
    bad: int

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)


def settings_of(
    alpha: float, margin: float, direction: Direction, alpha_hold: float
) -> TestSettings:
    """Return the settings of one metric with the whole α. Raises ``ValueError`` for impossible values."""
    for name, value in (("alpha", alpha), ("alpha_hold", alpha_hold)):
        if not 0.0 < value < 1.0:
            raise ValueError(f"{name} must lie between 0 and 1, found {value!r}")
    if not 0.0 <= margin <= 1.0:
        raise ValueError(f"margin must lie between 0 and 1, found {margin!r}")
    return TestSettings(-log(alpha), -log(alpha_hold), margin, direction=direction)


def _lottery(users: int, weight: float) -> Lottery:
    """Return a lottery with room for that many users, so that nearly each has a position of its own."""
    if not 0.0 < weight < 100.0:
        raise ValueError(f"weight must lie between 0 and 100, found {weight!r}")
    size = max(_FINEST, _ROOM * users)
    return Lottery(0, min(max(round(size * weight / 100.0), 1), size - 1), size)


def replay_users(
    rows: Sequence[UserRow],
    weight: float,
    settings: TestSettings,
    start: float = -inf,
) -> UserReplay:
    """Judge recorded requests. ``weight`` is percent, ``start`` in seconds as ``t`` is.

    Raises ``ValueError`` if users of the canary are so many that the weight cannot be right.
    """
    users = {row.user for row in rows}
    on_canary = {row.user for row in rows if row.canary}
    lottery = _lottery(len(users), weight)
    if len(on_canary) > lottery.canary or len(users) - len(on_canary) > lottery.stable:
        raise ValueError(f"{len(on_canary)} users on the canary, too many for a weight of {weight}")
    units = Units()
    places = [iter(range(lottery.limit, lottery.last)), iter(range(lottery.limit))]
    rows_of = {
        user: units.row(next(places[user in on_canary]))
        for user in dict.fromkeys(r.user for r in rows)
    }
    history = History()
    judged = []
    for row in rows:
        if row.t >= start:
            judged.append(row)
        else:
            history.add((rows_of[row.user] << 1 | row.bad,))
    test = LotteryTest(lottery, units, settings, judged[0].t if judged else 0.0, history)
    suspect, tripped, asked, hurt, best = False, None, 0, set[str](), 0.0
    for tick, some in _ticks(judged):
        for row in some:
            test.add(rows_of[row.user], row.bad)
            if row.canary:
                asked += 1
                hurt |= {row.user} if row.bad else set()
        test.tick(tick)
        best = max(best, test.log_evidence)
        suspect = suspect or test.suspect
        if test.breach:
            tripped = some[-1].label
            break
    seen = test.estimate()
    return UserReplay(
        verdict="breach" if tripped is not None else "suspect" if suspect else "ok",
        log_evidence=best,
        limit=settings.log_limit,
        tripped_at=tripped,
        canary_requests=asked,
        hurt=len(hurt),
        users=(0, 0) if seen is None else seen.users,
        stable=(0, 0) if seen is None else seen.stable,
        canary=(0, 0) if seen is None else seen.canary,
        difference=None if seen is None else seen.difference,
        error=None if seen is None else seen.error,
    )


def placebo_test(
    rows: Sequence[UserRow], weight: float, settings: TestSettings, number: int
) -> PlaceboTest:
    """Test ``number`` virtual canaries with ``weight`` percent of the users of stable's rows."""
    rows = [row for row in rows if not row.canary]
    users = list(dict.fromkeys(row.user for row in rows))
    lottery = _lottery(len(users), weight)
    tripped = held = 0
    best = 0.0
    for lot in range(number):
        units = Units()
        rows_of = {
            user: units.row(mmh3_32_uintdigest(b"%d:" % lot + user.encode()) % lottery.last)
            for user in users
        }
        test = LotteryTest(lottery, units, settings, rows[0].t if rows else 0.0)
        suspect = False
        for tick, some in _ticks(rows):
            for row in some:
                test.add(rows_of[row.user], row.bad)
            test.tick(tick)
            best = max(best, test.log_evidence)
            suspect = suspect or test.suspect
            if test.breach:
                tripped += 1
                break
        held += suspect
    return PlaceboTest(
        tripped,
        held,
        number,
        best,
        settings.log_limit,
        len(users),
        len(rows),
        sum(r.bad for r in rows),
    )


def _ticks(rows: Sequence[UserRow]) -> Iterator[tuple[float, list[UserRow]]]:
    """Yield the rows of each tick with its end; ticks without rows are left out."""
    some: list[UserRow] = []
    end = -inf
    for row in rows:
        if row.t >= end:
            if some:
                yield end, some
            some, end = [], (row.t // TICK + 1.0) * TICK
        some.append(row)
    if some:
        yield end, some


def read_user_rows(lines: Iterable[str], start: float = -inf) -> list[UserRow]:
    """Return the rows of a CSV text given as lines. Raises ``RowError``.

    The first line that is not blank is the header; a file without a column ``variant`` is of stable alone.
    """
    reader = csv.reader(texts(lines), strict=True)
    order: list[str] | None = None
    rows: list[UserRow] = []
    sides: dict[str, bool] = {}
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            if order is None:
                order = header_of(cells, reader.line_num, USER_FIELDS, optional=("variant",))
                continue
            row = _row(order, cells, reader.line_num)
            if rows and row.t < rows[-1].t:
                raise RowError(reader.line_num, "t", str(row.label), "rows in the order of time")
            if row.t < start and row.canary:
                raise RowError(
                    reader.line_num, "variant", "canary", "stable before the step starts"
                )
            if row.t >= start and sides.setdefault(row.user, row.canary) != row.canary:
                raise RowError(
                    reader.line_num,
                    "user",
                    repr(row.user),
                    "each user on one variant for the whole step",
                )
            rows.append(row)
    except csv.Error as error:
        raise RowError(reader.line_num, None, str(error), "comma-separated values") from None
    if order is None:
        raise RowError(1, None, "no header", f"the columns {','.join(USER_FIELDS)}")
    return rows


def seconds_of(label: Time) -> float:
    """Return seconds for a number, or since 1970 for a date and time (UTC unless it says otherwise)."""
    if isinstance(label, str):
        at = datetime.fromisoformat(label)
        return (at if at.tzinfo else datetime.fromisoformat(f"{label}+00:00")).timestamp()
    return float(label)


def _row(order: list[str], cells: list[str], line: int) -> UserRow:
    if len(cells) != len(order):
        raise RowError(line, None, f"{len(cells)} values", f"{len(order)}: {','.join(order)}")
    values = dict(zip(order, cells, strict=True))
    label = time_of(values["t"], line)
    try:
        at = seconds_of(label)
    except ValueError:
        at = inf
    if not isfinite(at):
        raise RowError(
            line, "t", repr(values["t"]), "seconds, or a date such as 2026-01-31T12:00:00Z"
        )
    if not values["user"]:
        raise RowError(line, "user", "nothing", "a text that tells users apart")
    variant = values.get("variant", "stable")
    if variant not in ("stable", "canary"):
        raise RowError(line, "variant", repr(variant), "stable or canary")
    bad = _WORDS.get(values["bad"].lower())
    if bad is None:
        raise RowError(line, "bad", repr(values["bad"]), "0 or 1")
    return UserRow(at, label, values["user"], variant == "canary", bad)
