from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

import pytest

from canaryproxy.notify.signature import Secret, SecretError, headers, sign


@dataclass(frozen=True)
class Config:
    secret_env: str | None = None
    secret_file: str | None = None


def test_published_vector() -> None:
    """What the libraries of Standard Webhooks test ``sign`` by."""
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signature = sign([key], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_without_a_key_there_is_no_signature() -> None:
    assert headers((), "msg_1", 7, b"{}") == {"webhook-id": "msg_1", "webhook-timestamp": "7"}
    assert Secret(Config()).keys() == ()


def test_each_key_signs() -> None:
    both = headers((b"new", b"old"), "msg_1", 7, b"{}")["webhook-signature"].split(" ")
    assert both == [sign([b"new"], "msg_1", 7, b"{}"), sign([b"old"], "msg_1", 7, b"{}")]


def test_keys_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = Secret(Config(secret_env="HOOK_SECRET"))
    monkeypatch.delenv("HOOK_SECRET", raising=False)
    with pytest.raises(SecretError, match="HOOK_SECRET is not set"):
        secret.keys()
    monkeypatch.setenv("HOOK_SECRET", " \n")
    with pytest.raises(SecretError, match="HOOK_SECRET is empty"):
        secret.keys()
    monkeypatch.setenv("HOOK_SECRET", "a phrase\nwhsec_" + base64.b64encode(b"\0\1\2").decode())
    assert secret.keys() == (b"a phrase", b"\0\1\2")


@pytest.mark.parametrize("tail", ["", "not base64!", "YWJ", "hé"])
def test_a_broken_key_is_not_told(tail: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_SECRET", "whsec_" + tail)
    with pytest.raises(SecretError, match="the text after whsec_ is not base64") as caught:
        Secret(Config(secret_env="HOOK_SECRET")).keys()
    assert not tail or tail not in str(caught.value)


def test_a_file_holds_what_it_holds_now(tmp_path: Path) -> None:
    file = tmp_path / "key"
    secret = Secret(Config(secret_file=str(file)))
    with pytest.raises(SecretError, match="No such file"):
        secret.keys()
    file.write_text("first\n")
    assert secret.keys() == (b"first",)
    new = tmp_path / "new"
    new.write_text("other\n")
    new.replace(file)
    assert secret.keys() == (b"other",)
    file.write_bytes(b"\xff\xfe\0")
    with pytest.raises(SecretError, match="is not UTF-8 text"):
        secret.keys()


def test_repr_hides_keys(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("hunter2")
    secret = Secret(Config(secret_file=str(file)))
    assert secret.keys() == (b"hunter2",)
    assert "hunter2" not in repr(secret)
