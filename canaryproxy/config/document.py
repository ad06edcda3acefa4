"""YAML text to plain values, with the place of each.

YAML 1.1's surprises are left out on purpose: only ``true`` and ``false`` are booleans (``yes`` and ``on`` are
text), ``10:30`` is text, dates are text. Duplicate keys, tags and endless aliases are problems.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from canaryproxy.config.problems import Path, Problem

MAX_NODES = 20_000
"""More values than any real configuration has: an alias bomb."""
MAX_DEPTH = 32

_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)(?:[eE][-+]?[0-9]{1,3})?")


@dataclass
class Document:
    """A parsed file: ``value``, and where things stand (line and column from 1)."""

    file: str
    value: Any = None
    problems: list[Problem] = field(default_factory=list)
    values: dict[Path, tuple[int, int]] = field(default_factory=dict)
    """Where the value at a path begins."""
    keys: dict[Path, tuple[int, int]] = field(default_factory=dict)
    """Where the key of a path begins."""

    def problem(self, path: Path, message: str, *, at_key: bool = False) -> Problem:
        """Return a problem at a path, or at the nearest place above it that exists in the file."""
        places = (self.keys, self.values) if at_key else (self.values, self.keys)
        for length in range(len(path), -1, -1):
            for table in places:
                if (place := table.get(path[:length])) is not None:
                    return Problem(self.file, *place, path, message)
        return Problem(self.file, 1, 1, path, message)


def read(text: str, file: str) -> Document:
    """Read YAML; what cannot be read is in ``problems``. Never raises."""
    document = Document(file)
    try:
        root = yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        what = (error.problem or error.context or "malformed").strip()
        document.problems.append(Problem(file, line, column, (), f"not valid YAML: {what}"))
        return document
    except yaml.reader.ReaderError as error:
        before = text[: error.position] if isinstance(error.position, int) else ""
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        message = f"not valid YAML: character U+{_code(error.character):04X} is not allowed"
        document.problems.append(Problem(file, line, column, (), message))
        return document
    except RecursionError:
        document.problems.append(Problem(file, 1, 1, (), "not valid YAML: nested too deeply"))
        return document
    if root is not None:
        document.value = _Reader(document).value(root, ())
    return document


class _Reader:
    def __init__(self, document: Document) -> None:
        self._document = document
        self._count = 0
        self._open: set[int] = set()

    def value(self, node: Node, path: Path) -> Any:
        document = self._document
        place = (node.start_mark.line + 1, node.start_mark.column + 1)
        document.values.setdefault(path, place)
        self._count += 1
        if self._count > MAX_NODES or len(path) > MAX_DEPTH or id(node) in self._open:
            if self._count <= MAX_NODES + 1:
                self._count = MAX_NODES + 1
                self._problem(place, path, "aliases or nesting make this file too large")
            return None
        if isinstance(node, ScalarNode):
            return self._scalar(node, place, path)
        if node.tag not in ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"):
            self._problem(place, path, f"the tag {node.tag} is not allowed")
            return None
        self._open.add(id(node))
        try:
            if isinstance(node, MappingNode):
                return self._mapping(node, path)
            assert isinstance(node, SequenceNode)
            return tuple(self.value(item, (*path, at)) for at, item in enumerate(node.value))
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: MappingNode, path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            place = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            if not isinstance(key_node, ScalarNode):
                self._problem(place, path, "a key must be a name, found a list or a mapping")
                continue
            key = str(key_node.value)
            here = (*path, key)
            if key in found:
                first = self._document.keys[here][0]
                self._problem(place, here, f"duplicate key {key!r}, first on line {first}")
                continue
            self._document.keys[here] = place
            found[key] = self.value(value_node, here)
        return found

    def _scalar(self, node: ScalarNode, place: tuple[int, int], path: Path) -> Any:
        text = str(node.value)
        if node.tag != "tag:yaml.org,2002:str":
            if node.tag.startswith("!") or "python" in node.tag or "binary" in node.tag:
                self._problem(place, path, f"the tag {node.tag} is not allowed")
                return None
        elif node.style is not None:
            return text  # quoted: text, whatever it looks like
        if text in ("", "~", "null", "Null", "NULL"):
            return None
        if text in ("true", "True", "TRUE"):
            return True
        if text in ("false", "False", "FALSE"):
            return False
        if _INT.fullmatch(text):
            return int(text)
        if _FLOAT.fullmatch(text):
            return float(text)
        return text

    def _problem(self, place: tuple[int, int], path: Path, message: str) -> None:
        self._document.problems.append(Problem(self._document.file, *place, path, message))


def _code(character: int | str) -> int:
    return character if isinstance(character, int) else ord(character)
