"""The base of every section, and checks that involve several of its fields."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from canaryproxy.config.errors import Path

Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
"""Name of an environment variable."""


# pydantic looks for plugins among all installed packages when the first model is built: 1 MiB and 0.02 s.
_no_plugins = ModuleType("pydantic.plugin._loader")
_no_plugins.get_plugins = tuple  # type: ignore[attr-defined]
sys.modules.setdefault(_no_plugins.__name__, _no_plugins)


class Section(BaseModel):
    """A mapping in the file: frozen, strict, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Mistake(NamedTuple):
    """Fields that do not fit together; paths are relative to the section."""

    message: str
    at: Path = ()
    """The field to point at."""
    because_of: tuple[Path, ...] = ()
    """If one of these fields is invalid itself, this mistake only follows from it and is not reported."""


def report(mistakes: Iterable[Mistake]) -> None:
    """Raise pydantic's error with all the mistakes, if there are any."""
    if found := tuple(mistakes):
        raise PydanticCustomError("together", "the fields do not fit together", {"mistakes": found})


def exactly_one(section: BaseModel, names: tuple[str, ...]) -> None:
    """Report a section in which not exactly one of the keys has a value."""
    attributes = {field.alias or name: name for name, field in type(section).model_fields.items()}
    given = [name for name in names if getattr(section, attributes[name]) is not None]
    if len(given) != 1:
        found = f"found {' and '.join(given)}" if given else "found none"
        message = f"expected exactly one of {', '.join(names)}, {found}"
        report([Mistake(message, because_of=tuple((name,) for name in names))])


def at_least_one(section: BaseModel, names: tuple[str, ...]) -> None:
    """Report a section in which none of the keys has a value."""
    attributes = {field.alias or name: name for name, field in type(section).model_fields.items()}
    if all(getattr(section, attributes[name]) is None for name in names):
        message = f"expected at least one of {', '.join(names)}, found none"
        report([Mistake(message, because_of=tuple((name,) for name in names))])


def not_both(section: BaseModel, one: str, other: str) -> Iterator[Mistake]:
    """Yield the mistake of two keys that exclude each other."""
    if getattr(section, one) is not None and getattr(section, other) is not None:
        yield Mistake(f"set {one} or {other}, not both", (other,))


def one_of(names: tuple[str, ...], *, optional: bool = False) -> dict[str, Any]:
    """Return the JSON Schema for "exactly one of these keys has a value"; ``optional`` allows none."""
    given = [
        {"required": [name], "properties": {name: {"not": {"enum": [None, False]}}}}
        if optional
        else _given(name)
        for name in names
    ]
    none: list[dict[str, Any]] = [{"not": {"anyOf": given}}] if optional else []
    return {"oneOf": [*given, *none]}


def any_of(names: tuple[str, ...]) -> dict[str, Any]:
    """Return the JSON Schema for "at least one of these keys has a value"."""
    return {"anyOf": [_given(name) for name in names]}


def _given(name: str) -> dict[str, Any]:
    return {"required": [name], "properties": {name: {"not": {"type": "null"}}}}


def switch(value: object) -> object:
    """Return ``None`` for false and an empty mapping for true: a section as a switch."""
    if value is False:
        return None
    return {} if value is True else value


def optional(section: Any) -> BeforeValidator:
    """Return the validator of a section that may be left out, but not be null, which would look like off."""

    def check(value: object) -> object:
        if value is None:
            raise PydanticCustomError("unit", "{allowed}", {"allowed": "a mapping"})
        return value

    return BeforeValidator(check, json_schema_input_type=section)


def without_default(schema: dict[str, Any]) -> None:
    """Take the default out of a field's JSON Schema: it is no value that the file could have."""
    schema.pop("default", None)
