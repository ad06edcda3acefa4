"""The whole file, and checks across sections."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, PrivateAttr, model_validator

from canaryproxy.config import types
from canaryproxy.config.addresses import Endpoint, TcpAddress, UnixAddress, leads_to, overlap
from canaryproxy.config.errors import Path
from canaryproxy.config.model import others
from canaryproxy.config.model.access_log import AccessLog
from canaryproxy.config.model.admin import Admin
from canaryproxy.config.model.circuit import Circuit
from canaryproxy.config.model.dns import Dns
from canaryproxy.config.model.fleet import Fleet
from canaryproxy.config.model.forwarding import Forwarded, Trace
from canaryproxy.config.model.judge import Judge
from canaryproxy.config.model.limits import Limits
from canaryproxy.config.model.listen import AnyListener, Listener
from canaryproxy.config.model.notify import Webhook
from canaryproxy.config.model.propagation import Propagate
from canaryproxy.config.model.release import Release, unknown_cohorts
from canaryproxy.config.model.resilience import Mirror, Rescue
from canaryproxy.config.model.section import (
    Mistake,
    Section,
    any_of,
    optional,
    report,
    switch,
    without_default,
)
from canaryproxy.config.model.service import Service, mistakes
from canaryproxy.config.model.split import Split
from canaryproxy.config.model.variants import Variants
from canaryproxy.config.service_names import is_other


class Reload(Section):
    """When the configuration is read again, beside SIGHUP and the admin API."""

    watch: bool = Field(False, description="Reload whenever the file changes.")


class Config(Section):
    """The configuration of canaryproxy."""

    model_config = ConfigDict(json_schema_extra=any_of(("variants", "services")))

    listen: Annotated[
        Annotated[tuple[AnyListener, ...], Field(min_length=1)], types.one_or_more(AnyListener)
    ] = Field(
        default_factory=lambda: (Listener.model_validate({"address": "127.0.0.1:8080"}),),
        description="host:port, [::1]:port, unix:/path, a mapping with address, or a list of them.",
        json_schema_extra={"default": "127.0.0.1:8080"},
    )
    strict: Literal["enforce", "report"] = Field(
        "enforce",
        description="report: mend, forward and count requests that are malformed without being dangerous.",
    )
    workers: int = Field(
        1, ge=0, le=256, description="Worker processes that share the port; 0: one for each core."
    )
    environment: types.Label | None = Field(
        None,
        description="Name of the environment, such as production, for people: dashboard, status, API.",
    )
    admin: Admin = Field(
        default_factory=Admin, description="The admin API, the dashboard and the metrics."
    )
    variants_: Annotated[Variants | None, optional(Variants)] = Field(
        None,
        alias="variants",
        description="The two versions of the service, or of each service without variants of its own.",
        json_schema_extra=without_default,
    )
    services: dict[types.ServiceName, Service] = Field(
        default_factory=dict,
        min_length=1,
        description="Services by name, each with its hosts, paths and release; none: one service.",
    )
    dns: Dns = Field(
        default_factory=Dns, description="How the host names of endpoints are resolved."
    )
    split: Split = Field(default_factory=Split, description="Which users get the canary.")
    propagate: Propagate | None = Field(
        None, description="Tell upstreams which version a request gets; off by default."
    )
    release: Release | None = Field(
        None, description="One attempt to move users from stable to canary, step by step."
    )
    judge: Judge = Field(
        default_factory=Judge, description="How the canary is compared with stable."
    )
    circuit: Circuit = Field(
        default_factory=Circuit,
        description="What happens to long-lived connections of users who change variants.",
    )
    rescue: Rescue = Field(
        default_factory=Rescue, description="Retry failed canary requests on stable."
    )
    mirror: Mirror = Field(default_factory=Mirror, description="Copy requests to the canary.")
    limits: Limits = Field(default_factory=Limits, description="Bounds and timeouts.")
    forwarded: Forwarded = Field(
        default_factory=Forwarded, description="X-Forwarded-*, Forwarded, Via."
    )
    state: types.FilePath = Field(
        "./run/state.json", description="File that keeps the release across restarts."
    )
    notify: tuple[Webhook, ...] = Field((), description="Webhooks about events.")
    reload: Reload = Field(
        default_factory=Reload, description="When the configuration is read again."
    )
    access_log: Annotated[
        AccessLog | None, BeforeValidator(switch, json_schema_input_type=AccessLog | bool | None)
    ] = Field(
        None, description="A line for each request; {} or true for the defaults, false for off."
    )
    trace: Trace = Field(default_factory=Trace, description="W3C trace context.")
    fleet: Fleet | None = Field(
        None, description="Replicas that share one release; off by default."
    )

    _service: str | None = PrivateAttr(None)

    @property
    def service(self) -> str | None:
        """The name of the one service that this is the configuration of; ``None`` for a whole file."""
        return self._service

    @property
    def variants(self) -> Variants:
        """The two versions. Raises ``LookupError`` where only the services have them."""
        if self.variants_ is None:
            raise LookupError("only services have variants here: see Config.by_service")
        return self.variants_

    def by_service(self) -> dict[str, Config]:
        """Return a configuration for each service, in the form of a file with one service.

        For such a file that is this configuration, as ``default``. Versions beside the canary follow all
        services, each as the canary of a service of its own: ``NAME.VERSION``.
        What a service does not have of its own is the top level's, and the same object.
        """
        if not self.services:
            return others.with_others({"default": self})
        return others.with_others(
            {name: self._of(name, service) for name, service in self.services.items()}
        )

    def _of(self, name: str, service: Service) -> Config:
        own = service.own()
        if "variants" in own:
            own["variants_"] = own.pop("variants")
        return self.derived(name, PurePath(self.state).parent / "services", own)

    def derived(self, name: str, folder: PurePath, sections: Mapping[str, object]) -> Config:
        """Return the configuration of a service with these sections; ``folder`` keeps its state."""
        update = {"services": {}, "state": str(folder / f"{name}.json"), **sections}
        if self.fleet is not None:
            group = f"{self.fleet.group}/{name}"
            update["fleet"] = self.fleet.model_copy(update={"group": group})
        return self.named(name, update)

    def named(self, name: str, update: Mapping[str, object]) -> Config:
        """Return the configuration of a service, with other values of some fields."""
        found = self.model_copy(update=update)
        found._service = name
        return found

    @property
    def release_id(self) -> str | None:
        """The id of the release, or ``None`` without a release."""
        return None if self.release is None else self.release.id

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """The endpoints of all versions, of all services."""
        return tuple(
            endpoint
            for _, variants in self.in_use("variants")
            for _, variant in variants.each()
            for endpoint in variant.endpoints
        )

    def in_use(self, section: str) -> Iterator[tuple[Path, Any]]:
        """Yield a section of ``service.SECTIONS`` wherever a service has it, with its path in the file.

        That of the top level is one of them unless every service has its own.
        """
        own = {name: one.own() for name, one in self.services.items()}
        for name, sections in own.items():
            if sections.get(section) is not None:
                yield ("services", name, section), sections[section]
        shared = self.variants_ if section == "variants" else getattr(self, section)
        if shared is not None and (not own or any(section not in one for one in own.values())):
            yield (section,), shared

    @property
    def reversible(self) -> bool:
        """Whether stable can serve the canary's users (``release.reversible``)."""
        return self.release is None or self.release.reversible

    @property
    def worker_count(self) -> int:
        """The number of workers: ``workers``, or one for each core that the process may use."""
        return self.workers or len(os.sched_getaffinity(0))

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        report(
            (
                *self._without_variants(),
                *self._overlaps(),
                *self._loops(),
                *self._services(),
                *self._following(),
            )
        )
        report(self._cohorts())
        return self

    def _cohorts(self) -> Iterator[Mistake]:
        """Yield steps of cohorts that their ``split`` does not have."""
        if not self.services:
            yield from unknown_cohorts(self.release, self.split.cohorts, ("release",))
        for name, service in self.services.items():
            own = "release" in service.model_fields_set
            at: Path = ("services", name, "release") if own else ("release",)
            split = service.split or self.split
            yield from unknown_cohorts(service.release if own else self.release, split.cohorts, at)
        for at, variants in self.in_use("variants"):
            own_split = self.services[str(at[1])].split if len(at) > 1 else None
            split = own_split or self.split
            for name, one in variants.others.items():
                where = (*at, "others", name, "release")
                yield from unknown_cohorts(one.release, split.cohorts, where)

    def _without_variants(self) -> Iterator[Mistake]:
        if self.variants_ is None and not self.services:
            because_of: tuple[Path, ...] = (("variants",), ("services",))
            yield Mistake("required key 'variants' is missing", because_of=because_of)

    def _services(self) -> Iterator[Mistake]:
        has_variants = self.variants_ is not None
        yield from mistakes(self.services, has_variants=has_variants, split=self.split)
        yield from others.mistakes(self)

    def _overlaps(self) -> Iterator[Mistake]:
        """Yield listeners that would bind the same address."""
        listeners: list[tuple[Path, TcpAddress | UnixAddress]] = [
            (("listen", at), one.address) for at, one in enumerate(self.listen)
        ]
        if self.admin.listen is not None:
            listeners.append((("admin", "listen"), self.admin.listen))
        if self.admin.socket is not None:
            listeners.append((("admin", "socket"), UnixAddress(self.admin.socket)))
        for at, (path, address) in enumerate(listeners):
            for other_path, other in listeners[:at]:
                if overlap(address, other):
                    yield self._overlap(path, address, other_path, other)
                    break

    def _overlap(
        self,
        path: Path,
        address: TcpAddress | UnixAddress,
        other_path: Path,
        other: TcpAddress | UnixAddress,
    ) -> Mistake:
        # An invalid address gives way to the default, which the file does not have.
        because_of = tuple(p[:1] if p[0] == "listen" else p for p in (path, other_path))
        if path[-1] == "socket" and "socket" not in self.admin.model_fields_set:
            message = f"{other} is the default of admin.socket; set admin.socket too"
            return Mistake(message, other_path, because_of)
        return Mistake(f"{address} overlaps with {other}", path, because_of)

    def _following(self) -> Iterator[Mistake]:
        """Yield what is the front's where a service follows one."""
        if all(split.follow is None for _, split in self.in_use("split")):
            return
        for name, one in self.by_service().items():
            if one.split.follow is None or is_other(name):
                continue
            own = self.services[name].own() if self.services else {}
            path = partial(_section, name, own)
            if one.release is not None:
                message = "the release is the front's (split.follow): remove it here"
                yield Mistake(message, path("release"), (path("split"),))
            if one.judge.cooldown is not None:
                message = "has no effect with split.follow: there is no weight here to probe with"
                yield Mistake(message, (*path("judge"), "cooldown"), (path("split"),))
            if one.fleet is not None:
                message = (
                    "replicas that follow a front (split.follow) share no release of their own"
                )
                yield Mistake(message, ("fleet",), (path("split"),))

    def _loops(self) -> Iterator[Mistake]:
        """Yield endpoints that are the proxy itself."""
        for path, variants in self.in_use("variants"):
            for version, variant in variants.each():
                for at, endpoint in enumerate(variant.endpoints):
                    if any(leads_to(endpoint, listener.address) for listener in self.listen):
                        yield Mistake(
                            f"{endpoint} is the proxy's own address (a loop)",
                            (*path, *version, "endpoints", at),
                            (("listen",),),
                        )


def _section(service: str, own: Mapping[str, object], section: str) -> Path:
    """Return the path of the section that is in force for a service, which has those in ``own``."""
    return ("services", service, section) if section in own else (section,)
