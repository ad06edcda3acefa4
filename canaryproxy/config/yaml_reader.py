"""YAML text to plain values, with the position of each.

Plain scalars follow the core schema of YAML 1.2, without the surprises of YAML 1.1: only ``true`` and
``false`` are booleans (``yes`` and ``on`` are text), ``10:30`` is text, dates are text. Duplicate keys, tags
of other types, merge keys and recursive aliases are problems.
"""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from canaryproxy.config import variables, yaml_fast
from canaryproxy.config.errors import Path, Problem, shown
from canaryproxy.config.yaml_errors import Place, explain
from canaryproxy.config.yaml_parts import (
    Composer,
    ComposerError,
    MappingNode,
    MarkedYAMLError,
    Node,
    ReaderError,
    Resolver,
    SafeLoader,
    ScalarNode,
)

MAX_CHARACTERS = 1_000_000
"""Largest configuration: a thousand services with a release each."""
MAX_BYTES = 4 * MAX_CHARACTERS
"""Its largest encoding in UTF-8."""
MAX_VALUES = 100_000
"""No real configuration has more values; a file of aliases that multiply ("billion laughs") has."""
MAX_DEPTH = 32

_LARGE = 16_384
"""Characters from which on libyaml is worth its loading."""

_Found = TypeVar("_Found")

_TAG = "tag:yaml.org,2002:"
_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(
    r"[-+]?(?:[0-9]{1,300}(?:\.[0-9]{0,300})?|\.[0-9]{1,300})(?:[eE][-+]?[0-9]{1,3})?"
)
_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass
class ParsedYaml:
    """A parsed file: ``value`` (mappings, tuples and scalars) and the positions in the file."""

    file: str
    value: Any = None
    problems: list[Problem] = field(default_factory=list)
    invalid: list[Path] = field(default_factory=list)
    """Paths of values with a problem; the value there is ``None``."""
    values: dict[Path, Place] = field(default_factory=dict)
    """Position of the value at a path."""
    keys: dict[Path, Place] = field(default_factory=dict)
    """Position of the key of a path."""
    references: dict[Path, str] = field(default_factory=dict)
    """Values with environment variables, as they are written."""

    def problem(
        self, path: Path, message: str, *, found: str = "", at_key: bool = False
    ) -> Problem:
        """Return a problem at a path, or at the nearest section around it that exists in the file."""
        places = (self.keys, self.values) if at_key else (self.values, self.keys)
        for length in range(len(path), -1, -1):
            for table in places:
                if (place := table.get(path[:length])) is not None:
                    return Problem(self.file, *place, path, found, message)
        return Problem(self.file, 1, 1, path, found, message)


def read(text: str, file: str, environment: Mapping[str, str] = os.environ) -> ParsedYaml:
    """Read YAML, with variables of ``environment``; errors are in ``problems``. Never raises."""
    source = ParsedYaml(file)
    try:
        root = _compose(text)
        if root is not None:
            source.value = _Reader(source, environment).value(root, ())
    except Unreadable as error:
        source.value = None
        source.problems = [Problem(file, *error.place, error.path, "", str(error))]
    return source


def with_value(text: str, path: Path, value: str) -> str | None:
    """Return YAML with another text as the value at ``path``, and not a character changed elsewhere.

    ``None`` if nothing is written there, or what is written there stands elsewhere too (an alias).
    """
    anything: Mapping[str, str] = defaultdict(str)  # the variables are those of another machine
    before = read(text, "", anything)
    if path not in before.values:
        return None
    node = _compose(text)
    for key in path:
        pairs = node.value if isinstance(node, MappingNode) else ()
        node = next((inner for outer, inner in pairs if outer.value == key), None)
    if not isinstance(node, ScalarNode):
        return None
    changed = text[: node.start_mark.index] + json.dumps(value) + text[node.end_mark.index :]
    after = read(changed, "", anything)
    return changed if after.value == _put(before.value, path, value) else None


def _put(tree: Any, path: Path, value: str) -> Any:
    return {**tree, path[0]: _put(tree[path[0]], path[1:], value)} if path else value


class Unreadable(Exception):
    """An error after which nothing of the file can be used; ``place`` and ``path`` say where it is."""

    def __init__(self, message: str, place: Place = (1, 1), path: Path = ()) -> None:
        super().__init__(message)
        self.place = place
        self.path = path


class BoundedComposer(Composer, Resolver):
    """PyYAML's composer with the scalars of YAML 1.2 and a limit on nesting; a parser is to be added."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012
    _depth = 0

    if TYPE_CHECKING:

        def peek_event(self) -> Any:
            """Return the next event of the parser."""

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        """Compose one value and everything in it."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            mark = self.peek_event().start_mark
            raise ComposerError(None, None, f"nested deeper than {MAX_DEPTH} levels", mark)
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


for _kind, _pattern in (("null", _NULL), ("bool", _BOOL), ("int", _INT), ("float", _FLOAT)):
    BoundedComposer.add_implicit_resolver(
        _TAG + _kind, re.compile(rf"(?:{_pattern.pattern})\Z"), None
    )


class _Loader(BoundedComposer, SafeLoader):
    """That composer over PyYAML's own parser."""


def _compose(text: str) -> Node | None:
    if _LARGE < len(text) <= MAX_CHARACTERS and (found := yaml_fast.compose(text, BoundedComposer)):
        return found
    return _parse(text, lambda loader: loader.get_single_node())


def documents(text: str) -> list[Node]:
    """Return the documents of a YAML file, empty ones apart. Raises ``Unreadable``."""

    def all_of(loader: _Loader) -> list[Node]:
        found: list[Node] = []
        while loader.check_node():
            if (node := loader.get_node()) is not None:
                found.append(node)
        return found

    return _parse(text, all_of)


