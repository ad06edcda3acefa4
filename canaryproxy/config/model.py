"""The configuration as frozen values. Every field's description is its documentation.

Units in these values: durations are seconds, sizes bytes, ratios fractions 0..1, weights percent 0..100.
Sequences are tuples. Checks of several fields report all they find, with ``_report``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from canaryproxy.config import types as f
from canaryproxy.config.addresses import TcpAddress, UnixAddress, is_loopback, leads_to, overlap
from canaryproxy.config.errors import Path


class Mistake(NamedTuple):
    """What is wrong with several fields together; paths are relative to the section."""

    message: str
    at: Path = ()
    """The field to point at."""
    because_of: tuple[Path, ...] = ()
    """If one of these is itself broken, this is only a consequence and not reported."""


def _report(mistakes: Iterable[Mistake]) -> None:
    if found := tuple(mistakes):
        raise PydanticCustomError("together", "the fields do not fit together", {"mistakes": found})


def _one_of(names: tuple[str, ...], *, optional: bool = False) -> dict[str, Any]:
    """Return the JSON Schema for "exactly one of these keys has a value"."""
    given = [
        {"required": [name], "properties": {name: {"not": {"enum": [None, False]}}}}
        if optional
        else {"required": [name], "properties": {name: {"not": {"type": "null"}}}}
        for name in names
    ]
    none: list[dict[str, Any]] = [{"not": {"anyOf": given}}] if optional else []
    return {"oneOf": [*given, *none]}


def _any_of(names: tuple[str, ...]) -> dict[str, Any]:
    return {
        "anyOf": [
            {"required": [name], "properties": {name: {"not": {"type": "null"}}}} for name in names
        ]
    }


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def _exactly_one(section: BaseModel, names: tuple[str, ...]) -> None:
    attributes = {field.alias or name: name for name, field in type(section).model_fields.items()}
    given = [name for name in names if getattr(section, attributes[name]) is not None]
    if len(given) != 1:
        found = f"found {' and '.join(given)}" if given else "found none"
        message = f"exactly one of {', '.join(names)} is allowed, {found}"
        _report([Mistake(message, because_of=tuple((name,) for name in names))])


_Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class Admin(_Section):
    """Where the proxy is controlled and scraped."""

    socket: f.SocketPath | None = Field(
        "./run/admin.sock", description="Path of the admin Unix socket; null for none."
    )
    listen: f.LocalAddress | None = Field(
        None, description="host:port for /metrics and the dashboard; changes need the token."
    )
    token_file: f.FilePath | None = Field(None, description="File that holds the bearer token.")
    token_env: _Variable | None = Field(
        None, description="Name of the environment variable that holds the bearer token."
    )
    hosts: tuple[f.Domain, ...] = Field(
        (), description="Names that it answers to, beside localhost, addresses and short names."
    )

    @model_validator(mode="after")
    def _tokens(self) -> Admin:
        _report(self._mistakes())
        return self

    def _mistakes(self) -> Iterator[Mistake]:
        has_token = self.token_file is not None or self.token_env is not None
        if self.token_file is not None and self.token_env is not None:
            yield Mistake("token_file and token_env exclude each other", ("token_env",))
        if self.listen is not None and not is_loopback(self.listen.host) and not has_token:
            yield Mistake(
                f"{self.listen} is not a loopback address: that needs token_file or token_env",
                ("listen",),
                (("token_file",), ("token_env",)),
            )


class Certificate(_Section):
    """A certificate and its key."""

    cert: f.FilePath = Field(description="PEM file: the certificate, then those that lead to it.")
    key: f.FilePath = Field(description="PEM file of its private key, without a passphrase.")
    names: tuple[f.ServerPattern, ...] = Field(
        (),
        description="Servers that it is for, *.example.com for any one label; by default those it names.",
    )


class ServerTls(_Section):
    """TLS with clients."""

    certificates: tuple[Certificate, ...] = Field(
        min_length=1,
        description="Chosen by the server that a client names (SNI); the first is for all others.",
    )
    min_version: f.TlsVersion = Field("1.2", description="Oldest version: 1.2 or 1.3.")
    client_ca: f.FilePath | None = Field(
        None, description="PEM file of authorities: clients are asked for a certificate of theirs."
    )
    client_auth: Literal["required", "optional"] = Field(
        "required", description="Whether a client without a certificate is let in, with client_ca."
    )

    @model_validator(mode="after")
    def _consistent(self) -> ServerTls:
        if self.client_ca is None and "client_auth" in self.model_fields_set:
            message = "only with client_ca, the authorities of clients"
            _report([Mistake(message, ("client_auth",), (("client_ca",),))])
        return self


class Listener(_Section):
    """An address that clients connect to."""

    address: f.Address = Field(description="host:port, [::1]:port or unix:/path.")
    tls: ServerTls | None = Field(None, description="TLS with its clients; none by default.")
    proxy_protocol: f.ProxyProtocol = Field(
        "off",
        description="PROXY protocol: required of all, of the networks in forwarded.trust, or off.",
    )


def _as_listener(value: object) -> object:
    """``listen: host:port`` is short for ``listen: {address: host:port}``."""
    return value if isinstance(value, (dict, Listener)) else {"address": value}


_AnyListener = Annotated[
    Listener, BeforeValidator(_as_listener, json_schema_input_type=f.Address | Listener)
]


class ClientTls(_Section):
    """TLS with the endpoints of a variant."""

    ca: f.FilePath | None = Field(
        None, description="PEM file of authorities to trust; the system's by default."
    )
    server_name: f.ServerName | None = Field(
        None, description="Name in the endpoints' certificate; the host of each by default."
    )
    cert: f.FilePath | None = Field(
        None, description="PEM file of our own certificate, for endpoints that ask for one."
    )
    key: f.FilePath | None = Field(
        None, description="PEM file of its private key, without a passphrase."
    )
    verify: bool = Field(True, description="Whether the endpoints' certificates are verified.")

    @model_validator(mode="after")
    def _consistent(self) -> ClientTls:
        _report(self._mistakes())
        return self

    def _mistakes(self) -> Iterator[Mistake]:
        if (self.cert is None) != (self.key is None):
            here, other = ("cert", "key") if self.key is None else ("key", "cert")
            yield Mistake(f"needs {other} beside it", (here,), ((other,),))
        if self.ca is not None and not self.verify:
            yield Mistake("has no effect with verify: false", ("ca",), (("verify",),))


class Variant(_Section):
    """One version of the service."""

    endpoints: tuple[f.EndpointUrl, ...] = Field(
        min_length=1, description="Where it runs: http://host:port or unix:/path of each process."
    )
    tls: ClientTls | None = Field(
        None, description="TLS with its https endpoints; by default verified by the system's."
    )
    balance: Literal["least_requests", "hash"] = Field(
        "least_requests",
        description="How an endpoint is chosen; hash keeps a user on an endpoint.",
    )

    @model_validator(mode="after")
    def _distinct(self) -> Variant:
        _report(self._mistakes())
        return self

    def _mistakes(self) -> Iterator[Mistake]:
        keys = [(one.scheme, one.host.lower(), one.port, one.path) for one in self.endpoints]
        first = {key: at for at, key in reversed(list(enumerate(keys)))}
        for at, key in enumerate(keys):
            if first[key] != at:
                yield Mistake(f"{self.endpoints[at]} is listed twice", ("endpoints", at))
        if self.tls is not None and all(one.scheme != "https" for one in self.endpoints):
            yield Mistake("no endpoint is https", ("tls",), (("endpoints",),))


class Variants(_Section):
    """The two versions."""

    stable: Variant = Field(description="The version that users have now (v1).")
    canary: Variant | None = Field(None, description="The version to be released (v2).")


_STICKY = ("cookie", "header", "address")
_COOKIE_ONLY = ("set", "max_age", "forward", "same_site", "domain", "sign")


class Sign(_Section):
    """Signatures of sticky cookies, so that nobody can make one that is in the canary."""

    key_file: f.FilePath = Field(
        description="File of keys, a line each: the first signs, all are accepted."
    )


class Sticky(_Section):
    """What identifies a user: one of cookie, header, address; by default the cookie canary_id."""

    model_config = ConfigDict(json_schema_extra=_one_of(_STICKY, optional=True))

    cookie: f.Name | None = Field(None, description="Cookie; canary_id if nothing is given.")
    header: f.Name | None = Field(None, description="Header, for clients that keep no cookies.")
    address: bool = Field(False, description="The client's address.")
    set_: bool = Field(True, alias="set", description="Set the cookie for users without one.")
    max_age: f.WholeSeconds = Field(
        30 * 86400.0, description="How long browsers keep the cookie; a duration."
    )
    forward: bool = Field(True, description="Pass the cookie on to the upstream.")
    same_site: Literal["Lax", "Strict", "None"] = Field(
        "Lax", description="SameSite attribute of the cookie."
    )
    domain: f.Domain | None = Field(
        None, description="Domain attribute of the cookie; none by default."
    )
    sign: Sign | None = Field(None, description="Cookies that are signed; none by default.")

    @property
    def set(self) -> bool:
        """Whether the proxy sets the cookie for users without one (``set_`` by its name in the file)."""
        return self.set_

    @model_validator(mode="before")
    @classmethod
    def _default(cls, value: Any) -> Any:
        if isinstance(value, dict) and not any(value.get(name) for name in _STICKY):
            return {**value, "cookie": "canary_id"} if value.get("cookie") is None else value
        return value

    @model_validator(mode="after")
    def _one_key(self) -> Sticky:
        _report(self._mistakes())
        return self

    def _mistakes(self) -> Iterator[Mistake]:
        given = [name for name in _STICKY if getattr(self, name) not in (None, False)]
        if len(given) != 1:
            found = f"found {' and '.join(given)}" if given else "found none"
            yield Mistake(f"exactly one of {', '.join(_STICKY)} is allowed, {found}")
        elif given != ["cookie"]:
            for name in _COOKIE_ONLY:
                if ("set_" if name == "set" else name) in self.model_fields_set:
                    message = f"only for a cookie, but users are known by {given[0]}"
                    yield Mistake(message, (name,), (("cookie",),))
        elif self.sign is not None and not self.set_:
            message = "only for a cookie that the proxy sets, but set is false"
            yield Mistake(message, ("sign",), (("set",),))


class HeaderMatch(_Section):
    """A condition on a header or a cookie: its name and exactly one test."""

    model_config = ConfigDict(json_schema_extra=_one_of(("equals", "prefix", "regex", "present")))

    name: f.Name = Field(description="Name of the header or cookie.")
    equals: str | None = Field(None, description="The whole value.")
    prefix: str | None = Field(None, description="How the value begins.")
    regex: f.Regex | None = Field(None, description="Found anywhere in the value.")
    present: bool | None = Field(None, description="Whether it is there at all.")

    @model_validator(mode="after")
    def _one(self) -> HeaderMatch:
        _exactly_one(self, ("equals", "prefix", "regex", "present"))
        return self


class PathMatch(_Section):
    """A condition on the path of the target, as received, without the query: exactly one test."""

    model_config = ConfigDict(json_schema_extra=_one_of(("equals", "prefix", "regex")))

    equals: f.UrlPath | None = Field(None, description="The whole path.")
    prefix: f.UrlPath | None = Field(None, description="How the path begins.")
    regex: f.Regex | None = Field(None, description="Found anywhere in the path.")

    @model_validator(mode="after")
    def _one(self) -> PathMatch:
        _exactly_one(self, ("equals", "prefix", "regex"))
        return self


_CONDITIONS = ("header", "cookie", "path", "method")


class MatchRule(_Section):
    """Forces a variant when all its conditions hold; at least one is needed."""

    model_config = ConfigDict(json_schema_extra=_any_of(_CONDITIONS))

    variant: f.VariantName = Field(description="The variant that it forces.")
    header: HeaderMatch | None = Field(None, description="A header of the request.")
    cookie: HeaderMatch | None = Field(None, description="A cookie of the request.")
    path: PathMatch | None = Field(None, description="The path of the request.")
    method: Annotated[f.Methods, f.one_or_more(f.Method)] | None = Field(
        None, description="A method or a list of them."
    )

    @model_validator(mode="after")
    def _any(self) -> MatchRule:
        if all(getattr(self, name) is None for name in _CONDITIONS):
            message = f"at least one of {', '.join(_CONDITIONS)} is needed, found none"
            _report([Mistake(message, because_of=tuple((name,) for name in _CONDITIONS))])
        return self


_NOT_OURS = frozenset(
    (
        *("age", "cache-control", "connection", "content-encoding", "content-length"),
        *("content-range", "content-type", "date", "etag", "expires", "host", "keep-alive"),
        *("last-modified", "location", "proxy-authenticate", "retry-after", "set-cookie", "te"),
        *("trailer", "transfer-encoding", "upgrade", "vary", "via", "www-authenticate"),
    )
)
"""Header fields of answers that cannot name the variant."""


class Split(_Section):
    """Who gets the canary."""

    weight: f.Weight = Field(
        0.0,
        description="Percent of users, 0 to 100 in steps of 0.01; used when there is no release.",
    )
    sticky: Sticky = Field(
        default_factory=lambda: Sticky(cookie="canary_id"), description="What identifies a user."
    )
    admit: Literal["all", "new_sessions"] = Field(
        "all", description="new_sessions: only users first seen in this release may enter."
    )
    salt: str | None = Field(None, description="Salt of the hash; the release's id by default.")
    match: tuple[MatchRule, ...] = Field(
        (), description="Rules that force a variant; the first that matches counts."
    )
    variant_header: f.Name | None = Field(
        None, description="Header of answers that names the variant; none by default."
    )

    @model_validator(mode="after")
    def _own_header(self) -> Split:
        if (self.variant_header or "").lower() in _NOT_OURS:
            message = f"{self.variant_header} means something else already; choose a name such as X-Variant"
            _report([Mistake(message, ("variant_header",))])
        return self

    @model_validator(mode="after")
    def _admission(self) -> Split:
        if self.admit == "new_sessions" and (self.sticky.cookie is None or not self.sticky.set_):
            message = "new_sessions needs a sticky cookie that the proxy sets"
            _report([Mistake(message, ("admit",), (("sticky",),))])
        return self


class Step(_Section):
    """One step of a release."""

    weight: f.Weight = Field(description="Percent of users, 0 to 100 in steps of 0.01.")
    bake: f.Duration = Field(0.0, description="How long it is watched at least; a duration.")
    min_requests: int = Field(0, ge=0, description="Canary requests to be judged at least.")


def _one_secret(section: Webhook | Gate) -> Iterator[Mistake]:
    if section.secret_env is not None and section.secret_file is not None:
        yield Mistake("secret_file and secret_env exclude each other", ("secret_env",))


LONGEST_GATE = 120.0
"""Seconds; who needs longer refuses, and is asked again."""


class Gate(_Section):
    """Who is asked before a step is left: anything but a 2xx in time means no."""

    webhook: f.WebUrl = Field(description="URL to POST the question to.")
    timeout: f.Timeout = Field(10.0, description="For the answer; a duration.")
    secret_env: _Variable | None = Field(
        None, description="Name of the environment variable that holds the key of the signature."
    )
    secret_file: f.FilePath | None = Field(
        None, description="File that holds the key of the signature."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Gate:
        _report(_one_secret(self))
        if self.timeout > LONGEST_GATE:
            _report([Mistake(f"a gate has at most {LONGEST_GATE:g} s to answer", ("timeout",))])
        return self


class Release(_Section):
    """One attempt to move from stable to canary."""

    id: f.ReleaseId = Field(description="Its name; also the salt of the split.")
    steps: tuple[Step, ...] = Field(min_length=1, description="The plan; weights rise.")
    promote: Literal["bake", "proof", "manual"] = Field(
        "bake",
        description="What lets a step be left: its bake time, proof of no harm, or an operator.",
    )
    gates: tuple[Gate, ...] = Field((), description="Who is asked before a step is left.")

    @model_validator(mode="after")
    def _rising(self) -> Release:
        weights = [step.weight for step in self.steps]
        _report(
            Mistake(f"weights must rise: {here:g} after {before:g}", ("steps", at + 1, "weight"))
            for at, (before, here) in enumerate(pairwise(weights))
            if here <= before
        )
        return self


class Errors(_Section):
    """Failed answers."""

    margin: f.Ratio = Field(0.01, description="Increase that matters, absolute; a ratio.")
    statuses: tuple[f.Status, ...] = Field(
        ("5xx",), description="Statuses that are errors, such as 5xx or 503."
    )
    unit: Literal["user", "request"] = Field(
        "user", description="user: at most one per user bucket in 10 s."
    )


class Latency(_Section):
    """Slow answers."""

    quantile: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.95, description="The quantile of stable's time to first byte that is compared."
    )
    margin: f.Duration = Field(0.05, description="Increase that matters; a duration.")


class Throughput(_Section):
    """Requests routed that do not finish."""


class Business(_Section):
    """Something that users should keep doing."""

    outcome: str = Field(description="Name of an outcome, or events for those posted.")
    margin: f.Ratio = Field(0.05, description="Change that matters, relative; a ratio.")
    direction: Literal["decrease", "increase"] = Field(
        "decrease", description="Which change is bad."
    )


def _off(value: object) -> object:
    """``errors: false`` switches a metric off, ``errors: {}`` or ``errors: true`` switches it on."""
    if value is False:
        return None
    return {} if value is True else value


class Metrics(_Section):
    """What is compared. Those named are on, the others off; without metrics all but business are on."""

    errors: Annotated[
        Errors | None, BeforeValidator(_off, json_schema_input_type=Errors | bool | None)
    ] = Field(None, description="Failed answers; {} for the defaults, false for off.")
    latency: Annotated[
        Latency | None, BeforeValidator(_off, json_schema_input_type=Latency | bool | None)
    ] = Field(None, description="Slow answers; {} for the defaults, false for off.")
    throughput: Annotated[
        Throughput | None, BeforeValidator(_off, json_schema_input_type=Throughput | bool | None)
    ] = Field(None, description="Requests that do not finish; {} for on, false for off.")
    business: Annotated[
        Business | None,
        BeforeValidator(
            lambda value: None if value is False else value,
            json_schema_input_type=Business | Literal[False] | None,
        ),
    ] = Field(None, description="Something that users should keep doing; false for off.")


class OutcomeMatch(_Section):
    """Requests that an outcome looks at; all of them by default."""

    method: Annotated[f.Methods, f.one_or_more(f.Method)] | None = Field(
        None, description="A method or a list of them."
    )
    path: PathMatch | None = Field(None, description="The path of the request.")
    header: HeaderMatch | None = Field(None, description="A header of the request.")


class JsonWhen(_Section):
    """A condition on a value in a JSON body: a pointer and exactly one test."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [
        {"required": ["is"], "not": _any_of(("equals",))},
        {"not": {"required": ["is"]}, **_any_of(("equals",))},
    ]})  # fmt: skip

    pointer: f.Pointer = Field(description="RFC 6901, such as /results.")
    is_: f.JsonState = Field(None, alias="is", description="The state of the value.")
    equals: f.JsonValue = Field(
        None, description="The value itself: text, a number, true or false."
    )

    @model_validator(mode="after")
    def _one(self) -> JsonWhen:
        _exactly_one(self, ("is", "equals"))
        return self


