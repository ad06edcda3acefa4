"""Types of the configuration's fields, each with one parser and one JSON Schema.

No field is a union: pydantic reports an error for every alternative of a union, but the user made one
mistake.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from canaryproxy.config import addresses, places, units, variables
from canaryproxy.config.addresses import Endpoint, TcpAddress, UnixAddress
from canaryproxy.config.grpc import GrpcStatus
from canaryproxy.config.service_names import SERVICE_NAME

DURATION, SIZE, RATIO = "a duration", "a size", "a ratio"
"""Values of ``$comment`` in the schema; defaults of these types are written in the unit of the file."""


def _checked(parse: Callable[[object], Any]) -> PlainValidator:
    """Return a validator that reports the text of a parser's ``ValueError`` as what is allowed."""

    def check(value: object) -> Any:
        try:
            return parse(value)
        except ValueError as error:
            raise PydanticCustomError("unit", "{allowed}", {"allowed": str(error)}) from None

    return PlainValidator(check)


def _pattern(pattern: str, **more: Any) -> dict[str, Any]:
    return {"type": "string", "pattern": pattern, **more}


def _or_variable(pattern: str) -> str:
    """Return a pattern of the schema for values in which environment variables are replaced."""
    return f"{pattern}|{variables.REFERENCE_PATTERN}"


def _form(
    pattern: str, words: str, *, variable: bool = False, **schema: Any
) -> tuple[PlainValidator, WithJsonSchema]:
    """Return validator and schema for text that matches a pattern; ``words`` describe it in errors.

    With ``variable``, the text in the file may have environment variables.
    """
    compiled = re.compile(pattern)

    def parse(value: object) -> str:
        if isinstance(value, str) and compiled.fullmatch(value):
            return value
        raise ValueError(words)

    in_file = f"^(?:{pattern})$"
    return _checked(parse), WithJsonSchema(
        _pattern(_or_variable(in_file) if variable else in_file, **schema)
    )


_DURATION_OR_0 = {"anyOf": [_pattern(units.DURATION_PATTERN), {"enum": [0, "0"]}]}


def _duration(least: str) -> tuple[PlainValidator, WithJsonSchema]:
    bound = "" if least == "0s" else f" At least {least}."
    schema = {
        "$comment": DURATION,
        "description": f"A duration with its unit: ms, s, m, h or d.{bound}",
        **(_pattern(units.DURATION_PATTERN) if bound else _DURATION_OR_0),
        "examples": ["250ms", "5s", "5m", "1h", "30d"],
    }
    return _checked(lambda value: units.duration(value, least=least)), WithJsonSchema(schema)


def _size(least: int, most: int = units.LARGEST_SIZE) -> tuple[PlainValidator, WithJsonSchema]:
    number = {"type": "integer", "minimum": least, "maximum": most}
    return _checked(lambda value: units.size(value, least=least, most=most)), WithJsonSchema(
        {
            "$comment": SIZE,
            "anyOf": [_pattern(units.SIZE_PATTERN), number],
            "examples": ["64KiB", "1MiB", "10kB", 512],
        }
    )


def _as_list(value: object) -> object:
    return value if isinstance(value, (tuple, type(None))) else (value,)


def _json_value(value: object) -> object:
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise ValueError("text, a number, true or false")


_STATES = ("empty", "missing", "present", "null", "true", "false", "zero")


def _json_state(value: object) -> object:
    """Return a state by name; ``null``, ``true`` and ``false`` need no quotes in YAML."""
    plain = {None: "null", True: "true", False: "false"}
    found = plain[value] if value is None or isinstance(value, bool) else value
    if found in _STATES:
        return found
    raise ValueError(f"one of {', '.join(_STATES[:-1])} or {_STATES[-1]}")


_check, _schema = _duration("0s")
Duration = Annotated[float, _check, _schema]
"""Seconds, from 0."""
_check, _schema = _duration("10ms")
Timeout = Annotated[float, _check, _schema]
"""Seconds, at least 0.01: a shorter timeout would fail every request."""


def _timeout_or_auto(value: object) -> float | None:
    """Return seconds, or ``None`` for ``auto``."""
    if value == "auto":
        return None
    try:
        return units.duration(value, least="10ms")
    except ValueError as error:
        raise ValueError(f"auto, or {error}") from None


