"""The configuration as frozen values. Every field's description is its documentation.

Units in these values: durations are seconds, sizes bytes, ratios fractions 0..1, weights percent 0..100.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError
from pydantic_core.core_schema import no_info_plain_validator_function

from canaryproxy.config import units
from canaryproxy.config.units import Endpoint, TcpAddress, UnixAddress


def _checked(parse: Callable[[object], Any]) -> PlainValidator:
    """Return a validator that reports what is allowed, as the parsers of ``units`` say it."""

    def check(value: object) -> Any:
        try:
            return parse(value)
        except ValueError as error:
            raise PydanticCustomError("unit", "{allowed}", {"allowed": str(error)}) from None

    return PlainValidator(check)


def _text_schema(pattern: str, **more: Any) -> dict[str, Any]:
    return {"type": "string", "pattern": pattern, **more}


def _wrong(message: str, field: str = "") -> PydanticCustomError:
    """A mistake found by looking at several fields; ``field`` is the one to point at."""
    return PydanticCustomError("together", "{message}", {"message": message, "field": field})


Duration = Annotated[
    float,
    _checked(units.duration),
    WithJsonSchema({"anyOf": [_text_schema(units.DURATION_PATTERN), {"const": 0}]}),
]
Size = Annotated[
    int,
    _checked(units.size),
    WithJsonSchema(
        {"anyOf": [_text_schema(units.SIZE_PATTERN), {"type": "integer", "minimum": 0}]}
    ),
]
Ratio = Annotated[
    float,
    _checked(units.ratio),
    WithJsonSchema(
        {
            "anyOf": [
                _text_schema(units.RATIO_PATTERN),
                {"type": "number", "minimum": 0, "maximum": 1},
            ]
        }
    ),
]
Weight = Annotated[
    float,
    _checked(units.weight),
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": 100}),
]
Address = Annotated[
    TcpAddress | UnixAddress,
    _checked(units.address),
    WithJsonSchema(_text_schema(r"^(unix:.+|.+:\d{1,5})$")),
]
LocalAddress = Annotated[
    TcpAddress, _checked(units.tcp_address), WithJsonSchema(_text_schema(r"^.+:\d{1,5}$"))
]
Url = Annotated[
    Endpoint, _checked(units.endpoint), WithJsonSchema(_text_schema(r"^https?://[^/?#@]+/?$"))
]
Network = Annotated[
    IPv4Network | IPv6Network, _checked(units.network), WithJsonSchema({"type": "string"})
]
Name = Annotated[
    str,
    _checked(units.token),
    WithJsonSchema(_text_schema(r"^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$")),
]
Regex = Annotated[str, _checked(units.regex), WithJsonSchema({"type": "string", "maxLength": 512})]


@dataclass(frozen=True)
class _Form:
    """Text that matches ``pattern``; ``words`` say it to people."""

    pattern: str
    words: str

    def __get_pydantic_core_schema__(self, _source: Any, _handler: Any) -> CoreSchema:
        return no_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(self, _core: CoreSchema, _handler: Any) -> dict[str, Any]:
        return _text_schema(f"^(?:{self.pattern})$")

    def _check(self, value: object) -> str:
        if isinstance(value, str) and re.fullmatch(self.pattern, value):
            return value
        raise PydanticCustomError("unit", "{allowed}", {"allowed": self.words})


VariantName = Literal["stable", "canary"]


def _one_or_more(value: object) -> object:
    return value if isinstance(value, (tuple, type(None))) else (value,)


def _statuses(value: object) -> object:
    """Return statuses as text; ``503`` may be a number in YAML."""
    if not isinstance(value, tuple):
        return value
    texts = tuple(str(item) for item in value)
    for text in texts:
        if not re.fullmatch(r"[1-5]xx|[1-5][0-9]{2}", text):
            raise PydanticCustomError(
                "unit", "{allowed}", {"allowed": "statuses such as 5xx or 503"}
            )
    return texts


def _off(value: object) -> object:
    """``errors: false`` switches a metric off, ``errors: {}`` or ``errors: true`` switches it on."""
    if value is False:
        return None
    return {} if value is True else value


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def _exactly_one(section: BaseModel, names: tuple[str, ...]) -> None:
    given = [name for name in names if getattr(section, name) is not None]
    if len(given) != 1:
        found = f"found {' and '.join(given)}" if given else "found none"
        raise _wrong(f"exactly one of {', '.join(names)} is allowed, {found}")


class Admin(_Section):
    """Where the proxy is controlled and scraped."""

    socket: str | None = Field("./run/admin.sock", description="Path of the admin Unix socket.")
    listen: LocalAddress | None = Field(
        None, description="host:port for /metrics and the dashboard; changes need the token."
    )
    token_file: str | None = Field(None, description="File that holds the bearer token.")
    token_env: str | None = Field(None, description="Environment variable with the bearer token.")

    @model_validator(mode="after")
    def _tokens(self) -> Admin:
        if self.token_file is not None and self.token_env is not None:
            raise _wrong("token_file and token_env exclude each other", "token_env")
        if (
            self.listen is not None
            and not _loopback(self.listen.host)
            and self.token_file is None
            and self.token_env is None
        ):
            raise _wrong(
                f"{self.listen} is not a loopback address: that needs token_file or token_env",
                "listen",
            )
        return self


class Variant(_Section):
    """One version of the service."""

    endpoints: tuple[Url, ...] = Field(
        min_length=1, description="Where it runs: scheme://host:port of each process."
    )
    balance: Literal["least_requests", "hash"] = Field(
        "least_requests",
        description="How an endpoint is chosen; hash keeps a user on an endpoint.",
    )

    @model_validator(mode="after")
    def _distinct(self) -> Variant:
        for at, one in enumerate(self.endpoints):
            if one in self.endpoints[:at]:
                raise _wrong(f"{one} is listed twice", f"endpoints.{at}")
        return self


class Variants(_Section):
    """The two versions."""

    stable: Variant = Field(description="The version that users have now (v1).")
    canary: Variant | None = Field(None, description="The version to be released (v2).")


class Sticky(_Section):
    """What identifies a user."""

    cookie: Name | None = Field(None, description="Cookie; canary_id if nothing is given.")
    header: Name | None = Field(None, description="Header, for clients that keep no cookies.")
    address: bool = Field(False, description="The client's address.")
    set_: bool = Field(True, alias="set", description="Set the cookie for users without one.")
    max_age: Duration = Field(30 * 86400.0, description="How long browsers keep the cookie.")
    forward: bool = Field(True, description="Pass the cookie on to the upstream.")
    same_site: Literal["Lax", "Strict", "None"] = Field("Lax", description="SameSite attribute.")
    domain: str | None = Field(None, description="Domain attribute; none by default.")

    @model_validator(mode="before")
    @classmethod
    def _default(cls, value: Any) -> Any:
        if isinstance(value, dict) and not {"cookie", "header", "address"} & value.keys():
            return {**value, "cookie": "canary_id"}
        return value

    @model_validator(mode="after")
    def _one_key(self) -> Sticky:
        given = [
            n for n in ("cookie", "header", "address") if getattr(self, n) not in (None, False)
        ]
        if len(given) != 1:
            found = f"found {' and '.join(given)}" if given else "found none"
            raise _wrong(f"exactly one of cookie, header, address is allowed, {found}")
        if self.domain is not None and not re.fullmatch(r"[A-Za-z0-9.-]{1,253}", self.domain):
            raise _wrong(f"expected a domain name, found {self.domain!r}", "domain")
        return self


class HeaderMatch(_Section):
    """A condition on a header or a cookie."""

    name: Name = Field(description="Name of the header or cookie.")
    equals: str | None = Field(None, description="The whole value.")
    prefix: str | None = Field(None, description="How the value begins.")
    regex: Regex | None = Field(None, description="Found anywhere in the value.")
    present: bool | None = Field(None, description="Whether it is there at all.")

    @model_validator(mode="after")
    def _one(self) -> HeaderMatch:
        _exactly_one(self, ("equals", "prefix", "regex", "present"))
        return self


class PathMatch(_Section):
    """A condition on the path of the target, as received, without the query."""

    equals: str | None = Field(None, description="The whole path.")
    prefix: str | None = Field(None, description="How the path begins.")
    regex: Regex | None = Field(None, description="Found anywhere in the path.")

    @model_validator(mode="after")
    def _one(self) -> PathMatch:
        _exactly_one(self, ("equals", "prefix", "regex"))
        return self


_Method = Annotated[str, _Form(r"[A-Z][A-Z-]*", "a method in capitals, such as GET")]
_ReleaseId = Annotated[str, _Form(r"[A-Za-z0-9._:-]{1,64}", "1 to 64 letters, digits and . _ : -")]
_OutcomeName = Annotated[
    str, _Form(r"[A-Za-z_][A-Za-z0-9_]{0,63}", "1 to 64 letters, digits and _")
]
_Pointer = Annotated[
    str, _Form(r"(/([^~]|~[01])*)*", "a JSON pointer (RFC 6901), such as /results")
]
_WebUrl = Annotated[str, _Form(r"https?://[^\s/]+(/\S*)?", "a URL with http:// or https://")]

Methods = Annotated[
    tuple[_Method, ...],
    BeforeValidator(_one_or_more, json_schema_input_type=str | tuple[str, ...]),
]


class MatchRule(_Section):
    """Forces a variant when all its conditions hold."""

    variant: VariantName = Field(description="The variant that it forces.")
    header: HeaderMatch | None = None
    cookie: HeaderMatch | None = None
    path: PathMatch | None = None
    method: Methods | None = Field(None, description="A method or a list of them.")

    @model_validator(mode="after")
    def _any(self) -> MatchRule:
        if not (self.header or self.cookie or self.path or self.method):
            raise _wrong("at least one of header, cookie, path, method is needed, found none")
        return self


class Split(_Section):
    """Who gets the canary."""

    weight: Weight = Field(0.0, description="Percent of users; used when there is no release.")
    sticky: Sticky = Field(default_factory=lambda: Sticky(cookie="canary_id"))
    admit: Literal["all", "new_sessions"] = Field(
        "all", description="new_sessions: only users first seen in this release may enter."
    )
    salt: str | None = Field(None, description="Salt of the hash; the release's id by default.")
    match: tuple[MatchRule, ...] = Field((), description="Rules that force a variant, in order.")

    @model_validator(mode="after")
    def _admission(self) -> Split:
        if self.admit == "new_sessions" and (self.sticky.cookie is None or not self.sticky.set_):
            raise _wrong("new_sessions needs a sticky cookie that the proxy sets", "admit")
        return self


class Step(_Section):
    """One step of a release."""

    weight: Weight = Field(description="Percent of users.")
    bake: Duration = Field(0.0, description="How long it is watched at least.")
    min_requests: int = Field(0, ge=0, description="Canary requests to be judged at least.")


class Release(_Section):
    """One attempt to move from stable to canary."""

    id: _ReleaseId = Field(description="Its name; also the salt of the split.")
    steps: tuple[Step, ...] = Field(min_length=1, description="The plan; weights rise.")
    promote: Literal["bake", "proof", "manual"] = Field(
        "bake", description="What lets a step be left by itself."
    )

    @model_validator(mode="after")
    def _rising(self) -> Release:
        for at in range(1, len(self.steps)):
            before, here = self.steps[at - 1].weight, self.steps[at].weight
            if here <= before:
                raise _wrong(f"weights must rise: {here:g} after {before:g}", f"steps.{at}.weight")
        return self


class Errors(_Section):
    """Failed answers."""

    margin: Ratio = Field(0.01, description="Increase that matters, absolute.")
    statuses: Annotated[
        tuple[str, ...],
        BeforeValidator(_statuses, json_schema_input_type=tuple[str | int, ...]),
    ] = Field(("5xx",), description="Statuses that are errors, such as 5xx or 503.")
    unit: Literal["user", "request"] = Field(
        "user", description="user: at most one per user bucket in 10 s."
    )


class Latency(_Section):
    """Slow answers."""

    quantile: Annotated[float, Field(gt=0, lt=1)] = Field(0.95, description="Which quantile.")
    margin: Duration = Field(0.05, description="Increase that matters.")


class Throughput(_Section):
    """Requests routed that do not finish."""


class Business(_Section):
    """Something that users should keep doing."""

    outcome: str = Field(description="Name of an outcome, or events for posted ones.")
    margin: Ratio = Field(0.05, description="Change that matters, relative.")
    direction: Literal["decrease", "increase"] = Field("decrease", description="Which is bad.")


class Metrics(_Section):
    """What is compared. Those named are on, the others off."""

    errors: Annotated[Errors | None, BeforeValidator(_off)] = None
    latency: Annotated[Latency | None, BeforeValidator(_off)] = None
    throughput: Annotated[Throughput | None, BeforeValidator(_off)] = None
    business: Annotated[Business | None, BeforeValidator(_off)] = None


class OutcomeMatch(_Section):
    """Requests that an outcome looks at."""

    method: Methods | None = None
    path: PathMatch | None = None
    header: HeaderMatch | None = None


class JsonWhen(_Section):
    """A condition on a value in a JSON body."""

    pointer: _Pointer = Field(description="RFC 6901, such as /results.")
    is_: Literal["empty", "missing", "present", "null", "true", "false", "zero"] | None = Field(
        None, alias="is"
    )
    equals: str | int | float | bool | None = None

    @model_validator(mode="after")
    def _one(self) -> JsonWhen:
        if (self.is_ is None) == (self.equals is None):
            raise _wrong("exactly one of is, equals is allowed")
        return self


class When(_Section):
    """What makes an answer count for an outcome: all the given conditions."""

    status: (
        Annotated[
            tuple[str, ...],
            BeforeValidator(
                lambda v: _statuses(_one_or_more(v)),
                json_schema_input_type=str | int | tuple[str | int, ...],
            ),
        ]
        | None
    ) = None
    header: HeaderMatch | None = None
    body_under: Size | None = Field(None, description="The body is shorter than this.")
    json_: JsonWhen | None = Field(None, alias="json")
    regex: Regex | None = Field(None, description="Found in the first 64 KiB.")

    @model_validator(mode="after")
    def _any(self) -> When:
        if all(value is None for value in self.__dict__.values()):
            raise _wrong("at least one of status, header, body_under, json, regex is needed")
        return self


class Outcome(_Section):
    """A named kind of answer."""

    match: OutcomeMatch = Field(default_factory=OutcomeMatch)
    when: When
    bad: bool = Field(False, description="More of it on the canary is a regression.")
    margin: Ratio = Field(0.01, description="Increase that matters if bad, absolute.")


class GuardRails(_Section):
    """Limits that hold whatever stable does."""

    errors: Ratio | None = Field(None, description="Share of failed canary requests.")
    min_requests: int = Field(20, ge=1, description="Canary requests before it applies.")


class Judge(_Section):
    """How the canary is compared with stable."""

    alpha: Annotated[float, Field(gt=0, lt=0.5)] = Field(
        0.001,
        description="Chance that a healthy release is ever rolled back, all metrics together.",
    )
    alpha_hold: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.05, description="Chance that a healthy release is ever held as suspect."
    )
    metrics: Metrics = Field(
        default_factory=lambda: Metrics(errors=Errors(), latency=Latency(), throughput=Throughput())
    )
    outcomes: dict[_OutcomeName, Outcome] = Field(default_factory=dict)
    guard_rails: GuardRails | None = None
    cooldown: Duration | None = Field(
        None, description="After a trip, probe the canary again after this long."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Judge:
        if self.alpha_hold <= self.alpha:
            raise _wrong(f"must be above alpha ({self.alpha:g})", "alpha_hold")
        business = self.metrics.business
        if business is not None and business.outcome not in (*self.outcomes, "events"):
            known = ", ".join([*self.outcomes, "events"])
            raise _wrong(
                f"no outcome is named {business.outcome!r}; known: {known}",
                "metrics.business.outcome",
            )
        return self


class Rescue(_Section):
    """Answer from stable what fails on the canary."""

    enabled: bool = True
    replay_buffer: Size = Field(65536, description="Largest request body kept for another attempt.")
    header: bool = Field(False, description="Add X-Canary-Rescued: 1 to such answers.")


class Mirror(_Section):
    """Send copies of requests to the canary and discard its answers."""

    percent: Weight = 0.0


class Limits(_Section):
    """Bounds on connections, requests and waiting."""

    max_connections: int = Field(10_000, ge=1, description="Client connections.")
    max_requests: int = Field(10_000, ge=1, description="Requests in flight.")
    max_endpoint_connections: int = Field(1024, ge=1, description="Connections to an endpoint.")
    max_endpoint_idle: int = Field(256, ge=0, description="Idle connections kept to an endpoint.")
    header_timeout: Duration = Field(10.0, description="For the whole head of a request.")
    idle_timeout: Duration = Field(75.0, description="Between the requests of a connection.")
    body_timeout: Duration = Field(30.0, description="A stall between bytes of a body.")
    connect_timeout: Duration = Field(2.0, description="For a connection to an endpoint.")
    first_byte_timeout: Duration = Field(30.0, description="From the request to its answer.")
    endpoint_idle_timeout: Duration = Field(60.0, description="For idle endpoint connections.")
    drain_timeout: Duration = Field(30.0, description="For requests in flight at the end.")

    @model_validator(mode="after")
    def _positive(self) -> Limits:
        for name, value in self.__dict__.items():
            if name.endswith("_timeout") and name != "drain_timeout" and value < 0.01:
                raise _wrong("expected at least 10ms", name)
        return self


class Forwarded(_Section):
    """Forwarding fields: X-Forwarded-*, Forwarded, Via."""

    trust: tuple[Network, ...] = Field((), description="Proxies whose own fields are kept (CIDR).")
    via: Name = Field("canaryproxy", description="Our name in Via.")


class Webhook(_Section):
    """Where to tell what happens."""

    webhook: _WebUrl = Field(description="URL to POST to.")


class Config(_Section):
    """The configuration of canaryproxy."""

    listen: Annotated[
        tuple[Address, ...],
        BeforeValidator(_one_or_more, json_schema_input_type=str | tuple[str, ...]),
    ] = Field(
        (TcpAddress("127.0.0.1", 8080),),
        min_length=1,
        description="host:port, [::1]:port, unix:/path, or a list of them.",
    )
    workers: int = Field(1, ge=0, le=256, description="Processes; 0 = one per core.")
    admin: Admin = Field(default_factory=Admin)
    variants: Variants
    split: Split = Field(default_factory=Split)
    release: Release | None = None
    judge: Judge = Field(default_factory=Judge)
    rescue: Rescue = Field(default_factory=Rescue)
    mirror: Mirror = Field(default_factory=Mirror)
    limits: Limits = Field(default_factory=Limits)
    forwarded: Forwarded = Field(default_factory=Forwarded)
    state: str = Field("./run/state.json", description="File that survives a restart.")
    notify: tuple[Webhook, ...] = ()

    @model_validator(mode="after")
    def _addresses(self) -> Config:
        taken: list[TcpAddress | UnixAddress] = []
        for at, address in enumerate(self.listen):
            _not_taken(address, taken, f"listen.{at}")
        if self.admin.listen is not None:
            _not_taken(self.admin.listen, taken, "admin.listen")
        if self.admin.socket is not None:
            _not_taken(UnixAddress(self.admin.socket), taken, "admin.socket")
        for name in ("stable", "canary"):
            variant: Variant | None = getattr(self.variants, name)
            for at, one in enumerate(variant.endpoints if variant else ()):
                if TcpAddress(one.host, one.port) in self.listen:
                    raise _wrong(
                        f"{one} is the proxy's own address: a loop",
                        f"variants.{name}.endpoints.{at}",
                    )
        return self


def _not_taken(
    address: TcpAddress | UnixAddress, taken: list[TcpAddress | UnixAddress], field: str
) -> None:
    for other in taken:
        if _overlap(address, other):
            raise _wrong(f"{address} overlaps with {other}", field)
    taken.append(address)


def _overlap(one: TcpAddress | UnixAddress, other: TcpAddress | UnixAddress) -> bool:
    if one == other:
        return True
    if isinstance(one, UnixAddress) or isinstance(other, UnixAddress) or one.port != other.port:
        return False
    any_v4, any_v6 = "0.0.0.0", "::"
    if any_v4 in (one.host, other.host):
        return ":" not in one.host and ":" not in other.host
    if any_v6 in (one.host, other.host):
        return ":" in one.host and ":" in other.host
    return False


def _loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")
