"""``judge``: how the canary is compared with stable."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from canaryproxy.config import types
from canaryproxy.config.grpc import ERRORS
from canaryproxy.config.model.match import PathMatch
from canaryproxy.config.model.outcomes import POSTED, TAKEN, Outcome
from canaryproxy.config.model.section import Mistake, Section, report, switch
from canaryproxy.config.units import ratio_text


class Errors(Section):
    """Failed responses."""

    margin: types.Ratio = Field(
        0.01, description="Smallest increase of the error rate that matters, absolute; a ratio."
    )
    statuses: tuple[types.Status, ...] = Field(
        ("5xx",), description="Statuses that count as errors, such as 5xx or 503."
    )
    grpc_statuses: tuple[types.GrpcStatusName, ...] = Field(
        ERRORS, description="Statuses of gRPC that count as errors, such as UNAVAILABLE."
    )
    unit: Literal["user", "request"] = Field(
        "user",
        description="Deprecated, without effect: users are compared.",
        json_schema_extra={"deprecated": True},
    )


class Latency(Section):
    """Slow responses."""

    quantile: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.95,
        description="A response is slow above this quantile of stable's time to first byte.",
    )
    margin: types.Duration = Field(
        0.05, description="Smallest increase of that quantile that matters; a duration."
    )
    p50: types.Ratio = Field(
        0.5, description="Increase of the median that holds a step, relative to stable; a ratio."
    )
    p99: types.Ratio = Field(
        0.5,
        description="Increase of the 99% quantile that holds a step, relative to stable; a ratio.",
    )


class Throughput(Section):
    """Requests that were routed and do not finish."""


class Classes(Section):
    """Shares of 2xx, 3xx, 4xx and of responses without a body."""

    margin: types.Ratio = Field(
        0.01, description="Smallest increase that holds a step, absolute; a ratio."
    )
    gross: types.Ratio = Field(
        0.2, description="Smallest increase that opens the circuit, absolute; a ratio."
    )

    @model_validator(mode="after")
    def _ordered(self) -> Classes:
        report(self._mistakes())
        return self

    def _mistakes(self) -> Iterator[Mistake]:
        if self.gross < self.margin:
            at = "gross" if "gross" in self.model_fields_set else "margin"
            message = (
                f"gross ({ratio_text(self.gross)}) is below margin ({ratio_text(self.margin)})"
            )
            yield Mistake(message, (at,), (("margin",), ("gross",)))


class Content(Section):
    """Bodies of another size or media type than stable's on the same route. They hold and never trip."""

    size: bool = Field(True, description="Compare sizes.")
    type: bool = Field(True, description="Compare media types.")
    margin: types.Ratio = Field(
        0.2, description="Smallest increase of the share of odd ones that matters; a ratio."
    )


class Connections(Section):
    """Tunnels and event streams that the upstream breaks off, or ends within seconds."""

    margin: types.Ratio = Field(
        0.01, description="Smallest increase that matters, absolute; a ratio."
    )


class Business(Section):
    """An outcome that users should keep reaching, such as a purchase."""

    outcome: str = Field(
        description="Name of an outcome, or events for events posted to the admin API."
    )
    margin: types.Ratio = Field(
        0.05, description="Smallest change that matters, relative to stable; a ratio."
    )
    direction: Literal["decrease", "increase"] = Field(
        "decrease", description="The direction of change that is bad."
    )


class Metrics(Section):
    """Metrics to compare.

    Of errors, latency, throughput and business those named here are on, the others off; by default all but
    business are on. classes, content and connections are on unless they are false.
    """

    errors: Annotated[
        Errors | None, BeforeValidator(switch, json_schema_input_type=Errors | bool | None)
    ] = Field(None, description="Failed responses; {} or true for the defaults, false for off.")
    latency: Annotated[
        Latency | None, BeforeValidator(switch, json_schema_input_type=Latency | bool | None)
    ] = Field(None, description="Slow responses; {} or true for the defaults, false for off.")
    throughput: Annotated[
        Throughput | None, BeforeValidator(switch, json_schema_input_type=Throughput | bool | None)
    ] = Field(None, description="Requests that do not finish; {} or true for on, false for off.")
    business: Annotated[
        Business | None,
        BeforeValidator(
            lambda value: None if value is False else value,
            json_schema_input_type=Business | Literal[False] | None,
        ),
    ] = Field(None, description="An outcome that users should keep reaching; false for off.")
    classes: Annotated[
        Classes | None, BeforeValidator(switch, json_schema_input_type=Classes | bool | None)
    ] = Field(
        default_factory=Classes,
        description="Shares of 2xx, 3xx, 4xx and empty responses; false for off.",
        json_schema_extra={"default": {}},
    )
    content: Annotated[
        Content | None, BeforeValidator(switch, json_schema_input_type=Content | bool | None)
    ] = Field(
        default_factory=Content,
        description="Sizes and media types of bodies, hold only; false for off.",
        json_schema_extra={"default": {}},
    )
    connections: Annotated[
        Connections | None,
        BeforeValidator(switch, json_schema_input_type=Connections | bool | None),
    ] = Field(
        default_factory=Connections,
        description="Tunnels and event streams that break off; false for off.",
        json_schema_extra={"default": {}},
    )


