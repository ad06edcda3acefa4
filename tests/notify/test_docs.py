"""What docs/notifications.md says is so."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest

from canaryproxy import config
from canaryproxy.config import Webhook
from canaryproxy.config.model import EventName
from canaryproxy.notify import Clock, Notifier, message, notifier, outgoing, signature
from tests.notify.example import asked
from tests.notify.example import record as record_of_the_page
from tests.notify.harness import DEADLINE, Hook, QuickClock, record

TEXT = (Path(__file__).parents[2] / "docs" / "notifications.md").read_text()
KEY = "whsec_YW4gZXhhbXBsZSwgbm90IGEga2V5IGZvciB5b3UuISE="


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def is_genuine(*args: Any, **more: Any) -> bool:
    names: dict[str, Any] = {}
    exec(blocks("python")[0], names)
    return bool(names["is_genuine"](*args, **more))


def example() -> tuple[dict[str, str], bytes]:
    head, _, body = blocks("http")[0].removesuffix("\n").partition("\n\n")
    fields = (line.split(": ", 1) for line in head.splitlines()[1:])
    return {name.lower(): value for name, value in fields}, body.encode()


async def test_the_snippet_verifies_what_is_sent(hook: Hook, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"whsec_b3RoZXI=\n{KEY}\n")  # one key follows another
    webhook = Webhook.model_validate({"webhook": hook.url, "secret_file": str(tmp_path / "key")})
    told = Notifier([webhook], "cart-2.4", QuickClock())
    told.start()
    told.notify(record(1, "tripped", cause="größer"))
    await told.stop(DEADLINE)
    (got,) = hook.got
    headers = {name.lower(): value for name, value in got.headers.items()}
    now = QuickClock().time()
    assert is_genuine(KEY, headers, got.body, now)
    assert is_genuine("whsec_b3RoZXI=", headers, got.body, now + 300)
    assert not is_genuine(KEY, headers, got.body, now + 301)
    assert not is_genuine(KEY, headers, got.body, now - 301)
    assert not is_genuine("whsec_d3Jvbmc=", headers, got.body, now)
    assert not is_genuine(KEY, headers, got.body + b" ", now)
    for name, other in (("webhook-id", "msg_7"), ("webhook-timestamp", str(int(now) + 1))):
        assert not is_genuine(KEY, headers | {name: other}, got.body, now)
    for name in ("webhook-id", "webhook-timestamp", "webhook-signature"):
        assert not is_genuine(KEY, headers | {name: ""}, got.body, now)
        without = {other: value for other, value in headers.items() if other != name}
        assert not is_genuine(KEY, without, got.body, now)


def test_the_example_is_signed() -> None:
    headers, body = example()
    assert is_genuine(KEY, headers, body, now=1790000001)
    keys = signature.parse_keys(KEY, "docs")
    signed = signature.headers(keys, headers["webhook-id"], 1790000001, body)
    assert headers | signed == headers


def test_the_examples_are_what_is_sent() -> None:
    headers, body = example()
    told = json.loads(body)
    json_hook, chat_hook = config.parse(blocks("yaml")[0], file="docs").notify
    sent, origin = record_of_the_page(), message.Origin("cart-2.4", "edge-1", "production")
    now = json.loads(message.document(sent, origin, message.links_of(sent, json_hook.links)))
    assert now | {"version": told["version"]} == told
    assert headers["user-agent"] == f"canaryproxy/{told['version']}"
    assert headers["x-canaryproxy-event"] == told["what"]
    chat = json.loads(message.chat(sent, origin, message.links_of(sent, chat_hook.links)))
    assert chat in [json.loads(block) for block in blocks("json")]
    assert asked() in [json.loads(block) for block in blocks("json")]
    table = TEXT.partition("| field | meaning |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)`", table, re.MULTILINE) == list(told)


def test_the_page_lists_every_event() -> None:
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    table = page.partition("| record | sent by default |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*?) ?\|", table, re.MULTILINE)
    assert sorted(name for name, _ in rows) == sorted(get_args(EventName))
    assert {name for name, sent in rows if sent == "yes"} == message.NOTABLE
    assert [name for name, sent in rows if sent == "only a refusal"] == ["gate"]
    assert "(operations.md#the-history)" in TEXT


@pytest.mark.parametrize(
    "words",
    [
        f"at most {notifier.BACKLOG} messages",
        f"at most {notifier.MAX_ATTEMPTS} times",
        f"at most {notifier.MAX_PAUSE:g} seconds",
        f"up to {notifier.MAX_RETRY_AFTER / 60:g} minutes",
        f"first {outgoing._MAX_BODY // 1024} KiB",
        f"Up to {outgoing._EXCERPT} characters",
        f"cut at {message.MAX_TEXT} characters",
    ],
)
def test_the_page_names_every_bound(words: str) -> None:
    assert words in " ".join(TEXT.split())


def test_the_page_names_the_age_at_which_a_message_is_dropped() -> None:
    assert notifier.MAX_AGE == 3600.0
    assert "an hour old" in TEXT
    assert 0.0 <= Clock().jitter() <= 1.0


def test_the_configuration_of_the_page_is_valid() -> None:
    (text,) = blocks("yaml")
    loaded = config.parse(text, file="docs")
    assert [hook.format for hook in loaded.notify] == ["json", "slack"]
    assert loaded.release is not None
    assert len(loaded.release.gates) == 1


def test_the_gate_compiles() -> None:
    exec(blocks("python")[1], {"__name__": "gate"})
