"""Taking one part out of the test: what remains shows what the part gives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final, Literal
from unittest.mock import patch

from canaryproxy.judging import rounds
from canaryproxy.judging.rounds import Schedule
from canaryproxy.judging.surge import Surges

Part = Literal["", "A", "C", "B", "surge", "clock", "history"]
ALL: Final = ""
PARTS: Final[tuple[Part, ...]] = ("A", "C", "B", "surge", "clock", "history")
NONE = 1e-300
"""A stake that nothing is won with."""
_BETS: Final = ("A", "C", "B")
_STAKES: Final = ("MAIN", "SURGE", "CLOCK", "RESUMED")


@contextmanager
def without(part: Part) -> Iterator[None]:
    """Take a part out of all tests that run meanwhile; its stake goes to the others. Not history."""
    if part != ALL and not str(rounds.__file__).endswith(".py"):
        raise RuntimeError(
            "parts can be taken out of plain Python only: compiled constants are fixed"
        )
    with ExitStack() as stack:
        if part in _BETS:
            at = _BETS.index(part)
            shares = {
                kind: tuple(NONE if n == at and share else share for n, share in enumerate(of_kind))
                for kind, of_kind in rounds.PARTS.items()
            }
            stack.enter_context(patch.dict(rounds.PARTS, shares))
        elif part in ("surge", "clock"):
            gone = rounds.SURGE if part == "surge" else rounds.CLOCK
            stakes = {name: getattr(rounds, name) / (1.0 - gone) for name in _STAKES}
            stakes[part.upper()] = NONE
            stack.enter_context(patch.multiple(rounds, **stakes))
            never: Any = property(lambda _: 0) if part == "surge" else lambda _self, _now: False
            owner, name = (Surges, "length") if part == "surge" else (Schedule, "clock")
            stack.enter_context(patch.object(owner, name, never))
        yield
