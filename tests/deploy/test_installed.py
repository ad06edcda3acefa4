"""The proxy as the Dockerfile's steps install it: what is in its environment, and that it runs from there."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.request
from pathlib import Path

import pytest

import canaryproxy
from tests.deploy.dockerfile import locked
from tests.ports import free_port
from tests.system.processes import DEADLINE, until


@pytest.mark.slow
def test_the_build_steps_make_a_proxy_with_what_is_locked(installed: Path) -> None:
    shown = subprocess.run(
        [installed / "bin" / "canaryproxy", "--version"], capture_output=True, text=True, check=True
    )
    compiled = " (compiled)" if os.environ.get("COMPILE") == "true" else ""
    assert shown.stdout.strip() == f"canaryproxy, version {canaryproxy.__version__}{compiled}"
    have = json.loads(
        subprocess.run(
            [installed / "bin" / "python", "-c", _INSTALLED],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    )
    pins = {name: str(version) for name, version in locked("requirements.lock").items()}
    assert have == pins | {"canaryproxy": canaryproxy.__version__}
    assert not (installed / "bin" / "pip").exists()


_INSTALLED = """
import json, re
from importlib.metadata import distributions
name = lambda one: re.sub("[-_.]+", "-", one.metadata["Name"]).lower()
print(json.dumps({name(one): one.version for one in distributions()}))
"""


def test_it_runs_without_the_repository(installed: Path, tmp_path: Path) -> None:
    """Check, run, look, the dashboard, drain: from the wheel alone."""
    port, admin = free_port(), free_port()
    config = tmp_path / "canaryproxy.yaml"
    config.write_text(
        f"listen: 127.0.0.1:{port}\nadmin: {{listen: 127.0.0.1:{admin}}}\n"
        f"variants: {{stable: {{endpoints: [http://127.0.0.1:{free_port()}]}}}}\n"
    )
    environment = {"PATH": f"{installed}/bin:/usr/bin:/bin"}

    def run(*command: str) -> str:
        return subprocess.run(
            command,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=True,
        ).stdout

    def ready() -> bool:
        check = ["python", "-m", "canaryproxy.health"]
        return not subprocess.run(check, cwd=tmp_path, env=environment, check=False).returncode

    assert "ok" in run("canaryproxy", "check", "-c", str(config))
    assert '"listen"' in run("canaryproxy", "schema")
    process = subprocess.Popen(
        [installed / "bin" / "canaryproxy", "run", "-c", config], cwd=tmp_path, env=environment
    )
    try:
        until(ready, "ready")
        assert "closed" in run("canaryproxy", "status")
        for name in ("", "static/main.js"):
            with urllib.request.urlopen(f"http://127.0.0.1:{admin}/{name}") as answer:
                assert answer.status == 200
        process.terminate()
        assert process.wait(DEADLINE) == 0
    finally:
        process.kill()
        process.wait()
