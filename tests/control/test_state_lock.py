"""The locks of state files: two proxies whose files would be the same never run at the same time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from canaryproxy import config
from canaryproxy.config import Config
from canaryproxy.control.state_file import StateError
from canaryproxy.control.state_lock import StateLocks

SIDES = '{stable: {endpoints: ["http://127.0.0.1:1"]}, canary: {endpoints: ["http://127.0.0.1:2"]}}'
SINGLE = f"variants: {SIDES}"
SERVICES = f"services: {{cart: {{variants: {SIDES}}}}}"
OTHERS = SINGLE[:-1] + ', others: {v3: {endpoints: ["http://127.0.0.1:3"], share: 5}}}'


def keeping(state: Path, text: str) -> Config:
    return config.parse(f"state: {state}\n{text}", file="c.yaml")


@pytest.mark.parametrize("text", [SINGLE, SERVICES, OTHERS])
def test_one_state_file_has_one_proxy(tmp_path: Path, text: str) -> None:
    first, second = (StateLocks(keeping(tmp_path / "a.json", text)) for _ in range(2))
    first.acquire(0.0)
    first.acquire(0.0)  # what it holds already
    with pytest.raises(StateError) as refused:
        second.acquire(0.0)
    assert str(refused.value) == (
        f"already in use: state file {tmp_path}/a.json (by pid {os.getpid()})."
        " Set a different `state:` for each proxy."
    )
    first.release()
    second.acquire(0.0)
    second.release()


@pytest.mark.parametrize("text", [SERVICES, OTHERS])
def test_the_folder_of_services_has_one_proxy_whatever_their_state_files_are_called(
    tmp_path: Path, text: str
) -> None:
    first = StateLocks(keeping(tmp_path / "a.json", SERVICES))
    second = StateLocks(keeping(tmp_path / "b.json", text))
    elsewhere = StateLocks(keeping(tmp_path / "elsewhere" / "b.json", text))
    single = StateLocks(keeping(tmp_path / "c.json", SINGLE))
    first.acquire(0.0)
    elsewhere.acquire(0.0)
    single.acquire(0.0)
    with pytest.raises(StateError) as refused:
        second.acquire(0.0)
    assert str(refused.value) == (
        f"already in use: folder of state files {tmp_path}/services (by pid {os.getpid()})."
        " Give each proxy a `state:` in a folder of its own."
    )
    for one in (first, second, elsewhere, single):
        one.release()


def test_a_reload_that_needs_the_folder_takes_it_or_is_refused(tmp_path: Path) -> None:
    single, other = (StateLocks(keeping(tmp_path / f"{name}.json", SINGLE)) for name in "ab")
    single.acquire(0.0)
    other.acquire(0.0)
    single.extend(keeping(tmp_path / "a.json", OTHERS))
    with pytest.raises(StateError, match="folder of state files"):
        other.extend(keeping(tmp_path / "b.json", OTHERS))
    single.release()
    other.extend(keeping(tmp_path / "b.json", OTHERS))
    other.release()
