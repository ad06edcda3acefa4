"""canaryproxy itself, with split, cookie and counting on."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bench.harness.ports import HOST, address
from bench.loads import COOKIE
from bench.peers.base import ALL, MAX_CONNECTIONS, PYTHONPATH, ROOT, Peer, Site

COMPILED = ROOT / "build" / "compiled"
"""What ``make compiled`` makes."""
CHECKED = ROOT / "build" / "checked"
"""What ``make checked`` makes: the same at a lower level of optimization."""

_SECONDS = 30
_INACTIVE_WORKERS = "workers is not active"


@dataclass(frozen=True, slots=True)
class Ours:
    """``python -m canaryproxy run`` from this checkout.

    compiled: with the data path compiled, as in the image; else plain Python.
    build: the copy of the checkout that is compiled.
    judged: a release is under way and all five metrics of the judge are on (errors, latency, throughput,
        a business outcome that every answer is looked at for, a bad outcome by the length of the body).
    workers: as in the configuration.
    endpoints: number of endpoints of each variant, each with an address of its own.
    rules: number of match rules that are tried with each request; none holds.
    services: number of services, each with a host of its own; 0: a configuration without any.
    releasing: how many of them have a release under way, if ``judged``; the others are idle.
    """

    name: str = "ours"
    title: str = "canaryproxy, compiled, split by cookie, counting on, 1 worker"
    splits: bool = True
    features: frozenset[str] = ALL
    compiled: bool = True
    judged: bool = False
    workers: int = 1
    endpoints: int = 1
    rules: int = 0
    services: int = 0
    releasing: int = 0
    build: Path = COMPILED

    @property
    def environment(self) -> dict[str, str]:
        """Return what makes ``python -m canaryproxy`` find it."""
        return {"PYTHONPATH": f"{self.build}:{ROOT}"} if self.compiled else PYTHONPATH

    def missing(self) -> str | None:
        if self.compiled and not (self.build / ".done").exists():
            return f"not compiled: make {self.build.name}"
        done = self._python("-c", "import canaryproxy.cli")
        if done.returncode != 0:
            reason = done.stderr.strip().splitlines()[-1:] or ["no message"]
            return f"canaryproxy cannot be imported: {reason[0]} (pip install -e .)"
        if self.workers != 1 and not self._has_workers():
            return "not active: this version of canaryproxy has no workers yet"
        return None

    def version(self) -> str:
        return (
            self._python("-m", "canaryproxy", "--version").stdout.strip().rpartition("version ")[2]
        )

    def render_config(self, site: Site) -> str:
        config: dict[str, Any] = {
            "listen": _listeners(site),
            "workers": self.workers,
            "admin": {"socket": str(site.folder / "admin.sock")},
            "variants": {
                "stable": {"endpoints": self._endpoints(site, site.stable)},
                "canary": {"endpoints": self._endpoints(site, site.canary)},
            },
            "split": {"weight": site.weight, "sticky": {"cookie": COOKIE}},
            "limits": {"max_connections": MAX_CONNECTIONS, "idle_timeout": "1h"},
            "state": str(site.folder / "state.json"),
        }
        if self.rules:
            config["split"]["match"] = [_rule(number) for number in range(self.rules)]
        if self.judged:
            config["release"] = {
                "id": "bench",
                "steps": [{"weight": site.weight, "bake": "1h"}, {"weight": 100}],
            }
            config["judge"] = {
                "baseline": 0,  # requests are measured with the split in force
                "metrics": {
                    "errors": {},
                    "latency": {},
                    "throughput": {},
                    "business": {"outcome": "served"},
                },
                "outcomes": {
                    "served": {"match": {"path": {"prefix": "/"}}, "when": {"status": "2xx"}},
                    "tiny": {"when": {"body_under": "10B"}, "bad": True},
                },
            }
        if self.services:
            own = {
                part: config.pop(part) for part in ("split", "release", "judge") if part in config
            }
            config["services"] = {
                f"service-{number}": {
                    "hosts": [host_of_service(number)],
                    **(own if number < self.releasing else {}),
                }
                for number in range(self.services)
            }
        return yaml.safe_dump(config, sort_keys=False)

    def command(self, site: Site, config: Path) -> list[str]:  # noqa: ARG002
        return [sys.executable, "-m", "canaryproxy", "run", "-c", str(config)]

    def _endpoints(self, site: Site, port: int) -> list[str]:
        scheme = "h2c" if site.http2_upstream else "http"
        return [f"{scheme}://{address(number)}:{port}" for number in range(self.endpoints)]

    def _has_workers(self) -> bool:
        """Whether ``canaryproxy check`` takes the number of workers without a warning."""
        text = (
            f"workers: {self.workers}\n"
            "variants: {stable: {endpoints: ['http://127.0.0.1:9']}}\n"
            "admin: {socket: null}\n"
        )
        done = self._python("-m", "canaryproxy", "check", "-c", "/dev/stdin", text=text)
        return _INACTIVE_WORKERS not in done.stdout + done.stderr

    def _python(self, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            env={**os.environ, **self.environment},
            cwd="/",
            input=text,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )


def host_of_service(number: int) -> str:
    """Return the host of a service."""
    return f"service-{number}.bench"


def environment(peer: Peer) -> dict[str, str]:
    """Return the variables that a peer's process needs beside those that all have."""
    return peer.environment if isinstance(peer, Ours) else PYTHONPATH


def _listeners(site: Site) -> list[dict[str, Any] | str]:
    pair = {"cert": str(site.certificate), "key": str(site.key)}
    with_tls = [site.tls_port] if site.tls_port else []
    if site.tls:
        with_tls.append(site.port)
    return [
        *([] if site.tls else [f"{HOST}:{site.port}"]),
        *({"address": f"{HOST}:{port}", "tls": {"certificates": [pair]}} for port in with_tls),
    ]


def _rule(number: int) -> dict[str, Any]:
    """One of the three kinds of conditions in turn, none of which holds for the benchmark's requests."""
    conditions: tuple[dict[str, Any], ...] = (
        {"header": {"name": f"X-Group-{number}", "equals": "beta"}},
        {"path": {"prefix": f"/group-{number}/"}},
        {"cookie": {"name": f"group{number}", "equals": "beta"}},
    )
    return {"variant": "canary", **conditions[number % len(conditions)]}