_ANSWER = ("status", "header", "body_under", "json", "regex")


class When(_Section):
    """What makes an answer count for an outcome: all the given conditions; at least one is needed."""

    model_config = ConfigDict(json_schema_extra=_any_of(_ANSWER))

    status: Annotated[f.Statuses, f.one_or_more(f.Status)] | None = Field(
        None, description="A status such as 2xx or 404, or a list of them."
    )
    header: HeaderMatch | None = Field(None, description="A header of the answer.")
    body_under: f.SomeSize | None = Field(None, description="The body is shorter; a size.")
    json_: JsonWhen | None = Field(None, alias="json", description="A value in the JSON body.")
    regex: f.Regex | None = Field(None, description="Found in the first 64 KiB of the body.")

    @model_validator(mode="after")
    def _any(self) -> When:
        if all(value is None for value in self.__dict__.values()):
            message = f"at least one of {', '.join(_ANSWER)} is needed, found none"
            _report([Mistake(message, because_of=tuple((name,) for name in _ANSWER))])
        return self


class Outcome(_Section):
    """A named kind of answer."""

    match: OutcomeMatch = Field(
        default_factory=OutcomeMatch, description="The requests that it looks at."
    )
    when: When = Field(description="What makes an answer count.")
    bad: bool = Field(False, description="More of it on the canary is a regression.")
    margin: f.Ratio = Field(
        0.01, description="Increase that matters if it is bad, absolute; a ratio."
    )


