"""docs/first-release.md from first to last: every command is run, on other ports and with less patience."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from canaryproxy import config
from tests.deploy.dockerfile import ROOT
from tests.ports import free_port
from tests.system.accounts import Accounts
from tests.system.processes import answers, until

TEXT = (ROOT / "docs" / "first-release.md").read_text()
PATIENCE = 120.0
INSTALL = ("python3 -m venv .venv", ".venv/bin/pip install .")
"""Run by the tests of the wheel."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


class Guide:
    """The reader: runs what goes on in terminals of its own, the rest one after the other."""

    def __init__(self, folder: Path, terminals: contextlib.ExitStack) -> None:
        self.folder = folder
        self.ports = {port: free_port() for port in (8080, 9001, 9002)}
        self.terminals = terminals
        (folder / ".venv" / "bin").mkdir(parents=True)
        for name, what in (("canaryproxy", "-m canaryproxy"), ("python", "")):
            command = folder / ".venv" / "bin" / name
            command.write_text(f'#!/bin/sh\nexec {sys.executable} {what} "$@"\n')
            command.chmod(0o755)

    def here(self, text: str) -> str:
        """The guide's text with the ports of this run."""
        for port, free in self.ports.items():
            text = re.sub(rf"\b{port}\b", str(free), text)
        return text

    def start(self, line: str, terminal: contextlib.ExitStack | None = None) -> None:
        """In a terminal of its own, until Ctrl-C there."""
        process = subprocess.Popen(
            ["/bin/sh", "-c", self.here(line)],
            cwd=self.folder,
            env=ENVIRONMENT,
            start_new_session=True,
        )

        def end() -> None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(PATIENCE)

        (terminal or self.terminals).callback(end)

    def run(self, line: str) -> str:
        done = subprocess.run(
            ["/bin/sh", "-c", self.here(line)],
            cwd=self.folder,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def asked(guide: Guide) -> float:
    """Return how many requests the proxy has had."""
    shown = guide.run("curl -s --unix-socket run/admin.sock http://admin/metrics")
    counts = re.findall(r"^canaryproxy_requests_total\{.*\} (\S+)$", shown, re.MULTILINE)
    return sum(map(float, counts))


@pytest.fixture
def guide(tmp_path: Path) -> Iterator[Guide]:
    with contextlib.ExitStack() as terminals:
        yield Guide(tmp_path, terminals)


@pytest.mark.slow
def test_the_guide_from_first_to_last(guide: Guide) -> None:
    (shown,) = blocks("yaml")
    quick = re.sub(r"min_requests: \d+", "min_requests: 5", shown.replace("bake: 30s", "bake: 1s"))
    plan = guide.folder / "first.yaml"
    quick = f"listen: 127.0.0.1:8080\njudge: {{baseline: 2s, warmup: 1s}}\n{quick}"
    plan.write_text(guide.here(quick), encoding="utf-8")
    said: dict[str, str] = {}
    for line in "".join(blocks("sh")).splitlines():
        if line in INSTALL:
            continue
        if line.startswith("while "):
            with contextlib.ExitStack() as terminal:
                guide.start(line, terminal)
                until(lambda: asked(guide) > 20, "requests of the guide's users")
            guide.terminals.enter_context(Accounts(guide.ports[8080]))  # the same, at less cost
        elif " & " in line:
            guide.start(line)
            until(lambda: answers(guide.ports[9001]) and answers(guide.ports[9002]), "services")
        elif " run " in line:
            guide.start(line)
            until(lambda: answers(guide.ports[8080]), "proxy")
        else:
            if line.startswith("sed "):  # the next release is to last until it was drilled
                first, mark, second = plan.read_text().partition("bake: 1s")
                plan.write_text(first + mark + second.replace(mark, "bake: 10m"))
            said[line] = said.get(line, "") + guide.run(line)

    def of(part: str) -> str:
        return next(text for line, text in said.items() if part in line)

    assert "ok" in of(" check ")
    assert "warning" in of(" check ")
    assert "first-1" in of("canaryproxy status")
    assert "promoted" in of("history -n 5")
    assert "tripped" in of("history -n 3")
    assert "error rate" in of("history -n 3")
    first, second = (json.loads(line) for line in _objects(of("-c jar -b jar")))
    assert first["version"] == second["version"]
    assert "drill" in guide.run(".venv/bin/canaryproxy history -n 3")


def _objects(text: str) -> list[str]:
    return re.findall(r"\{.*?\}", text)


def test_the_plan_is_what_the_text_says() -> None:
    (shown,) = blocks("yaml")
    found = config.parse(shown, file="first.yaml")
    warnings = config.warnings(found)
    assert len(warnings) >= 1
    assert any("bake" in line or "30" in line for line in warnings)
