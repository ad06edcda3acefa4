"""The demo: its figures add up, and it leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from canaryproxy.demo.story import STORY

DEADLINE = 40.0
COMMAND = [sys.executable, "-m", "canaryproxy", "demo", "--speed", "5"]


def children_of(pid: int) -> set[int]:
    """Return the pids of a process's living children."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.add(int(entry.parent.name))
    return found


def until(condition: Any, what: str) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, f"{what} did not come true"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture(scope="module")
def document() -> Any:
    done = subprocess.run(
        [*COMMAND, "--json"], capture_output=True, text=True, timeout=DEADLINE, check=True
    )
    assert done.stderr == ""
    return json.loads(done.stdout)


def phase(document: Any, name: str) -> Any:
    return next(phase for phase in document["phases"] if phase["name"] == name)


def test_every_phase_is_told(document: Any) -> None:
    assert [phase["name"] for phase in document["phases"]] == [phase.name for phase in STORY]
    assert sum(phase.seconds for phase in STORY) < 60


def test_every_request_is_answered_and_nobody_moves(document: Any) -> None:
    assert document["sent"] == document["answered"] > 500
    assert document["users_moved"] == 0
    assert all(phase["weight"] == 0.1 for phase in document["phases"])


def test_users_see_nothing_of_what_can_be_rescued(document: Any) -> None:
    for name in ("healthy", "unavailable", "slow", "killed"):
        assert phase(document, name)["users"]["errors"] == 0
    for name in ("unavailable", "killed"):
        assert phase(document, name)["rescued"] > 0
        assert phase(document, name)["canary"]["failed"] > 0


def test_errors_and_slowness_show_in_the_canarys_figures_only(document: Any) -> None:
    errors, slow = phase(document, "errors"), phase(document, "slow")
    assert errors["canary"]["failed"] > 0
    assert errors["users"]["errors"] > 0
    assert slow["canary"]["p95"] > 0.3
    assert all(phase["stable"]["failed"] == 0 for phase in document["phases"])


def test_without_a_terminal_it_prints_lines_and_a_summary() -> None:
    done = subprocess.run(COMMAND, capture_output=True, text=True, timeout=DEADLINE, check=True)
    lines = done.stdout.splitlines()
    assert "\x1b" not in done.stdout
    assert [line.partition(":")[0] for line in lines[:5]] == [phase.title for phase in STORY]
    assert "0 users changed version on the way." in lines[-1]
    assert all(len(line) <= 80 for line in lines[5:])


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -9)]
)
def test_it_leaves_nothing_behind(tmp_path: Path, number: int, status: int) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(COMMAND, env=environment, stdout=subprocess.DEVNULL) as demo:
        until(lambda: len(children_of(demo.pid)) == 3, "three children")
        children = children_of(demo.pid)
        demo.send_signal(number)
        assert demo.wait(DEADLINE) == status
    until(lambda: not any(map(alive, children)), "the end of its children")
    if number != signal.SIGKILL:
        assert list(tmp_path.iterdir()) == []
    assert tempfile.gettempdir() != str(tmp_path)
