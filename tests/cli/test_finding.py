"""How commands find the proxy when the file is broken: just then people want to look."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        ("admin: {socket: ./a.sock}\nsplit: {weight: 300}\n", 3, "no proxy answers on ./a.sock"),
        ("admin: {socket: ./a.sock}\n", 3, "no proxy answers on ./a.sock"),
        ("split: [", 3, "no proxy answers on ./run/admin.sock"),
        ("admin: {socket: 5}\n", 2, "admin.socket"),
    ],
)
def test_a_broken_file_still_leads_to_the_proxy(
    tmp_path: Path, text: str, status: int, said: str
) -> None:
    (tmp_path / "c.yaml").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "canaryproxy", "status", "-c", "c.yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == status
    assert said in done.stderr