TimeoutOrAuto = Annotated[
    float | None,
    _checked(_timeout_or_auto),
    WithJsonSchema(
        {
            "anyOf": [{"const": "auto"}, _pattern(units.DURATION_PATTERN)],
            "examples": ["auto", "500ms", "2s"],
        }
    ),
]
"""A ``Timeout``, or ``None`` for ``auto``."""
_check, _schema = _duration("1s")
WholeSeconds = Annotated[float, _check, _schema]
"""Seconds, at least 1."""
_check, _schema = _size(0)
Size = Annotated[int, _check, _schema]
"""Bytes, from 0."""
_check, _schema = _size(1)
SomeSize = Annotated[int, _check, _schema]
"""Bytes, from 1."""
_check, _schema = _size(64 * 1024, 1024**3)
Window = Annotated[int, _check, _schema]
"""Bytes of a window of HTTP/2: a peer begins with 64 KiB (RFC 9113 §6.9.2), before it knows ours."""
Ratio = Annotated[
    float,
    _checked(units.ratio),
    WithJsonSchema(
        {
            "$comment": RATIO,
            "anyOf": [
                _pattern(units.RATIO_PATTERN),
                {"type": "number", "minimum": 0, "maximum": 1},
            ],
            "examples": ["1%", 0.01],
        }
    ),
]
"""A fraction 0..1."""
Weight = Annotated[
    float,
    _checked(units.weight),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": 0, "maximum": 100},
                _pattern(units.WEIGHT_PATTERN),
            ],
            "examples": [5, 0.25, "5%"],
        }
    ),
]
"""Percent 0..100, resolution 0.01."""
Status = Annotated[
    str,
    _checked(units.status),
    WithJsonSchema(
        {
            "anyOf": [
                _pattern(units.STATUS_PATTERN),
                {"type": "integer", "minimum": 100, "maximum": 599},
            ]
        }
    ),
]
GrpcStatusName = Annotated[
    str,
    _checked(units.grpc_status),
    WithJsonSchema({"type": "string", "enum": [one.name for one in GrpcStatus if one]}),
]
GrpcService = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.\-/]{0,256}$")]
"""The name that a gRPC health check asks for, by convention ``package.Service``."""
_NOT_COLON_FIRST = r"(?:\[[^\]]+\]|[^:\[\]\s]+):[0-9]{1,5}"
Address = Annotated[
    TcpAddress | UnixAddress,
    _checked(addresses.address),
    WithJsonSchema(_pattern(rf"^(?:unix:.+|{_NOT_COLON_FIRST})$")),
]
LocalAddress = Annotated[
    TcpAddress,
    _checked(addresses.tcp_address),
    WithJsonSchema(_pattern(rf"^{_NOT_COLON_FIRST}$")),
]
SocketPath = Annotated[
    str,
    _checked(addresses.socket_path),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": 107}),
]
EndpointUrl = Annotated[
    Endpoint,
    _checked(addresses.endpoint),
    WithJsonSchema(
        _pattern(
            _or_variable(
                r"^(?:unix:.+|(?:https?|h2c?)://(?:\[[^\]]*\]|[^\[\]:/?#@\s]+)(?::[0-9]{1,5})?"
                r"|(?:dns|https?|h2c?)\+srv://(?:_[A-Za-z0-9-]{1,62}\.){2}[^\[\]:/?#@\s]+)$"
            )
        )
    ),
]
NameServer = Annotated[
    TcpAddress,
    _checked(addresses.name_server),
    WithJsonSchema(_pattern(r"^[0-9A-Fa-f:.\[\]]+$")),
]
Network = Annotated[
    IPv4Network | IPv6Network,
    _checked(addresses.network),
    WithJsonSchema(_pattern(r"^[0-9A-Fa-f:.]+(?:%[^/]+)?(?:/[0-9.]+)?$")),
]
Name = Annotated[
    str, _checked(units.token), WithJsonSchema(_pattern(units.TOKEN_PATTERN, maxLength=256))
]
"""A token: the name of a header or a cookie."""
Regex = Annotated[
    str,
    _checked(units.regex),
    WithJsonSchema({"type": "string", "maxLength": 512, "format": "regex"}),
]
JsonValue = Annotated[
    str | int | float | bool | None,
    _checked(_json_value),
    WithJsonSchema({"type": ["string", "number", "boolean", "null"]}),
]
JsonState = Annotated[
    Literal["empty", "missing", "present", "null", "true", "false", "zero"] | None,
    _checked(_json_state),
    WithJsonSchema({"enum": [*_STATES, None, True, False]}),
]
_check, _schema = _form(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]{1,4096}", "a file path")
FilePath = Annotated[str, _check, _schema]
_check, _schema = _form(
    r"/[^?#\s\x00-\x1f\x7f-\x9f]*",
    "a path that begins with /, without query, spaces and #",
    examples=["/admin"],
)
UrlPath = Annotated[str, _check, _schema]
_check, _schema = _form(
    r"/[!-\"$-~]{0,2047}",
    "a path that begins with /, with a query or without, in visible ASCII characters and without #",
    examples=["/healthz", "/status?full=1"],
)
UrlTarget = Annotated[str, _check, _schema]
_check, _schema = _form(r"[A-Z][A-Z-]*", "a method in capitals, such as GET", examples=["GET"])
Method = Annotated[str, _check, _schema]
_check, _schema = _form(
    r"[ -~]{3,128}", "3 to 128 visible ASCII characters", examples=["kube-probe/"]
)
AgentText = Annotated[str, _check, _schema]
_check, _schema = _form(
    r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]{1,256}",
    "1 to 256 characters in a line",
    examples=["preview"],
)
ParameterName = Annotated[str, _check, _schema]
_check, _schema = _form(
    r"[a-z0-9!#$&^_.+-]+/[a-z0-9!#$&^_.+-]+",
    "a media type in lower case, such as application/x-ndjson",
    examples=["application/x-ndjson"],
)
MediaType = Annotated[str, _check, _schema]
_check, _schema = _form(
    units.RELEASE_ID_PATTERN,
    units.RELEASE_ID_WORDS,
    variable=True,
    examples=["cart-2.4", "${RELEASE_ID}"],
)
ReleaseId = Annotated[str, _check, _schema]
_check, _schema = _form(
    r"[A-Za-z_][A-Za-z0-9_.-]{0,63}", "1 to 64 letters, digits and _ . - that begin with a letter"
)
OutcomeName = Annotated[str, _check, _schema]
_check, _schema = _form(
    r"(?!users$)[A-Za-z][A-Za-z0-9_.-]{0,39}",
    "1 to 40 letters, digits and _ . - that begin with a letter, and not users",
    examples=["staff"],
)
CohortName = Annotated[str, _check, _schema]
_check, _schema = _form(
    r"(?:/(?:[^~/]|~[01])*)*", "a JSON pointer (RFC 6901), such as /results", examples=["/results"]
)
Pointer = Annotated[str, _check, _schema]
_check, _schema = _form(
    r"https?://[^\s/?#\x00-\x1f\x7f-\x9f]+(?:[/?][^\s\x00-\x1f\x7f-\x9f]*)?",
    "a URL with http:// or https://",
    variable=True,
    examples=["https://hooks.example.com/canary"],
)
WebUrl = Annotated[str, _check, _schema]
_check, _schema = _form(
    r"(?:rediss?://(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?(?:/[0-9]{1,4})?|unix:///[^\s?#@]+)",
    "redis://host:port/number, rediss://host:port/number or unix:///path, without user, password and query",
    examples=["redis://127.0.0.1:6379/0"],
)
RedisUrl = Annotated[str, _check, _schema]
_check, _schema = _form(r"[A-Za-z0-9._-]{1,64}", "1 to 64 letters, digits and . _ - only")
Word = Annotated[str, _check, _schema]
_check, _schema = _form(
    r"[A-Za-z0-9][A-Za-z0-9 ._/-]{0,39}",
    "1 to 40 letters, digits, blanks and . _ / -",
    examples=["production"],
)
Label = Annotated[str, _check, _schema]
_check, _schema = _form(r"\.?[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252})", "a domain name")
Domain = Annotated[str, _check, _schema]
_LABELS = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,62})(?:\.[A-Za-z0-9_-]{1,63})*"
_check, _schema = _form(_LABELS, "a server name, such as www.example.com")
ServerName = Annotated[str, _check, _schema]
_check, _schema = _form(
    rf"(?:\*\.)?{_LABELS}",
    "a server name, such as www.example.com or *.example.com",
    examples=["www.example.com", "*.example.com"],
)
ServerPattern = Annotated[str, _check, _schema]
HostPattern = Annotated[
    str,
    _checked(places.host_pattern),
    WithJsonSchema(_pattern(places.HOST_PATTERN, examples=["shop.example.com", "*.example.com"])),
]
PathPrefix = Annotated[
    str,
    _checked(places.path_prefix),
    WithJsonSchema(_pattern(places.PATH_PATTERN, examples=["/cart"])),
]
_check, _schema = _form(
    SERVICE_NAME,
    "a name of 1 to 63 small letters, digits and -, with a letter or a digit at both ends",
)
ServiceName = Annotated[str, _check, _schema]
VariantName = Literal["stable", "canary"]
_TLS_VERSIONS = {"1.2": "1.2", "1.3": "1.3", 1.2: "1.2", 1.3: "1.3"}


