"""Traefik: weighted services of a dynamic configuration (YAML, TOML), TraefikService and IngressRoute."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from canaryproxy.config.units import duration_text
from canaryproxy.importing import kubernetes, traefik_rules
from canaryproxy.importing.draft import FRONT, Draft
from canaryproxy.importing.fields import Field, Place
from canaryproxy.importing.rules import (
    ELSEWHERE,
    SPLIT,
    Condition,
    Entry,
    Prefix,
    force,
    places,
    prefixes,
)
from canaryproxy.importing.shares import STAYS, Pair, Share, Wanted, choose_split, pair_of

MAX_DEPTH: Final = 16
_GROUPS: Final = ("traefik.io", "traefik.containo.us")
_REASONS: Final = {
    "entryPoints": ("addresses are in the static configuration", "set listen"),
    "middlewares": ("canaryproxy has no middlewares", FRONT),
    "tls": ("certificates are named by the listener", "set listen[].tls"),
    "certResolver": (
        "canaryproxy issues no certificates",
        "set listen[].tls, or terminate TLS in front",
    ),
    "strategy": ("requests go to the endpoint with the fewest in flight", "nothing to do"),
    "passHostHeader": ("the client's Host is always passed on", FRONT),
    "responseForwarding": ("responses are flushed as they come", "nothing to do"),
}


def is_one(document: Field) -> bool:
    """Tell whether a document is of Traefik's dynamic configuration."""
    if any(
        kubernetes.is_kind(document, kind, *_GROUPS) for kind in ("TraefikService", "IngressRoute")
    ):
        return True
    if not isinstance(document.value, dict) or "http" not in document.value:
        return False
    http = document.value["http"].value
    return isinstance(http, dict) and bool({"routers", "services"} & {*http})


@dataclass(slots=True)
class _Router:
    name: str
    rule: Field | None
    services: list[Share]
    priority: float
    place: Place
    has_priority: bool = False
    """Whether the source sets its priority; else it is the length of the rule."""


@dataclass(slots=True)
class _World:
    """The services and routers of all documents, whichever way they are written."""

    draft: Draft
    services: dict[str, Field] = field(default_factory=dict)
    routers: list[_Router] = field(default_factory=list)
    crd: bool = False
    ports: dict[str, tuple[Field | None, str]] = field(default_factory=dict)
    """By name of a Kubernetes Service: its port and namespace."""

    def add_file(self, document: Field) -> None:
        """Read ``http`` of the file provider."""
        http = document.need("http")
        self.services.update(http.entries("services"))
        for name, router in http.entries("routers").items():
            rule, priority = router.get("rule"), router.get("priority")
            service = router.need("service")
            target = service.text().partition("@")[0]
            self.routers.append(
                _Router(
                    name,
                    rule,
                    [Share(target, 1.0, service.place)],
                    priority.number() if priority else len(rule.text()) if rule else 0,
                    router.place,
                    priority is not None,
                )
            )

    def add_object(self, document: Field) -> None:
        """Read a TraefikService or an IngressRoute."""
        self.crd = True
        namespace = kubernetes.namespace_of(document)
        kubernetes.take_metadata(document)
        document.take("metadata")
        if kubernetes.is_kind(document, "TraefikService"):
            spec = document.need("spec")
            self.services[kubernetes.name_of(document)] = spec
            for one in (
                *spec.items_of("weighted", "services"),
                *spec.items_of("mirroring", "mirrors"),
            ):
                self._reference(one, namespace)
            if (mirroring := spec.get("mirroring")) is not None:
                self._reference(mirroring, namespace)
            return
        for at, route in enumerate(document.need("spec").items("routes")):
            rule, priority = route.get("match"), route.get("priority")
            route.take("kind")
            shares = []
            for one in route.items("services"):
                weight = one.get("weight")
                name = self._reference(one, namespace)
                shares.append(Share(name, weight.number() if weight else 1.0, one.place))
            name = f"{kubernetes.name_of(document)}[{at}]"
            length = len(rule.text()) if rule else 0
            rank = priority.number() if priority else length
            self.routers.append(
                _Router(name, rule, shares, rank, route.place, priority is not None)
            )

    def _reference(self, one: Field, namespace: str) -> str:
        """Note port and namespace of a Kubernetes Service; return its name."""
        name = one.need("name").text()
        kind, own = one.get("kind"), one.get("namespace")
        port = one.get("port")
        if kind is None or kind.text() == "Service":
            self.ports[name] = (port, namespace if own is None else own.text())
        return name

    def shares(self, router: _Router) -> tuple[list[Share], Field | None]:
        """Return the versions that a router leads to, and the weighted service."""
        if len(router.services) != 1:
            return router.services, None
        return self.versions(router.services[0], ())

    def versions(self, share: Share, seen: tuple[str, ...]) -> tuple[list[Share], Field | None]:
        """Return the versions behind a service: those of ``weighted``, or itself."""
        if share.name in seen:
            raise share.place.error(
                f"the service {share.name} leads to itself: {' -> '.join((*seen, share.name))}"
            )
        if len(seen) > MAX_DEPTH:
            raise share.place.error(f"services are nested deeper than {MAX_DEPTH} levels")
        service = self.services.get(share.name)
        if service is None or not isinstance(service.value, dict):
            return [share], None
        if (mirroring := service.get("mirroring")) is not None:
            target = mirroring.get("service") or mirroring.need("name")
            return self.versions(Share(target.text(), 1.0, target.place), (*seen, share.name))
        if (weighted := service.get("weighted")) is None:
            return [share], None
        found = []
        for one in weighted.items("services"):
            weight = one.get("weight")
            name = one.need("name").text().partition("@")[0]
            found.append(Share(name, weight.number() if weight else 1.0, one.place))
        return found, weighted


