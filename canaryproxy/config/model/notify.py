"""``notify``: webhooks about the events of the history."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from canaryproxy.config import types
from canaryproxy.config.model.section import Section, Variable, not_both, report

EventName = Literal[
    "started",
    "step",
    "ready",
    "paused",
    "resumed",
    "weight",
    "suspect",
    "cleared",
    "capacity",
    "accepted",
    "tripped",
    "breached",
    "reset",
    "probing",
    "recovered",
    "stopped",
    "restored",
    "promoted",
    "aborting",
    "aborted",
    "gate",
    "drill",
    "release",
    "reload",
    "reload_failed",
    "restart",
    "upgrade",
    "upgrade_failed",
    "merged",
    "moved",
    "ejected",
    "readmitted",
    "shedding",
    "shed",
]
"""The events that the history records."""


class Webhook(Section):
    """A webhook that is called for events."""

    webhook: types.WebUrl = Field(description="URL to POST to.")
    format: Literal["json", "slack"] = Field(
        "json", description="json: the record, signed; slack: a text message."
    )
    events: tuple[EventName, ...] = Field(
        (), description="Events to send; default: those that concern people."
    )
    links: tuple[types.WebUrl, ...] = Field(
        (),
        description="URLs that go with each message, such as that of the dashboard; {id} is the event, "
        "{service} the service.",
    )
    timeout: types.Timeout = Field(5.0, description="Time limit for one attempt; a duration.")
    secret_env: Variable | None = Field(
        None, description="Name of the environment variable that contains the signing key."
    )
    secret_file: types.FilePath | None = Field(
        None, description="File that contains the signing key."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Webhook:
        report(not_both(self, "secret_file", "secret_env"))
        return self
