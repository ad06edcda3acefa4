"""``judge``: how the canary is compared with stable."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from canaryproxy.config import types
from canaryproxy.config.model.outcomes import POSTED, Outcome
from canaryproxy.config.model.section import Mistake, Section, report, switch


class Errors(Section):
    """Failed responses."""

    margin: types.Ratio = Field(
        0.01, description="Smallest increase of the error rate that matters, absolute; a ratio."
    )
    statuses: tuple[types.Status, ...] = Field(
        ("5xx",), description="Statuses that count as errors, such as 5xx or 503."
    )
    unit: Literal["user", "request"] = Field(
        "user",
        description="What is counted; user: at most one request in 10 s for each user bucket.",
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


class Throughput(Section):
    """Requests that were routed and do not finish."""


class Business(Section):
    """An outcome that users should keep reaching, such as a purchase."""

    outcome: str = Field(description="Name of an outcome, or events for posted events.")
    margin: types.Ratio = Field(
        0.05, description="Smallest change that matters, relative to stable; a ratio."
    )
    direction: Literal["decrease", "increase"] = Field(
        "decrease", description="The direction of change that is bad."
    )


class Metrics(Section):
    """Metrics to compare. Those named here are on, all others off; by default all but business are on."""

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


class GuardRails(Section):
    """Absolute limits, whatever stable does."""

    errors: types.Ratio | None = Field(
        None, description="Highest share of failed canary requests; a ratio."
    )
    min_requests: int = Field(20, ge=1, description="Canary requests before the limit applies.")


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
        description="Metrics to compare; if given, only those named here.",
        json_schema_extra={"default": {"errors": {}, "latency": {}, "throughput": {}}},
    )
    outcomes: dict[types.OutcomeName, Outcome] = Field(
        default_factory=dict, description="Kinds of responses to count, by name."
    )
    guard_rails: GuardRails | None = Field(
        None, description="Absolute limits, whatever stable does."
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
        business = self.metrics.business
        if business is not None and business.outcome not in (*self.outcomes, POSTED):
            known = ", ".join([*self.outcomes, POSTED])
            yield Mistake(
                f"unknown outcome {business.outcome!r} (known: {known})",
                ("metrics", "business", "outcome"),
                (("outcomes", business.outcome),),
            )
