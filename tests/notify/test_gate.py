from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.config import Gate
from canaryproxy.config.secrets import SecretSource
from canaryproxy.notify import GateResult, Gates
from canaryproxy.notify.outgoing import Client, shown
from tests.notify.harness import DEADLINE, Hook, Raw, until
from tests.ports import free_port

QUESTION = {
    "release": "cart-2.4",
    "step": 2,
    "next_step": 3,
    "weight": 5.0,
    "next_weight": 25.0,
    "metrics": [{"metric": "errors", "level": "ok", "limit": float("inf")}],
}


def gates(*urls: str, **more: Any) -> Gates:
    return Gates([Gate.model_validate({"webhook": url, **more}) for url in urls])


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_a_gate_passes_with_any_success(hook: Hook, status: int) -> None:
    hook.answers = [web.Response(status=status)]
    answer = await gates(hook.url).ask(QUESTION)
    assert answer == GateResult(True, f"{hook.url} responded {status}")
    (got,) = hook.got
    assert got.json == QUESTION | {"metrics": [{"metric": "errors", "level": "ok", "limit": None}]}
    assert got.headers["X-Canaryproxy-Event"] == "gate"
    assert got.headers["Content-Type"] == "application/json"
    assert got.headers["webhook-id"].startswith("msg_")


@pytest.mark.parametrize(
    "status", [300, 301, 302, 304, 307, 308, 400, 401, 403, 404, 429, 500, 503]
)
async def test_any_other_status_is_a_no(hook: Hook, other: Hook, status: int) -> None:
    headers = {"Location": other.url, "Retry-After": "1"}
    hook.answers = [web.Response(status=status, headers=headers)]
    answer = await gates(hook.url).ask(QUESTION)
    assert answer == GateResult(False, f"{hook.url} responded {status}")
    assert len(hook.got) == 1  # asked once
    assert other.got == []


INCOMPLETE = "closed the connection before the response was complete"
BROKEN: list[tuple[bytes, str]] = [
    (b"", INCOMPLETE),
    (b"HTTP/1.1 200 OK\r\nContent-Le", INCOMPLETE),
    (
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nyes",
        INCOMPLETE,
    ),
    (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nyes\r\n",
        INCOMPLETE,
    ),
    (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n",
        "did not respond with valid HTTP",
    ),
    (b"SSH-2.0-OpenSSH_9.9\r\n\r\n", "did not respond with valid HTTP"),
    (b"HTTP/1.1 2000 OK\r\n\r\n", "did not respond with valid HTTP"),
    (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", "did not respond with valid HTTP"),
]


@pytest.mark.parametrize(("sent", "words"), BROKEN)
async def test_a_broken_answer_is_a_no(raw: Raw, sent: bytes, words: str) -> None:
    raw.answer = sent
    assert await gates(raw.url).ask(QUESTION) == GateResult(False, f"{raw.url} {words}")


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nyes",
        b"HTTP/1.1 100 C\r\n\r\n",
    ],
)
async def test_a_late_answer_is_a_no(raw: Raw, sent: bytes) -> None:
    raw.answer, raw.close = sent, False
    answer = await gates(raw.url, timeout="50ms").ask(QUESTION)
    assert answer == GateResult(False, f"{raw.url} did not respond within 0.05 s")


async def test_nobody_there_is_a_no() -> None:
    url = f"http://127.0.0.1:{free_port()}/may-promote"
    answer = await gates(url).ask(QUESTION)
    assert answer == GateResult(False, f"{url} cannot be reached: connection refused")


async def test_no_such_name_is_a_no(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def lookup(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    answer = await gates("http://gate.example/").ask(QUESTION)
    assert answer == GateResult(
        False, "http://gate.example/ cannot be reached: host name not found"
    )


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        (
            "http://127.0.0.1:99999/",
            "http://127.0.0.1:99999/ cannot be called: invalid URL",
        ),
        ("http://[::zz]/", "an invalid URL cannot be called: invalid URL"),
        ("http://a..b/", "http://a..b/ cannot be called: invalid URL"),
        ("http://u:p@/", "an invalid URL cannot be called: invalid URL"),
    ],
)
async def test_a_url_that_cannot_be_is_a_no(url: str, cause: str) -> None:
    assert await gates(url).ask(QUESTION) == GateResult(False, cause)


async def test_a_long_answer_is_not_read_to_its_end(raw: Raw) -> None:
    raw.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n" + b"x" * 100_000
    raw.close = False
    assert await gates(raw.url).ask(QUESTION) == GateResult(True, f"{raw.url} responded 200")


async def test_a_mistake_of_ours_is_a_no(monkeypatch: pytest.MonkeyPatch, hook: Hook) -> None:
    async def post(*_: object, **__: object) -> None:
        raise RuntimeError("http://ann:hunter2@127.0.0.1/")

    monkeypatch.setattr(Client, "post", post)
    answer = await gates(hook.url).ask(QUESTION)
    assert answer == GateResult(False, f"{hook.url} could not be asked (RuntimeError)")


