"""W3C Trace Context: reading and making traceparent fields.

https://www.w3.org/TR/trace-context-1/ (the Recommendation) and https://www.w3.org/TR/trace-context-2/. The
proxy records no spans: it forwards both fields unchanged, reads the trace id, and starts traces only with
``trace.create``.
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

NEW_LINE: Final = b"traceparent: 00-"
"""The beginning of a traceparent line made here; the trace id follows."""


class TraceContext(NamedTuple):
    """The content of a valid traceparent."""

    trace_id: bytes
    """32 hex digits in lower case, not all zero."""
    sampled: bool
    """The caller may have recorded the trace."""


def read(values: Sequence[bytes]) -> TraceContext | None:
    """Return the trace context of a request; ``None`` without a traceparent, or if it is repeated or invalid.

    Of versions above 00 the part that version 00 defines is read (§4.3); ff is not a version.
    """
    if len(values) != 1:
        return None
    match = _TRACEPARENT.fullmatch(values[0])
    if match is None or match["version"] == b"ff" or (match["version"] == b"00" and match["more"]):
        return None
    if match["trace"] == NO_TRACE or match["parent"] == NO_PARENT:
        return None
    return TraceContext(match["trace"], bool(int(match["flags"], 16) & _SAMPLED))


def new_line() -> bytes:
    """Return a traceparent line with CRLF that starts a trace.

    Not sampled, because nothing is recorded here. Ids must be unique, but need not be secret.
    """
    trace, parent = random.getrandbits(128) or 1, random.getrandbits(64) or 1
    return b"%b%032x-%016x-00\r\n" % (NEW_LINE, trace, parent)
