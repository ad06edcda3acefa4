"""docs/performance.md: what a command imports is bounded, because a time cannot be on a busy machine."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "performance.md").read_text()
LEEWAY = 1.15
"""Other versions of Python and of the dependencies have some modules more or less."""
NEVER = {
    "--help": {"pydantic", "rich", "yaml", "asyncio", "aiohttp", "uvloop", "cryptography"},
    "check -c config/minimal.yaml": {"rich", "asyncio", "aiohttp", "uvloop", "prometheus_client"},
}


@pytest.mark.parametrize("arguments", NEVER)
def test_a_command_imports_only_what_it_needs(arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "canaryproxy", *arguments.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    imported = re.findall(r"^import time:.*\| +(\S+)$", done.stderr, re.MULTILINE)
    assert not {name.partition(".")[0] for name in imported} & NEVER[arguments]
    (row,) = [line for line in PAGE.splitlines() if line.startswith(f"| `canaryproxy {arguments}`")]
    assert len(imported) <= int(row.split("|")[5]) * LEEWAY
