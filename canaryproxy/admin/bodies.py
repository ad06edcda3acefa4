"""Request bodies and queries: strict JSON, validated by models.

Duplicate keys, NaN, unknown keys and text in place of numbers are rejected.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Mapping
from math import isfinite
from typing import Annotated, Any, Literal, TypeVar

from aiohttp import web
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from canaryproxy.admin.problem import Problem
from canaryproxy.config import units
from canaryproxy.config.errors import dotted
from canaryproxy.config.types import Weight

MAX_JSON = 64 * 1024
"""Bytes of a JSON body."""
MAX_ID = 10**15
"""Largest number of a record that a client can name."""
_LONGEST_KEY = 4096
_MOST_ERRORS = 20
_LONGEST_INT = 18

T = TypeVar("T")


class _Body(BaseModel):
    """Its validator is built when it is first needed."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, defer_build=True
    )


def _line(longest: int) -> Any:
    return Field(min_length=1, max_length=longest, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")


Name = Annotated[str, _line(100)]
"""Name of an operator."""
Text = Annotated[str, _line(500)]
"""A reason."""
MetricName = Annotated[str, _line(200)]
"""A metric, or a metric and a route."""


class By(_Body):
    """The operator who makes a change."""

    by: Name = Field(
        "operator",
        description="Who makes the change, for the history; Unix user or name of the token stand beside it.",
        examples=["ann"],
    )

    @property
    def why(self) -> str | None:
        """The reason."""
        return None


class Who(By):
    """The operator who makes a change, and the reason."""

    reason: Text | None = Field(None, description="Reason, for the history.")

    @property
    def why(self) -> str | None:
        return self.reason


def who(body: By, known: tuple[str, str] | None) -> str:
    """Return name and reason as the history shows them.

    A name is what the client says. ``known`` is what the proxy knows by itself, and by what: it stands in
    brackets beside another name, where no client can put anything, and in place of none.
    """
    name = body.by.translate(_BRACKETS)
    if known is not None and name != known[0]:
        name = known[0] if name == "operator" else f"{name} ({known[1]} {known[0]})"
    return name if body.why is None else f"{name}: {body.why}"


_BRACKETS = str.maketrans("()", "[]")


class Abort(Who):
    """An abort."""

    now: bool = Field(
        False, description="Take every user back at once, whatever release.ramp_down says."
    )


class SetWeight(Who):
    """A weight set by hand."""

    weight: Weight = Field(
        description="Percent of users on the canary, with at most two decimals.", examples=[5]
    )


class Accept(By):
    """A difference that is wanted."""

    metric: MetricName = Field(
        description="A metric, or a metric and a route.",
        examples=["client_errors", "errors GET /checkout"],
    )
    reason: Text = Field(description="Why it is wanted, for the history.")

    @property
    def why(self) -> str:
        return self.reason


class Trip(By):
    """A trip by hand."""

    cause: Text | None = Field(None, description="Reason, for the history.")

    @property
    def why(self) -> str | None:
        return self.cause


class DrillBy(By):
    """A rollback drill."""


class Events(_Body):
    """Business events of one user, or of a variant's users."""

    model_config = ConfigDict(
        json_schema_extra={"anyOf": [{"required": ["key"]}, {"required": ["variant"]}]}
    )

    key: Annotated[str, _line(_LONGEST_KEY)] | None = Field(
        None,
        repr=False,
        description="The user: the value of the cookie or header of split.sticky, or the client's address.",
        examples=["5d41402abc4b2a76b9719d911017c592"],
    )
    variant: Literal["stable", "canary"] | None = Field(
        None,
        description="The variant that the users were on; with a key leave it out, or give that of the key.",
    )
    count: int = Field(
        1,
        ge=1,
        le=1_000_000,
        description="How many. Those of one user within half a minute count as one.",
    )

    @model_validator(mode="after")
    def _names_whom(self) -> Events:
        if self.key is None and self.variant is None:
            raise ValueError("key or variant is required")
        return self


EventList = Events | Annotated[list[Events], Field(min_length=1, max_length=1000)]


async def json_body(request: web.Request, kind: TypeAdapter[T], *, optional: bool = False) -> T:
    """Return the body as ``kind``; a missing ``optional`` body counts as ``{}``. Raises ``Problem``."""
    raw = await _body(request, "application/json", MAX_JSON, optional=optional)
    value = strict_json(raw) if raw or not optional else {}
    try:
        return kind.validate_python(value)
    except ValidationError as error:
        raise _invalid(error) from None


async def text_body(request: web.Request, content_type: str, largest: int) -> str:
    """Return the body as text. Raises ``Problem``."""
    raw = await _body(request, content_type, largest)
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise Problem(400, f"the body is not UTF-8 (byte {error.start})") from None


async def _body(
    request: web.Request, content_type: str, largest: int, *, optional: bool = False
) -> bytes:
    headers = request.headers
    has_body = request.body_exists and request.content_length != 0
    if has_body or "Content-Type" in headers or not optional:
        found = headers.get("Content-Type", "")
        charset = (request.charset or "utf-8").lower()
        fits = request.content_type == content_type and found and charset in ("utf-8", "utf8")
        if not fits and not (found == _CURL and _over_unix(request)):
            named = f"found {found[:100]}" if found else "found none"
            raise Problem(
                415,
                f"the Content-Type must be {content_type}, {named}",
                headers={"Accept": content_type},
            )
    if headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Problem(
            415, "the body must not be compressed", headers={"Accept-Encoding": "identity"}
        )
    too_large = Problem(413, f"the body is larger than {largest:,} bytes", close=True)
    if (request.content_length or 0) > largest:
        raise too_large
    body = bytearray()
    patience: float = request.app[PATIENCE]
    try:
        async with asyncio.timeout(patience):
            while chunk := await request.content.readany():
                body += chunk
                if len(body) > largest:
                    raise too_large
    except TimeoutError:
        raise Problem(408, f"the body was not complete within {patience:g} s", close=True) from None
    except web.RequestPayloadError as error:
        raise Problem(400, f"the body cannot be read: {error}", close=True) from None
    return bytes(body)


def _over_unix(request: web.Request) -> bool:
    """Return whether the client is on a Unix socket, where no web page can send a form."""
    sock = None if request.transport is None else request.transport.get_extra_info("socket")
    return sock is not None and sock.family == socket.AF_UNIX


_CURL = "application/x-www-form-urlencoded"
"""Content-Type that ``curl -d`` sends by default."""

PATIENCE = web.AppKey("patience", float)
"""Seconds within which a body must arrive."""


def strict_json(raw: bytes) -> Any:
    """Return the value of JSON text. Raises ``Problem``."""
    try:
        return json.loads(
            raw.decode(),
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_float=_float,
            parse_int=_int,
        )
    except UnicodeDecodeError as error:
        raise Problem(400, f"the body is not UTF-8 (byte {error.start})") from None
    except RecursionError:
        raise Problem(400, "the body is nested too deeply") from None
    except ValueError as error:
        raise Problem(400, f"the body is not valid JSON: {error}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("duplicate key")
    return found


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _int(text: str) -> int:
    if len(text) > _LONGEST_INT:
        raise ValueError("number too large")
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if not isfinite(value):
        raise ValueError("number too large")
    return value


def _invalid(error: ValidationError) -> Problem:
    errors = [
        {
            "path": dotted(tuple(part for part in one["loc"] if not _is_branch(part))),
            "message": one["msg"],
        }
        for one in error.errors(include_url=False, include_input=False, include_context=False)
    ][:_MOST_ERRORS]
    first = errors[0]
    detail = f"{first['path']}: {first['message']}" if first["path"] else first["message"]
    return Problem(422, detail, errors=errors)


def _is_branch(part: object) -> bool:
    """Return whether a part of a path names a type of a union, not a field."""
    return part == "Events" or (isinstance(part, str) and part.startswith("list["))


Parser = Callable[[str], Any]


def query(request: web.Request, known: Mapping[str, Parser]) -> dict[str, Any]:
    """Return the parsed query parameters. Raises ``Problem``; parsers raise ``ValueError``."""
    found: dict[str, Any] = {}
    for name, text in request.query.items():
        if name not in known:
            names = ", ".join(known) or "none"
            raise _bad_parameter(name, f"unknown parameter; known: {names}")
        if name in found:
            raise _bad_parameter(name, "given twice")
        try:
            found[name] = known[name](text)
        except ValueError as error:
            raise _bad_parameter(name, str(error)) from None
    return found


def _bad_parameter(name: str, message: str) -> Problem:
    shown = name[:50]
    errors = [{"path": shown, "message": message}]
    return Problem(422, f"query parameter {shown}: {message}", errors=errors)


def whole(least: int, most: int) -> Parser:
    """Return a parser for integers in a range."""

    def parse(text: str) -> int:
        if text.isascii() and text.isdigit() and len(text) <= 16 and least <= int(text) <= most:
            return int(text)
        raise ValueError(f"must be an integer from {least} to {most}")

    return parse


def seconds(text: str) -> float:
    """Return a time in seconds since the epoch."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not isfinite(value):
        raise ValueError("must be a time in seconds since the epoch")
    return value


def weight(text: str) -> float:
    """Return a percentage of users."""
    return units.weight(float(text))


def line(kind: Any) -> Parser:
    """Return a parser for lines such as ``Name`` and ``Text``."""
    adapter: TypeAdapter[str] = TypeAdapter(kind, config=ConfigDict(defer_build=True))

    def parse(text: str) -> str:
        try:
            return adapter.validate_python(text)
        except ValidationError as error:
            raise ValueError(error.errors()[0]["msg"]) from None

    return parse


def flag(text: str) -> bool:
    """Return the value of ``true`` or ``false``."""
    if text not in ("true", "false"):
        raise ValueError("must be true or false")
    return text == "true"
