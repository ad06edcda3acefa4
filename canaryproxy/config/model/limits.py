"""``limits``: bounds and timeouts."""

from __future__ import annotations

from pydantic import Field

from canaryproxy.config import types
from canaryproxy.config.model.section import Section


class Http2Limits(Section):
    """Bounds on a client's connection of HTTP/2. New connections begin with them."""

    max_streams: int = Field(
        100, ge=1, le=2**31 - 1, description="Requests that are open at a time."
    )
    stream_window: types.Window = Field(
        128 * 1024,
        description="Bytes of a request that wait for a slow endpoint; then the client has to wait.",
    )
    flood_budget: int = Field(
        2000,
        ge=200,
        le=1_000_000,
        description="Points for frames that bring no request forward: 4 a setting or a ping, 1 any other;"
        " a tenth as many requests may be reset within a second. Responses and data earn them back, and 100"
        " come back a second; at 0 the connection ends.",
    )


class Limits(Section):
    """Bounds on connections and requests, and timeouts as durations."""

    max_connections: int = Field(10_000, ge=1, description="Client connections.")
    max_requests: int = Field(10_000, ge=1, description="Requests in flight.")
    max_endpoint_connections: int = Field(1024, ge=1, description="Connections to each endpoint.")
    max_endpoint_idle: int = Field(
        256, ge=0, description="Idle connections kept open to each endpoint."
    )
    handshake_timeout: types.Timeout = Field(
        10.0, description="PROXY protocol header and TLS handshake of a client, together."
    )
    header_timeout: types.Timeout = Field(
        10.0, description="Receiving the whole head of a request."
    )
    idle_timeout: types.Timeout = Field(
        75.0, description="Idle time between the requests of a client connection."
    )
    body_timeout: types.Timeout = Field(
        30.0, description="Longest pause within a request or response body."
    )
    connect_timeout: types.Timeout = Field(
        2.0, description="Connecting to an endpoint, TLS handshake included."
    )
    first_byte_timeout: types.Timeout = Field(
        30.0, description="From the end of the request to the first byte of the response."
    )
    shed_after: types.Timeout | None = Field(
        None,
        description="Time to the first byte after which a response comes too late; a variant over its"
        " measured limit sheds load, new users first. Off by default.",
    )
    endpoint_idle_timeout: types.Timeout = Field(
        60.0, description="Idle time of a connection to an endpoint."
    )
    drain_timeout: types.Timeout = Field(
        30.0, description="Time for requests in flight to finish at shutdown."
    )
    http2: Http2Limits = Field(
        Http2Limits(), description="Bounds on each client connection of HTTP/2."
    )
