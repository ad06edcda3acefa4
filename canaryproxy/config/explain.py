"""Validation of a parsed file, with pydantic's errors in words that say what to change.

pydantic compares the fields of a section only if each of them is valid. So that one mistake does not hide
another, validation runs in rounds: invalid values are dropped (required ones get a stand-in) until the rest
is valid. Later rounds report only mistakes between fields, except those that follow from a dropped field.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from canaryproxy.config import variables
from canaryproxy.config.errors import Path, Problem, closest, shown
from canaryproxy.config.model import Config, Mistake
from canaryproxy.config.yaml_reader import ParsedYaml

_STABLE: Path = ("variants", "stable")
_STAND_IN = {"endpoints": ("http://left-out.invalid",)}
"""Stands for a required stable that is invalid."""

_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a number",
    "string_type": 'text (in quotes if it looks like a number, true or false: "yes", "5")',
    "string_pattern_mismatch": "a name of letters, digits and _ that does not begin with a digit",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}
_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}


def validate(source: ParsedYaml) -> tuple[Config | None, list[Problem]]:
    """Return the configuration of a file whose value is a mapping, or all its problems."""
    pruned = _Pruned(source)
    for path in source.invalid:
        pruned.drop(path)
    problems: list[Problem] = []
    first = True
    while True:
        try:
            config = Config.model_validate(pruned.value())
        except ValidationError as error:
            # Read all paths before dropping any: a dropped item shifts the indexes of its list.
            found = [(pruned.original(d["loc"]), d) for d in error.errors(include_url=False)]
            progress = False
            for path, detail in found:
                if detail["type"] == "together":
                    progress |= _report_mistakes(source, pruned, path, detail, problems)
                    continue
                missing = detail["type"] == "missing"
                consequence = not first or (missing and pruned.has_dropped(path))
                emptied = detail["type"] == "too_short" and (
                    detail["input"] or pruned.has_lost_entries(path)
                )
                if not consequence and not emptied:
                    problems.append(_problem(source, path, detail))
                progress |= pruned.drop(path[:-1] if missing else path, missing=path)
            if not progress:
                return None, problems
        else:
            return (config if first and not source.invalid else None), problems
        first = False


def _report_mistakes(
    source: ParsedYaml,
    pruned: _Pruned,
    section: Path,
    detail: ErrorDetails,
    problems: list[Problem],
) -> bool:
    """Report the mistakes between fields of a section and drop those fields; tell whether any was new."""
    mistakes: tuple[Mistake, ...] = detail["ctx"]["mistakes"]
    fields = [pruned.original((*section, *m.at), pruned_from=len(section)) for m in mistakes]
    for path, mistake in zip(fields, mistakes, strict=True):
        causes = [
            pruned.original((*section, *cause), pruned_from=len(section))
            for cause in mistake.because_of
        ]
        if not any(pruned.has_dropped(cause, below=len(section)) for cause in causes):
            found = _found(source, path)
            problems.append(source.problem(path, mistake.message, found=found))
    return sum(map(pruned.drop, fields)) > 0


class _Pruned:
    """A file's value without the invalid parts; paths are those of the file."""

    def __init__(self, source: ParsedYaml) -> None:
        self._value = source.value
        self._dropped: set[Path] = set()
        self._stand_ins: dict[Path, Any] = {}
        self._indexes: dict[Path, list[int]] = {}

    def drop(self, path: Path, missing: Path = ()) -> bool:
        """Drop a value, or put a stand-in for the required one at ``missing``; tell whether that is new."""
        if missing[-2:] == _STABLE and missing not in self._stand_ins:
            self._stand_ins[missing] = _STAND_IN
            return True
        if not path or path in self._dropped:
            return False
        self._dropped.add(path)
        self._indexes.clear()
        return True

    def has_dropped(self, path: Path, below: int = 0) -> bool:
        """Tell whether a value, or a section around it deeper than ``below``, was dropped."""
        return any(path[:length] in self._dropped for length in range(below + 1, len(path) + 1))

    def has_lost_entries(self, path: Path) -> bool:
        """Tell whether something below ``path`` was dropped."""
        size = len(path)
        return any(len(one) > size and one[:size] == path for one in self._dropped)

    def value(self) -> Any:
        """Return the rest."""
        return self._rest(self._value, ())

    def _rest(self, value: Any, path: Path) -> Any:
        if isinstance(value, tuple):
            return tuple(self._rest(value[at], (*path, at)) for at in self._kept(value, path))
        if isinstance(value, dict):
            rest = {
                key: self._rest(item, (*path, key))
                for key, item in value.items()
                if (*path, key) not in self._dropped
            }
            for place, stand_in in self._stand_ins.items():
                if place[:-1] == path and place[-1] not in rest:
                    rest[str(place[-1])] = self._rest(stand_in, place)
            return rest
        return value

    def _kept(self, value: tuple[Any, ...], path: Path) -> list[int]:
        """Return the indexes of a list's items that were not dropped."""
        if path not in self._indexes:
            self._indexes[path] = [
                at for at in range(len(value)) if (*path, at) not in self._dropped
            ]
        return self._indexes[path]

    def original(self, loc: Iterable[str | int], pruned_from: int = 0) -> Path:
        """Return the path in the file for a location in the rest.

        The first ``pruned_from`` parts are a path in the file already.
        """
        path: Path = ()
        here: Any = self._value
        for depth, part in enumerate(loc):
            if part == "[key]":
                continue
            if isinstance(part, int) and depth >= pruned_from:
                if not isinstance(here, tuple):
                    continue  # a single value in place of a list
                part = self._kept(here, path)[part]
            if isinstance(part, str) and isinstance(here, (str, int, float)):
                continue  # a single value in place of a mapping
            if isinstance(here, dict):
                here = here.get(part)
            elif isinstance(here, tuple) and isinstance(part, int):
                here = here[part]
            else:
                here = None
            path = (*path, part)
        return path


