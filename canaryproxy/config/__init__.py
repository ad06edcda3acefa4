"""The configuration: YAML to frozen values, errors with file, line and column, and its JSON Schema."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from canaryproxy.config.document import Document, read
from canaryproxy.config.model import (
    Config,
    HeaderMatch,
    Limits,
    MatchRule,
    PathMatch,
    Sticky,
    Variant,
)
from canaryproxy.config.problems import ConfigError, Path, Problem, dotted, shown
from canaryproxy.config.units import Endpoint, TcpAddress, UnixAddress

__all__ = [
    "Config",
    "ConfigError",
    "Endpoint",
    "HeaderMatch",
    "Limits",
    "MatchRule",
    "PathMatch",
    "Problem",
    "Sticky",
    "TcpAddress",
    "UnixAddress",
    "Variant",
    "parse",
    "schema",
    "warnings",
]

_EXPECTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a number",
    "string_type": 'text (in quotes if it looks like a number, true or false: "yes", "5")',
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}


def parse(text: str, *, file: str) -> Config:
    """Return the configuration that YAML ``text`` describes; ``file`` is its name in messages.

    Raises ``ConfigError`` with every problem, in order of place.
    """
    document = read(text, file)
    problems = document.problems
    config: Config | None = None
    if not problems and not isinstance(document.value, dict):
        found = "an empty file" if document.value is None else shown(document.value)
        problems.append(
            document.problem((), f"expected a mapping with at least 'variants', found {found}")
        )
    elif isinstance(document.value, dict):
        try:
            config = Config.model_validate(document.value)
        except ValidationError as error:
            unread = {problem.path for problem in problems}
            problems.extend(p for p in _problems(document, error.errors()) if p.path not in unread)
    if config is None or problems:
        unique = {(p.line, p.column, p.path, p.message): p for p in problems}
        raise ConfigError(tuple(unique[key] for key in sorted(unique, key=_order)))
    return config


def schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of the file, for editors."""
    made = TypeAdapter(Config).json_schema(mode="validation")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}


_NOT_ACTIVE = (
    ("mirror.percent", lambda config: config.mirror.percent > 0),
    ("notify", lambda config: bool(config.notify)),
    ("workers", lambda config: config.workers != 1),
    (
        "release.promote",
        lambda config: config.release is not None and len(config.release.steps) > 1,
    ),
)
"""What the file may say already, but this version does not do."""

SHORT_BAKE = 300.0
BIG_FIRST_STEP = 5.0


def warnings(config: Config) -> tuple[str, ...]:
    """Return advice on a valid configuration: risky plans, and what this version does not do yet."""
    found = [
        f"{path} is not active in this version" for path, is_used in _NOT_ACTIVE if is_used(config)
    ]
    release = config.release
    if release is not None:
        if release.steps[0].weight > BIG_FIRST_STEP:
            found.append(
                f"release.steps[0].weight is {release.steps[0].weight:g}: begin with 1 to 5 percent"
            )
        for at, step in enumerate(release.steps):
            if step.bake < SHORT_BAKE and step.weight < 100:
                found.append(
                    f"release.steps[{at}].bake is {step.bake:g} s: 5 to 15 minutes show what is slow to fail"
                )
    return tuple(found)


def _order(key: tuple[int, int, Path, str]) -> tuple[int, int, str, str]:
    line, column, path, message = key
    return line, column, dotted(path), message


def _problems(document: Document, details: list[ErrorDetails]) -> Iterable[Problem]:
    """Return the problems of all fields, then those that only show when the broken fields are left out.

    pydantic compares fields with each other only in sections without a broken field.
    """
    details = [detail for detail in details if detail["type"] != "too_short" or not detail["input"]]
    yield from (_problem(document, detail) for detail in details)
    rest = document.value
    broken = [_path(document, detail["loc"]) for detail in details if detail["type"] != "together"]
    for path in broken:
        rest = _without(rest, path)
    try:
        Config.model_validate(rest)
    except ValidationError as error:
        for detail in error.errors():
            section = _path(document, detail["loc"])
            about_all = not detail.get("ctx", {}).get("field")
            if detail["type"] == "together" and not (about_all and _is_above(section, broken)):
                yield _problem(document, detail)