def _tls_version(value: object) -> str:
    """Return a TLS version; ``1.2`` needs no quotes in YAML."""
    found = _TLS_VERSIONS.get(value) if isinstance(value, (str, float)) else None
    if found is None:
        raise ValueError("1.2 or 1.3")
    return found


TlsVersion = Annotated[
    Literal["1.2", "1.3"],
    _checked(_tls_version),
    WithJsonSchema({"enum": ["1.2", "1.3", 1.2, 1.3]}),
]


def _proxy_protocol(value: object) -> str:
    """Return the mode by name; ``true`` means ``required`` and ``false`` means ``off``."""
    found = {True: "required", False: "off"}[value] if isinstance(value, bool) else value
    if found in ("off", "required", "trusted"):
        return str(found)
    raise ValueError("off, required (or true) or trusted")


def _in_any_case(*names: str) -> tuple[PlainValidator, WithJsonSchema]:
    """Return validator and schema for one of some names, written in any case."""
    by_lower = {name.lower(): name for name in names}

    def parse(value: object) -> str:
        found = by_lower.get(value.lower()) if isinstance(value, str) else None
        if found is None:
            raise ValueError(f"{', '.join(names[:-1])} or {names[-1]}")
        return found

    letters = (
        "".join(f"[{c.upper()}{c.lower()}]" if c.isalpha() else c for c in name) for name in names
    )
    anyhow = _pattern(f"^(?:{'|'.join(letters)})$")
    return _checked(parse), WithJsonSchema({"anyOf": [{"enum": list(names)}, anyhow]})


