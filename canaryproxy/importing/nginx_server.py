"""nginx: addresses, endpoints and timeouts around a split."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from canaryproxy.config.errors import shown
from canaryproxy.importing.draft import FRONT, Draft
from canaryproxy.importing.fields import seconds
from canaryproxy.importing.nginx_syntax import Directive
from canaryproxy.importing.shares import Pair, Share

if TYPE_CHECKING:
    from canaryproxy.importing.nginx import Location

_COVERED: Final = frozenset(
    (
        *(
            "user",
            "pid",
            "events",
            "worker_rlimit_nofile",
            "load_module",
            "daemon",
            "error_log",
            "types",
        ),
        *("include", "default_type", "sendfile", "tcp_nopush", "tcp_nodelay", "server_tokens"),
        *("types_hash_max_size", "server_names_hash_bucket_size", "map_hash_bucket_size"),
        *("map_hash_max_size", "variables_hash_max_size", "proxy_http_version", "proxy_redirect"),
        *("proxy_buffering", "proxy_request_buffering", "proxy_buffers", "proxy_buffer_size"),
        *("proxy_busy_buffers_size", "resolver", "resolver_timeout", "zone", "internal"),
        *(
            "ssl_session_cache",
            "ssl_session_timeout",
            "ssl_session_tickets",
            "env",
            "worker_connections",
        ),
    )
)
"""What needs no equivalent: how nginx itself runs, and what the proxy does anyway."""
_FORWARDED: Final = frozenset(
    {"x-real-ip", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "connection", "upgrade",
     "x-forwarded-port", "x-forwarded-server"}
)  # fmt: skip
_REASONS: Final = {
    "server_name": ("one proxy serves one service, whatever the host", "route hosts in front"),
    "proxy_cache": ("canaryproxy does not cache", FRONT),
    "proxy_next_upstream": (
        "stable answers in place of a failing canary (rescue), by rules of its own",
        "see rescue in the documentation",
    ),
    "access_log": (
        "the format is another one",
        "set access_log: {} for a line of JSON for each request",
    ),
    "log_format": (
        "the format is another one",
        "set access_log: {} for a line of JSON for each request",
    ),
    "return": ("canaryproxy answers nothing itself", FRONT),
    "rewrite": ("canaryproxy rewrites nothing", FRONT),
    "location": ("the location passes nothing to the two versions", FRONT),
    "client_max_body_size": ("bodies of any size are streamed", FRONT),
    "gzip": ("canaryproxy does not compress", "let the service or the proxy in front compress"),
    "max_fails": (
        "an endpoint that cannot be connected to is out until a probe connects, one that fails more than"
        " the others is an outlier",
        "see variants.*.outliers",
    ),
}
for _name in (
    "proxy_connect_timeout",
    "proxy_read_timeout",
    "proxy_send_timeout",
    "client_body_timeout",
):
    _REASONS[_name] = ("timeouts are the same for every path", "set limits to the longest")
_PASSIVE: Final = ("max_fails", "fail_timeout", "slow_start", "max_conns")


def listeners(server: Directive, draft: Draft) -> None:
    """Set ``listen``, with certificates and PROXY protocol."""
    certificates = server.all("ssl_certificate")
    keys = server.all("ssl_certificate_key")
    for one in server.all("listen"):
        address, options = one.arg(), one.args[1:]
        if address.isdigit():
            address = f"0.0.0.0:{address}"
        elif address.startswith("*:"):
            address = f"0.0.0.0{address[1:]}"
        elif not re.search(r":\d+$|^unix:", address):
            address = f"{address}:80"
        value: dict[str, object] = {"address": address}
        if "ssl" in options or "quic" in options:
            pairs = [
                {"cert": cert.arg(), "key": key.arg()}
                for cert, key in zip(certificates, keys, strict=False)
            ]
            if not pairs:
                raise one.place.error(
                    "listen: expected ssl_certificate and ssl_certificate_key, found none"
                )
            value["tls"] = {"certificates": pairs}
        if "quic" in options:
            draft.no_equivalent(one.place, "listen quic", "HTTP/3 is not served", FRONT)
            continue
        if "proxy_protocol" in options:
            value["proxy_protocol"] = "required"
        draft.add(
            "listen", value if len(value) > 1 else address, one.place, f"listen {one.args[0]}"
        )
    if not draft.has("listen"):
        draft.add("listen", "0.0.0.0:80", server.place, "the default of listen")


def hosts(server: Directive, draft: Draft) -> None:
    """Note the hosts of a server, or add those of one of several services."""
    if draft.service is not None:
        _hosts_of_service(server, draft)
        return
    for one in server.all("server_name"):
        names = [name for name in one.args if name not in ("_", "", "localhost")]
        if names:
            draft.no_equivalent(
                one.place, f"server_name {' '.join(names)}", *_REASONS["server_name"]
            )


def _hosts_of_service(server: Directive, draft: Draft) -> None:
    for one in server.all("server_name"):
        for name in one.args:
            if name in ("_", ""):
                continue
            if name.startswith("."):  # the name and every name below it
                draft.add("hosts", name[1:], one.place, f"server_name {name}")
                name = f"*{name}"
            if name.startswith("~") or name.endswith(".*"):
                draft.no_equivalent(
                    one.place,
                    f"server_name {name}",
                    "a host is a name, or * before one",
                    "write the names into hosts",
                )
                continue
            draft.add("hosts", name, one.place, f"server_name {name}")
    names = server.last("server_name")
    if (
        names is not None
        and not draft.has("hosts")
        and any(one not in ("_", "") for one in names.args)
    ):
        raise names.place.error(
            "server_name: expected a name, or * before one, for a service of several; found"
            f" {shown(' '.join(names.args))}"
        )


def endpoints(
    variant: str,
    name: str,
    split: Location,
    upstreams: dict[str, Directive],
    draft: Draft,
    shares: dict[str, Share],
) -> None:
    """Add the endpoints of one version: the servers of an upstream, or an address."""
    path = f"variants.{variant}.endpoints"
    base, _, side = name.partition(":")
    if base not in upstreams or (side and side not in ("stable", "canary")):
        draft.add(path, f"{split.scheme}://{name}", shares[name].place, f"proxy_pass to {name}")
        return
    upstream = upstreams[base]
    servers = upstream.all("server")
    if not servers:
        raise upstream.place.error(f"upstream {base}: expected a server, found none")
    weights = {
        id(one): next((int(x[7:]) for x in one.args if re.fullmatch(r"weight=\d+", x)), 1)
        for one in servers
    }
    most = max(weights[id(one)] for one in servers if not {"down", "backup"} & {*one.args})
    for one in servers:
        if side and (weights[id(one)] == most) != (side == "stable"):
            continue
        if "down" in one.args or "backup" in one.args:
            kind = "down" if "down" in one.args else "backup"
            draft.no_equivalent(
                one.place, f"server {one.arg()} {kind}", "every endpoint gets requests",
                "add it when it shall serve",
            )  # fmt: skip
            continue
        if not side and weights[id(one)] != 1 and len({*weights.values()}) > 1:
            draft.no_equivalent(
                one.place, f"weight={weights[id(one)]} of server {one.arg()}",
                "requests go to the endpoint with the fewest in flight", "nothing to do",
            )  # fmt: skip
        for option in one.args[1:]:
            if option.startswith(_PASSIVE) and not option.startswith("slow_start"):
                draft.no_equivalent(one.place, option, *_REASONS["max_fails"])
        draft.add(path, _url(one, split.scheme), one.place, f"server {one.arg()}")


def _url(server: Directive, scheme: str) -> str:
    address = server.arg()
    if address.startswith("unix:"):
        return address
    return f"{scheme}://{address}"


def verify(split: Location, http: Directive, server: Directive, draft: Draft) -> None:
    """Set ``variants.*.tls`` as nginx connects to https upstreams: unverified, unless configured."""
    if split.scheme not in ("https", "h2"):
        return
    blocks = (split.directive, server, http)
    verified = _first(blocks, "proxy_ssl_verify")
    ca = _first(blocks, "proxy_ssl_trusted_certificate")
    name = _first(blocks, "proxy_ssl_name")
    _first(blocks, "proxy_ssl_server_name")
    for variant in ("stable", "canary"):
        at = f"variants.{variant}.tls"
        if name is not None and "$" not in name.arg():
            draft.set(f"{at}.server_name", name.arg(), name.place, "proxy_ssl_name")
        if verified is not None and verified.arg() == "on":
            if ca is not None:
                draft.set(f"{at}.ca", ca.arg(), ca.place, "proxy_ssl_trusted_certificate")
        else:
            place = split.directive.place if verified is None else verified.place
            draft.set(
                f"{at}.verify",
                False,
                place,
                "nginx verifies no certificate without proxy_ssl_verify on",
            )


def _first(blocks: Iterable[Directive], name: str) -> Directive | None:
    """Return a directive of the innermost block that has it; it counts as read in all."""
    found = [last for one in blocks if (last := one.last(name)) is not None]
    return found[0] if found else None


def timeouts(http: Directive, server: Directive, location: Directive, draft: Draft) -> None:
    """Set the timeouts, and who is trusted."""
    blocks = (location, server, http)
    for name, path in (
        ("proxy_connect_timeout", "connect_timeout"),
        ("grpc_connect_timeout", "connect_timeout"),
        ("grpc_read_timeout", "first_byte_timeout"),
        ("grpc_read_timeout", "body_timeout"),
        ("proxy_read_timeout", "first_byte_timeout"),
        ("proxy_read_timeout", "body_timeout"),
        ("proxy_send_timeout", "body_timeout"),
        ("client_body_timeout", "body_timeout"),
        ("client_header_timeout", "header_timeout"),
        ("keepalive_timeout", "idle_timeout"),
    ):
        if (one := _first(blocks, name)) is not None:
            found = seconds(one.arg())
            if found is None:
                raise one.place.error(
                    f"{name}: expected a time such as 60s, found {shown(one.arg())}"
                )
            draft.duration(f"limits.{path}", found, one.place, name)
    for one in (*http.all("set_real_ip_from"), *server.all("set_real_ip_from")):
        draft.add("forwarded.trust", one.arg(), one.place, "set_real_ip_from")
    header = _first(blocks, "real_ip_header")
    if header is not None and header.arg().lower() not in ("x-forwarded-for", "proxy_protocol"):
        draft.no_equivalent(
            header.place, f"real_ip_header {header.arg()}",
            "the client is read from X-Forwarded-For or Forwarded (forwarded.client_from)", FRONT,
        )  # fmt: skip
    _first(blocks, "real_ip_recursive")


def headers(blocks: list[Directive], draft: Draft) -> None:
    """Say what becomes of the header fields that nginx sets; the first block is the split's location."""
    found = [one for block in blocks for one in block.all("proxy_set_header")]
    if not any(one.arg().lower() == "host" for one in found):
        draft.differs(
            blocks[0].place,
            "nginx sends the upstream's name as Host by default; here the client's is kept",
        )
    for one in found:
        name, value = one.arg().lower(), one.arg(1)
        kept = value in ("$host", "$http_host") if name == "host" else name in _FORWARDED
        if not kept:
            draft.no_equivalent(
                one.place,
                f"proxy_set_header {one.arg()}",
                "header fields are passed on as they are",
                FRONT,
            )


