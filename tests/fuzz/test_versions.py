"""The same request over both versions of HTTP, in short (see ``versions``)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .versions import run

ROOT = Path(__file__).parent.parent.parent


def test_both_versions_forward_the_same() -> None:
    seen = run(1500, "gate")
    assert seen["cases"] == 1500
    assert seen["forwarded"] > 500
    assert 200 < seen["reset"] < seen["refused"]


@pytest.mark.parametrize("module", ["http2", "versions"])
def test_the_command_says_what_it_did(module: str) -> None:
    command = [sys.executable, "-m", f"tests.fuzz.{module}", "--cases", "10", "--seed", "s"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "cases: 10" in done.stdout
    assert "seed s, 1 jobs" in done.stdout
