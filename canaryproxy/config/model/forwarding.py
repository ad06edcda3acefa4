"""``forwarded`` and ``trace``: fields that the proxy adds to requests."""

from __future__ import annotations

from pydantic import Field

from canaryproxy.config import types
from canaryproxy.config.model.section import Section


class Forwarded(Section):
    """Forwarding headers: X-Forwarded-*, Forwarded, Via."""

    trust: tuple[types.Network, ...] = Field(
        (), description="Networks (CIDR) of proxies whose forwarding headers are kept."
    )
    via: types.Name = Field("canaryproxy", description="Our name in Via.")


class Trace(Section):
    """W3C trace context."""

    create: bool = Field(
        False, description="Create a traceparent for requests without a valid one."
    )
