"""Secrets from variables and files; no error contains one."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from canaryproxy import config
from canaryproxy.config.secret_files import unusable
from canaryproxy.config.secrets import (
    MAX_SECRET,
    MIN_SIGNING_KEY,
    SecretError,
    SecretMissing,
    SecretSource,
    signing_keys,
)

KEY = b"k" * MIN_SIGNING_KEY
OTHER = b"o" * MIN_SIGNING_KEY


def test_a_secret_is_read_as_it_is_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert SecretSource().read() is None
    assert not SecretSource().configured
    file = tmp_path / "secret"
    for secret in ("hunter2", "two words"):
        monkeypatch.setenv("A_SECRET", f" {secret}\n")
        file.write_text(f"{secret}\r\n")
        for source in (SecretSource(env="A_SECRET"), SecretSource(file=str(file))):
            assert source.configured
            assert source.read() == secret
            assert secret not in repr(source)


def test_a_missing_secret_is_said_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("A_SECRET", raising=False)
    with pytest.raises(SecretMissing, match="the environment variable A_SECRET is not set"):
        SecretSource(env="A_SECRET").read()
    monkeypatch.setenv("A_SECRET", " \n")
    with pytest.raises(SecretMissing, match="the environment variable A_SECRET is empty"):
        SecretSource(env="A_SECRET").read()
    file = tmp_path / "secret"
    with pytest.raises(SecretMissing, match=f"{file} cannot be read: No such file or directory"):
        SecretSource(file=str(file)).read()
    file.touch()
    with pytest.raises(SecretMissing, match=f"{file} is empty"):
        SecretSource(file=str(file)).read()


def test_a_file_that_holds_no_secret_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    source = SecretSource(file=str(file))
    for content, why in (
        (b"x" * (MAX_SECRET + 1), "longer than 4096 bytes"),
        (b"\xff", "not UTF-8 text"),
    ):
        file.write_bytes(content)
        with pytest.raises(SecretError, match=why):
            source.read()
    file.write_bytes(b"x" * MAX_SECRET)
    assert source.read() == "x" * MAX_SECRET
    file.unlink()
    os.mkfifo(file)  # reading it would block
    with pytest.raises(SecretError, match="not a regular file"):
        source.read()


def test_signing_keys_are_lines() -> None:
    assert signing_keys(b"\n  %b \r\n\n%b\n" % (KEY, OTHER)) == (KEY, OTHER)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "holds no key"),
        (b" \n\n", "holds no key"),
        (KEY + b"\nsecret", "line 2 has 6 bytes: a key has at least 32"),
    ],
)
def test_a_bad_signing_key_is_refused_without_showing_it(text: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)) as raised:
        signing_keys(text)
    assert "secret" not in str(raised.value)


def test_each_file_of_a_secret_that_cannot_be_used_is_warned_of(tmp_path: Path) -> None:
    (tmp_path / "good").write_text("a secret")
    (tmp_path / "empty").write_text("")
    text = f"""
variants: {{stable: {{endpoints: [http://a]}}, canary: {{endpoints: [http://b]}}}}
admin: {{listen: "127.0.0.1:1", token_file: {tmp_path}/missing}}
notify:
  - {{webhook: "http://h", secret_file: {tmp_path}/good}}
  - {{webhook: "http://h", secret_file: {tmp_path}/empty}}
release:
  id: a
  steps: [{{weight: 5}}, {{weight: 100}}]
  gates: [{{webhook: "http://h", secret_file: {tmp_path}/missing}}]
"""
    assert sorted(unusable(config.parse(text, file="f"))) == [
        f"admin.token_file: {tmp_path}/missing cannot be read: No such file or directory",
        f"notify[1].secret_file: {tmp_path}/empty is empty",
        f"release.gates[0].secret_file: {tmp_path}/missing cannot be read: No such file or directory",
    ]