def convert(documents: list[Field], wanted: Wanted, draft: Draft) -> None:
    """Add what weighted services say to a draft."""
    world = _World(draft)
    mine = [one for one in documents if is_one(one)]
    for one in mine:
        if one.has("http"):
            world.add_file(one)
        else:
            world.add_object(one)
    world.routers.sort(key=lambda one: -one.priority)
    splits = [one for one in world.routers if len(world.shares(one)[0]) > 1]
    if not splits:  # a TraefikService without its IngressRoute
        for name, service in world.services.items():
            if service.has("weighted"):
                share = Share(name, 1.0, service.place)
                splits.append(_Router(name, None, [share], 0, service.place))
    place = documents[0].place
    names = [(_split_name(one), one.place) for one in splits]
    router = splits[
        choose_split(names, wanted, place, "a service with weighted services of two versions")
    ]
    shares, weighted = world.shares(router)
    pair = pair_of(shares, wanted, router.place, draft)
    for variant, name in (("stable", pair.stable), ("canary", pair.canary)):
        _endpoints(world, variant, name, next(x for x in shares if x.name == name), documents)
    draft.set("split.weight", pair.weight, pair.place, "weight, of the sum of the weights")
    _sticky(weighted or router, pair, draft)
    if draft.service is None:
        _rules(world, router, pair)
    else:
        _Places(world, router, pair).add()
    _mirror(world, router, pair)
    for one in mine:
        draft.report_unread(one, _REASONS, is_shared=draft.service is not None)
    kubernetes.others(documents, mine, draft)


def _split_name(router: _Router) -> str:
    return router.services[0].name if len(router.services) == 1 else router.name


