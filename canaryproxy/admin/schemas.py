"""Responses of the admin API apart from the release view; the OpenAPI schemas are theirs."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from canaryproxy.control.brief_view import Brief
from canaryproxy.control.release_view import (
    Act,
    Count,
    DrillFigures,
    Point,
    Record,
    Release,
    View,
)


class _Matching(View):
    """The requests that a service takes."""

    name: str = Field(
        description="Name of the service; default: of a configuration without services."
    )
    hosts: list[str] = Field(description="Hosts whose requests it takes; empty: every host.")
    paths: list[str] = Field(description="Prefixes of their paths; empty: every path.")


class Service(Brief, _Matching):
    """A service of this proxy, and where its release is."""


class Services(View):
    """The services of this proxy."""

    services: list[Service] = Field(description="What needs a person first.")
    environment: str | None = Field(description="Name of the environment; null: not configured.")
    host: str = Field(description="Name of the machine.")
    version: str = Field(description="Version of canaryproxy.")
    problems: list[str] = Field(description="What is wrong with the configuration file.")


class History(View):
    """Records of the history."""

    records: list[Record] = Field(description="Oldest first.")
    history_id: Count = Field(description="Number of the newest record.")


class Series(View):
    """The time series."""

    points: list[Point] = Field(description="Oldest first.")


class Acts(View):
    """The effects of all acts, if each were done now."""

    acts: list[Act]


class Drill(View):
    """The figures of a drill, and the release after it."""

    drill: DrillFigures
    release: Release


class Accepted(View):
    """Business events that were accepted."""

    accepted: Count = Field(description="Events that were accepted.")
    by_user: Count = Field(
        description="Of these, those whose key names a user who can be on either side: compared by user."
    )


class Config(View):
    """The configuration file and the configuration in force."""

    file: str | None = Field(description="Path of the configuration file.")
    text: str | None = Field(
        description="The file as last read. null over TCP without the token: it may hold secrets."
    )
    effective: dict[str, Any] = Field(description="The configuration in force, with defaults.")
    restart_needed: list[str] = Field(description="Changed fields that need a restart.")
    error: str | None = Field(description="Why the file as it is now is not in force.")


class Change(View):
    """The fields that a new configuration changes."""

    changed: list[str] = Field(description="Fields that changed at once.")
    restart_needed: list[str] = Field(description="Changed fields that need a restart.")


class Mistake(View):
    """One mistake in a body, a query or a configuration."""

    path: str = Field(description="The field.")
    line: int | None = Field(None, ge=0, description="Line of the configuration, from 1.")
    column: int | None = Field(None, ge=0, description="Column of the configuration, from 1.")
    message: str = Field(description="What is wrong with it.")


class Problem(View):
    """An error (RFC 9457)."""

    type: Literal["about:blank"]
    title: str = Field(description="The status in words.")
    status: int = Field(ge=400, le=599)
    detail: str = Field(
        description="What is wrong, and what to do next.",
        examples=["cannot resume while the release is tripped"],
    )
    errors: list[Mistake] | None = Field(None, description="Every mistake.")
    services: list[str] | None = Field(
        None, description="The services that there are, if the path names none of them."
    )
