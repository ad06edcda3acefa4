"""Real clients of HTTP/2 and real processes of the proxy."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.certificates import authority, loopback
from tests.ports import free_port

from .http2_load import Http2Accounts
from .processes import until, upstream
from .test_hot_restart import LIMITS, drained, end_all, handed_over
from .test_tls import running, secure

pytestmark = pytest.mark.slow


@contextlib.contextmanager
def curl(url: str, log: Path) -> Iterator[None]:
    """Have curl ask fifty times a second, over a connection that it keeps."""
    command = ["curl", "-sS", "--http2", "--cacert", str(authority().ca), "--rate", "50/s"]
    command += ["-o", "/dev/null", "-w", "%{http_code} %{http_version} %{num_connects}\n", url]
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as child:
        try:
            yield
        finally:
            child.terminate()


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("workers", [2])
def test_a_hot_restart_loses_no_stream(tmp_path: Path, workers: int) -> None:
    port, log = free_port(), tmp_path / "curl.log"
    with (
        upstream(tmp_path, "stable") as (_, behind),
        running(
            tmp_path, secure(loopback(), port), behind, f"workers: {workers}\n{LIMITS}"
        ) as before,
        curl(f"https://localhost:{port}/[1-100000]", log),
    ):
        until(lambda: log.read_text().count("\n") >= 5, "responses to curl")
        with Http2Accounts(before.port) as load:
            os.kill(before.pid, signal.SIGUSR2)
            handed_over(before, before.pid)
            drained(before, before.pid)
            asked = log.read_text().count("\n")
            until(lambda: log.read_text().count("\n") >= asked + 5, "responses of the successor")
        load.check()
        assert load.farewells == 3  # the connections of this load
        end_all(tmp_path / "proxy.yaml")
        lines = log.read_text().splitlines()[:-1]  # without the one that the end cuts off
    assert {line[:5] for line in lines} == {"200 2"}, lines
    assert sum(int(line[6:]) for line in lines) == 2