async def test_every_gate_must_say_yes(hook: Hook, other: Hook) -> None:
    both = gates(hook.url, other.url)
    assert (
        await both.ask(QUESTION)
    ).cause == f"{hook.url} responded 204; {other.url} responded 204"
    other.answers = [web.Response(status=403)]
    assert await both.ask(QUESTION) == GateResult(False, f"{other.url} responded 403")
    hook.answers = [web.Response(status=500)]
    assert await both.ask(QUESTION) == GateResult(False, f"{hook.url} responded 500")


async def test_gates_are_asked_at_once(hook: Hook, other: Hook) -> None:
    hook.answers, other.answers = [None], [None]
    task = asyncio.create_task(gates(hook.url, other.url, timeout="2m").ask(QUESTION))
    await until(lambda: hook.got and other.got)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_without_gates_nobody_refuses() -> None:
    assert (await Gates([]).ask(QUESTION)).passed


def text(words: str, **headers: str) -> Callable[[], web.Response]:
    return lambda: web.Response(status=403, text=words, headers=headers)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (text("not before nine\n"), ": not before nine"),
        (text('{"why": "frozen"}', **{"Content-Type": "application/json"}), ': {"why": "frozen"}'),
        (text("a\x1b[31m\x00b\r\nc\u202ed\u2028e"), ": a [31m b c d e"),
        (text("x" * 10_000), ": " + "x" * 200),
        (text("<h1>no</h1>", **{"Content-Type": "text/html"}), ""),
        (text("zzzz", **{"Content-Encoding": "gzip"}), ""),
        (lambda: web.Response(status=403, body=b"\xff\xfe", content_type="text/plain"), ": ��"),
        (lambda: web.Response(status=403, body=b"\0" * 99), ""),
    ],
)
async def test_its_words_are_part_of_the_cause(
    hook: Hook, answer: Callable[[], web.Response], words: str
) -> None:
    hook.answers = [answer()]
    assert await gates(hook.url).ask(QUESTION) == GateResult(
        False, f"{hook.url} responded 403{words}"
    )


async def test_causes_hide_credentials(hook: Hook) -> None:
    url = f"http://ann:hunt%40er2@127.0.0.1:{hook.port}/gate?key=T0KEN%2F1&x=1"
    echo = "no: /gate?key=T0KEN%2F1&x=1 T0KEN/1 hunt%40er2 hunt@er2"
    hook.answers = [web.Response(status=404, text=echo)]
    answer = await gates(url).ask(QUESTION)
    assert answer.cause == (
        f"http://127.0.0.1:{hook.port}/gate responded 404: "
        "no: /gate?[hidden] [hidden] [hidden] [hidden]"
    )
    assert hook.got[0].path == "/gate?key=T0KEN%2F1&x=1"
    assert hook.got[0].headers["Authorization"].startswith("Basic ")


async def test_without_its_key_it_is_not_asked(hook: Hook, tmp_path: Path) -> None:
    file = tmp_path / "key"
    signed = gates(hook.url, secret_file=str(file))
    answer = await signed.ask(QUESTION)
    cause = f"{hook.url} was not asked: {file} cannot be read: No such file or directory"
    assert answer == GateResult(False, cause)
    assert hook.got == []
    file.write_text("hunter2hunter2hunter2")
    assert (await signed.ask(QUESTION)).passed
    assert hook.got[0].headers["webhook-signature"].startswith("v1,")


async def test_a_key_that_cannot_be_read_in_time(
    hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()
    monkeypatch.setattr(SecretSource, "read", lambda _: over.wait(DEADLINE))
    answer = await gates(hook.url, secret_file="/nfs/key", timeout="20ms").ask(QUESTION)
    over.set()
    assert answer == GateResult(False, f"{hook.url} did not respond within 0.02 s")


@given(
    st.sampled_from(["http", "https"]),
    st.none() | st.text(st.characters(exclude_characters="/?#", categories=["L", "N", "P"])),
    st.from_regex(r"[a-z0-9.-]{1,20}(:[0-9]{1,5})?", fullmatch=True),
    st.from_regex(r"(/[a-z@:]*)?", fullmatch=True),
    st.from_regex(r"([?][A-Z@/:?]*)?", fullmatch=True),
)
def test_what_is_shown_of_a_url(
    scheme: str, userinfo: str | None, host: str, path: str, query: str
) -> None:
    secret = "" if userinfo is None else f"{userinfo}@"
    url = f"{scheme}://{secret}{host}{path}{query}"
    assert shown(url) == f"{scheme}://{host}{path}"
    assert shown(url, path=False) == f"{scheme}://{host}"