class GuardRails(Section):
    """Limits to the canary's requests, however few users send them."""

    errors: types.Ratio | None = Field(
        None,
        description=(
            "Highest share of failed canary requests, whatever stable does; a ratio;"
            " default: 50%, where stable's share is far lower."
        ),
    )
    client_errors: types.Ratio = Field(
        0.5, description="Highest share of 4xx, where stable's is far lower; a ratio."
    )
    min_requests: int = Field(20, ge=1, description="Canary requests before the limits apply.")


def _routes(value: object) -> object:
    """Return ``None`` for true (the busiest routes) and no routes for false."""
    if value is True:
        return None
    return {} if value is False else value


Routes = dict[types.OutcomeName, PathMatch]
"""Routes by name; without any, routes are not judged one by one."""


class Judge(Section):
    """How the canary is compared with stable."""

    alpha: Annotated[float, Field(gt=0, lt=0.5)] = Field(
        0.001,
        description="Probability that a healthy release is ever rolled back, over all metrics.",
    )
    alpha_hold: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.05,
        description="Probability that a healthy release is ever held as suspect; above alpha.",
    )
    metrics: Metrics = Field(
        default_factory=lambda: Metrics(
            errors=Errors(), latency=Latency(), throughput=Throughput()
        ),
        description="Metrics to compare.",
        json_schema_extra={"default": {"errors": {}, "latency": {}, "throughput": {}}},
    )
    outcomes: dict[types.OutcomeName, Outcome] = Field(
        default_factory=dict, description="Kinds of responses to count, by name."
    )
    routes: Annotated[
        Routes | None, BeforeValidator(_routes, json_schema_input_type=Routes | bool | None)
    ] = Field(
        None,
        description=(
            "Routes to judge one by one: conditions on the path template by name;"
            " default: the 31 busiest; false for none."
        ),
    )
    guard_rails: Annotated[
        GuardRails | None, BeforeValidator(switch, json_schema_input_type=GuardRails | bool | None)
    ] = Field(
        default_factory=GuardRails,
        description="Limits to the canary's requests, however few users send them; false for off.",
        json_schema_extra={"default": {}},
    )
    min_users: int = Field(
        10, ge=0, description="Canary users to compare before a step is left; see release.steps."
    )
    baseline: types.Duration = Field(
        60.0,
        description="Time to learn from stable before users are on the canary; a duration.",
    )
    warmup: types.Duration = Field(
        30.0, description="Time for which a new canary may be slow; a duration."
    )
    not_up: types.WholeSeconds = Field(
        120.0,
        description="Time after which a canary that accepts no connection is rolled back; a duration.",
    )
    cooldown: types.WholeSeconds | None = Field(
        None,
        description="Time after a trip until the canary is probed again; a duration; default: never.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Judge:
        report(self._mistakes())
        return self

    def _mistakes(self) -> Iterator[Mistake]:
        if self.alpha_hold <= self.alpha:
            at = "alpha_hold" if "alpha_hold" in self.model_fields_set else "alpha"
            message = f"alpha_hold ({self.alpha_hold:g}) must be above alpha ({self.alpha:g})"
            yield Mistake(message, (at,), (("alpha",), ("alpha_hold",)))
        if POSTED in self.outcomes:
            message = f"{POSTED!r} is reserved for posted events; choose another name"
            yield Mistake(message, ("outcomes", POSTED))
        for name in self.outcomes:
            if name in TAKEN:
                message = f"{name!r} is a metric of the judge; choose another name"
                yield Mistake(message, ("outcomes", name))
            if {"blind", "found"} & set(name.split(".")[1:]):  # part of keys of the judge's counts
                message = ".blind and .found are reserved; choose another name"
                yield Mistake(message, ("outcomes", name))
        business = self.metrics.business
        if business is not None and business.outcome not in (*self.outcomes, POSTED):
            known = ", ".join([*self.outcomes, POSTED])
            yield Mistake(
                f"unknown outcome {business.outcome!r} (known: {known})",
                ("metrics", "business", "outcome"),
                (("outcomes", business.outcome),),
            )
