"""``split``: which users get the canary."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from canaryproxy.config import types
from canaryproxy.config.model.match import HeaderMatch, PathMatch
from canaryproxy.config.model.section import (
    Mistake,
    Section,
    any_of,
    at_least_one,
    one_of,
    report,
)

_STICKY = ("cookie", "header", "address")
_COOKIE_ONLY = ("set", "max_age", "forward", "same_site", "domain", "sign")


class Sign(Section):
    """Signed sticky cookies: clients cannot forge one that puts them into the canary."""

    key_file: types.FilePath = Field(
        description="File of keys, one a line: the first one signs, every one is accepted."
    )


class Sticky(Section):
    """Identity of a user: one of cookie, header or address; by default the cookie canary_id."""

    model_config = ConfigDict(json_schema_extra=one_of(_STICKY, optional=True))

    cookie: types.Name | None = Field(
        None, description="Name of the cookie; canary_id unless header or address is set."
    )
    header: types.Name | None = Field(
        None, description="Name of a request header, for clients without cookies."
    )
    address: bool = Field(False, description="Identify users by the client's IP address.")
    set_: bool = Field(True, alias="set", description="Set the cookie for users without one.")
    max_age: types.WholeSeconds = Field(
        30 * 86400.0, description="Max-Age attribute of the cookie; a duration."
    )
    forward: bool = Field(True, description="Pass the cookie on to the upstream.")
    same_site: Literal["Lax", "Strict", "None"] = Field(
        "Lax", description="SameSite attribute of the cookie."
    )
    domain: types.Domain | None = Field(
        None, description="Domain attribute of the cookie; not sent by default."
    )
    sign: Sign | None = Field(None, description="Sign the cookies; off by default.")

    @property
    def set(self) -> bool:
        """Whether the proxy sets the cookie for users without one (``set_`` by its name in the file)."""
        return self.set_

    @model_validator(mode="before")
    @classmethod
    def _default(cls, value: Any) -> Any:
        if isinstance(value, dict) and not any(value.get(name) for name in _STICKY):
            return {**value, "cookie": "canary_id"} if value.get("cookie") is None else value
        return value

    @model_validator(mode="after")
    def _one_key(self) -> Sticky:
        report(self._mistakes())
        return self

    def _mistakes(self) -> Iterator[Mistake]:
        given = [name for name in _STICKY if getattr(self, name) not in (None, False)]
        if len(given) != 1:
            found = f"found {' and '.join(given)}" if given else "found none"
            yield Mistake(f"expected exactly one of {', '.join(_STICKY)}, {found}")
        elif given != ["cookie"]:
            for name in _COOKIE_ONLY:
                if ("set_" if name == "set" else name) in self.model_fields_set:
                    message = (
                        f"has no effect: it is for cookies, and users are identified by {given[0]}"
                    )
                    yield Mistake(message, (name,), (("cookie",),))
        elif self.sign is not None and not self.set_:
            message = "has no effect with set: false: only cookies that the proxy sets are signed"
            yield Mistake(message, ("sign",), (("set",),))


_CONDITIONS = ("header", "cookie", "path", "method")


class MatchRule(Section):
    """Forces a variant when all its conditions hold; at least one is needed."""

    model_config = ConfigDict(json_schema_extra=any_of(_CONDITIONS))

    variant: types.VariantName = Field(description="The variant that it forces.")
    header: HeaderMatch | None = Field(None, description="A condition on a request header.")
    cookie: HeaderMatch | None = Field(None, description="A condition on a cookie.")
    path: PathMatch | None = Field(None, description="A condition on the path.")
    method: Annotated[types.Methods, types.one_or_more(types.Method)] | None = Field(
        None, description="A method or a list of them."
    )

    @model_validator(mode="after")
    def _any(self) -> MatchRule:
        at_least_one(self, _CONDITIONS)
        return self


_RESERVED = frozenset(
    (
        *("age", "cache-control", "connection", "content-encoding", "content-length"),
        *("content-range", "content-type", "date", "etag", "expires", "host", "keep-alive"),
        *("last-modified", "location", "proxy-authenticate", "retry-after", "set-cookie", "te"),
        *("trailer", "transfer-encoding", "upgrade", "vary", "via", "www-authenticate"),
    )
)
"""Response headers that cannot name the variant, because they mean something else."""


class Split(Section):
    """The users that get the canary."""

    weight: types.Weight = Field(
        0.0,
        description="Percent of users, 0 to 100 in steps of 0.01; used when there is no release.",
    )
    sticky: Sticky = Field(
        default_factory=lambda: Sticky(cookie="canary_id"), description="What identifies a user."
    )
    admit: Literal["all", "new_sessions"] = Field(
        "all", description="new_sessions: only users first seen during this release may enter it."
    )
    salt: str | None = Field(None, description="Salt of the hash; default: the release id.")
    match: tuple[MatchRule, ...] = Field(
        (), description="Rules that force a variant; the first match wins."
    )
    variant_header: types.Name | None = Field(
        None, description="Response header that names the variant; not sent by default."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Split:
        report(self._mistakes())
        return self

    def _mistakes(self) -> Iterator[Mistake]:
        if (self.variant_header or "").lower() in _RESERVED:
            yield Mistake(
                f"the header {self.variant_header} has another meaning; choose a name such as X-Variant",
                ("variant_header",),
            )
        if self.admit == "new_sessions" and (self.sticky.cookie is None or not self.sticky.set_):
            yield Mistake(
                "new_sessions needs a sticky cookie that the proxy sets (split.sticky)",
                ("admit",),
                (("sticky",),),
            )
