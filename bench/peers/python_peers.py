"""The proxies written in Python beside ours: the plain aiohttp one and the floor."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from bench.peers.base import Site


@dataclass(frozen=True, slots=True)
class PlainAiohttp:
    """``bench.plain_aiohttp``."""

    name: str = "plain"
    title: str = "plain aiohttp: web.Server and ClientSession on uvloop, sticky by cookie"
    splits: bool = True

    def missing(self) -> str | None:
        return None

    def version(self) -> str:
        return f"aiohttp {metadata.version('aiohttp')}, uvloop {metadata.version('uvloop')}"

    def render_config(self, site: Site) -> str:  # noqa: ARG002
        return ""

    def command(self, site: Site, config: Path) -> list[str]:  # noqa: ARG002
        return [
            *(sys.executable, "-m", "bench.plain_aiohttp", str(site.port)),
            *(str(site.stable), str(site.canary), "--weight", f"{site.weight:g}"),
        ]


@dataclass(frozen=True, slots=True)
class Floor:
    """``bench.floor``."""

    name: str = "floor"
    title: str = "floor: bytes forwarded between two uvloop protocols, nothing parsed, no split"
    splits: bool = False

    def missing(self) -> str | None:
        return None

    def version(self) -> str:
        return f"uvloop {metadata.version('uvloop')}"

    def render_config(self, site: Site) -> str:  # noqa: ARG002
        return ""

    def command(self, site: Site, config: Path) -> list[str]:  # noqa: ARG002
        return [sys.executable, "-m", "bench.floor", str(site.port), str(site.stable)]