def upstream_settings(upstream: Directive, draft: Draft) -> None:
    """Set what an upstream says of connections and balancing."""
    for one in upstream.all("keepalive"):
        if one.arg().isdigit():
            draft.set(
                "limits.max_endpoint_idle",
                int(one.arg()),
                one.place,
                "keepalive, for each endpoint here",
            )
    for one in upstream.all("keepalive_timeout"):
        if (found := seconds(one.arg())) is not None:
            draft.duration("limits.endpoint_idle_timeout", found, one.place, "keepalive_timeout")
    for one in upstream.all("ip_hash", "hash", "sticky"):
        for variant in ("stable", "canary"):
            draft.set(f"variants.{variant}.balance", "hash", one.place, f"{one.name} in upstream")
        draft.differs(
            one.place, f"{one.name}: a user stays on one endpoint by what split.sticky names"
        )
    upstream.all("least_conn", "random")


def mirror(locations: list[Location], split: Location, pair: Pair, draft: Draft) -> Location | None:
    """Set ``mirror`` if requests are copied to the canary; return the location that does it."""
    copied = None
    for one in split.directive.all("mirror"):
        target = next((x for x in locations if x.directive.args[-1:] == one.args), None)
        names = [x.name for x in target.branches[-1].shares] if target and target.branches else []
        if names == [pair.canary]:
            draft.set("mirror.percent", 100, one.place, "mirror, of GET and HEAD here")
            draft.differs(one.place, "only GET and HEAD without a body are copied here")
        elif one.arg() != "off":
            draft.no_equivalent(
                one.place, f"mirror {one.arg()}", "copies go to the canary only", FRONT
            )
        if target is not None:
            target.obstacle = ""
            copied = target
    split.directive.all("mirror_request_body")
    return copied


