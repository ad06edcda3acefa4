"""Caddy: reverse_proxy, the canary for users whose cookie begins with certain digits, one core.

Caddy 2.6 has no weights. The users of the benchmark have evenly drawn hexadecimal ids, so the
lowest values of the first two digits are a share of them, told apart by Caddy's cheapest matcher (a
prefix).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.harness.ports import HOST
from bench.loads import COOKIE
from bench.peers.base import ALL, Site, ask, missing_program, required


def prefixes(weight: float) -> list[str]:
    """Return the shortest list of hexadecimal prefixes that ``weight`` percent of ids begin with.

    To the nearest 1/256: for 10 percent 26/256, that is "0" and "10" to "19".
    """
    ids = round(weight / 100 * 256)
    whole = [f"{digit:x}" for digit in range(ids // 16)]
    return whole + [f"{value:02x}" for value in range(ids // 16 * 16, ids)]


@dataclass(frozen=True, slots=True)
class Caddy:
    """Caddy as Debian ships it."""

    name: str = "caddy"
    title: str = "Caddy, reverse_proxy, variant by prefix of the cookie, 1 core"
    splits: bool = True
    features: frozenset[str] = ALL

    def missing(self) -> str | None:
        return missing_program("caddy", "Debian, Ubuntu: apt-get install caddy")

    def version(self) -> str:
        return ask(required("caddy"), "version").split()[0].removeprefix("v")

    def render_config(self, site: Site) -> str:
        values = [f"{COOKIE}={prefix}*" for prefix in prefixes(site.weight)]
        server: dict[str, Any] = {
            "listen": [f"{HOST}:{site.port}"],
            "automatic_https": {"disable": True},
            "idle_timeout": "1h",
            "routes": [
                {
                    "match": [{"header": {"Cookie": values}}],
                    "handle": [_proxy(site.canary, http2=site.http2_upstream)],
                    "terminal": True,
                },
                {"handle": [_proxy(site.stable, http2=site.http2_upstream)]},
            ],
        }
        if site.http2:
            server["protocols"] = ["h2" if site.tls else "h2c", "h1"]
        apps: dict[str, Any] = {"http": {"servers": {"front": server}}}
        if site.tls:
            server["tls_connection_policies"] = [{}]
            pair = {"certificate": str(site.certificate), "key": str(site.key)}
            apps["tls"] = {"certificates": {"load_files": [pair]}}
        config = {
            "admin": {"disabled": True, "config": {"persist": False}},
            "logging": {"logs": {"default": {"level": "ERROR"}}},
            "storage": {"module": "file_system", "root": str(site.folder / "caddy-storage")},
            "apps": apps,
        }
        return json.dumps(config, indent=1)

    def command(self, site: Site, config: Path) -> list[str]:  # noqa: ARG002
        return [required("caddy"), "run", "--config", str(config)]


def _proxy(port: int, *, http2: bool) -> dict[str, Any]:
    return {
        "handler": "reverse_proxy",
        "transport": {
            "protocol": "http",
            **({"versions": ["h2c", "2"]} if http2 else {}),
            "keep_alive": {"max_idle_conns_per_host": 512, "idle_timeout": "1h"},
        },
        "upstreams": [{"dial": f"{HOST}:{port}"}],
    }