def _is_above(section: Path, broken: list[Path]) -> bool:
    """Tell whether a broken field stands in the section, so that the section seems to lack it."""
    return any(path[: len(section)] == section for path in broken)


def _without(value: Any, path: Path) -> Any:
    """Return a copy of a value less the field at ``path``; of a list, all of it goes."""
    if not path or not isinstance(value, (dict, tuple)):
        return value
    head, rest = path[0], path[1:]
    if isinstance(value, tuple):
        return tuple(_without(v, rest) if at == head else v for at, v in enumerate(value))
    if head not in value:
        return value
    if not rest or (len(rest) == 1 and isinstance(rest[0], int)):
        return {key: item for key, item in value.items() if key != head}
    return {**value, head: _without(value[head], rest)}


def _problem(document: Document, detail: ErrorDetails) -> Problem:
    path = _path(document, detail["loc"])
    kind, value = detail["type"], detail["input"]
    context = detail.get("ctx", {})
    if kind == "extra_forbidden":
        return document.problem(path, _unknown(path), at_key=True)
    if kind == "missing":
        message = f"required key {path[-1]!r} is missing"
        return document.problem(path[:-1], message, at_key=True)
    if kind == "together":
        field = context.get("field") or ""
        more = tuple(int(part) if part.isdigit() else part for part in field.split(".") if part)
        if more and path + more not in document.values and more[-1:] == (0,):
            more = more[:-1]  # a single value in place of a list
        return document.problem(path + more, str(context["message"]))
    if kind == "unit":
        expected = str(context["allowed"])
    elif kind in ("too_short", "string_too_short"):
        return document.problem(path, "expected at least one entry, found none")
    elif kind == "literal_error":
        expected = str(context["expected"]).replace("'", "")
        close = get_close_matches(str(value), expected.replace(" or ", ", ").split(", "), 1)
        expected = f"one of {expected}" + (f" (did you mean {close[0]}?)" if close else "")
    elif kind == "string_pattern_mismatch":
        expected = f"text of the form {context['pattern']}"
    elif kind in ("greater_than_equal", "greater_than", "less_than_equal", "less_than"):
        sign = {"greater_than_equal": "at least", "greater_than": "more than",
                "less_than_equal": "at most", "less_than": "less than"}[kind]  # fmt: skip
        limit = next(iter(context.values()))
        expected = f"{sign} {limit:g}"
    else:
        expected = _EXPECTED.get(kind, detail["msg"])
    return document.problem(path, f"expected {expected}, found {shown(value)}")


def _path(document: Document, loc: tuple[int | str, ...]) -> Path:
    """Return the part of a pydantic location that is a place in the file."""
    path: Path = ()
    for part in loc:
        if part == "[key]":
            continue
        longer = (*path, part)
        if longer in document.values or longer in document.keys:
            path = longer
        elif (
            part == loc[-1] and isinstance(part, str) and not part.startswith(("function", "tuple"))
        ):
            path = longer  # a missing key
    return path


def _unknown(path: Path) -> str:
    model = _model_at(path[:-1])
    known = (
        sorted(field.alias or name for name, field in model.model_fields.items()) if model else []
    )
    close = get_close_matches(str(path[-1]), known, 1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    listed = f" (known: {', '.join(known)})" if known else " (known: none)"
    return f"unknown key {path[-1]!r}{hint}{listed}"


def _model_at(path: Path) -> type[BaseModel] | None:
    """Return the section that stands at a path."""
    here: Any = Config
    for part in path:
        if isinstance(part, int):
            continue
        if isinstance(here, type) and issubclass(here, BaseModel):
            fields = {field.alias or name: field for name, field in here.model_fields.items()}
            if part not in fields:
                return None
            here = _section_in(fields[part].annotation)
    return here if isinstance(here, type) and issubclass(here, BaseModel) else None


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """Return the section inside an annotation such as ``tuple[Step, ...] | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        if (found := _section_in(argument)) is not None:
            return found
    return None
