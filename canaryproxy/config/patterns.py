"""Regular expressions whose cost is linear in the text, whatever pattern and text are: RE2.

With a backtracking engine a pattern such as ``(a+)+$`` and 40 bytes of a client or an upstream would stop
the event loop for hours. RE2 (https://github.com/google/re2/wiki/WhyRE2) has no look-around and no
backreferences.

Linear is not yet cheap: where its states do not fit into memory RE2 follows each of them, and a byte of the
text costs up to 2 ns for each instruction of the pattern. ``.{0,100}`` is 300 instructions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import re2

MEMORY: Final = 1 << 20
"""Bytes that a pattern may take, compiled and while it searches."""
MOST_INSTRUCTIONS: Final = 1000
"""Instructions of a compiled pattern: what a byte of a text may cost."""


def searcher(pattern: str) -> Callable[[bytes], bool]:
    """Return what tells whether a pattern is found in a text.

    Both are bytes: the pattern's are its UTF-8. Raises ``ValueError`` for what RE2 does not take, and for
    more than ``MOST_INSTRUCTIONS``.
    """
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
        message = f"too large: {size:,} instructions, {MOST_INSTRUCTIONS:,} are allowed"
        raise ValueError(f"{message}; repeat less in braces")
    search = compiled.search
    return lambda text: search(text) is not None


def _words(error: Exception) -> str:
    said = error.args[0] if error.args else ""
    return said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
