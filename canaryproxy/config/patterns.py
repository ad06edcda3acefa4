"""Regular expressions in RE2, whose cost is linear in the length of the text for every pattern.

In a backtracking engine a pattern such as ``(a+)+$`` and 40 bytes from a client or an upstream would block
the event loop for hours. RE2 (https://github.com/google/re2/wiki/WhyRE2) has no look-around and no
backreferences.

Linear is not yet cheap: if its automaton does not fit into memory, RE2 simulates the states one by one, and
each byte of the text costs up to 2 ns for each instruction of the pattern. ``.{0,100}`` has 300 instructions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

MEMORY: Final = 1 << 20
"""Bytes for a compiled pattern and its search."""
MOST_INSTRUCTIONS: Final = 1000
"""Instructions of a compiled pattern, which bound the cost of each byte of a text."""


def searcher(pattern: str) -> Callable[[bytes], bool]:
    """Return a function that tells whether the pattern matches anywhere in a text.

    Both are matched as bytes, the pattern as UTF-8. Raises ``ValueError`` for a pattern that RE2 rejects, and
    for one of more than ``MOST_INSTRUCTIONS``.
    """
    import re2  # noqa: PLC0415 - 3 MiB of memory that few configurations need

    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.max_mem = MEMORY
    options.never_capture = True
    options.log_errors = False
    try:
        compiled = re2.compile(pattern.encode(), options)
    except re2.error as error:
        raise ValueError(_words(error)) from None
    size = max(compiled.programsize, compiled.reverseprogramsize)
    if size > MOST_INSTRUCTIONS:
        message = f"too large: {size:,} instructions, at most {MOST_INSTRUCTIONS:,} are allowed"
        raise ValueError(f"{message}; lower the repetitions in braces")
    search = compiled.search
    return lambda text: search(text) is not None


def _words(error: Exception) -> str:
    said = error.args[0] if error.args else ""
    return said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
