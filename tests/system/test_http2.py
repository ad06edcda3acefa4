"""Real clients of HTTP/2 and real processes of the proxy."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from .http2_load import Http2Accounts
from .test_hot_restart import LIMITS, drained, handed_over, replaceable

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("workers", [1, 2])
def test_hot_restarts_lose_no_stream(tmp_path: Path, workers: int) -> None:
    with replaceable(tmp_path, workers, f"{LIMITS}\nsplit: {{weight: 30}}") as running:
        seen = [running.pid]
        with Http2Accounts(running.port) as load:
            for _ in range(2):
                os.kill(seen[-1], signal.SIGUSR2)
                seen.append(handed_over(running, seen[-1]))
                drained(running, seen[-2])
        load.check()
        assert load.farewells >= 2
