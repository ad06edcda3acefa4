"""``variants``: the versions of the service and their endpoints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from canaryproxy.config import types
from canaryproxy.config.errors import Path
from canaryproxy.config.model.release import Release
from canaryproxy.config.model.section import Mistake, Section, exactly_one, report, switch
from canaryproxy.config.model.tls import ClientTls


class Outliers(Section):
    """Endpoints that fail far more, or are far slower, than the others get no requests for a while."""

    margin: types.Ratio = Field(
        0.2,
        description="How much more of its requests fail or are slow than of the others', at least; a ratio.",
    )
    slow: bool = Field(
        True, description="Whether an endpoint that is far slower than the others is an outlier."
    )
    max_ejected: types.Ratio = Field(
        0.34,
        description="Share of the endpoints that may be out at a time; one may always be, the last never.",
    )
    pause: types.WholeSeconds = Field(
        30.0, description="How long an endpoint is out; twice as long each further time."
    )
    longest_pause: types.WholeSeconds = Field(300.0, description="Longest such time.")

    @model_validator(mode="after")
    def _ordered(self) -> Outliers:
        if self.longest_pause < self.pause:
            report([Mistake("is shorter than pause", ("longest_pause",), (("pause",),))])
        return self


class Health(Section):
    """Active health checks: an endpoint that fails them gets no requests."""

    path: types.UrlTarget | None = Field(
        None, description="The path to ask each endpoint for, with GET; a query may follow."
    )
    grpc: types.GrpcService | None = Field(
        None,
        description='In place of path: the service to ask grpc.health.v1.Health for; "" for all of them.',
    )
    host: types.ServerName | None = Field(
        None, description="The Host header; default: the endpoint's host and port as configured."
    )
    interval: types.Timeout = Field(
        5.0, description="Time from check to check, up to a tenth less by chance."
    )
    timeout: types.Timeout = Field(
        2.0, description="Time for the connection and the head of the response."
    )
    rise: int = Field(2, ge=1, le=100, description="Passed checks in a row until it is up again.")
    fall: int = Field(3, ge=1, le=100, description="Failed checks in a row until it is down.")
    statuses: Annotated[types.Statuses, types.one_or_more(types.Status)] = Field(
        ("2xx",), description="Responses that pass; redirects are not followed."
    )

    @model_validator(mode="after")
    def _one_way(self) -> Health:
        exactly_one(self, ("path", "grpc"))
        if self.grpc is not None and "statuses" in self.model_fields_set:
            message = "has no effect: a gRPC check passes if the service is SERVING"
            report([Mistake(message, ("statuses",), (("grpc",),))])
        return self


class Variant(Section):
    """One version of the service."""

    endpoints: tuple[types.EndpointUrl, ...] = Field(
        min_length=1,
        description="Its processes: http://host:port, https://host:port or unix:/path, over HTTP/2"
        " h2c://host:port or h2://host:port (TLS); a name stands for all of its addresses,"
        " dns+srv://_http._tcp.name for those of its SRV records.",
    )
    tls: ClientTls | None = Field(
        None,
        description="TLS settings for https and h2 endpoints; default: verify with the system's CAs.",
    )
    balance: Literal["least_requests", "hash"] = Field(
        "least_requests",
        description="Load balancing; hash keeps each user on the same endpoint.",
    )
    health: Health | None = Field(
        None, description="Active health checks of its endpoints; off by default."
    )
    slow_start: types.Duration = Field(
        0.0,
        description="Time in which an endpoint that returns, or is new, comes to its share of the requests;"
        " 0: at once.",
    )

    outliers: Annotated[
        Outliers | None, BeforeValidator(switch, json_schema_input_type=Outliers | bool | None)
    ] = Field(
        default_factory=Outliers,
        description="Outlier ejection of endpoints that fail more or are slower than others; false: none.",
    )

    @model_validator(mode="after")
    def _distinct(self) -> Variant:
        report(self._mistakes())
        return self

    def _mistakes(self) -> Iterator[Mistake]:
        keys = [
            (one.scheme, one.service, one.host.lower(), one.port, one.path)
            for one in self.endpoints
        ]
        first = {key: at for at, key in reversed(list(enumerate(keys)))}
        for at, key in enumerate(keys):
            if first[key] != at:
                yield Mistake(f"{self.endpoints[at]} is listed twice", ("endpoints", at))
        if self.tls is not None and not any(one.is_tls for one in self.endpoints):
            yield Mistake(
                "has no effect: no endpoint begins with https:// or h2://",
                ("tls",),
                (("endpoints",),),
            )


class OtherVariant(Variant):
    """A version beside the canary, or a hold-out, with users of its own to be compared among."""

    share: types.Weight = Field(
        description="Percent of all users who can get it. They get it or stable, and never the canary."
    )
    weight: types.Weight = Field(
        0.0, description="Percent of these users who get it; used when it has no release."
    )
    release: Release | None = Field(
        None, description="Its own release; the weights of its steps are percent of these users."
    )


class Variants(Section):
    """The two versions, and others beside them."""

    stable: Variant = Field(description="The current version (v1).")
    canary: Variant | None = Field(None, description="The new version (v2).")
    others: dict[types.ServiceName, OtherVariant] = Field(
        default_factory=dict,
        description="Further versions by name, such as v3 or holdout: each is compared with stable.",
    )

    def each(self) -> Iterator[tuple[Path, Variant]]:
        """Yield every version with its path in this section."""
        yield ("stable",), self.stable
        if self.canary is not None:
            yield ("canary",), self.canary
        for name, one in self.others.items():
            yield ("others", name), one

    @model_validator(mode="after")
    def _fits(self) -> Variants:
        report(self._mistakes())
        return self

    def _mistakes(self) -> Iterator[Mistake]:
        total = 0.0
        for name, one in self.others.items():
            at = ("others", name)
            total = round(total + one.share, 2)
            if name in ("stable", "canary"):
                yield Mistake("stable and canary are not names of other versions", at)
            if one.share == 0.0:
                yield Mistake("expected a share above 0%, found 0%", (*at, "share"))
            if total >= 100.0:
                message = f"the shares up to here are {total:g}% in all: expected less than 100%"
                yield Mistake(message, (*at, "share"))
            if one.release is not None and "weight" in one.model_fields_set:
                yield Mistake(
                    "has no effect: the steps of its release decide",
                    (*at, "weight"),
                    ((*at, "release"),),
                )
