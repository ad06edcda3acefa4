"""Long-lived connections leave the canary in a drill of a real proxy with two workers."""

from __future__ import annotations

import subprocess
import sys


def test_each_client_gets_a_clean_end_and_the_drill_counts_them() -> None:
    """Times are for ``python -m bench.departure`` on a quiet machine: here they have a minute."""
    options = ("--websockets=60", "--streams=20", "--close-after=0.1", "--spread=0.5", "--slack=60")
    command = (sys.executable, "-m", "bench.departure", "--workers=2", *options)
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
