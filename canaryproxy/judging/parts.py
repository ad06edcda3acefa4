"""Work in parts: a generator that yields where other work may come in between. Its driver has the clock.

What it does, and in which order, does not depend on where it is interrupted.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

Result = TypeVar("Result")


def whole(parts: Generator[None, None, Result]) -> Result:
    """Do all parts at once, and return the result."""
    while True:
        try:
            next(parts)
        except StopIteration as end:
            result: Result = end.value
            return result