_check, _schema = _in_any_case("Lax", "Strict", "None")
SameSite = Annotated[Literal["Lax", "Strict", "None"], _check, _schema]
_check, _schema = _in_any_case("X-Forwarded-For", "Forwarded")
ForwardingField = Annotated[Literal["X-Forwarded-For", "Forwarded"], _check, _schema]
ProxyProtocol = Annotated[
    Literal["off", "required", "trusted"],
    _checked(_proxy_protocol),
    WithJsonSchema({"enum": ["off", "required", "trusted", True, False]}),
]


_PROTOCOLS = ("http1", "http2")


def _protocols(value: object) -> object:
    """Return the protocols by name, in their order; a single one needs no list."""
    found = _as_list(value)
    if found in (("http1",), ("http2",), _PROTOCOLS):
        return found
    if found == _PROTOCOLS[::-1]:
        return _PROTOCOLS
    raise ValueError("http1, http2 or [http1, http2]")


Protocols = Annotated[
    tuple[Literal["http1", "http2"], ...],
    _checked(_protocols),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": [*_PROTOCOLS]},
                {
                    "type": "array",
                    "items": {"enum": [*_PROTOCOLS]},
                    "minItems": 1,
                    "uniqueItems": True,
                },
            ]
        }
    ),
]
"""Versions of HTTP, at least one."""


def one_or_more(item: Any) -> BeforeValidator:
    """Return a validator that accepts a single value as a list of one; ``item`` is its type."""
    some = Annotated[tuple[item, ...], Field(min_length=1)]
    return BeforeValidator(_as_list, json_schema_input_type=item | some)


Methods = Annotated[tuple[Method, ...], Field(min_length=1)]
Networks = Annotated[tuple[Network, ...], Field(min_length=1)]
ServerPatterns = Annotated[tuple[ServerPattern, ...], Field(min_length=1)]
Statuses = Annotated[tuple[Status, ...], Field(min_length=1)]