def report(
    root: Directive, http: Directive, server: Directive, locations: list[Directive], draft: Draft
) -> None:
    """Note the directives that nothing has read."""
    for one in root.all("worker_processes"):
        count = 0 if one.arg() == "auto" else int(one.arg()) if one.arg().isdigit() else 1
        draft.set("workers", count, one.place, "worker_processes")
    blocks = [root, *([http] if http is not root else []), server, *locations]
    upstreams = [one for one in http.block or () if one.name == "upstream"]
    used = [one for one in upstreams if any(inner.read for inner in one.block or ())]
    blocks += used
    unused = [one for one in upstreams if one not in used]
    for one in unused if draft.service is not None else ():
        draft.not_used(one.place, f"upstream {one.arg()}", "no split leads to it", FRONT)
    if unused and draft.service is None:
        names = ", ".join(one.arg() for one in unused[:5])
        more = f" and {len(unused) - 5} more" if len(unused) > 5 else ""
        draft.no_equivalent(
            unused[0].place,
            f"upstream {names}{more}",
            "a proxy has two versions of one service",
            FRONT,
        )
    for block in blocks:
        if block.name == "location" and not any(
            one.name in ("proxy_pass", "grpc_pass") for one in block.block or ()
        ):
            draft.no_equivalent(
                block.place, f"location {' '.join(block.args)}", *_REASONS["location"]
            )
            continue
        for one in block.block or ():
            if (
                one.read
                or one.name in _COVERED
                or one.name.startswith(("ssl_", "proxy_ssl_", "grpc_ssl_", "http2"))
            ):
                continue
            because, instead = _REASONS.get(one.name, ("canaryproxy has no such setting", FRONT))
            draft.no_equivalent(one.place, one.name, because, instead)
