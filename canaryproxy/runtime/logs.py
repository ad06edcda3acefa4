"""The proxy's own log: one line an entry, as text or as JSON, whatever a message contains.

(python-json-logger was considered: most of it is not needed, and the text form needs escaping too.)
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import warnings
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal

Format = Literal["text", "json"]


def configure(form: Format = "text", level: int = logging.INFO) -> None:
    """Log to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # watchfiles logs every change in a watched folder, and the log itself may be in one.
    logging.getLogger("watchfiles").setLevel(logging.WARNING)


def capture() -> None:
    """Log what Python itself would print: warnings, and exceptions that nothing catches."""
    warnings.showwarning = _log_warning
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda caught: _log_uncaught(
        caught.exc_type, caught.exc_value or caught.exc_type(), caught.exc_traceback
    )
    sys.unraisablehook = lambda caught: _log_uncaught(
        caught.exc_type, caught.exc_value or caught.exc_type(), caught.exc_traceback
    )


def name_process(name: str) -> None:
    """Let every line say which process of several wrote it, for instance ``worker 2``."""
    _Lines.process = name


def _log_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any, **__: Any
) -> None:
    log = logging.getLogger("py.warnings")
    log.warning("%s: %s (%s:%d)", category.__name__, message, filename, lineno)


def _log_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        log = logging.getLogger("canaryproxy")
        log.critical("uncaught %s: %s", kind.__name__, error, exc_info=(kind, error, trace))


class _Lines(logging.Formatter):
    process = ""
    """``name_process``."""


class TextLines(_Lines):
    """``2026-03-01T12:00:00.123Z INFO tripped: errors: …``; control characters are escaped.

    A process of several names itself: ``… WARNING [worker 2] request 4f…``. What concerns one of several
    services names it: ``… ERROR service=cart tripped at 5%: …``.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return one line; a traceback follows in lines of its own that begin with a space."""
        who = f"[{self.process}] " if self.process else ""
        service = getattr(record, "service", None)
        of = "" if service is None else f"service={service} "
        line = f"{_time(record)} {record.levelname} {who}{of}{_escaped(record.getMessage())}"
        if record.exc_info:
            trace = self.formatException(record.exc_info)
            line += "".join(f"\n  {_escaped(part)}" for part in trace.splitlines())
        return line


class JsonLines(_Lines):
    """A JSON object a line: time, level, logger, message, and process and service if there are several.

    Transitions of the release add ``record``; other events add what they are and their figures (``fields``).
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return one line of ASCII."""
        entry: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if self.process:
            entry["process"] = self.process
        if (service := getattr(record, "service", None)) is not None:
            entry["service"] = service
        entry |= getattr(record, "fields", {})
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
