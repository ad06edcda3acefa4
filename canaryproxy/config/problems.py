"""What is wrong with a configuration, said so that it can be mended."""

from __future__ import annotations

from dataclasses import dataclass

Path = tuple[str | int, ...]
"""The way to a value: keys and indexes from the top of the file."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake: where it is (line and column from 1), and what was found and what is allowed."""

    file: str
    line: int
    column: int
    path: Path
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}: "
        return where + (f"{dotted(self.path)}: " if self.path else "") + self.message


class ConfigError(ValueError):
    """A configuration that cannot be used; ``problems`` holds every mistake, in order of place."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


def dotted(path: Path) -> str:
    """Return a path as people write it: ``variants.stable.endpoints[0]``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def shown(value: object) -> str:
    """Return a value as it may be shown in a message: short, on one line."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, (tuple, list)):
        return "a list"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
