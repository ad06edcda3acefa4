"""W3C Trace Context: what a traceparent says, and how one is made.

https://www.w3.org/TR/trace-context-1/ (the Recommendation) and https://www.w3.org/TR/trace-context-2/. The
proxy records no spans: it passes both fields on as they are, reads the trace id, and begins a trace only if
it is asked to (``trace.create``).
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Final, NamedTuple

_TRACEPARENT = re.compile(
    rb"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<parent>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})"
    rb"(?P<more>-.*)?",
    re.DOTALL,
)
NO_TRACE: Final = b"0" * 32
NO_PARENT: Final = b"0" * 16
_SAMPLED: Final = 0x01

MADE_LINE: Final = b"traceparent: 00-"
"""How the line of a trace that begins here begins; the trace id follows."""


class TraceContext(NamedTuple):
    """What a valid traceparent says."""

    trace_id: bytes
    """32 hex digits in lower case, not all zero."""
    sampled: bool
    """The caller may have recorded the trace."""


def read(values: Sequence[bytes]) -> TraceContext | None:
    """Return what the traceparent fields of a request say; ``None`` for none, several, or an invalid one.

    Versions after 00 are read as far as version 00 reaches (§4.3); ff is no version.
    """
    if len(values) != 1:
        return None
    match = _TRACEPARENT.fullmatch(values[0])
    if match is None or match["version"] == b"ff" or (match["version"] == b"00" and match["more"]):
        return None
    if match["trace"] == NO_TRACE or match["parent"] == NO_PARENT:
        return None
    return TraceContext(match["trace"], bool(int(match["flags"], 16) & _SAMPLED))


def made_line() -> bytes:
    """Return a traceparent line with CRLF that begins a trace.

    Not sampled, for nothing is recorded here. Ids must be unique, not secret.
    """
    trace, parent = random.getrandbits(128) or 1, random.getrandbits(64) or 1
    return b"%b%032x-%016x-00\r\n" % (MADE_LINE, trace, parent)
