"""The source of an import as a tree: each value with its place, and whether it was read.

Sources in YAML, JSON and TOML become the same tree. A key that nothing reads has no equivalent, and is
reported as such; so a key that an importer does not know cannot get lost.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from canaryproxy.config.errors import ConfigError, Path, Problem, dotted, shown
from canaryproxy.config.yaml_parts import MappingNode, Node, ScalarNode
from canaryproxy.config.yaml_reader import MAX_CHARACTERS, MAX_DEPTH, Unreadable, documents, plain

MAX_VALUES: Final = 100_000
"""A file has fewer values; one of aliases that multiply has more."""
_HELM = re.compile(
    r"\{\{-?\s*(?:\.Values|\.Release|\.Chart|\.Capabilities|\.Files|include |template |toYaml |tpl |\$|"
    r"(?:if|range|with|define|else|end)\b|/\*)|\{%"
)
_TOML_ERROR = re.compile(r"(.*) \(at line (\d+), column (\d+)\)")
_TOML_TABLE = re.compile(r"\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(?:#.*)?")
_TOML_KEY = re.compile(r"\s*((?:[A-Za-z0-9_-]+|\"[^\"]*\"|'[^']*')(?:\.[A-Za-z0-9_-]+)*)\s*=")
_TOML_PART = re.compile(r"\"([^\"]*)\"|'([^']*)'|([A-Za-z0-9_-]+)")
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|us|µs|ns|[smhdwMy])")
_SECONDS: Final = {
    "ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0,
    "d": 86400.0, "w": 7 * 86400.0, "M": 30 * 86400.0, "y": 365 * 86400.0,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Place:
    """Where something of the source is."""

    file: str
    line: int
    column: int
    path: Path = ()

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"

    def error(self, message: str, found: object = None) -> ConfigError:
        """Return the error of what is wrong here."""
        what = "" if found is None else shown(found)
        return ConfigError((Problem(self.file, self.line, self.column, self.path, what, message),))


class Field:
    """A value of the source."""

    __slots__ = ("_read", "_whole", "place", "value")

    def __init__(self, value: Any, place: Place) -> None:
        self.value: Any = value
        """A scalar, a ``dict`` of fields or a ``list`` of fields."""
        self.place = place
        self._read: set[str | int] = set()
        self._whole = False

    @property
    def name(self) -> str:
        """The end of the path, as people write it: from the last list on."""
        path = self.place.path
        lists = [at for at, part in enumerate(path[:-1]) if isinstance(part, int)]
        begin = max(lists[-1] - 1, 0) if lists else (len(path) - 2 if len(path) > 3 else 0)
        return dotted(path[begin:])

    def get(self, *keys: str) -> Field | None:
        """Return the value below some keys; ``None`` if one is missing or null."""
        here: Field | None = self
        for key in keys:
            if here is None:
                return None
            here = here._one(key)
        return here

    def need(self, *keys: str) -> Field:
        """Return the value below some keys, or fail."""
        here = self
        for key in keys:
            found = here._one(key)
            if found is None:
                known = ", ".join(here.value) if isinstance(here.value, dict) else ""
                raise here.place.error(
                    f"expected the key {key!r}, found {known or shown(here.value)}"
                )
            here = found
        return here

    def _one(self, key: str) -> Field | None:
        if not isinstance(self.value, dict):
            raise self.place.error(f"expected a mapping, found {shown(self.value)}", self.value)
        self._read.add(key)
        found: Field | None = self.value.get(key)
        return None if found is None or found.value is None else found

    def has(self, key: str) -> bool:
        """Tell whether a key is there, without reading it."""
        return isinstance(self.value, dict) and key in self.value

    def items(self, key: str | None = None) -> list[Field]:
        """Return the items of a list; none if there is no such key."""
        here = self if key is None else self.get(key)
        if here is None:
            return []
        if not isinstance(here.value, list):
            raise here.place.error(f"expected a list, found {shown(here.value)}", here.value)
        here._read.update(range(len(here.value)))
        return list(here.value)

    def items_of(self, *keys: str) -> list[Field]:
        """Return the items of a list below some keys; none if one is missing."""
        found = self.get(*keys)
        return [] if found is None else found.items()

    def entries(self, *keys: str) -> dict[str, Field]:
        """Return the keys and values of a mapping; none if there is no such key."""
        here = self.get(*keys)
        if here is None:
            return {}
        if not isinstance(here.value, dict):
            raise here.place.error(f"expected a mapping, found {shown(here.value)}", here.value)
        here._read.update(here.value)
        return dict(here.value)

    def forget(self) -> None:
        """Count this and all in it as not read."""
        self._read.clear()
        self._whole = False
        inner = self.value
        if isinstance(inner, dict):
            inner = list(inner.values())
        for one in inner if isinstance(inner, list) else ():
            one.forget()

    def take(self, *keys: str) -> None:
        """Count these keys, or all of this, as read: they say nothing that is to be imported."""
        if not keys:
            self._whole = True
        for key in keys:
            if (found := self.get(key)) is not None:
                found._whole = True

    def text(self) -> str:
        """Return a text; numbers and booleans as they are written in JSON."""
        if isinstance(self.value, (dict, list)) or self.value is None:
            raise self.place.error(f"expected text, found {shown(self.value)}", self.value)
        return str(self.value).lower() if isinstance(self.value, bool) else str(self.value)

    def number(self, least: float = 0.0, most: float = 1e9) -> float:
        """Return a number, also one in quotes."""
        try:
            found = None if isinstance(self.value, bool) else float(self.value)
        except (TypeError, ValueError):
            found = None
        if found is None or not least <= found <= most:
            raise self.place.error(
                f"expected a number from {least:g} to {most:g}, found {shown(self.value)}",
                self.value,
            )
        return found

    def flag(self) -> bool:
        """Return true or false, also in quotes."""
        if self.text().lower() not in ("true", "false"):
            raise self.place.error(f"expected true or false, found {shown(self.value)}", self.value)
        return self.text().lower() == "true"

    def seconds(self) -> float:
        """Return a duration; a bare number is of seconds."""
        found = seconds(self.text())
        if found is None:
            raise self.place.error(
                f"expected a duration such as 250ms, 5s or 1h30m, found {shown(self.value)}",
                self.value,
            )
        return found

    def unread(self) -> Iterator[Field]:
        """Yield what was not read below that which was."""
        if self._whole:
            return
        if isinstance(self.value, dict):
            pairs: list[tuple[str | int, Field]] = list(self.value.items())
        elif isinstance(self.value, list):
            pairs = list(enumerate(self.value))
        else:
            return
        if not self._read and pairs and self.place.path and isinstance(self.value, list):
            yield self
            return
        for key, field in pairs:
            if key in self._read:
                yield from field.unread()
            else:
                yield field


def seconds(text: str) -> float | None:
    """Return the seconds of ``90``, ``1m30s`` or ``250ms``; ``None`` for anything else."""
    if re.fullmatch(r"[0-9]{1,12}(?:\.[0-9]{1,9})?", text):
        return float(text)
    parts = _DURATION.findall(text)
    if not parts or len(text) > 64 or "".join(map("".join, parts)) != text.replace(" ", ""):
        return None
    return round(sum(float(count) * _SECONDS[unit] for count, unit in parts), 6)


def whole(text: str, file: str) -> str:
    """Return the text if it can be read at all: it is not too large and not a template."""
    if len(text) > MAX_CHARACTERS:
        raise Place(file, 1, 1).error(
            f"found {len(text):,} characters, at most {MAX_CHARACTERS:,} are allowed:"
            " give only the objects of one split"
        )
    if (found := _HELM.search(text)) is not None:
        line = text.count("\n", 0, found.start()) + 1
        column = found.start() - text.rfind("\n", 0, found.start())
        raise Place(file, line, column).error(
            f"found the template {shown(text[found.start() :].splitlines()[0])}, expected the rendered file:"
            " pipe it in, such as helm template CHART | canaryproxy import"
        )
    return text


def from_yaml(text: str, file: str) -> list[Field]:
    """Return the documents of YAML or JSON; the items of a Kubernetes ``List`` are documents."""
    if text.lstrip().startswith(("{", "[")):
        text = re.sub(r"(?m)^[ \t]+", lambda one: one[0].replace("\t", "    "), text)
    try:
        nodes = documents(text)
    except Unreadable as error:
        raise Place(file, *error.place).error(str(error)) from None
    build = _Builder(file)
    found = []
    for node in nodes:
        root = build.field(node, ())
        if isinstance(root.value, dict) and root.has("items") and root.has("kind"):
            found += root.items("items")
        elif root.value is not None:
            found.append(root)
    return found


class _Builder:
    """Makes fields of YAML nodes."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._count = 0
        self._open: set[int] = set()

    def field(self, node: Node, path: Path) -> Field:
        place = Place(self._file, node.start_mark.line + 1, node.start_mark.column + 1, path)
        self._count += 1
        if self._count > MAX_VALUES:
            raise place.error(f"aliases expand this file to more than {MAX_VALUES:,} values")
        if id(node) in self._open:
            raise place.error("the alias refers to a value that contains it")
        if isinstance(node, ScalarNode):
            try:
                return Field(plain(str(node.tag), str(node.value)), place)
            except ValueError:
                raise place.error(
                    f"expected a value without a tag, found the tag {shown(str(node.tag))}"
                ) from None
        self._open.add(id(node))
        try:
            if isinstance(node, MappingNode):
                return Field(self._mapping(node, path), place)
            return Field([self.field(one, (*path, at)) for at, one in enumerate(node.value)], place)
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: MappingNode, path: Path) -> dict[str, Field]:
        found: dict[str, Field] = {}
        merged: dict[str, Field] = {}
        for key_node, value in node.value:
            place = Place(
                self._file, key_node.start_mark.line + 1, key_node.start_mark.column + 1, path
            )
            if not isinstance(key_node, ScalarNode):
                raise place.error("expected a name as the key, found a list or a mapping")
            key = str(key_node.value)
            if key == "<<" and key_node.style is None:
                sources = [value] if isinstance(value, MappingNode) else value.value
                for one in sources if isinstance(sources, list) else ():
                    if not isinstance(one, MappingNode):
                        raise place.error("expected mappings to merge (<<)")
                    for name, field in self.field(one, path).value.items():
                        merged.setdefault(name, field)
                continue
            if key in found:
                raise place.error(
                    f"duplicate key {shown(key)}, already on line {found[key].place.line}"
                )
            inner = self.field(value, (*path, key))
            at = Place(self._file, place.line, place.column, (*path, key))
            found[key] = inner if isinstance(inner.value, (dict, list)) else Field(inner.value, at)
        return merged | found


