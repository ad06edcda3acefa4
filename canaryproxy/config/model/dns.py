"""``dns``: how the names of endpoints are resolved."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from canaryproxy.config import types
from canaryproxy.config.model.section import Section


class Dns(Section):
    """How the host names of endpoints are resolved."""

    interval: types.Timeout = Field(5.0, description="Time between two look-ups of a name.")
    family: Literal["all", "ipv4", "ipv6"] = Field(
        "all", description="Addresses that are used: of both families or of one."
    )
    servers: tuple[types.NameServer, ...] = Field(
        (),
        description="Name servers to ask, such as 127.0.0.1:8600 (pip install canaryproxy[dns]); default: as"
        " the system resolves names, /etc/hosts included.",
    )
