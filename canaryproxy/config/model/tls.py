"""TLS on both sides: with clients (``listen[].tls``) and with endpoints (``variants.*.tls``)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, model_validator

from canaryproxy.config import types
from canaryproxy.config.model.section import Mistake, Section, report


class Certificate(Section):
    """A certificate and its private key."""

    cert: types.FilePath = Field(
        description="PEM file: the certificate, followed by its intermediate certificates."
    )
    key: types.FilePath = Field(description="PEM file with its private key, without a passphrase.")
    names: tuple[types.ServerPattern, ...] = Field(
        (),
        description=(
            "Server names to use it for, *.example.com for any one label;"
            " default: the names in the certificate."
        ),
    )


class ServerTls(Section):
    """TLS with clients."""

    certificates: tuple[Certificate, ...] = Field(
        min_length=1,
        description="Chosen by the server name that a client sends (SNI); the first is the default.",
    )
    min_version: types.TlsVersion = Field("1.2", description="Lowest TLS version: 1.2 or 1.3.")
    client_ca: types.FilePath | None = Field(
        None,
        description="PEM file with the authorities that sign client certificates (mutual TLS).",
    )
    client_auth: Literal["required", "optional"] = Field(
        "required", description="With client_ca: whether clients must present a certificate."
    )

    @model_validator(mode="after")
    def _consistent(self) -> ServerTls:
        if self.client_ca is None and "client_auth" in self.model_fields_set:
            message = "has no effect without client_ca"
            report([Mistake(message, ("client_auth",), (("client_ca",),))])
        return self


class ClientTls(Section):
    """TLS with the endpoints of a variant."""

    ca: types.FilePath | None = Field(
        None, description="PEM file with the authorities to trust; default: the system's."
    )
    server_name: types.ServerName | None = Field(
        None, description="Name to expect in the certificate; default: the endpoint's host."
    )
    cert: types.FilePath | None = Field(
        None, description="PEM file with our certificate, for endpoints that require one."
    )
    key: types.FilePath | None = Field(
        None, description="PEM file with its private key, without a passphrase."
    )
    verify: bool = Field(True, description="Verify the certificates of the endpoints.")

    @model_validator(mode="after")
    def _consistent(self) -> ClientTls:
        report(self._mistakes())
        return self

    def _mistakes(self) -> Iterator[Mistake]:
        if (self.cert is None) != (self.key is None):
            here, other = ("cert", "key") if self.key is None else ("key", "cert")
            yield Mistake(f"also set {other}: cert and key belong together", (here,), ((other,),))
        if self.ca is not None and not self.verify:
            yield Mistake("has no effect with verify: false", ("ca",), (("verify",),))
