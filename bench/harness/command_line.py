"""What the command lines of the benchmarks share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from types import FrameType
from typing import NoReturn


def selection(known: Iterable[str]) -> Callable[[str], list[str]]:
    """Return an argparse type for comma-separated names, all of which are known."""
    all_names = list(known)

    def names(text: str) -> list[str]:
        chosen = text.split(",")
        unknown = [name for name in chosen if name not in all_names]
        if unknown:
            raise argparse.ArgumentTypeError(
                f"unknown: {', '.join(unknown)}; there are: {', '.join(all_names)}"
            )
        return chosen

    return names


def positive(text: str) -> int:
    """Return a whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def positive_float(text: str) -> float:
    """Return a number above 0."""
    number = float(text)
    if not number > 0:
        raise argparse.ArgumentTypeError("must be above 0")
    return number


def say(line: str) -> None:
    """Print a line of progress to standard error."""
    print(line, file=sys.stderr, flush=True)


def terminate(_number: int, _frame: FrameType | None) -> NoReturn:
    """Handle SIGTERM as Ctrl-C, so that everything that was started is stopped."""
    raise KeyboardInterrupt