def _parse(text: str, compose: Callable[[_Loader], _Found]) -> _Found:
    if len(text) > MAX_CHARACTERS:
        raise Unreadable(f"the file is larger than {MAX_CHARACTERS:,} characters")
    try:
        loader = _Loader(text)
    except ReaderError as error:
        breaks = list(_BREAK.finditer(text, 0, error.position))
        begin = breaks[-1].end() if breaks else 0
        code = error.character if isinstance(error.character, int) else ord(error.character)
        raise Unreadable(
            f"not valid YAML: character U+{code:04X} is not allowed",
            (len(breaks) + 1, error.position - begin + 1),
        ) from None
    try:
        return compose(loader)
    except MarkedYAMLError as error:
        mark = loader.get_mark()
        message, place = explain(error, text, (mark.line + 1, mark.column + 1))
        raise Unreadable(message, place) from None
    except (ValueError, OverflowError):  # "\UFFFFFFFF"
        mark = loader.get_mark()
        raise Unreadable(
            "not valid YAML: the escape is not a Unicode character",
            (mark.line + 1, mark.column + 1),
        ) from None
    finally:
        loader.dispose()


def plain(tag: str, text: str) -> str | int | float | bool | None:
    """Return the value of a scalar with a resolved tag. Raises ``ValueError`` if they do not fit."""
    kind = tag.removeprefix(_TAG)
    if kind == "str":
        return text
    if kind == "null" and _NULL.fullmatch(text):
        return None
    if kind == "bool" and _BOOL.fullmatch(text):
        return text.lower() == "true"
    if kind == "int" and _INT.fullmatch(text):
        return int(text)
    if kind == "float" and _FLOAT.fullmatch(text):
        return float(text)
    raise ValueError(kind)


def _place(node: Node) -> Place:
    return node.start_mark.line + 1, node.start_mark.column + 1


class _Reader:
    def __init__(self, source: ParsedYaml, environment: Mapping[str, str]) -> None:
        self._source = source
        self._environment = environment
        self._count = 0
        self._open: set[int] = set()

    def value(self, node: Node, path: Path) -> Any:
        place = _place(node)
        self._source.values.setdefault(path, place)
        self._count += 1
        if self._count > MAX_VALUES or len(path) > MAX_DEPTH:
            raise Unreadable(
                f"aliases expand this file to more than {MAX_VALUES:,} values or {MAX_DEPTH} levels",
                place,
                path[:1],
            )
        if id(node) in self._open:
            return self._refuse(place, path, "the alias refers to a value that contains it")
        if isinstance(node, ScalarNode):
            return self._scalar(node, path)
        if node.tag not in (f"{_TAG}map", f"{_TAG}seq"):
            return self._refuse_tag(node, path)
        self._open.add(id(node))
        try:
            if isinstance(node, MappingNode):
                return self._mapping(node.value, path)
            return tuple(self.value(item, (*path, at)) for at, item in enumerate(node.value))
        finally:
            self._open.discard(id(node))

    def _mapping(self, pairs: Sequence[tuple[Node, Node]], path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in pairs:
            place = _place(key_node)
            if not isinstance(key_node, ScalarNode):
                self._problem(place, path, "expected a name as the key, found a list or a mapping")
                continue
            key = str(key_node.value)
            here = (*path, key)
            if key_node.tag.removeprefix(_TAG) not in ("str", "int", "float", "bool", "null"):
                self._problem(
                    place, path, f"the tag {_short(key_node.tag)} is not allowed on a key"
                )
            elif _SURROGATE.search(key):
                self._problem(place, path, f"unpaired surrogate in the key {shown(key)}")
            elif key == "<<" and not key_node.style:
                self._problem(
                    place,
                    here,
                    "merge keys (<<) are not supported; use an alias for the whole value",
                )
            elif key in found:
                first = self._source.keys[here][0]
                self._problem(place, here, f"duplicate key {shown(key)}, already on line {first}")
            else:
                self._source.keys[here] = place
                found[key] = self.value(value_node, here)
        return found

    def _scalar(self, node: ScalarNode, path: Path) -> Any:
        text = str(node.value)
        if node.tag == f"{_TAG}str":
            if _SURROGATE.search(text):
                message = f"unpaired surrogate in {shown(text)}"
                return self._refuse(_place(node), path, message)
            if "${" in text and variables.allowed_at(path):
                return self._expand(node, path, text)
            return text
        try:
            return plain(node.tag, text)
        except ValueError:
            return self._refuse_tag(node, path)

    def _expand(self, node: Node, path: Path, text: str) -> str | None:
        self._source.references[path] = text
        try:
            return variables.expand(text, self._environment)
        except ValueError as error:
            self._refuse(_place(node), path, str(error))
            return None

    def _refuse_tag(self, node: Node, path: Path) -> None:
        known = isinstance(node, ScalarNode) and node.tag.removeprefix(_TAG) in (
            "null", "bool", "int", "float",
        )  # fmt: skip
        end = f"does not fit {shown(str(node.value))}" if known else "is not allowed"
        self._refuse(_place(node), path, f"the tag {_short(node.tag)} {end}")

    def _refuse(self, place: Place, path: Path, message: str) -> None:
        self._source.invalid.append(path)
        self._problem(place, path, message)

    def _problem(self, place: Place, path: Path, message: str) -> None:
        self._source.problems.append(Problem(self._source.file, *place, path, "", message))


def _short(tag: str) -> str:
    return shown(tag.replace(_TAG, "!!", 1))[1:-1]
