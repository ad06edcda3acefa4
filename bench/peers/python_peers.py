"""The proxies written in Python beside ours: the plain aiohttp one, proxy.py and the floor."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

from bench.harness.ports import HOST
from bench.peers.base import Site


@dataclass(frozen=True, slots=True)
class PlainAiohttp:
    """``bench.peers.plain_aiohttp``."""

    name: str = "plain"
    title: str = "plain aiohttp: web.Server and ClientSession on uvloop, sticky by cookie"
    splits: bool = True
    features: frozenset[str] = frozenset(("idle",))

    def missing(self) -> str | None:
        return None

    def version(self) -> str:
        return f"aiohttp {metadata.version('aiohttp')}, uvloop {metadata.version('uvloop')}"

    def render_config(self, site: Site) -> str:  # noqa: ARG002
        return ""

    def command(self, site: Site, config: Path) -> list[str]:  # noqa: ARG002
        return [
            *(sys.executable, "-m", "bench.peers.plain_aiohttp", str(site.port)),
            *(str(site.stable), str(site.canary), "--weight", f"{site.weight:g}"),
        ]


@dataclass(frozen=True, slots=True)
class ProxyPy:
    """proxy.py from PyPI with ``bench.proxy_py_plugin``."""

    name: str = "proxypy"
    title: str = (
        "proxy.py, a plugin that splits by cookie and keeps upstream connections, 1 acceptor"
    )
    splits: bool = True
    features: frozenset[str] = frozenset()

    def missing(self) -> str | None:
        if util.find_spec("proxy") is None:
            return "proxy.py is not installed (pip install proxy.py, or the extra 'bench')"
        return None

    def version(self) -> str:
        return metadata.version("proxy.py")

    def render_config(self, site: Site) -> str:  # noqa: ARG002
        return ""

    def command(self, site: Site, config: Path) -> list[str]:  # noqa: ARG002
        return [
            *(sys.executable, "-m", "bench.peers.proxy_py", str(site.stable), str(site.canary)),
            *(f"{site.weight:g}", "--hostname", HOST, "--port", str(site.port)),
            *("--num-workers", "1", "--num-acceptors", "1", "--local-executor", "1"),
            *("--timeout", "3600", "--log-level", "ERROR"),
        ]


@dataclass(frozen=True, slots=True)
class Floor:
    """``bench.peers.floor``."""

    name: str = "floor"
    title: str = "floor: bytes forwarded between two uvloop protocols, nothing parsed, no split"
    splits: bool = False
    features: frozenset[str] = frozenset()

    def missing(self) -> str | None:
        return None

    def version(self) -> str:
        return f"uvloop {metadata.version('uvloop')}"

    def render_config(self, site: Site) -> str:  # noqa: ARG002
        return ""

    def command(self, site: Site, config: Path) -> list[str]:  # noqa: ARG002
        return [sys.executable, "-m", "bench.peers.floor", str(site.port), str(site.stable)]
