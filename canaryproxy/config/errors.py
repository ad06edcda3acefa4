"""Errors of the configuration, with their position in the file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

Path = tuple[str | int, ...]
"""Path of a value: keys and indexes from the top of the file."""

_PLAIN_KEY = re.compile(r"[A-Za-z0-9_<-]+")


@dataclass(frozen=True, slots=True)
class Problem:
    """One error and its position; ``str()`` is ``file:line:column: path.to[0].field: message``."""

    file: str
    """Name of the file, as given to ``parse``."""
    line: int
    """From 1."""
    column: int
    """From 1, in characters."""
    path: Path
    """Path of the field; empty for an error of the whole file."""
    found: str
    """The value at that position, shortened to one line; empty if there is none."""
    message: str
    """What was found and what is allowed, in one line."""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}: "
        return where + (f"{dotted(self.path)}: " if self.path else "") + self.message


class ConfigError(ValueError):
    """The configuration is invalid; ``problems`` holds every error, in order of position."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


def dotted(path: Path) -> str:
    """Return a path as text, such as ``variants.stable.endpoints[0]``; unusual keys are quoted."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif _PLAIN_KEY.fullmatch(part):
            text += f".{part}" if text else part
        else:
            text += f"[{shown(part)}]"
    return text


def shown(value: object) -> str:
    """Return a value for a message: shortened, in one line."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, (tuple, list)):
        return "a list"
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def closest(word: str, known: Sequence[str]) -> str | None:
    """Return the known word that was most likely meant, or ``None``."""
    from difflib import get_close_matches  # noqa: PLC0415 - only mistakes need it

    return next(iter(get_close_matches(word, known, 1)), None)