def from_toml(text: str, file: str) -> list[Field]:
    """Return the document of TOML."""
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        said = _TOML_ERROR.fullmatch(str(error).partition("\n")[0])
        place = Place(file, max(text.count("\n"), 1), 1)
        if said is not None:
            place = Place(file, int(said[2]), int(said[3]))
        why = said[1] if said is not None else str(error)
        raise place.error(f"not valid TOML: {why}") from None
    except RecursionError:
        raise Place(file, 1, 1).error("not valid TOML: nested too deeply") from None
    lines = _toml_lines(text)

    def field(value: Any, path: Path) -> Field:
        line = next((lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in lines), 1)
        place = Place(file, line, 1, path)
        if len(path) > MAX_DEPTH:
            raise place.error(f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(value, dict):
            return Field({key: field(one, (*path, key)) for key, one in value.items()}, place)
        if isinstance(value, list):
            return Field([field(one, (*path, at)) for at, one in enumerate(value)], place)
        return Field(value if isinstance(value, (str, int, float, bool)) else str(value), place)

    return [field(tree, ())]


def _toml_lines(text: str) -> dict[Path, int]:
    """Return the lines of tables and keys; ``tomllib`` does not say them."""
    lines: dict[Path, int] = {}
    last: dict[Path, int] = {}
    table: Path = ()
    for number, line in enumerate(text.splitlines(), 1):
        if found := _TOML_TABLE.fullmatch(line):
            table = ()
            parts = [next(filter(None, one), "") for one in _TOML_PART.findall(found[2])]
            for at, part in enumerate(parts):
                table = (*table, part)
                if at == len(parts) - 1 and found[1] == "[[":
                    last[table] = last.get(table, -1) + 1
                    lines.setdefault(table, number)
                if table in last:
                    table = (*table, last[table])
            lines.setdefault(table, number)
        elif found := _TOML_KEY.match(line):
            names = (next(filter(None, one), "") for one in _TOML_PART.findall(found[1]))
            lines.setdefault((*table, *names), number)
    return lines
