"""Replacing a file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from canaryproxy.config.atomic import replace_file


@pytest.mark.parametrize("durable", [True, False])
def test_replace_file_creates_and_replaces(tmp_path: Path, durable: bool) -> None:
    file = tmp_path / "file"
    for content, mode in ((b"first", 0o600), (b"second", 0o644)):
        replace_file(file, content, mode=mode, durable=durable)
        assert file.read_bytes() == content
        assert file.stat().st_mode & 0o777 == mode
    assert list(tmp_path.iterdir()) == [file]


def test_replace_file_keeps_the_old_file_on_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        replace_file(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]