def problem_at(source: ParsedYaml, path: Path, message: str) -> Problem:
    """Return a problem with a field of a valid configuration, at its position in the file.

    ``path`` is that of the parsed values, in which short forms are lists and mappings.
    """
    written = _Pruned(source).original(path)
    return source.problem(written, message, found=_found(source, written))


def _found(source: ParsedYaml, path: Path) -> str:
    here = source.value
    for part in path:
        in_mapping = isinstance(here, dict) and part in here
        if not in_mapping and not isinstance(here, tuple):
            return ""
        here = here[part]
    return _shown_at(source, path, here)


def _problem(source: ParsedYaml, path: Path, detail: ErrorDetails) -> Problem:
    kind, value = detail["type"], detail["input"]
    context = detail.get("ctx", {})
    found = _shown_at(source, path, value)
    if kind == "extra_forbidden":
        return source.problem(path, _unknown(path), found=shown(path[-1]), at_key=True)
    if kind == "missing":
        message = f"required key {path[-1]!r} is missing"
        return source.problem(path[:-1], message, at_key=True)
    if kind == "too_short":
        return source.problem(path, "expected at least one entry, found none", found=found)
    if kind == "unit":
        expected = str(context["allowed"])
    elif kind == "literal_error":
        expected = str(context["expected"]).replace("'", "")
        close = closest(str(value), expected.replace(" or ", ", ").split(", "))
        expected = f"one of {expected}" if "," in expected else expected
        expected += f" (did you mean {close}?)" if close else ""
    elif kind in _BOUNDS:
        words, name = _BOUNDS[kind]
        expected = f"{words} {context[name]:g}"
    else:
        expected = _EXPECTED.get(kind, detail["msg"])
    at_key = "[key]" in detail["loc"]
    if isinstance(value, str) and "${" in value and path not in source.references:
        found += f" (variables are replaced only in {variables.WHERE})"
    return source.problem(path, f"expected {expected}, found {found}", found=found, at_key=at_key)


def _shown_at(source: ParsedYaml, path: Path, value: object) -> str:
    """Return a value for a message; a webhook's URL that comes from the environment may be a secret."""
    written = source.references.get(path)
    if written is None:
        return shown(value)
    return shown(written) if "webhook" in path else f"{shown(value)} from {shown(written)}"


def _unknown(path: Path) -> str:
    model = _model_at(path[:-1])
    known = (
        sorted(field.alias or name for name, field in model.model_fields.items()) if model else []
    )
    close = closest(str(path[-1]).lower(), known)
    hint = f"; did you mean {close!r}?" if close else ""
    return f"unknown key {shown(path[-1])}{hint} (known: {', '.join(known) or 'none'})"


def _model_at(path: Path) -> type[BaseModel] | None:
    """Return the class of the section at a path."""
    here: type[BaseModel] | None = Config
    is_name = False
    for part in path:
        if isinstance(part, int) or here is None:
            continue
        if is_name:  # of an entry, such as that of an outcome
            is_name = False
            continue
        fields = {field.alias or name: field for name, field in here.model_fields.items()}
        annotation = fields[part].annotation if part in fields else None
        here, is_name = _section_in(annotation), _is_by_name(annotation)
    return here


def _is_by_name(annotation: Any) -> bool:
    """Tell whether an annotation is that of sections by name, such as ``dict[str, Outcome] | None``."""
    inner = getattr(annotation, "__args__", ())
    return getattr(annotation, "__origin__", None) is dict or any(map(_is_by_name, inner))


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """Return the class of the section in an annotation such as ``tuple[Step, ...] | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        if (found := _section_in(argument)) is not None:
            return found
    return None
