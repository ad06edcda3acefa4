"""Completion: what it offers, and that it imports little, whatever the command: no clock is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from canaryproxy.cli import COMMANDS, main

ROOT = Path(__file__).parents[2]
HEAVY = {"aiohttp.client", "multidict", "pydantic", "rich", "uvloop", "yaml", "prometheus_client"}


def completed(words: str) -> list[str]:
    """Return what a shell is offered for the last word."""
    typed = ["canaryproxy", *words.split(" ")]
    variables = {
        "_CANARYPROXY_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(typed),
        "COMP_CWORD": str(len(typed) - 1),
        "PATH": os.environ["PATH"],
    }
    done = CliRunner().invoke(main, prog_name="canaryproxy", env=variables)
    return [line.partition(",")[2] for line in done.output.splitlines()]


def test_every_command_is_offered() -> None:
    assert completed("") == list(COMMANDS)
    assert completed("st") == ["status", "start"]
    assert completed("--v") == ["--version"]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("wait --for ", ["promoted", "tripped", "aborted", "paused", "ready", "step=", "ended"]),
        ("wait --for t", ["tripped"]),
        ("run --log-format ", ["text", "json"]),
        ("status --w", ["--watch"]),
    ],
)
def test_a_command_offers_its_options_and_their_values(words: str, offered: list[str]) -> None:
    assert completed(words) == offered


@pytest.mark.parametrize("words", ["", *(f"{name} --" for name in COMMANDS), "wait --for "])
def test_completion_imports_neither_the_model_nor_an_http_client(words: str) -> None:
    program = f"""
import json, os, sys
words = {words!r}
os.environ["COMP_WORDS"] = "canaryproxy " + words
os.environ["COMP_CWORD"] = str(len(("canaryproxy " + words).split(" ")) - 1)
os.environ["_CANARYPROXY_COMPLETE"] = "bash_complete"
try:
    from canaryproxy.cli import main
    main(prog_name="canaryproxy")
finally:
    print("\\n" + json.dumps(sorted(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    offered, modules = done.stdout.rstrip().rpartition("\n")[::2]
    assert offered.strip(), done.stderr
    loaded = set(json.loads(modules))
    assert loaded & HEAVY == set()
    assert len(loaded) <= (150 if not words else 220)
