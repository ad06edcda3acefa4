"""``judge.outcomes``: kinds of responses to count."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field, model_validator

from canaryproxy.config import types
from canaryproxy.config.model.match import HeaderMatch, PathMatch
from canaryproxy.config.model.section import Section, any_of, at_least_one, exactly_one

POSTED = "events"
"""The outcome of events that are posted to the admin API."""
TAKEN = frozenset(
    {
        *(
            "requests",
            "unreached",
            "users",
            "errors",
            "client_errors",
            "redirects",
            "empty",
            "success",
        ),
        *("latency", "latency_p50", "latency_p95", "latency_p99", "throughput", "size"),
        *("content_type", "connections", "business", "answers"),
    }
)
"""Names that the judge has for its own metrics."""
_CONDITIONS = ("status", "header", "body_under", "json", "regex")


class OutcomeMatch(Section):
    """Requests that an outcome applies to; all of them by default."""

    method: Annotated[types.Methods, types.one_or_more(types.Method)] | None = Field(
        None, description="A method or a list of them."
    )
    path: PathMatch | None = Field(None, description="A condition on the path.")
    header: HeaderMatch | None = Field(None, description="A condition on a request header.")


class JsonWhen(Section):
    """A condition on a value in a JSON body: a pointer and exactly one test."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [
        {"required": ["is"], "not": any_of(("equals",))},
        {"not": {"required": ["is"]}, **any_of(("equals",))},
    ]})  # fmt: skip

    pointer: types.Pointer = Field(
        description="JSON pointer (RFC 6901), such as /results, to a value in the first 4 MiB of the body."
    )
    is_: types.JsonState = Field(None, alias="is", description="The state of the value.")
    equals: types.JsonValue = Field(
        None, description="The value is exactly this text, number, true or false."
    )

    @model_validator(mode="after")
    def _one(self) -> JsonWhen:
        exactly_one(self, ("is", "equals"))
        return self


class When(Section):
    """Conditions on a response, all of which must hold; at least one is needed."""

    model_config = ConfigDict(json_schema_extra=any_of(_CONDITIONS))

    status: Annotated[types.Statuses, types.one_or_more(types.Status)] | None = Field(
        None, description="A status such as 2xx or 404, or a list of them."
    )
    header: HeaderMatch | None = Field(None, description="A condition on a response header.")
    body_under: types.SomeSize | None = Field(
        None, description="The body is shorter than this size."
    )
    json_: JsonWhen | None = Field(
        None, alias="json", description="A condition on a value in the JSON body."
    )
    regex: types.Regex | None = Field(
        None,
        description="This regular expression (RE2) matches in the first 64 KiB of the body.",
    )

    @model_validator(mode="after")
    def _any(self) -> When:
        at_least_one(self, _CONDITIONS)
        return self


class Outcome(Section):
    """A named kind of response."""

    match: OutcomeMatch = Field(
        default_factory=OutcomeMatch, description="The requests that it applies to."
    )
    when: When = Field(description="The conditions on the response.")
    bad: bool = Field(False, description="true: more of it on the canary is a regression.")
    margin: types.Ratio = Field(
        0.01, description="With bad: smallest increase that matters, absolute; a ratio."
    )
