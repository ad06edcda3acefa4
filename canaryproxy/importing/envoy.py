"""Envoy: ``weighted_clusters`` or a ``runtime_fraction`` of a bootstrap or a route configuration."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final, NamedTuple

from canaryproxy.config.units import duration_text
from canaryproxy.importing import envoy_clusters, envoy_routes
from canaryproxy.importing.draft import FRONT, Draft
from canaryproxy.importing.envoy_routes import Route
from canaryproxy.importing.fields import Field, Place
from canaryproxy.importing.rules import places
from canaryproxy.importing.shares import STAYS, Pair, Wanted, choose_split, pair_of

_REASONS: Final = {
    "admin": ("the admin API is another one", "set admin.listen"),
    "http_filters": ("canaryproxy has no filters", FRONT),
    "access_log": (
        "the format is another one",
        "set access_log: {} for a line of JSON for each request",
    ),
    "tracing": ("canaryproxy makes no spans", "set trace.create; traceparent is passed on"),
    "retry_policy": (
        "stable answers in place of a failing canary (rescue), by rules of its own",
        "see rescue in the documentation",
    ),
    "prefix_rewrite": ("paths are passed on as they are", FRONT),
    "regex_rewrite": ("paths are passed on as they are", FRONT),
    "host_rewrite_literal": ("the client's Host is passed on", FRONT),
    "layered_runtime": ("there is no runtime layer", "canaryproxy weight"),
    "dynamic_resources": ("canaryproxy reads one file", "change it and canaryproxy reload"),
    "lb_policy": ("requests go to the endpoint with the fewest in flight", "nothing to do"),
    "use_remote_address": ("who is trusted is a list of networks", "set forwarded.trust"),
    "xff_num_trusted_hops": ("who is trusted is a list of networks", "set forwarded.trust"),
    "domains": ("one proxy serves one service, whatever the host", "route hosts in front"),
    "circuit_breakers": ("limits are of endpoints and clients", "see limits"),
    "outlier_detection": (
        "outliers are found by evidence, not by thresholds",
        "see variants.*.outliers",
    ),
    "upgrade_configs": ("upgrades are always passed on", "nothing to do"),
}
_COVERED: Final = ("stat_prefix", "codec_type", "normalize_path", "merge_slashes", "server_name",
    "generate_request_id", "preserve_external_request_id", "name", "path_with_escaped_slashes_action",
    "drain_timeout", "http_protocol_options", "add_user_agent", "via")  # fmt: skip


_PORT: Final = re.compile(r":(?:[0-9]+|\*)\Z")


def is_one(document: Field) -> bool:
    """Tell whether a document is a bootstrap, a listener or a route configuration."""
    if not isinstance(document.value, dict):
        return False
    keys = {*document.value}
    return bool(
        keys & {"static_resources", "virtual_hosts", "filter_chains", "dynamic_resources"}
    ) or ("resources" in keys and "kind" not in keys)


def convert(documents: list[Field], wanted: Wanted, draft: Draft) -> None:
    """Add what a configuration of Envoy says to a draft."""
    mine = [one for one in documents if is_one(one)] or documents
    listeners: list[Field] = []
    clusters: dict[str, Field] = {}
    configurations: list[tuple[Field | None, Field]] = []
    for one in mine:
        static = one.get("static_resources")
        for part in (one, static) if static is not None else (one,):
            listeners += part.items("listeners")
            clusters |= {x.need("name").text(): x for x in part.items("clusters")}
        one.take("node", "@type", "version_info", "type_url")
        resources = one.items("resources")
        for resource in resources:
            resource.take("@type", "name")
        listeners += [x for x in (one, *resources) if x.has("filter_chains")]
        clusters |= {x.need("name").text(): x for x in resources if x.has("load_assignment")}
        configurations += [(None, x) for x in (one, *resources) if x.has("virtual_hosts")]
    found, plain = _found(listeners, configurations, draft)
    at = choose_split(
        [(one.name, one.host.place) for one in found],
        wanted,
        mine[0].place,
        "weighted_clusters of two clusters in a route",
    )
    chosen = found[at]
    place, split, routes = chosen.host.place, chosen.split, chosen.routes
    pair = _pair(split, routes, wanted, place, draft)
    for each in found if draft.service is not None else (chosen,):
        if each.listener is not None and each.name == chosen.name:
            _listener(each.listener, each.manager, draft)
    for variant, name in (("stable", pair.stable), ("canary", pair.canary)):
        envoy_clusters.add(variant, name, clusters.get(name), place, draft)
    draft.set("split.weight", pair.weight, pair.place, "weight, of the sum of the weights")
    _sticky(split, pair, draft)
    if draft.service is None:
        envoy_routes.rules(routes, split, pair, draft)
    else:
        hosts = _hosts(chosen.host, draft)
        at_paths = envoy_routes.places_of(routes, split)
        places([(hosts, paths, where) for paths, where in at_paths], draft, place)
        envoy_routes.rules_of_service(routes, split, pair, draft)
    _action(split, pair, draft)
    _left(mine, chosen, found, plain, clusters, pair, draft)


class _Split(NamedTuple):
    """A split, and where it is."""

    name: str
    listener: Field | None
    manager: Field
    host: Field
    """Its virtual host."""
    routes: list[Route]
    split: Route


def _found(
    listeners: list[Field], configurations: list[tuple[Field | None, Field]], draft: Draft
) -> tuple[list[_Split], list[Field]]:
    """Return the splits, and the virtual hosts that have none."""
    connected = [(one, config) for one in listeners for config in _route_configs(one)]
    found: list[_Split] = []
    plain: list[Field] = []
    for listener, manager in (*connected, *configurations):
        config = manager.get("route_config") if listener is not None else manager
        if config is None:
            raise manager.place.error(
                "expected route_config, found none: give the route configuration that rds would deliver, too"
            )
        for host in config.items("virtual_hosts"):
            routes = [envoy_routes.read(one, draft) for one in host.items("routes")]
            splits = envoy_routes.splits(routes)
            name = host.need("name").text()
            for one in splits:
                of = name if len(splits) == 1 else f"{name}-{_label(one)}"
                found.append(_Split(of, listener, manager, host, routes, one))
            if not splits:
                plain.append(host)
    return found, plain


def _label(split: Route) -> str:
    """Return what tells a split from others of its virtual host: the route's name, or a cluster's."""
    named = split.source.get("name")
    return split.shares[0].name if named is None else named.text()


def _hosts(host: Field, draft: Draft) -> list[str]:
    """Return the domains of a virtual host as hosts of a service; none for any host."""
    found = []
    for one in host.items("domains"):
        name = one.text().rpartition(":")[0] if _PORT.search(one.text()) else one.text()
        if name == "*":
            return []
        if "*" in name.removeprefix("*."):
            draft.no_equivalent(
                one.place, f"the domain {name}", "a wildcard stands for whole labels in front",
                "name the hosts",
            )  # fmt: skip
        elif name not in found:
            found.append(name)
    if not found:
        raise host.place.error(
            "expected a domain that is a name, *.name or *; import one split with --only NAME"
        )
    return found


def _route_configs(listener: Field) -> list[Field]:
    """Return the HTTP connection managers of a listener."""
    found = []
    for chain in listener.items("filter_chains"):
        for one in chain.items("filters"):
            config = one.get("typed_config")
            if config is not None and (config.has("route_config") or config.has("rds")):
                one.get("name")
                config.get("@type")
                found.append(config)
    return found


def _pair(split: Route, routes: list[Route], wanted: Wanted, place: Place, draft: Draft) -> Pair:
    if len({share.name for share in split.shares}) > 1:
        pair = pair_of(split.shares, wanted, place, draft)
        if split.percent < 100.0:
            draft.no_equivalent(
                split.source.place, f"a runtime_fraction of {split.percent:g}% before weights",
                "a proxy has one split", f"the weight {pair.weight:g} is of all users",
            )  # fmt: skip
        return pair
    at = next(index for index, one in enumerate(routes) if one is split)
    rest = envoy_routes.rest_of(split, routes[at + 1 :])
    assert rest is not None
    first, second = split.shares[0], rest.shares[0]
    shares = [replace(first, weight=split.percent), replace(second, weight=100.0 - split.percent)]
    return pair_of(shares, wanted, place, draft)


def _sticky(split: Route, pair: Pair, draft: Draft) -> None:
    """Set what identifies a user by the first hash policy; say that users stay where Envoy is random."""
    action = split.action
    assert action is not None
    weighted = action.get("weighted_clusters")
    by_hash = weighted.get("use_hash_policy") if weighted is not None else None
    for one in action.items("hash_policy"):
        if draft.has("split.sticky"):
            one.take()
            draft.no_equivalent(
                one.place, one.name, "a user is identified by one thing", "it is left out"
            )
        elif (cookie := one.get("cookie")) is not None:
            name, ttl = cookie.need("name"), cookie.get("ttl")
            value: dict[str, object] = {"cookie": name.text()}
            if ttl is None:
                value["set"] = False
            elif ttl.seconds() > 0:
                value["max_age"] = duration_text(ttl.seconds())
            cookie.take("path", "attributes")
            draft.set("split.sticky", value, cookie.place, "hash_policy.cookie")
        elif (header := one.get("header")) is not None:
            name = header.need("header_name")
            draft.set("split.sticky", {"header": name.text()}, header.place, "hash_policy.header")
        elif (address := one.get("connection_properties")) is not None:
            address.take()
            draft.set(
                "split.sticky", {"address": True}, one.place, "hash_policy.connection_properties"
            )
        one.take("terminal")
    if by_hash is None or not by_hash.flag():
        draft.differs(pair.place, f"Envoy chooses at random for each request; {STAYS}")
    if weighted is not None:
        for key in ("runtime_key_prefix", "header_name"):
            if (one_at := weighted.get(key)) is not None:
                draft.no_equivalent(
                    one_at.place, f"weighted_clusters.{key}", "the weight is in the file",
                    "change it while it runs with canaryproxy weight",
                )  # fmt: skip


def _action(split: Route, pair: Pair, draft: Draft) -> None:
    """Set timeouts and mirroring of the route that splits."""
    action = split.action
    assert action is not None
    timeout = action.get("timeout")
    if timeout is not None:
        draft.duration(
            "limits.first_byte_timeout",
            timeout.seconds(),
            timeout.place,
            "timeout (to the first byte here)",
        )
    if (idle := action.get("idle_timeout")) is not None:
        draft.duration(
            "limits.body_timeout", idle.seconds(), idle.place, "idle_timeout of the route"
        )
    retries = action.get("retry_policy")
    if retries is not None:
        draft.no_equivalent(retries.place, "retry_policy", *_REASONS["retry_policy"])
        retries.take()
    retry = action.get("retry_policy", "per_try_timeout")
    if retry is not None:
        draft.set("rescue.after", duration_text(retry.seconds()), retry.place, "per_try_timeout")
    for one in action.items("request_mirror_policies"):
        cluster = one.need("cluster")
        fraction = one.get("runtime_fraction")
        percent = 100.0 if fraction is None else envoy_routes.fraction_of(fraction, draft)
        one.take("trace_sampled")
        if cluster.text() == pair.canary:
            draft.set(
                "mirror.percent",
                percent,
                one.place,
                "request_mirror_policies, of GET and HEAD here",
            )
        else:
            draft.no_equivalent(
                one.place, f"mirroring to {cluster.text()}", "copies go to the canary only", FRONT
            )


def _listener(listener: Field, manager: Field, draft: Draft) -> None:
    """Set ``listen``, with certificates, and the timeouts of clients."""
    listener.take("name", "listener_filters", "per_connection_buffer_limit_bytes")
    address = envoy_clusters.address(listener.need("address"))
    value: dict[str, object] = {"address": address}
    certificates: list[dict[str, str]] = []
    for chain in listener.items("filter_chains"):
        chain.take("name")
        tls = chain.get("transport_socket", "typed_config", "common_tls_context")
        if tls is None:
            continue
        chain.take("transport_socket")
        pairs = [
            {"cert": cert.text(), "key": key.text()}
            for one in tls.items("tls_certificates")
            if (cert := one.get("certificate_chain", "filename"))
            and (key := one.get("private_key", "filename"))
        ]
        if pairs:
            certificates += [one for one in pairs if one not in certificates]
            value["tls"] = {"certificates": certificates}
        else:
            draft.no_equivalent(
                tls.place,
                "certificates that are no files",
                "they are read from files",
                "set listen[].tls",
            )
    draft.add(
        "listen",
        value if "tls" in value else address,
        listener.need("address").place,
        "the listener",
    )
    for name, path in (
        (("common_http_protocol_options", "idle_timeout"), "idle_timeout"),
        (("stream_idle_timeout",), "body_timeout"),
        (("request_headers_timeout",), "header_timeout"),
    ):
        if (one := manager.get(*name)) is not None:
            draft.duration(f"limits.{path}", one.seconds(), one.place, name[-1])


def _left(
    mine: list[Field],
    chosen: _Split,
    found: list[_Split],
    plain: list[Field],
    clusters: dict[str, Field],
    pair: Pair,
    draft: Draft,
) -> None:
    """Note domains, other hosts and clusters, and what nothing has read."""
    is_shared = draft.service is not None
    chosen.host.take("name")
    domains = [one.text() for one in chosen.host.items("domains")]
    if domains and "*" not in domains and not is_shared:
        what = f"domains {', '.join(domains)}"
        draft.no_equivalent(chosen.host.place, what, *_REASONS["domains"])
    for one in found:
        if one.host is not chosen.host:
            if not is_shared:
                draft.no_equivalent(
                    one.host.place, f"the virtual host {one.name}", "a proxy has one service", FRONT
                )
            one.host.take()
    for host in plain if is_shared else ():
        host.take()
        draft.not_used(
            host.place, f"the virtual host {host.need('name').text()}",
            "no versions are split there", "add a service with variants.stable alone",
        )  # fmt: skip
    for name, cluster in clusters.items():
        if name not in (pair.stable, pair.canary):
            cluster.take()
            draft.not_used(
                cluster.place,
                f"the cluster {name}",
                "a service has two versions"
                if is_shared
                else "a proxy has two versions of one service",
                "add a service with it as stable" if is_shared else FRONT,
            )
    for one in found:
        one.manager.take(*_COVERED)
        if (config := one.manager.get("route_config")) is not None:
            config.take("name")
        if one.listener is None:
            one.manager.take(*_COVERED)
        _router_only(one.manager, draft)
        for route in one.routes:
            route.source.take("name")
    for document in mine:
        draft.report_unread(document, _REASONS, is_shared=is_shared)


def _router_only(manager: Field, draft: Draft) -> None:
    """The router filter needs no equivalent; each other filter has none."""
    for one in manager.items("http_filters"):
        name = one.get("name")
        what = name.text() if name is not None else "a filter"
        one.take()
        if "router" not in what:
            draft.no_equivalent(one.place, f"the filter {what}", *_REASONS["http_filters"])
