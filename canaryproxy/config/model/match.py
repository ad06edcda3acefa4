"""Conditions on requests and responses, as match rules and outcomes use them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import ConfigDict, Field, model_validator

from canaryproxy.config import types
from canaryproxy.config.model.section import Section, any_of, at_least_one, exactly_one, one_of

CONDITIONS = (
    *("header", "cookie", "path", "method", "host", "query", "network"),
    *("all", "any", "not"),
)
"""The keys of a ``Condition``."""


class HeaderMatch(Section):
    """A condition on a header or a cookie: its name and exactly one test."""

    model_config = ConfigDict(json_schema_extra=one_of(("equals", "prefix", "regex", "present")))

    name: types.Name = Field(description="Name of the header or cookie.")
    equals: str | None = Field(None, description="The value is exactly this text.")
    prefix: str | None = Field(None, description="The value begins with this text.")
    regex: types.Regex | None = Field(
        None, description="This regular expression (RE2) matches anywhere in the value."
    )
    present: bool | None = Field(None, description="true: it is present; false: it is absent.")

    @model_validator(mode="after")
    def _one(self) -> HeaderMatch:
        exactly_one(self, ("equals", "prefix", "regex", "present"))
        return self


class ParameterMatch(HeaderMatch):
    """A condition on a query parameter: its name and exactly one test."""

    name: types.ParameterName = Field(description="Name of the parameter, decoded.")


class PathMatch(Section):
    """A condition on the request's path, as received, without the query: exactly one test."""

    model_config = ConfigDict(json_schema_extra=one_of(("equals", "prefix", "regex")))

    equals: types.UrlPath | None = Field(None, description="The path is exactly this text.")
    prefix: types.UrlPath | None = Field(None, description="The path begins with this text.")
    regex: types.Regex | None = Field(
        None, description="This regular expression (RE2) matches anywhere in the path."
    )

    @model_validator(mode="after")
    def _one(self) -> PathMatch:
        exactly_one(self, ("equals", "prefix", "regex"))
        return self


class Condition(Section):
    """Conditions on a request, all of which must hold; at least one is needed."""

    model_config = ConfigDict(json_schema_extra=any_of(CONDITIONS))

    header: HeaderMatch | None = Field(None, description="A condition on a request header.")
    cookie: HeaderMatch | None = Field(None, description="A condition on a cookie.")
    path: PathMatch | None = Field(None, description="A condition on the path.")
    method: Annotated[types.Methods, types.one_or_more(types.Method)] | None = Field(
        None, description="A method or a list of them."
    )
    host: Annotated[types.ServerPatterns, types.one_or_more(types.ServerPattern)] | None = Field(
        None, description="A host name without port, or a list; *.example.com: every name below."
    )
    query: ParameterMatch | None = Field(None, description="A condition on a query parameter.")
    network: Annotated[types.Networks, types.one_or_more(types.Network)] | None = Field(
        None, description="A network (CIDR) that has the client's address, or a list of them."
    )
    all_: tuple[Condition, ...] | None = Field(
        None, alias="all", min_length=1, description="Conditions that must all hold."
    )
    any_: tuple[Condition, ...] | None = Field(
        None, alias="any", min_length=1, description="Conditions of which one must hold."
    )
    not_: Condition | None = Field(None, alias="not", description="A condition that must not hold.")

    @model_validator(mode="after")
    def _any(self) -> Condition:
        at_least_one(self, CONDITIONS)
        return self

    def parts(self) -> Iterator[Condition]:
        """Yield this condition and all that it is made of."""
        yield self
        for one in (*(self.all_ or ()), *(self.any_ or ())):
            yield from one.parts()
        if self.not_ is not None:
            yield from self.not_.parts()
