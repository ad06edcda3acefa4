"""``forwarded`` and ``trace``: fields that the proxy adds to requests."""

from __future__ import annotations

from pydantic import Field, model_validator

from canaryproxy.config import types
from canaryproxy.config.model.section import Mistake, Section, report


class Forwarded(Section):
    """Forwarding headers: X-Forwarded-*, Forwarded, Via."""

    trust: tuple[types.Network, ...] = Field(
        (), description="Networks (CIDR) of proxies whose forwarding headers are kept."
    )
    client_from: types.ForwardingField = Field(
        "X-Forwarded-For",
        description="The field in which they name the client; the other one is not read.",
    )
    via: types.Name = Field(
        "canaryproxy",
        description="Our name in Via. off: no Via is added, and requests that go in circles are not noticed.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Forwarded:
        if self.client_from == "Forwarded" and not self.trust:
            message = "has no effect: forwarding fields are read only from proxies in trust"
            report([Mistake(message, ("client_from",), (("trust",),))])
        return self


class Trace(Section):
    """W3C trace context."""

    create: bool = Field(
        False, description="Create a traceparent for requests without a valid one."
    )
