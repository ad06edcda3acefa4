"""The proxy's own log: one line an entry, as text or as JSON, whatever a message contains.

(python-json-logger was considered: most of it is not needed, and the text form needs escaping too.)
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal

Format = Literal["text", "json"]


def configure(form: Format = "text", level: int = logging.INFO) -> None:
    """Log to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # watchfiles logs every change in a watched folder, and the log itself may be in one.
    logging.getLogger("watchfiles").setLevel(logging.WARNING)


class TextLines(logging.Formatter):
    """``2026-03-01T12:00:00.123Z INFO tripped: errors: …``; control characters are escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line; a traceback follows in lines of its own that begin with a space."""
        line = f"{_time(record)} {record.levelname} {_escaped(record.getMessage())}"
        if record.exc_info:
            trace = self.formatException(record.exc_info)
            line += "".join(f"\n  {_escaped(part)}" for part in trace.splitlines())
        return line


class JsonLines(logging.Formatter):
    """A JSON object a line: time, level, logger, message; transitions of the release add ``record``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line of ASCII."""
        entry = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (transition := getattr(record, "record", None)) is not None:
            entry["record"] = transition
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


def _time(record: logging.LogRecord) -> str:
    """Return the time as RFC 3339, UTC, to the millisecond."""
    moment = datetime.fromtimestamp(record.created, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z"


def _escaped(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
