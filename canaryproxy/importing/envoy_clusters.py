"""Envoy: a cluster as a variant."""

from __future__ import annotations

from typing import Final

from canaryproxy.config.addresses import TcpAddress
from canaryproxy.config.units import duration_text
from canaryproxy.importing.draft import Draft
from canaryproxy.importing.fields import Field, Place

_HASHING: Final = ("RING_HASH", "MAGLEV")
_HEALTH: Final = (("interval", "interval"), ("timeout", "timeout"))


def address(source: Field) -> str:
    """Return ``host:port`` or ``unix:/path`` of an address."""
    if (pipe := source.get("pipe", "path")) is not None:
        source.take()
        return f"unix:{pipe.text()}"
    socket = source.need("socket_address")
    host = socket.need("address").text()
    port = int(socket.need("port_value").number(1, 65535))
    socket.take("protocol")
    return str(TcpAddress(host, port))


def add(variant: str, name: str, cluster: Field | None, place: Place, draft: Draft) -> None:
    """Add the endpoints and settings of a cluster."""
    path = f"variants.{variant}"
    if cluster is None:
        draft.no_equivalent(
            place, f"the endpoints of the cluster {name}", "the cluster is not in this input",
            f"put them into {path}.endpoints, or pass the clusters, too",
        )  # fmt: skip
        draft.add(
            f"{path}.endpoints",
            f"http://{_named(name)}",
            place,
            f"the name of the cluster {name}",
        )
        return
    cluster.take(
        "name", "type", "dns_lookup_family", "dns_refresh_rate", "respect_dns_ttl", "alt_stat_name"
    )
    scheme = _tls(cluster, path, draft)
    if _speaks_http2(cluster):
        scheme = {"http": "h2c", "https": "h2"}[scheme]
    found = 0
    for locality in cluster.need("load_assignment").items("endpoints"):
        for one in locality.items("lb_endpoints"):
            at = one.need("endpoint", "address")
            target = address(at)
            url = target if target.startswith("unix:") else f"{scheme}://{target}"
            draft.add(f"{path}.endpoints", url, at.place, f"an endpoint of {name}")
            found += 1
        locality.take("locality")
    cluster.need("load_assignment").take("cluster_name")
    if not found:
        raise cluster.place.error(f"expected endpoints in the cluster {name}, found none")
    if (connect := cluster.get("connect_timeout")) is not None:
        draft.duration(
            "limits.connect_timeout", connect.seconds(), connect.place, "connect_timeout"
        )
    policy = cluster.get("lb_policy")
    if policy is not None and policy.text() in _HASHING:
        draft.set(f"{path}.balance", "hash", policy.place, f"lb_policy: {policy.text()}")
        cluster.take("ring_hash_lb_config", "maglev_lb_config")
    elif policy is not None and policy.text() != "LEAST_REQUEST":
        draft.differs(
            policy.place,
            "lb_policy: requests go to the endpoint of a version with the fewest in flight here",
        )
    _health(cluster, path, draft)
    _outliers(cluster, path, draft)


def _named(name: str) -> str:
    """Return host and port by a cluster's name; those of Istio have them (``outbound|PORT|SUBSET|HOST``)."""
    parts = name.split("|")
    port = parts[1] if len(parts) == 4 and parts[1].isdigit() else "80"
    host = "".join(c if c.isascii() and (c.isalnum() or c in "-._") else "-" for c in parts[-1])
    return f"{host.strip('-._')}:{port}"


def _speaks_http2(cluster: Field) -> bool:
    """Tell whether the endpoints of a cluster get HTTP/2."""
    if cluster.get("http2_protocol_options") is not None:
        cluster.take("http2_protocol_options")
        return True
    options = cluster.get("typed_extension_protocol_options") or cluster
    for one in options.entries() if options is not cluster else ():
        explicit = options.get(one, "explicit_http_config", "http2_protocol_options")
        options.take(one)
        if explicit is not None:
            return True
    return False


def _tls(cluster: Field, path: str, draft: Draft) -> str:
    """Set the TLS of a cluster; return the scheme of its endpoints."""
    socket = cluster.get("transport_socket")
    if socket is None or "raw_buffer" in (named.text() if (named := socket.get("name")) else ""):
        return "http"
    config = socket.get("typed_config")
    if config is None:
        return "https"
    config.get("@type")
    at = f"{path}.tls"
    if (sni := config.get("sni")) is not None:
        draft.set(f"{at}.server_name", sni.text(), sni.place, "sni")
    common = config.get("common_tls_context")
    ca = common.get("validation_context", "trusted_ca", "filename") if common is not None else None
    if ca is not None:
        draft.set(f"{at}.ca", ca.text(), ca.place, "trusted_ca")
    elif common is None or common.get("validation_context", "system_root_certs") is None:
        draft.set(
            f"{at}.verify", False, socket.place, "Envoy verifies no certificate without trusted_ca"
        )
    for one in common.items("tls_certificates") if common is not None else ():
        for source, key in (("certificate_chain", "cert"), ("private_key", "key")):
            if (file := one.get(source, "filename")) is not None:
                draft.set(f"{at}.{key}", file.text(), file.place, source)
    return "https"


def _health(cluster: Field, path: str, draft: Draft) -> None:
    for one in cluster.items("health_checks"):
        http = one.get("http_health_check")
        if http is None:
            one.take()
            draft.no_equivalent(
                one.place, "a health check without HTTP", "health checks are GET requests",
                f"set {path}.health",
            )  # fmt: skip
            continue
        at = http.need("path")
        draft.set(f"{path}.health.path", at.text(), at.place, "http_health_check.path")
        if (host := http.get("host")) is not None:
            draft.set(f"{path}.health.host", host.text(), host.place, "http_health_check.host")
        for source, key in _HEALTH:
            if (span := one.get(source)) is not None:
                draft.set(f"{path}.health.{key}", duration_text(span.seconds()), span.place, source)
        for source, key in (("healthy_threshold", "rise"), ("unhealthy_threshold", "fall")):
            if (count := one.get(source)) is not None:
                draft.set(f"{path}.health.{key}", int(count.number(1, 1e6)), count.place, source)


def _outliers(cluster: Field, path: str, draft: Draft) -> None:
    detection = cluster.get("outlier_detection")
    if detection is None:
        return
    for source, key in (("base_ejection_time", "pause"), ("max_ejection_time", "longest_pause")):
        if (span := detection.get(source)) is not None:
            draft.set(f"{path}.outliers.{key}", duration_text(span.seconds()), span.place, source)
    if (share := detection.get("max_ejection_percent")) is not None:
        draft.set(
            f"{path}.outliers.max_ejected",
            f"{share.number(0, 100):g}%",
            share.place,
            "max_ejection_percent",
        )
