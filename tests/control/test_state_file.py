"""The state file: whole or not there, and nothing trusted that is not ours."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.control.state_file import StateError, StateFile

documents = st.dictionaries(
    st.text(max_size=5),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner, max_size=3),
    ),
    max_size=4,
)


@given(document=documents)
def test_what_is_saved_is_loaded(
    tmp_path_factory: pytest.TempPathFactory, document: dict[str, object]
) -> None:
    file = StateFile(tmp_path_factory.mktemp("state") / "deep" / "state.json")
    assert file.load() is None
    file.save({"old": 1})
    file.save(document)
    assert file.load() == document
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert [path.name for path in file.path.parent.iterdir()] == ["state.json"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "not valid JSON .truncated, or not written by canaryproxy"),
        (b"\xff\xfe", "not valid JSON .truncated, or not written by canaryproxy"),
        (b"[" * 100_000, "nested too deeply: not written by canaryproxy"),
        (b"{}", "not a state file of canaryproxy"),
        (b"[1]", "not a state file of canaryproxy"),
        (b'{"format": "canaryproxy-state", "version": 99}', "version 99"),
        (
            b'{"format": "canaryproxy-state", "version": 1, "state": {}}',
            "has a checksum mismatch: truncated or edited",
        ),
    ],
)
def test_foreign_and_stale_files_are_refused(tmp_path: Path, text: bytes, why: str) -> None:
    file = StateFile(tmp_path / "state.json")
    file.path.write_bytes(text)
    with pytest.raises(StateError, match=why):
        file.load()
    aside = file.set_aside()
    assert aside.read_bytes() == text
    assert file.load() is None


def test_every_truncation_and_every_flipped_digit_is_refused(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "state.json")
    file.save({"weight": 5, "circuit": {"state": "open"}})
    whole = file.path.read_bytes()
    for length in range(len(whole) - 1):
        file.path.write_bytes(whole[:length])
        with pytest.raises(StateError):
            file.load()
    file.path.write_bytes(whole.replace(b'"weight": 5', b'"weight": 9'))
    with pytest.raises(StateError, match="has a checksum mismatch: truncated or edited"):
        file.load()


def test_a_failed_save_leaves_the_old_state(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "state.json")
    file.save({"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        file.save({"a": float("nan")})
    assert file.load() == {"a": 1}


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(StateError, match="cannot be written"):
        StateFile(blocker / "state.json").save({})
    target = tmp_path / "full"
    target.symlink_to("/dev/full")
    assert os.path.islink(target)  # noqa: PTH114 - the link itself, which the save replaces
    StateFile(target).save({"a": 1})
    assert json.loads(target.read_text())["state"] == {"a": 1}
