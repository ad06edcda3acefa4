"""``listen``: the addresses for clients."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from canaryproxy.config import types
from canaryproxy.config.model.section import Section
from canaryproxy.config.model.tls import ServerTls


class Listener(Section):
    """An address that clients connect to."""

    address: types.Address = Field(description="host:port, [::1]:port or unix:/path.")
    tls: ServerTls | None = Field(None, description="Terminate TLS; off by default.")
    proxy_protocol: types.ProxyProtocol = Field(
        "off",
        description=(
            "PROXY protocol header: off, required of every connection, or trusted"
            " (required of the networks in forwarded.trust)."
        ),
    )
    protocols: types.Protocols = Field(
        ("http1", "http2"),
        description=(
            "Versions of HTTP that clients may use: http1, http2 or both."
            " ALPN decides over TLS, else what the client begins with."
        ),
    )


def _as_listener(value: object) -> object:
    """Return the long form; ``listen: host:port`` is short for ``listen: {address: host:port}``."""
    return value if isinstance(value, (dict, Listener)) else {"address": value}


AnyListener = Annotated[
    Listener, BeforeValidator(_as_listener, json_schema_input_type=types.Address | Listener)
]
"""A listener, in its long or short form."""
