"""The state file: the state that must survive a restart, whole or absent.

A save is acknowledged only when it is on the disk: the text goes to a file beside, which is flushed and
renamed over the old one, and the folder is flushed too. So a crash at any moment leaves the old state or the
new one, never a mixture. A file that cannot be verified is refused, with the reason: the caller then routes
to stable, because the file may have held a trip.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from canaryproxy.config.atomic import replace_file

_FORMAT = "canaryproxy-state"
_VERSION = 1
_MAX_BYTES = 64 * 1024 * 1024


class StateError(Exception):
    """A state file cannot be read or written; the text says why and what to do."""


class StateFile:
    """A JSON document at ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> dict[str, Any] | None:
        """Return the document saved last, or ``None`` if none ever was.

        Raises ``StateError`` for a file that is torn, stale in format, foreign or unreadable.
        """
        try:
            raw = self.path.read_bytes()[: _MAX_BYTES + 1]
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._refused(f"cannot be read: {error.strerror}") from None
        if len(raw) > _MAX_BYTES:
            raise self._refused("is too large")
        try:
            outer = json.loads(raw)
        except ValueError:  # UnicodeDecodeError and JSONDecodeError are both
            raise self._refused(
                "is not valid JSON (truncated, or not written by canaryproxy)"
            ) from None
        except RecursionError:
            raise self._refused("is nested too deeply: not written by canaryproxy") from None
        if not isinstance(outer, dict) or outer.get("format") != _FORMAT:
            raise self._refused("is not a state file of canaryproxy")
        if outer.get("version") != _VERSION:
            found = outer.get("version")
            raise self._refused(f"has version {found!r}, this canaryproxy reads version {_VERSION}")
        document = outer.get("state")
        if not isinstance(document, dict) or outer.get("sha256") != _digest(document):
            raise self._refused("has a checksum mismatch: truncated or edited")
        return document

    def save(self, document: dict[str, Any]) -> None:
        """Replace the document; returns when it is on the disk. Raises ``StateError``."""
        outer = {
            "format": _FORMAT,
            "version": _VERSION,
            "sha256": _digest(document),
            "state": document,
        }
        text = json.dumps(outer, indent=1, allow_nan=False).encode()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(self.path, text, mode=0o600)
        except OSError as error:
            raise StateError(
                f"the state file {self.path} cannot be written: {error.strerror}"
            ) from None

    def set_aside(self) -> Path:
        """Rename a refused file so that the next save does not destroy it; return its new name."""
        aside = self.path.with_name(f"{self.path.name}.refused")
        self.path.replace(aside)
        return aside

    def _refused(self, why: str) -> StateError:
        return StateError(
            f"the state file {self.path} {why}; all users go to stable until an operator resets the circuit"
        )


def _digest(document: dict[str, Any]) -> str:
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
