"""The manual page is that of the commands as they are, and groff has nothing to say against it."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from canaryproxy.cli import COMMANDS
from canaryproxy.cli.manual import page

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "canaryproxy" / "cli" / "canaryproxy.1"


def test_the_page_is_that_of_the_commands() -> None:
    assert PAGE.read_text() == page(), "run: make man"


def test_the_wheel_has_the_page_where_man_finds_it() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    page = str(PAGE.relative_to(ROOT))
    assert build["targets"]["wheel"]["shared-data"] == {page: "share/man/man1/canaryproxy.1"}


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_groff_shows_every_command_and_warns_of_nothing() -> None:
    done = subprocess.run(
        ["groff", "-man", "-Tascii", "-P-c", "-ww", str(PAGE)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    shown = re.sub(".\x08", "", done.stdout)  # bold, as on a typewriter
    for name in COMMANDS:
        assert f"canaryproxy {name}" in shown
    for text in ("NAME", "SYNOPSIS", "Exit status: 0 done", "CANARYPROXY_TOKEN", "--for"):
        assert text in shown


@pytest.mark.skipif(shutil.which("man") is None, reason="man is not installed")
def test_man_shows_the_page() -> None:
    done = subprocess.run(
        ["man", "--warnings", "-l", str(PAGE)],
        capture_output=True, text=True, check=True, env={"PATH": "/usr/bin:/bin", "MANWIDTH": "100"},
    )  # fmt: skip
    assert done.stderr == ""
    assert "canaryproxy" in done.stdout
