"""``split``: which users get the canary."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from canaryproxy.config import types
from canaryproxy.config.model.match import Condition
from canaryproxy.config.model.propagation import Follow
from canaryproxy.config.model.section import (
    Mistake,
    Section,
    one_of,
    report,
    switch,
)

MOST_COHORTS = 16
"""Cohorts of a service: a route table has the limit of each."""
_STICKY = ("cookie", "header", "address")
_COOKIE_ONLY = ("set", "max_age", "forward", "same_site", "domain", "partitioned", "sign")
_HOST_PREFIX = "__host-"
_SECURE_PREFIXES = (_HOST_PREFIX, "__secure-")
"""Cookies with these names are kept only with attributes to match (RFC 6265bis §4.1.3), in any case."""


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
    same_site: types.SameSite = Field("Lax", description="SameSite attribute of the cookie.")
    domain: types.Domain | None = Field(
        None, description="Domain attribute of the cookie; not sent by default."
    )
    partitioned: bool = Field(
        False,
        description="Partitioned attribute: in frames, a cookie for each site that embeds the service.",
    )
    sign: Sign | None = Field(None, description="Sign the cookies; off by default.")

    @property
    def needs_https(self) -> bool:
        """Whether browsers keep the cookie only with Secure: it has to be set over https."""
        name = (self.cookie or "").lower()
        return self.same_site == "None" or name.startswith(_SECURE_PREFIXES)

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
        else:
            yield from self._cookie_mistakes()

    def _cookie_mistakes(self) -> Iterator[Mistake]:
        if self.domain is not None and (self.cookie or "").lower().startswith(_HOST_PREFIX):
            message = f"browsers drop a cookie {self.cookie} that has a domain: remove it, or use __Secure-"
            yield Mistake(message, ("domain",), (("cookie",),))
        if self.partitioned and self.same_site != "None":
            message = "is for frames of other sites, which get the cookie with same_site: None only"
            yield Mistake(message, ("partitioned",), (("same_site",),))
        if self.sign is not None and not self.set_:
            message = "has no effect with set: false: only cookies that the proxy sets are signed"
            yield Mistake(message, ("sign",), (("set",),))


class MatchRule(Condition):
    """Forces a variant when all its conditions hold; at least one is needed."""

    variant: types.ServiceName = Field(
        description="The variant that it forces: stable, canary, or one of variants.others."
    )


_RESERVED = frozenset(
    (
        *("age", "cache-control", "connection", "content-encoding", "content-length"),
        *("content-range", "content-type", "date", "etag", "expires", "host", "keep-alive"),
        *("last-modified", "location", "proxy-authenticate", "retry-after", "set-cookie", "te"),
        *("trailer", "transfer-encoding", "upgrade", "vary", "via", "www-authenticate"),
    )
)
"""Response headers that cannot name the variant, because they mean something else."""


_MONITORS = (
    *("kube-probe/", "ELB-HealthChecker/", "GoogleHC/", "Amazon-Route53-Health-Check-Service"),
    *("Edge Health Probe", "Load Balancer Agent", "Azure Traffic Manager Endpoint Monitor"),
    *("Cloudflare-Healthchecks/", "Cloudflare-Traffic-Manager/", "(healthcheck)"),
    *("(health check)", "Envoy/HC", "Consul Health Check", "Blackbox Exporter/", "Prometheus/"),
    *("check_http/", "UptimeRobot/", "Uptime-Kuma/", "Pingdom", "StatusCake", "Site24x7"),
    *("Better Stack", "Better Uptime Bot", "Datadog/Synthetics", "DatadogSynthetics"),
    *("NewRelicPinger/", "Zabbix", "updown.io daemon"),
)


class Probes(Section):
    """Requests without a user, such as health checks and monitors: they go to stable and are not compared."""

    agents: tuple[types.AgentText, ...] = Field(
        _MONITORS, description="Texts that a User-Agent of a monitor contains, in any case."
    )
    paths: tuple[types.UrlPath, ...] = Field(
        ("/healthz", "/livez", "/readyz", "/health", "/ping", "/-/healthy", "/-/ready"),
        description="Paths of health checks, exactly.",
    )
    networks: tuple[types.Network, ...] = Field(
        (), description="Networks (CIDR) of clients that only check."
    )
    bare: bool = Field(
        True,
        description="OPTIONS without User-Agent, HTTP/1.0 without it and Host: HAProxy's checks.",
    )


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
    eligible: Condition | None = Field(
        None,
        description="Only users for whom this holds are randomised; the others stay on stable.",
    )
    cohorts: dict[types.CohortName, Condition] = Field(
        default_factory=dict,
        max_length=MOST_COHORTS,
        description="Groups of users who get the canary first (release.steps[].cohort): conditions by name.",
    )
    probes: Annotated[
        Probes | None, BeforeValidator(switch, json_schema_input_type=Probes | bool | None)
    ] = Field(
        default_factory=Probes, description="Requests without a user; false: treat them as users."
    )
    follow: Follow | None = Field(
        None,
        description="Follow the version that the proxy before this one has chosen (propagate); off by"
        " default.",
    )
    variant_header: types.Name | None = Field(
        None, description="Response header that names the variant; not sent by default."
    )

    cacheable: Literal["auto", "vary", "private"] = Field(
        "auto",
        description="What caches before the proxy may keep. auto: nothing while users are divided but what is"
        " immutable; vary: a response for each user; private: nothing.",
    )

    @property
    def rules(self) -> tuple[MatchRule, ...]:
        """The rules that force a variant: ``match``, then stable for all who are not ``eligible``."""
        if self.eligible is None:
            return self.match
        return (*self.match, MatchRule.model_construct(variant="stable", not_=self.eligible))

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """All that a user's variant depends on, besides the sticky key, and the parts of it."""
        whole = (*self.rules, *self.cohorts.values())
        return tuple(part for one in whole for part in one.parts())

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
        if self.cacheable == "vary":
            yield from self._unvarying()
        if self.admit == "new_sessions" and (self.sticky.cookie is None or not self.sticky.set_):
            yield Mistake(
                "new_sessions needs a sticky cookie that the proxy sets (split.sticky)",
                ("admit",),
                (("sticky",),),
            )

    def _unvarying(self) -> Iterator[Mistake]:
        """Yield what a response cannot vary by."""
        why = "no response can vary by the client's address (%s): auto or private"
        if self.sticky.address:
            yield Mistake(why % "split.sticky.address", ("cacheable",), (("sticky",),))
        for name in ("match", "eligible", "cohorts"):
            alone = Split.model_construct(**{name: getattr(self, name)})
            if any(part.network for part in alone.conditions):
                yield Mistake(why % f"network in split.{name}", ("cacheable",), ((name,),))