class GuardRails(_Section):
    """Limits that hold whatever stable does."""

    errors: f.Ratio | None = Field(None, description="Share of failed canary requests; a ratio.")
    min_requests: int = Field(20, ge=1, description="Canary requests before it applies.")


POSTED = "events"
"""The outcome of events that are posted to the admin API."""


class Judge(_Section):
    """How the canary is compared with stable."""

    alpha: Annotated[float, Field(gt=0, lt=0.5)] = Field(
        0.001,
        description="Chance that a healthy release is ever rolled back, all metrics together.",
    )
    alpha_hold: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.05, description="Chance that a healthy release is ever held as suspect; above alpha."
    )
    metrics: Metrics = Field(
        default_factory=lambda: Metrics(
            errors=Errors(), latency=Latency(), throughput=Throughput()
        ),
        description="What is compared; only what is named here.",
        json_schema_extra={"default": {"errors": {}, "latency": {}, "throughput": {}}},
    )
    outcomes: dict[f.OutcomeName, Outcome] = Field(
        default_factory=dict, description="Kinds of answers to count, by name."
    )
    guard_rails: GuardRails | None = Field(
        None, description="Limits that hold whatever stable does."
    )
    cooldown: f.WholeSeconds | None = Field(
        None, description="After a trip, probe the canary again after this long; a duration."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Judge:
        _report(self._mistakes())
        return self

    def _mistakes(self) -> Iterator[Mistake]:
        if self.alpha_hold <= self.alpha:
            at = "alpha_hold" if "alpha_hold" in self.model_fields_set else "alpha"
            message = f"alpha_hold ({self.alpha_hold:g}) must be above alpha ({self.alpha:g})"
            yield Mistake(message, (at,), (("alpha",), ("alpha_hold",)))
        if POSTED in self.outcomes:
            yield Mistake(f"{POSTED!r} is the name of posted events", ("outcomes", POSTED))
        business = self.metrics.business
        if business is not None and business.outcome not in (*self.outcomes, POSTED):
            known = ", ".join([*self.outcomes, POSTED])
            yield Mistake(
                f"no outcome is named {business.outcome!r}; known: {known}",
                ("metrics", "business", "outcome"),
                (("outcomes", business.outcome),),
            )


class Rescue(_Section):
    """Answer from stable what fails on the canary."""

    enabled: bool = Field(True, description="Whether failed canary requests go to stable.")
    replay_buffer: f.Size = Field(
        65536, description="Largest request body kept for another attempt; a size."
    )
    header: bool = Field(False, description="Add X-Canary-Rescued: 1 to such answers.")


class Mirror(_Section):
    """Send copies of requests to the canary and discard its answers: GET and HEAD without a body only."""

    percent: f.Weight = Field(
        0.0,
        description="Percent of stable's requests to copy, 0 to 100; none while the circuit is open.",
    )


class Limits(_Section):
    """Bounds on connections, requests and waiting; timeouts are durations."""

    max_connections: int = Field(10_000, ge=1, description="Client connections.")
    max_requests: int = Field(10_000, ge=1, description="Requests in flight.")
    max_endpoint_connections: int = Field(1024, ge=1, description="Connections to an endpoint.")
    max_endpoint_idle: int = Field(256, ge=0, description="Idle connections kept to an endpoint.")
    handshake_timeout: f.Timeout = Field(
        10.0, description="For a client's PROXY protocol header and TLS handshake together."
    )
    header_timeout: f.Timeout = Field(10.0, description="For the whole head of a request.")
    idle_timeout: f.Timeout = Field(75.0, description="Between the requests of a connection.")
    body_timeout: f.Timeout = Field(30.0, description="A stall between bytes of a body.")
    connect_timeout: f.Timeout = Field(2.0, description="For a connection to an endpoint.")
    first_byte_timeout: f.Timeout = Field(30.0, description="From the request to its answer.")
    endpoint_idle_timeout: f.Timeout = Field(60.0, description="For idle endpoint connections.")
    drain_timeout: f.Timeout = Field(30.0, description="For requests in flight at the end.")


class Forwarded(_Section):
    """Forwarding fields: X-Forwarded-*, Forwarded, Via."""

    trust: tuple[f.Network, ...] = Field(
        (), description="Proxies whose own fields are kept (CIDR)."
    )
    via: f.Name = Field("canaryproxy", description="Our name in Via.")


SHORTEST_INTERVAL = 0.05
"""Seconds."""


class Fleet(_Section):
    """Replicas that share one release through Redis (pip install canaryproxy[redis])."""

    redis: f.RedisUrl = Field(
        description="redis://, rediss:// or unix:// URL without a password.",
    )
    group: f.Word = Field(description="Name of the fleet; its replicas share one release.")
    replica: f.Word | None = Field(
        None, description="Name of this replica; by default the host's name, pid and a random part."
    )
    username: f.Word | None = Field(None, description="User in Redis; none by default.")
    password_env: _Variable | None = Field(
        None, description="Name of the environment variable that holds Redis' password."
    )
    password_file: f.FilePath | None = Field(None, description="File that holds Redis' password.")
    ca_file: f.FilePath | None = Field(
        None, description="Certificates to trust with rediss://; the system's by default."
    )
    lease: f.WholeSeconds = Field(
        3.0, description="After this long without a word another replica leads; a duration."
    )
    interval: f.Timeout = Field(
        0.1, description="Between two looks at Redis; a duration from 50ms to a third of the lease."
    )
    timeout: f.Timeout = Field(1.0, description="For an answer of Redis; a duration.")

    @model_validator(mode="after")
    def _consistent(self) -> Fleet:
        _report(self._mistakes())
        return self

    def _mistakes(self) -> Iterator[Mistake]:
        if self.password_env is not None and self.password_file is not None:
            yield Mistake("password_file and password_env exclude each other", ("password_env",))
        if not SHORTEST_INTERVAL <= self.interval <= self.lease / 3:
            message = f"an interval is 50ms to a third of the lease ({self.lease / 3:g} s)"
            yield Mistake(message, ("interval",), (("lease",),))
        if self.ca_file is not None and not self.redis.startswith("rediss:"):
            yield Mistake("only with rediss://", ("ca_file",), (("redis",),))


EventName = Literal[
    "started",
    "step",
    "ready",
    "paused",
    "resumed",
    "weight",
    "suspect",
    "cleared",
    "tripped",
    "reset",
    "probing",
    "recovered",
    "stopped",
    "restored",
    "promoted",
    "aborted",
    "gate",
    "drill",
    "release",
    "reload",
    "reload_failed",
    "upgrade",
    "upgrade_failed",
    "merged",
]
"""What the history records."""


class Webhook(_Section):
    """Where to tell what happens."""

    webhook: f.WebUrl = Field(description="URL to POST to.")
    format: Literal["json", "slack"] = Field(
        "json", description="json: the record, signed; slack: text for a chat."
    )
    events: tuple[EventName, ...] = Field(
        (), description="What to tell; by default all that people care for."
    )
    timeout: f.Timeout = Field(5.0, description="For one attempt; a duration.")
    secret_env: _Variable | None = Field(
        None, description="Name of the environment variable that holds the key of the signature."
    )
    secret_file: f.FilePath | None = Field(
        None, description="File that holds the key of the signature."
    )

    @model_validator(mode="after")
    def _secrets(self) -> Webhook:
        _report(_one_secret(self))
        return self


class Reload(_Section):
    """When the configuration is read again, beside SIGHUP and the admin API."""

    watch: bool = Field(False, description="Whenever the file changes.")


class AccessLog(_Section):
    """A line for each request."""

    path: f.FilePath = Field("-", description="File to append to; - is standard output.")
    format: Literal["json", "combined"] = Field("json", description="How a line is written.")
    queue: int = Field(
        10_000, ge=1, le=1_000_000, description="Lines that may wait; more are dropped and counted."
    )


class Trace(_Section):
    """W3C trace context."""

    create: bool = Field(
        False, description="Make a traceparent for requests that come without a valid one."
    )


class Config(_Section):
    """The configuration of canaryproxy."""

    listen: Annotated[
        Annotated[tuple[_AnyListener, ...], Field(min_length=1)], f.one_or_more(_AnyListener)
    ] = Field(
        default_factory=lambda: (Listener.model_validate({"address": "127.0.0.1:8080"}),),
        description="host:port, [::1]:port, unix:/path, a mapping with address, or a list of them.",
        json_schema_extra={"default": "127.0.0.1:8080"},
    )
    workers: int = Field(
        1, ge=0, le=256, description="Processes that share the port; 0 = one per core."
    )
    admin: Admin = Field(
        default_factory=Admin, description="Where the proxy is controlled and scraped."
    )
    variants: Variants = Field(description="The two versions of the service.")
    split: Split = Field(default_factory=Split, description="Who gets the canary.")
    release: Release | None = Field(
        None, description="One attempt to move from stable to canary, step by step."
    )
    judge: Judge = Field(
        default_factory=Judge, description="How the canary is compared with stable."
    )
    rescue: Rescue = Field(
        default_factory=Rescue, description="Answer from stable what fails on the canary."
    )
    mirror: Mirror = Field(
        default_factory=Mirror, description="Send copies of requests to the canary."
    )
    limits: Limits = Field(
        default_factory=Limits, description="Bounds on connections, requests and waiting."
    )
    forwarded: Forwarded = Field(
        default_factory=Forwarded, description="X-Forwarded-*, Forwarded, Via."
    )
    state: f.FilePath = Field("./run/state.json", description="File that survives a restart.")
    notify: tuple[Webhook, ...] = Field((), description="Where to tell what happens.")
    reload: Reload = Field(
        default_factory=Reload, description="When the configuration is read again."
    )
    access_log: Annotated[
        AccessLog | None, BeforeValidator(_off, json_schema_input_type=AccessLog | bool | None)
    ] = Field(None, description="A line for each request; {} for the defaults, false for off.")
    trace: Trace = Field(default_factory=Trace, description="W3C trace context.")
    fleet: Fleet | None = Field(
        None, description="Replicas that share one release; none by default."
    )

    @property
    def release_id(self) -> str | None:
        """The release's id, if there is a release."""
        return None if self.release is None else self.release.id

    @model_validator(mode="after")
    def _addresses(self) -> Config:
        _report(self._mistakes())
        return self

    def _mistakes(self) -> Iterator[Mistake]:
        wanted: list[tuple[Path, TcpAddress | UnixAddress]] = [
            (("listen", at), one.address) for at, one in enumerate(self.listen)
        ]
        if self.admin.listen is not None:
            wanted.append((("admin", "listen"), self.admin.listen))
        if self.admin.socket is not None:
            wanted.append((("admin", "socket"), UnixAddress(self.admin.socket)))
        for at, (path, address) in enumerate(wanted):
            for other_path, other in wanted[:at]:
                if overlap(address, other):
                    # A broken address gives way to the default, which nobody asked for.
                    because_of = tuple(p[:1] if p[0] == "listen" else p for p in (path, other_path))
                    is_default = (
                        path[-1] == "socket" and "socket" not in self.admin.model_fields_set
                    )
                    if is_default:
                        message = f"{other} is the admin socket's default; set admin.socket too"
                        yield Mistake(message, other_path, because_of)
                    else:
                        yield Mistake(f"{address} overlaps with {other}", path, because_of)
                    break
        for name, variant in (("stable", self.variants.stable), ("canary", self.variants.canary)):
            for at, endpoint in enumerate(variant.endpoints if variant else ()):
                if any(leads_to(endpoint, listener.address) for listener in self.listen):
                    yield Mistake(
                        f"{endpoint} is the proxy's own address: a loop",
                        ("variants", name, "endpoints", at),
                        (("listen",),),
                    )