def _endpoints(
    world: _World, variant: str, name: str, share: Share, documents: list[Field]
) -> None:
    draft, path = world.draft, f"variants.{variant}"
    service = world.services.get(name)
    if service is None:
        if not world.crd:
            known = ", ".join(world.services)
            raise share.place.error(
                f"expected a service of this file, found {name!r} (known: {known})"
            )
        port, namespace = world.ports.get(name, (None, ""))
        url = kubernetes.endpoint(name, namespace, port, documents, draft, share.place)
        draft.add(f"{path}.endpoints", url, share.place, f"the Service {name}")
        return
    balancer = service.get("loadBalancer")
    if balancer is None:
        raise share.place.error(
            f"expected the service {name} with a loadBalancer, found {', '.join(service.value) or 'none'}"
        )
    for one in balancer.items("servers"):
        url_at = one.need("url")
        base, slash, rest = url_at.text().partition("://")
        host, _, tail = rest.partition("/")
        if tail:
            draft.no_equivalent(
                url_at.place,
                f"the path /{tail} of {url_at.text()}",
                "paths are passed on as they are",
                FRONT,
            )
        draft.add(f"{path}.endpoints", f"{base}{slash}{host}", url_at.place, f"server of {name}")
    _health(balancer, path, draft)
    if (sticky := balancer.get("sticky")) is not None:
        draft.set(f"{path}.balance", "hash", sticky.place, f"sticky of {name}")
        sticky.take()
    host_header = balancer.get("passHostHeader")
    if host_header is not None and not host_header.flag():
        draft.no_equivalent(host_header.place, "passHostHeader: false", *_REASONS["passHostHeader"])


def _health(balancer: Field, path: str, draft: Draft) -> None:
    check = balancer.get("healthCheck")
    if check is None:
        return
    for key in ("path", "interval", "timeout", "hostname", "status"):
        if (one := check.get(key)) is None:
            continue
        where, value = f"{path}.health.{key}", one.text()
        if key in ("interval", "timeout"):
            value = duration_text(one.seconds())
        where = where.replace("hostname", "host").replace("status", "statuses")
        draft.set(where, value, one.place, f"healthCheck.{key}")


def _sticky(at: Field | _Router, pair: Pair, draft: Draft) -> None:
    sticky = at.get("sticky", "cookie") if isinstance(at, Field) else None
    if sticky is None:
        draft.differs(pair.place, f"without sticky, Traefik takes turns for each request; {STAYS}")
        return
    for key, path in (("maxAge", "max_age"), ("sameSite", "same_site"), ("domain", "domain")):
        if (one := sticky.get(key)) is not None:
            value = one.text().capitalize() if key == "sameSite" else one.text()
            if key == "maxAge":
                if one.number(-1, 1e9) <= 0:
                    continue
                value = duration_text(one.number())
            draft.set(f"split.sticky.{path}", value, one.place, f"sticky.cookie.{key}")
    sticky.take("secure", "httpOnly", "path")
    name = sticky.get("name")
    said = f" {name.text()}" if name is not None else ""
    draft.differs(
        sticky.place,
        f"Traefik's cookie{said} names a version; ours (canary_id) names the user, so a lower weight and a"
        " trip move users who have it",
    )


def _rules(world: _World, split: _Router, pair: Pair) -> None:
    """Add the rules of routers that lead to one of the two versions."""
    draft = world.draft
    variants = {pair.stable: "stable", pair.canary: "canary"}
    entries = []
    hosts: list[str] = []
    if split.rule is not None:
        hosts = traefik_rules.parse(split.rule).hosts
    if hosts and split.rule is not None:
        draft.no_equivalent(
            split.rule.place,
            f"the hosts {', '.join(hosts)}",
            "one proxy serves one service, whatever the host",
            "route hosts in front",
        )
    for router in world.routers if split in world.routers else ():
        shares, _ = world.shares(router)
        parsed = traefik_rules.parse(router.rule) if router.rule is not None else None
        conditions = parsed.conditions if parsed is not None else ()
        if parsed is not None and parsed.hosts and sorted(parsed.hosts) != sorted(hosts):
            conditions = ({"host": parsed.hosts}, *conditions)
        target = variants.get(shares[0].name, ELSEWHERE) if len(shares) == 1 else SPLIT
        obstacle = parsed.obstacle if parsed is not None else ""
        if target == SPLIT and router is not split:
            same = world.shares(split)[0]
            if [(x.name, x.weight) for x in shares] != [(x.name, x.weight) for x in same]:
                obstacle = obstacle or "a proxy has one split"
        what = f"the router {router.name}"
        entries.append(Entry(router.place, what, conditions, target, obstacle))
    force(entries, draft)


