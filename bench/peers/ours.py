"""canaryproxy itself, with split, cookie and counting on."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

from bench.loads import COOKIE
from bench.peers.base import PYTHONPATH, Site
from bench.ports import HOST

_IMPORT_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Ours:
    """``python -m canaryproxy run`` from this checkout, one worker."""

    name: str = "ours"
    title: str = "canaryproxy, split by cookie, counting on, 1 worker"
    splits: bool = True

    def missing(self) -> str | None:
        done = self._python("import canaryproxy.cli")
        if done.returncode == 0:
            return None
        reason = done.stderr.strip().splitlines()[-1:] or ["no message"]
        return f"canaryproxy cannot be imported: {reason[0]} (pip install -e .)"

    def version(self) -> str:
        return self._python("import canaryproxy; print(canaryproxy.__version__)").stdout.strip()

    def render_config(self, site: Site) -> str:
        config = {
            "listen": f"{HOST}:{site.port}",
            "workers": 1,
            "admin": {"socket": str(site.folder / "admin.sock")},
            "variants": {
                "stable": {"endpoints": [f"http://{HOST}:{site.stable}"]},
                "canary": {"endpoints": [f"http://{HOST}:{site.canary}"]},
            },
            "split": {"weight": site.weight, "sticky": {"cookie": COOKIE}},
            "state": str(site.folder / "state.json"),
        }
        return yaml.safe_dump(config, sort_keys=False)

    def command(self, site: Site, config: Path) -> list[str]:  # noqa: ARG002
        return [sys.executable, "-m", "canaryproxy", "run", "-c", str(config)]

    def _python(self, code: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code],
            env=PYTHONPATH,
            capture_output=True,
            text=True,
            timeout=_IMPORT_SECONDS,
            check=False,
        )
