"""``admin``: the address for operators and for scrapers of metrics."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field, model_validator

from canaryproxy import DEFAULT_SOCKET
from canaryproxy.config import types
from canaryproxy.config.addresses import is_loopback
from canaryproxy.config.model.section import Mistake, Section, Variable, not_both, report


class Neighbour(Section):
    """Another proxy on the overview page."""

    address: types.EndpointUrl = Field(
        description="Its admin address: http://host:port, https://host:port or unix:/path."
    )
    name: types.Label | None = Field(
        None, description="Its name on the page; default: the name of its machine."
    )
    dashboard: types.WebUrl | None = Field(
        None, description="Link to its dashboard; default: its http(s) address."
    )

    @model_validator(mode="after")
    def _one_address(self) -> Neighbour:
        if self.address.service or self.address.is_http2:
            found = "a name of SRV records" if self.address.service else "HTTP/2"
            what = f"expected http://host:port, https://host:port or unix:/path, not {found}"
            report([Mistake(what, ("address",))])
        return self

    @property
    def link(self) -> str | None:
        """Where its dashboard is, if that is known."""
        return self.dashboard or (None if self.address.path else f"{self.address}/")


class Admin(Section):
    """The admin API, the dashboard and the metrics."""

    socket: types.SocketPath | None = Field(
        DEFAULT_SOCKET, description="Path of the admin Unix socket; null disables it."
    )
    listen: types.LocalAddress | None = Field(
        None,
        description="host:port for /metrics, the API and the dashboard; changes need the token.",
    )
    token_file: types.FilePath | None = Field(
        None, description="File that contains the bearer token, or lines of NAME TOKEN."
    )
    token_env: Variable | None = Field(
        None, description="Name of the environment variable that contains the same."
    )
    hosts: tuple[types.Domain, ...] = Field(
        (),
        description="Host names to accept beside localhost, IP addresses and names without a dot.",
    )

    overview: tuple[Neighbour, ...] = Field(
        (),
        description="Other proxies on the page /overview, beside this one; read without a token.",
    )

    @model_validator(mode="after")
    def _tokens(self) -> Admin:
        report(self._mistakes())
        return self

    def _mistakes(self) -> Iterator[Mistake]:
        yield from not_both(self, "token_file", "token_env")
        has_token = self.token_file is not None or self.token_env is not None
        if self.listen is not None and not is_loopback(self.listen.host) and not has_token:
            yield Mistake(
                f"{self.listen} is reachable from other machines: set token_file or token_env",
                ("listen",),
                (("token_file",), ("token_env",)),
            )
