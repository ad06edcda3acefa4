"""Ports of tests that run at once are not the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests import ports

ROOT = Path(__file__).parents[2]


def test_free_port_is_not_given_twice_in_one_process_or_another() -> None:
    mine = {ports.free_port() for _ in range(20)}
    assert len(mine) == 20
    done = subprocess.run(
        [sys.executable, "-c", f"from tests import ports; print(ports._reserve({min(mine)}))"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False\n"
