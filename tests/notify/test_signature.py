from __future__ import annotations

import base64
from pathlib import Path

import pytest

from canaryproxy.config.secrets import SecretError, SecretSource
from canaryproxy.notify.signature import headers, sign, webhook_keys


def test_the_published_vector_has_its_signature() -> None:
    """What the libraries of Standard Webhooks test ``sign`` by."""
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signature = sign([key], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_without_a_key_there_is_no_signature() -> None:
    assert headers((), "msg_1", 7, b"{}") == {"webhook-id": "msg_1", "webhook-timestamp": "7"}
    assert webhook_keys(SecretSource()) == ()


def test_each_key_signs() -> None:
    both = headers((b"new", b"old"), "msg_1", 7, b"{}")["webhook-signature"].split(" ")
    assert both == [sign([b"new"], "msg_1", 7, b"{}"), sign([b"old"], "msg_1", 7, b"{}")]


def test_keys_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = SecretSource(env="HOOK_SECRET")
    monkeypatch.delenv("HOOK_SECRET", raising=False)
    with pytest.raises(SecretError, match="HOOK_SECRET is not set"):
        webhook_keys(secret)
    monkeypatch.setenv("HOOK_SECRET", " \n")
    with pytest.raises(SecretError, match="HOOK_SECRET is empty"):
        webhook_keys(secret)
    monkeypatch.setenv("HOOK_SECRET", "a phrase\nwhsec_" + base64.b64encode(b"\0\1\2").decode())
    assert webhook_keys(secret) == (b"a phrase", b"\0\1\2")


@pytest.mark.parametrize("tail", ["", "not base64!", "YWJ", "hé"])
def test_a_broken_key_is_not_told(tail: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_SECRET", "whsec_" + tail)
    with pytest.raises(SecretError, match="the text after whsec_ is not base64") as caught:
        webhook_keys(SecretSource(env="HOOK_SECRET"))
    assert not tail or tail not in str(caught.value)


def test_a_file_holds_what_it_holds_now(tmp_path: Path) -> None:
    file = tmp_path / "key"
    secret = SecretSource(file=str(file))
    with pytest.raises(SecretError, match="No such file"):
        webhook_keys(secret)
    file.write_text("first\n")
    assert webhook_keys(secret) == (b"first",)
    new = tmp_path / "new"
    new.write_text("other\n")
    new.replace(file)
    assert webhook_keys(secret) == (b"other",)
    file.write_bytes(b"\xff\xfe\0")
    with pytest.raises(SecretError, match="is not UTF-8 text"):
        webhook_keys(secret)


def test_repr_hides_keys(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("hunter2")
    secret = SecretSource(file=str(file))
    assert webhook_keys(secret) == (b"hunter2",)
    assert "hunter2" not in repr(secret)
