"""``propagate`` and ``split.follow``: one version through several proxies."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field, model_validator

from canaryproxy.config import types
from canaryproxy.config.model.fleet import Fleet
from canaryproxy.config.model.section import Mistake, Section, report

DEFAULT_HEADER = "X-Canary"

_TAKEN = frozenset(
    (
        *("authorization", "baggage", "connection", "content-length", "content-type", "cookie"),
        *("expect", "forwarded", "host", "keep-alive", "max-forwards", "proxy-authorization"),
        *("proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "via"),
        *("traceparent", "tracestate", "x-canary-mirror"),
    )
)
"""Request headers that cannot say which version a request gets, because they mean something else."""
_TAKEN_PREFIX = "x-forwarded-"


class Keys(Section):
    """A file of keys that the proxies on both sides have."""

    key_file: types.FilePath = Field(
        description="File of keys, one a line: the first one signs, every one is accepted."
    )


class _Named(Section):
    header: types.Name = Field(
        DEFAULT_HEADER, description="Name of the request header that says which version it gets."
    )
    baggage: bool = Field(
        False,
        description="Use a member of W3C baggage, too; its key is the header's name in small letters.",
    )
    sign: Keys | None = Field(None, description="Sign the value; off by default.")

    @property
    def key(self) -> bytes:
        """The key of the member of baggage."""
        return self.header.lower().encode("latin-1")

    def _taken(self) -> Iterator[Mistake]:
        name = self.header.lower().replace("_", "-")
        if name in _TAKEN or name.startswith(_TAKEN_PREFIX):
            yield Mistake(
                f"the header {self.header} has another meaning; choose a name such as {DEFAULT_HEADER}",
                ("header",),
            )


class Propagate(_Named):
    """Tell upstreams which version a request gets, so that proxies before them can follow."""

    @model_validator(mode="after")
    def _consistent(self) -> Propagate:
        report(self._taken())
        return self


class Tell(Fleet):
    """The front's fleet: a trip here is told to it, so that it takes the release back."""

    service: types.Word = Field(
        description="Name of this service, for the front's history, status and notifications."
    )


class Follow(_Named):
    """Follow the version that the proxy before this one has chosen."""

    from_: types.Networks = Field(
        alias="from",
        description="Networks (CIDR) of the proxies and services that are followed; no other is.",
    )

    version: types.ServiceName | None = Field(
        None,
        description=(
            "The version of the front that the canary here goes with, one of its variants.others; its"
            " canary by default. Users of the other ones get stable."
        ),
    )

    tell: Tell | None = Field(
        None,
        description="The front's fleet: a trip here is told to it, so that it takes the release back.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Follow:
        report(self._taken())
        return self