class _Places:
    """Hosts and paths of one of several services, and the rules that hold there."""

    def __init__(self, world: _World, split: _Router, pair: Pair) -> None:
        self._world = world
        self._split = split
        self._variants = {pair.stable: "stable", pair.canary: "canary"}
        self._shares = self._of(split)

    def add(self) -> None:
        """Add what the routers say that lead to the split or to one of its versions."""
        found, hosts = [], set[str]()
        for router in self._world.routers:
            if self._of(router) == self._shares:
                parsed = self._parsed(router)
                paths = prefixes(parsed.conditions)
                if parsed.obstacle or paths is None:
                    why = parsed.obstacle or "a service has hosts and prefixes of paths"
                    raise router.place.error(
                        f"the split of the router {router.name} is for some requests only, and {why};"
                        " import it with --only NAME"
                    )
                found.append((parsed.hosts, paths, router.place))
                hosts |= {*parsed.hosts}
                if router.has_priority:
                    self._world.draft.differs(
                        router.place,
                        f"priority of the router {router.name}: here the exact host comes first, then the"
                        " longest path",
                    )
        places(found, self._world.draft, self._split.place)
        paths = [path for _, some, _ in found for path in some]
        force(
            (*self._entries(hosts, paths), Entry(self._split.place, "", (), SPLIT)),
            self._world.draft,
        )

    def _of(self, router: _Router) -> list[tuple[str, float]]:
        return [(one.name, one.weight) for one in self._world.shares(router)[0]]

    def _parsed(self, router: _Router) -> traefik_rules.Parsed:
        return traefik_rules.Parsed() if router.rule is None else traefik_rules.parse(router.rule)

    def _entries(self, hosts: set[str], paths: list[Prefix]) -> Iterator[Entry]:
        """Yield the routers that force one of the versions at places of this service."""
        for router in self._world.routers:
            shares = self._of(router)
            if len(shares) > 1:
                continue
            parsed = self._parsed(router)
            what, target = f"the router {router.name}", self._variants.get(shares[0][0], ELSEWHERE)
            if target == ELSEWHERE:
                if (service := self._world.services.get(shares[0][0])) is not None:
                    service.take()
                self._world.draft.not_used(
                    router.place, what, "no versions are split there",
                    "add a service with variants.stable alone",
                )  # fmt: skip
                continue
            if hosts and parsed.hosts and hosts.isdisjoint(parsed.hosts):
                continue
            conditions = [one for one in parsed.conditions if one != _covers(paths)]
            if parsed.hosts and {*parsed.hosts} != hosts:
                conditions.insert(0, {"host": parsed.hosts})
            if conditions or parsed.obstacle:
                yield Entry(router.place, what, tuple(conditions), target, parsed.obstacle)


def _covers(paths: list[Prefix]) -> Condition | None:
    """Return the condition that every request for the only path of a service fulfils."""
    return {"path": {"prefix": paths[0].path}} if len(paths) == 1 else None


def _mirror(world: _World, router: _Router, pair: Pair) -> None:
    for share in router.services:
        service = world.services.get(share.name)
        mirroring = service.get("mirroring") if service is not None else None
        if mirroring is None:
            continue
        mirroring.take("service", "name", "port", "kind", "namespace")
        for one in mirroring.items("mirrors"):
            name, percent = one.need("name"), one.get("percent")
            one.take("port", "kind", "namespace")
            share_of = 100.0 if percent is None else percent.number(0, 100)
            if name.text() == pair.canary:
                world.draft.set(
                    "mirror.percent", share_of, one.place, "mirrors, of GET and HEAD here"
                )
            else:
                world.draft.no_equivalent(
                    one.place, f"the mirror {name.text()}", "copies go to the canary only", FRONT
                )
