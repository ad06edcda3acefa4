"""ingress-nginx: an Ingress, and a second one with ``canary`` annotations.

The order of the conditions is that of its balancer: header, cookie, weight. ``canary-by-header-pattern`` may
match anywhere in the value, and counts only without ``canary-by-header-value``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from canaryproxy.config.errors import shown
from canaryproxy.config.units import duration_text
from canaryproxy.importing import kubernetes
from canaryproxy.importing.draft import FRONT, Draft
from canaryproxy.importing.fields import Field
from canaryproxy.importing.rules import ELSEWHERE, SPLIT, Condition, Entry, force, literal
from canaryproxy.importing.shares import STAYS, Wanted, choose_split

_PREFIXES: Final = ("nginx.ingress.kubernetes.io/", "ingress.kubernetes.io/")
_KNOWN: Final = (
    *("canary", "canary-by-header", "canary-by-header-value", "canary-by-header-pattern"),
    *("canary-by-cookie", "canary-weight", "canary-weight-total"),
)
_REASONS: Final = {
    "ssl-redirect": ("canaryproxy redirects nothing", FRONT),
    "force-ssl-redirect": ("canaryproxy redirects nothing", FRONT),
    "rewrite-target": ("paths are passed on as they are", FRONT),
    "tls": (
        "certificates are read from files",
        "mount the Secret and set listen[].tls, or terminate TLS in front",
    ),
    "ingressClassName": (
        "canaryproxy is no controller",
        "point your load balancer or Ingress at it",
    ),
    "ingress.class": ("canaryproxy is no controller", "point your load balancer or Ingress at it"),
}


@dataclass(frozen=True, slots=True)
class _Backend:
    """A path of an Ingress, and the Service that it leads to."""

    host: str
    path: str
    kind: str
    source: Field

    @property
    def at(self) -> tuple[str, str]:
        """Host and path, which a canary shares with its main Ingress."""
        return self.host, self.path

    @property
    def service(self) -> tuple[str, str]:
        """Name and port of the Service."""
        named = self.source.get("service")
        if named is None:  # extensions/v1beta1
            port = self.source.get("servicePort")
            return self.source.need("serviceName").text(), port.text() if port else ""
        port = named.get("port", "number") or named.get("port", "name")
        return named.need("name").text(), port.text() if port else ""

    @property
    def rank(self) -> tuple[bool, int]:
        """The order in which paths are tried: exact ones, then the longest."""
        return self.kind != "Exact", -len(self.path)

    def conditions(self, *, by_host: bool) -> tuple[Condition, ...]:
        """Return host and path as conditions of ours."""
        found: list[Condition] = []
        if by_host and self.host:
            found.append({"host": self.host})
        if self.kind == "Exact":
            found.append({"path": {"equals": self.path}})
        elif self.path.strip("/"):
            end = "(?:/|$)" if self.kind == "Prefix" else ""
            found.append({"path": {"regex": f"^{literal(self.path.rstrip('/'))}{end}"}})
        return tuple(found)


class _Ingress:
    """An Ingress with its annotations."""

    def __init__(self, document: Field) -> None:
        self.document = document
        self.annotations: dict[str, Field] = {}
        for key, field in document.entries("metadata", "annotations").items():
            short = next((key[len(p) :] for p in _PREFIXES if key.startswith(p)), None)
            if short is not None:
                self.annotations[short] = field
            elif not key.startswith(("kubectl.kubernetes.io/", "meta.helm.sh/")):
                self.annotations[key] = field
        self.read: set[str] = set()

    def get(self, name: str) -> Field | None:
        self.read.add(name)
        found = self.annotations.get(name)
        return None if found is None or found.value in (None, "") else found

    @property
    def is_canary(self) -> bool:
        found = self.annotations.get("canary")
        return found is not None and found.flag()

    def backends(self) -> Iterator[_Backend]:
        """Yield host, path and backend of each rule, and the default backend."""
        for rule in self.document.need("spec").items("rules"):
            named = rule.get("host")
            for path in (rule.get("http") or rule).items("paths"):
                at = path.get("path")
                kind = path.get("pathType")
                yield _Backend(
                    named.text() if named else "",
                    at.text() if at else "/",
                    kind.text() if kind else "",
                    path.need("backend"),
                )
        default = self.document.get("spec", "defaultBackend") or self.document.get(
            "spec", "backend"
        )
        if default is not None:
            yield _Backend("", "", "", default)


def is_one(document: Field) -> bool:
    """Tell whether a document is an Ingress with canary annotations."""
    if not kubernetes.is_kind(document, "Ingress"):
        return False
    metadata = document.value.get("metadata")
    notes = (
        metadata.value.get("annotations") if metadata and isinstance(metadata.value, dict) else None
    )
    return (
        notes is not None
        and isinstance(notes.value, dict)
        and (any(f"{prefix}canary" in notes.value for prefix in _PREFIXES))
    )


def convert(documents: list[Field], wanted: Wanted, draft: Draft) -> None:
    """Add what a canary Ingress and its main Ingress say to a draft."""
    ingresses = [_Ingress(one) for one in documents if kubernetes.is_kind(one, "Ingress")]
    canaries = [one for one in ingresses if one.is_canary]
    place = documents[0].place
    at = choose_split(
        [(kubernetes.name_of(one.document), one.document.place) for one in canaries],
        wanted,
        place,
        'an Ingress with nginx.ingress.kubernetes.io/canary: "true"',
    )
    canary = canaries[at]
    backends = list(canary.backends())
    if not backends:
        raise canary.document.need("spec").place.error("expected rules with a backend, found none")
    main, stable = _main(ingresses, canary, backends[0])
    for variant, one, of in (("stable", stable, main), ("canary", backends[0], canary)):
        _endpoint(variant, one, of, main, documents, draft)
    _weight(canary, draft)
    if draft.service is None:
        force(_entries(main, canary, stable, backends), draft)
    else:
        _places(main, stable, backends, draft)
        force([*_forced(canary), Entry(place, "", (), SPLIT)], draft)
    _affinity(main, draft)
    _timeouts(main, draft)
    _left(main, canary, draft)
    kubernetes.others(documents, [main.document, canary.document], draft)


def _main(
    ingresses: list[_Ingress], canary: _Ingress, backend: _Backend
) -> tuple[_Ingress, _Backend]:
    """Return the Ingress without canary annotations for the same host and path, and its backend there."""
    namespace = kubernetes.namespace_of(canary.document)
    for one in ingresses:
        if not one.is_canary and kubernetes.namespace_of(one.document) == namespace:
            for its in one.backends():
                if its.at == backend.at:
                    return one, its
    mains = ", ".join(kubernetes.name_of(one.document) for one in ingresses if not one.is_canary)
    raise canary.document.place.error(
        f"expected the main Ingress for host {backend.host or '*'} and path {backend.path or 'any'} beside"
        f" the canary's, found {mains or 'none'}: give both, such as canaryproxy import main.yaml canary.yaml"
    )


def _endpoint(
    variant: str,
    backend: _Backend,
    ingress: _Ingress,
    main: _Ingress,
    documents: list[Field],
    draft: Draft,
) -> None:
    name, _ = backend.service
    place = backend.source.place
    port = (
        backend.source.get("service", "port", "number")
        or backend.source.get("service", "port", "name")
        or backend.source.get("servicePort")
    )
    scheme = "http"
    protocol = main.get("backend-protocol")
    if protocol is not None:
        kind = protocol.text().upper()
        known = {"HTTP": "http", "HTTPS": "https", "GRPC": "h2c", "GRPCS": "h2"}
        if kind not in known:
            draft.no_equivalent(
                protocol.place, f"backend-protocol {kind}", "endpoints speak HTTP", FRONT
            )
        scheme = known.get(kind, "http")
        if scheme in ("https", "h2") and main.annotations.get("proxy-ssl-verify") is None:
            draft.set(
                f"variants.{variant}.tls.verify",
                False,
                protocol.place,
                "ingress-nginx verifies no certificate without proxy-ssl-verify",
            )
    namespace = kubernetes.namespace_of(ingress.document)
    url = kubernetes.endpoint(name, namespace, port, documents, draft, place, scheme)
    draft.add(f"variants.{variant}.endpoints", url, place, f"the Service {name}")


def _weight(canary: _Ingress, draft: Draft) -> None:
    weight, total = canary.get("canary-weight"), canary.get("canary-weight-total")
    whole = max(100.0, total.number(0, 1e9)) if total is not None else 100.0
    if weight is None:
        if total is not None:
            draft.set("split.weight", 0, total.place, "no canary-weight")
        return
    found = weight.number(0, 1e9)
    if found > whole:
        raise weight.place.error(
            f"canary-weight: expected a number from 0 to {whole:g}, found {found:g}"
        )
    percent = round(found / whole * 100.0, 2)
    draft.set("split.weight", percent, weight.place, f"canary-weight {found:g} of {whole:g}")
    draft.differs(weight.place, f"ingress-nginx chooses at random for each request; {STAYS}")


def _entries(
    main: _Ingress, canary: _Ingress, stable: _Backend, split: list[_Backend]
) -> list[Entry]:
    """Return the paths of both in the order in which they are tried."""
    pair = (stable.service, split[0].service)
    canaries = {one.at: one for one in split}
    all_of = sorted(main.backends(), key=lambda one: one.rank)
    by_host = len({one.host for one in all_of}) > 1
    entries = []
    for one in all_of:
        where = one.conditions(by_host=by_host)
        place = one.source.place
        other = canaries.get(one.at)
        what = f"{one.host or '*'}{one.path or '/'} of {kubernetes.name_of(main.document)}"
        if other is not None:
            same = (one.service, other.service) == pair
            entries += [
                replace(rule, conditions=(*where, *rule.conditions))
                for rule in (_forced(canary) if same else ())
            ]
            why = "" if same else "a proxy has two versions of one service"
            entries.append(Entry(place, what, where, SPLIT, why))
        else:
            target = "stable" if one.service == stable.service else ELSEWHERE
            entries.append(Entry(place, what, where, target))
    return entries


def _places(main: _Ingress, stable: _Backend, split: list[_Backend], draft: Draft) -> None:
    """Add the hosts and paths of one of several services: those for which there is a canary."""
    pair = (stable.service, split[0].service)
    canaries = {one.at: one for one in split}
    paths_of: dict[str, set[str]] = {}
    for one in main.backends():
        other = canaries.get(one.at)
        what = f"{one.host or '*'}{one.path or '/'} of {kubernetes.name_of(main.document)}"
        if other is None:
            one.source.take()
            draft.not_used(
                one.source.place, what, "no canary is for it",
                "add a service with variants.stable alone",
            )  # fmt: skip
            continue
        if (one.service, other.service) != pair:
            draft.no_equivalent(
                one.source.place, what, "a service has two versions", "add a service for it"
            )
            continue
        paths_of.setdefault(one.host, set()).add(one.path)
        if one.host:
            draft.add("hosts", one.host, one.source.place, f"the host {one.host}")
        if one.path.strip("/"):
            draft.add("paths", one.path, one.source.place, f"the path {one.path}")
            if one.kind != "Prefix":
                draft.differs(
                    one.source.place,
                    f"the path {one.path} ({one.kind or 'no pathType'}) is a prefix of whole segments here",
                )
    first, *others = paths_of.values()
    if any(paths != first for paths in others) or ("" in paths_of and len(paths_of) > 1):
        raise main.document.place.error(
            "expected the same paths with a canary for each host of a service; import one split with"
            " --only NAME"
        )
    if any(not path.strip("/") for path in first):
        draft.everywhere()


def _forced(canary: _Ingress) -> list[Entry]:
    """Return the rules of header and cookie."""
    header, value = canary.get("canary-by-header"), canary.get("canary-by-header-value")
    pattern, cookie = canary.get("canary-by-header-pattern"), canary.get("canary-by-cookie")
    found = []
    if header is not None:
        tests: dict[str, Condition] = {
            "canary": {"equals": "always"},
            "stable": {"equals": "never"},
        }
        if value is not None:
            tests = {"canary": {"equals": value.text()}}
        elif pattern is not None:
            tests = {"canary": {"regex": pattern.text()}}
        for variant, test in tests.items():
            condition = {"header": {"name": header.text(), **test}}
            found.append(Entry(header.place, "canary-by-header", (condition,), variant))
    if cookie is not None:
        for variant, word in (("canary", "always"), ("stable", "never")):
            condition = {"cookie": {"name": cookie.text(), "equals": word}}
            found.append(Entry(cookie.place, "canary-by-cookie", (condition,), variant))
    return found


def _without_effect(canary: _Ingress, draft: Draft) -> None:
    """Note annotations that ingress-nginx does not look at."""
    header, value = canary.get("canary-by-header"), canary.get("canary-by-header-value")
    pattern = canary.get("canary-by-header-pattern")
    for name, one in (("canary-by-header-value", value), ("canary-by-header-pattern", pattern)):
        if one is not None and header is None:
            draft.no_equivalent(
                one.place, name, "it has no effect without canary-by-header", "remove it"
            )
    if header is not None and value is not None and pattern is not None:
        draft.no_equivalent(
            pattern.place,
            "canary-by-header-pattern",
            "it has no effect beside a value",
            "remove it",
        )


def _affinity(main: _Ingress, draft: Draft) -> None:
    """Set the sticky cookie of ``affinity: cookie``, which keeps a user on an endpoint."""
    names = {
        key: main.get(f"session-cookie-{key}")
        for key in ("name", "max-age", "expires", "samesite", "domain", "path", "secure")
    }
    affinity = main.get("affinity")
    hashed = main.get("upstream-hash-by")
    if affinity is not None:
        if affinity.text() != "cookie":
            raise affinity.place.error(f"affinity: expected cookie, found {shown(affinity.text())}")
        for variant in ("stable", "canary"):
            draft.set(f"variants.{variant}.balance", "hash", affinity.place, "affinity: cookie")
        name = names["name"]
        draft.set(
            "split.sticky.cookie",
            "INGRESSCOOKIE" if name is None else name.text(),
            (name or affinity).place,
            "session-cookie-name",
        )
        age = names["max-age"] or names["expires"]
        if age is not None:
            draft.set(
                "split.sticky.max_age",
                duration_text(age.number()),
                age.place,
                "session-cookie-max-age",
            )
        if (site := names["samesite"]) is not None:
            draft.set("split.sticky.same_site", site.text(), site.place, "session-cookie-samesite")
        if (domain := names["domain"]) is not None:
            draft.set("split.sticky.domain", domain.text(), domain.place, "session-cookie-domain")
        main.get("affinity-mode")
        if (
            behavior := main.get("affinity-canary-behavior")
        ) is not None and behavior.text() == "legacy":
            draft.differs(behavior.place, f"affinity-canary-behavior: legacy; {STAYS}")
    elif hashed is not None:
        key = hashed.text().strip("${}")
        value: dict[str, object] | None = None
        if key in ("remote_addr", "binary_remote_addr"):
            value = {"address": True}
        elif key.startswith("http_"):
            value = {"header": "-".join(map(str.capitalize, key[5:].split("_")))}
        elif key.startswith("cookie_"):
            value = {"cookie": key[7:], "set": False}
        if value is None:
            draft.no_equivalent(
                hashed.place, f"upstream-hash-by {hashed.text()}",
                "a user is an address, a header or a cookie", "choose one in split.sticky",
            )  # fmt: skip
            return
        draft.set("split.sticky", value, hashed.place, "upstream-hash-by")
        for variant in ("stable", "canary"):
            draft.set(f"variants.{variant}.balance", "hash", hashed.place, "upstream-hash-by")


def _timeouts(main: _Ingress, draft: Draft) -> None:
    for name, paths in (
        ("proxy-connect-timeout", ("connect_timeout",)),
        ("proxy-read-timeout", ("first_byte_timeout", "body_timeout")),
        ("proxy-send-timeout", ("body_timeout",)),
    ):
        if (one := main.get(name)) is not None:
            for path in paths:
                draft.duration(f"limits.{path}", one.seconds(), one.place, name)


def _left(main: _Ingress, canary: _Ingress, draft: Draft) -> None:
    """Note hosts and annotations without an equivalent."""
    hosts = dict.fromkeys(one.host for one in main.backends() if one.host)
    if hosts and draft.service is None:
        draft.no_equivalent(
            main.document.place,
            f"the hosts {', '.join(hosts)}",
            "one proxy serves one service, whatever the host",
            "route hosts in front",
        )
    _without_effect(canary, draft)
    mains = {one.at for one in main.backends()}
    for path in canary.backends():
        if path.at not in mains:
            draft.no_equivalent(
                path.source.place,
                f"the canary's {path.host or '*'}{path.path}",
                "the main Ingress has no such path, so that ingress-nginx does not serve it",
                "remove it",
            )
    for name, field in main.annotations.items():
        if name not in main.read and name != "canary":
            draft.no_equivalent(
                field.place, name, *_REASONS.get(name, ("canaryproxy has no such setting", FRONT))
            )
    for name, field in canary.annotations.items():
        if name not in _KNOWN and name not in main.annotations:
            draft.no_equivalent(
                field.place, name,
                "ingress-nginx takes it from the main Ingress", "remove it",
            )  # fmt: skip
    canary.document.need("spec").take("ingressClassName", "tls")
    for one in (main, canary):
        kubernetes.take_metadata(one.document)
        one.document.take("metadata")
        draft.report_unread(one.document, _REASONS)
