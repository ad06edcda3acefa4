"""Conditions on requests and responses, as match rules and outcomes use them."""

from __future__ import annotations

from pydantic import ConfigDict, Field, model_validator

from canaryproxy.config import types
from canaryproxy.config.model.section import Section, exactly_one, one_of


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
