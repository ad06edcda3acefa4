from __future__ import annotations

import asyncio
import logging
import shutil
import ssl
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from canaryproxy import __version__
from canaryproxy.config import Webhook
from canaryproxy.notify import Notifier, notifier
from canaryproxy.notify.outgoing import Client
from canaryproxy.notify.signature import sign
from tests.notify.harness import DEADLINE, Hook, QuickClock, Raw, record, until
from tests.ports import free_port


def webhook(url: str, **more: Any) -> Webhook:
    return Webhook.model_validate({"webhook": url, **more})


@asynccontextmanager
async def notifying(
    *webhooks: Webhook, clock: QuickClock | None = None, stop: float = DEADLINE
) -> AsyncIterator[Notifier]:
    notifying = Notifier(webhooks, "cart-2.4", clock or QuickClock(), host="edge-1")
    notifying.start()
    try:
        yield notifying
    finally:
        await notifying.stop(stop)


def answers(*statuses: int) -> list[web.Response | None]:
    return [web.Response(status=status) for status in statuses]


async def test_a_record_is_delivered(hook: Hook) -> None:
    async with notifying(webhook(hook.url)) as told:
        told.notify(record(17, "tripped", figures={"weight": 5.0}))
        await until(lambda: told.sent == (1,))
    (got,) = hook.got
    assert got.path == "/hook"
    assert got.json == {
        "id": 17,
        "time": 1_790_000_000.25,
        "what": "tripped",
        "severity": "warning",
        "cause": "by ann",
        "figures": {"weight": 5.0},
        "endpoints": [],
        "release": "cart-2.4",
        "host": "edge-1",
        "environment": None,
        "links": [],
        "version": __version__,
    }
    assert got.headers["Content-Type"] == "application/json"
    assert got.headers["Connection"] == "close"  # one that was kept may be dead at the next trip
    assert got.headers["User-Agent"] == f"canaryproxy/{__version__}"
    assert got.headers["X-Canaryproxy-Event"] == "tripped"
    assert got.headers["webhook-id"].startswith("msg_")
    assert got.headers["webhook-timestamp"] == "1790000000"
    assert "webhook-signature" not in got.headers
    assert (told.failed, told.dropped) == ((0,), (0,))


async def test_a_webhook_hears_what_it_asked_for(hook: Hook, other: Hook) -> None:
    some = webhook(hook.url, events=("weight", "gate"))
    async with notifying(some, webhook(other.url)) as told:
        for ident, what in enumerate(["weight", "step", "stopped", "gate", "tripped"]):
            told.notify(record(ident, what, figures={"passed": True}))
        told.notify(record(5, "gate", figures={"passed": False}))
    assert hook.told == [0, 3, 5]
    assert other.told == [1, 4, 5]
    assert told.sent == (3, 3)


async def test_a_chat_gets_text(hook: Hook) -> None:
    async with notifying(webhook(hook.url, format="slack")) as told:
        told.notify(record(1, "aborted", cause="by <!channel>"))
    (text,) = hook.got[0].json.values()
    assert text == (
        "cart-2.4 on edge-1 was aborted by &lt;\u200b!channel&gt;; every user is on stable."
        " (2026-09-21 14:13:20 UTC)"
    )


async def test_a_webhook_that_was_down_gets_everything_once_and_in_order() -> None:
    port = free_port()
    clock = QuickClock()
    clock.running.clear()
    async with notifying(webhook(f"http://127.0.0.1:{port}/hook"), clock=clock) as told:
        for ident in range(3):
            told.notify(record(ident))
        await until(lambda: clock.pauses)
        async with Hook(port=port) as hook:
            clock.running.set()
            await until(lambda: told.sent == (3,))
    assert hook.told == [0, 1, 2]
    assert len({got.headers["webhook-id"] for got in hook.got}) == 3


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
async def test_what_may_pass_is_tried_again(hook: Hook, status: int) -> None:
    hook.answers = answers(status, status)
    clock = QuickClock()
    async with notifying(webhook(hook.url), clock=clock) as told:
        told.notify(record(1))
        await until(lambda: told.sent == (1,))
    assert hook.told == [1, 1, 1]
    assert len({got.headers["webhook-id"] for got in hook.got}) == 1
    stamps = [int(got.headers["webhook-timestamp"]) - 1_790_000_000 for got in hook.got]
    assert stamps == [0, 1, 3]  # of each attempt
    assert told.failed == (0,)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 304, 400, 401, 403, 404, 410, 422])
async def test_a_refusal_is_final_and_no_redirect_followed(
    hook: Hook, other: Hook, status: int
) -> None:
    hook.answers = [web.Response(status=status, headers={"Location": other.url})]
    async with notifying(webhook(hook.url)) as told:
        told.notify(record(1))
        told.notify(record(2))
        await until(lambda: told.sent == (1,))
    assert hook.told == [1, 2]
    assert told.failed == (1,)
    assert other.got == []


async def test_pauses_grow_to_a_bound_and_end(hook: Hook) -> None:
    hook.answers = answers(*[503] * notifier.MAX_ATTEMPTS)
    clock = QuickClock()
    async with notifying(webhook(hook.url), clock=clock) as told:
        told.notify(record(1))
        told.notify(record(2))
        await until(lambda: told.sent == (1,))
    assert hook.told == [1] * notifier.MAX_ATTEMPTS + [2]
    assert told.failed == (1,)
    assert clock.pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0] + [60.0] * (notifier.MAX_ATTEMPTS - 7)


async def test_jitter_is_full(hook: Hook) -> None:
    clock = QuickClock()
    clock.jitter = iter([0.0, 0.5]).__next__  # type: ignore[method-assign]
    hook.answers = answers(500, 500)
    async with notifying(webhook(hook.url), clock=clock) as told:
        told.notify(record(1))
        await until(lambda: told.sent == (1,))
    assert clock.pauses == [0.0, 1.0]


async def test_what_is_old_is_tried_once(hook: Hook) -> None:
    clock = QuickClock()
    told = Notifier([webhook(hook.url)], None, clock)
    told.notify(record(1))
    clock.now += notifier.MAX_AGE
    told.notify(record(2))
    hook.answers = answers(503)
    told.start()
    await until(lambda: told.sent == (1,))
    await told.stop(DEADLINE)
    assert hook.told == [1, 2]
    assert told.failed == (1,)
    assert clock.pauses == []


@pytest.mark.parametrize(
    ("headers", "pause"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "0"}, 1.0),
        ({"Retry-After": "99999999999999"}, notifier.MAX_RETRY_AFTER),
        ({"Retry-After": "-5"}, 1.0),
        ({"Retry-After": "soon"}, 1.0),
        ({"Retry-After": "²"}, 1.0),
        (
            {
                "Retry-After": "Wed, 21 Oct 2015 07:28:30 GMT",
                "Date": "Wed, 21 Oct 2015 07:28:00 GMT",
            },
            30.0,
        ),
        (
            {
                "Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT",
                "Date": "Wed, 21 Oct 2015 07:29:00 GMT",
            },
            1.0,
        ),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_sets_the_pause_within_bounds(
    hook: Hook, status: int, headers: dict[str, str], pause: float
) -> None:
    hook.answers = [web.Response(status=status, headers=headers)]
    clock = QuickClock()
    async with notifying(webhook(hook.url), clock=clock) as told:
        told.notify(record(1))
        await until(lambda: told.sent == (1,))
    assert clock.pauses == [pause]


@pytest.mark.parametrize(
    "answer", [b"", b"SSH-2.0-OpenSSH_9.9\r\n", b"HTTP/1.1 200 OK\r\nContent-Le"]
)
async def test_what_is_no_answer_is_tried_again(raw: Raw, answer: bytes) -> None:
    raw.answer = answer
    clock = QuickClock()
    async with notifying(webhook(raw.url), clock=clock) as told:
        told.notify(record(1))
        await until(lambda: told.failed == (1,))
    assert len(clock.pauses) == notifier.MAX_ATTEMPTS - 1


async def test_a_body_without_end_is_not_read(raw: Raw) -> None:
    raw.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n" + b"x" * 100_000
    raw.close = False
    async with notifying(webhook(raw.url)) as told:
        told.notify(record(1))
        await until(lambda: told.sent == (1,))


async def test_a_slow_webhook_holds_up_nobody(hook: Hook, other: Hook) -> None:
    hook.answers = [None]
    slow, quick = webhook(hook.url, timeout="1h"), webhook(other.url)
    async with notifying(slow, quick, stop=0.0) as told:
        for ident in range(20):
            told.notify(record(ident))
        await until(lambda: told.sent == (0, 20))
        assert len(hook.got) == 1
    assert other.told == list(range(20))
    assert told.dropped == (20, 0)


async def test_telling_does_not_wait() -> None:
    """Not for a connection, nor for the loop: nothing else runs meanwhile."""
    told = Notifier([webhook("http://127.0.0.1:1/")], None)
    told.start()
    ran: list[int] = []
    asyncio.get_running_loop().call_soon(ran.append, 1)
    for ident in range(1000):
        told.notify(record(ident))
    assert not ran
    await told.stop(0.0)
    assert sum(told.dropped) + sum(told.failed) == 1000


async def test_a_webhook_that_never_answers_is_given_up(
    hook: Hook, caplog: pytest.LogCaptureFixture
) -> None:
    hook.answers = [None] * notifier.MAX_ATTEMPTS
    clock = QuickClock()
    async with notifying(webhook(hook.url, timeout="20ms"), clock=clock) as told:
        told.notify(record(1))
        await until(lambda: told.failed == (1,))
    assert len(clock.pauses) == notifier.MAX_ATTEMPTS - 1
    assert told.sent == (0,)
    assert (
        "notification step failed after 20 attempts: did not respond within 0.02 s" in caplog.text
    )


async def test_too_much_waits_and_the_trip_stays() -> None:
    port = free_port()
    told = Notifier([webhook(f"http://127.0.0.1:{port}/hook")], None, QuickClock())
    many = 3 * notifier.BACKLOG
    told.notify(record(0, "tripped"))
    for ident in range(1, many):
        told.notify(record(ident))
    async with Hook(port=port) as hook:
        told.start()
        await until(lambda: sum(told.sent) == notifier.BACKLOG)
        await told.stop(DEADLINE)
    assert hook.told == [0, *range(many - notifier.BACKLOG + 1, many)]
    assert told.dropped == (many - notifier.BACKLOG,)


async def test_stop_delivers_what_waits(hook: Hook) -> None:
    async with notifying(webhook(hook.url)) as told:
        for ident in range(20):
            told.notify(record(ident))
    assert hook.told == list(range(20))
    assert told.sent == (20,)


async def test_stop_ends_a_pause_and_tries_once_more(
    hook: Hook, caplog: pytest.LogCaptureFixture
) -> None:
    """With the real clock: the pause that stop cuts short is an hour long."""
    caplog.set_level(logging.INFO, logger="canaryproxy.notify.notifier")
    hook.answers = answers(503)
    clock = notifier.Clock()
    clock.jitter = lambda: 3600.0  # type: ignore[method-assign]
    told = Notifier([webhook(hook.url)], None, clock)
    told.start()
    told.notify(record(1))
    told.notify(record(2))
    await until(lambda: "retrying notification" in caplog.text)
    async with asyncio.timeout(DEADLINE):
        await told.stop(3600.0)
    assert hook.told == [1, 1, 2]
    assert told.sent == (2,)


async def test_stop_does_not_try_for_ever(hook: Hook) -> None:
    hook.answers = answers(503, 503, 503, 503)
    told = Notifier([webhook(hook.url)], None, QuickClock())
    told.notify(record(1))
    told.notify(record(2))
    told.start()
    await told.stop(DEADLINE)
    assert hook.told == [1, 2]
    assert told.failed == (2,)


async def test_stop_gives_up_in_time(hook: Hook, caplog: pytest.LogCaptureFixture) -> None:
    hook.answers = [None]
    told = Notifier([webhook(hook.url, timeout="1h")], None)
    told.start()
    told.notify(record(1))
    told.notify(record(2))
    await until(lambda: hook.got)
    async with asyncio.timeout(DEADLINE):
        await told.stop(0.05)
    assert (told.sent, told.failed, told.dropped) == ((0,), (0,), (2,))
    assert "shutting down: 2 notifications dropped" in caplog.text
    told.notify(record(3))
    assert told.dropped == (3,)
    await told.stop(0.0)
    assert told.dropped == (3,)


async def test_nobody_to_tell() -> None:
    async with notifying() as told:
        told.notify(record(1, "tripped"))
    assert told.sent == ()


async def test_a_cookie_is_not_kept(hook: Hook) -> None:
    hook.answers = [web.Response(status=204, headers={"Set-Cookie": "a=b"})]
    async with notifying(webhook(hook.url)) as told:
        told.notify(record(1))
        told.notify(record(2))
    assert "Cookie" not in hook.got[1].headers


async def test_the_environment_names_no_proxy(
    hook: Hook, other: Hook, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login ann password hunter2\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{other.port}")
    async with notifying(webhook(hook.url)) as told:
        told.notify(record(1))
    assert hook.told == [1]
    assert "Authorization" not in hook.got[0].headers
    assert other.got == []


async def test_a_key_that_comes_later(hook: Hook, tmp_path: Path) -> None:
    file = tmp_path / "key"
    clock = QuickClock()
    clock.running.clear()
    async with notifying(webhook(hook.url, secret_file=str(file)), clock=clock) as told:
        told.notify(record(1))
        await until(lambda: clock.pauses)
        assert hook.got == []
        file.write_text("first\n")
        clock.running.set()
        await until(lambda: told.sent == (1,))
        file.write_text("other\n")
        told.notify(record(2))
    for got, key in zip(hook.got, [b"first", b"other"], strict=True):
        stamp = int(got.headers["webhook-timestamp"])
        signed = sign([key], got.headers["webhook-id"], stamp, got.body)
        assert got.headers["webhook-signature"] == signed


async def test_secrets_are_not_logged(
    caplog: pytest.LogCaptureFixture, tmp_path: Path, hook: Hook, raw: Raw
) -> None:
    caplog.set_level(logging.DEBUG)
    (tmp_path / "key").write_text("whsec_c2VjcmV0LWtleQ==")
    secrets = ["zoe", "hunter2", "T0KEN", "B0PATH", "c2VjcmV0LWtleQ", "secret-key"]
    hook.answers = [web.Response(status=404, text="no /B0PATH?token=T0KEN here")]
    raw.answer = b"nonsense hunter2"
    bases = [f"127.0.0.1:{hook.port}", f"127.0.0.1:{raw.port}", f"127.0.0.1:{free_port()}"]
    urls = [f"http://zoe:hunter2@{base}/B0PATH?token=T0KEN" for base in bases]
    urls += [
        "http://zoe:hunter2@127.0.0.1:99999/B0PATH",
        "http://zoe:hunter2@" + "a" * 64 + ".invalid/B0PATH?T0KEN",
        "http://zoe:hunter2/B0PATH@127.0.0.1/",  # a / in a password
        "http://[hunter2]/B0PATH",
    ]
    hooks = [webhook(url, secret_file=str(tmp_path / "key")) for url in urls]
    async with notifying(*hooks) as told:
        told.notify(record(1, "tripped"))
        await until(lambda: told.failed == (1,) * len(urls))
        assert "hunter2" not in repr(told)
    assert hook.got[0].headers["Authorization"].startswith("Basic ")
    assert caplog.text.count("notification tripped failed") == len(urls)
    assert f"notify[0] http://127.0.0.1:{hook.port}: " in caplog.text
    for secret in secrets:
        assert secret not in caplog.text


@pytest.fixture
def tls(tmp_path: Path) -> ssl.SSLContext:
    """A certificate that nobody trusts."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    request = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test -keyout key -out cert"
    names = ["-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", *request.split(), *names]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    return context


async def test_certificates_are_checked(
    tls: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        Hook(tls=tls) as hook,
        notifying(webhook(f"https://127.0.0.1:{hook.port}/hook")) as told,
    ):
        told.notify(record(1))
        await until(lambda: told.failed == (1,))
    assert hook.got == []
    assert "certificate not valid: self-signed certificate" in caplog.text


async def test_a_webhook_over_tls_trusts_the_authorities_of_the_system(
    tls: ssl.SSLContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert"))
    async with Hook(tls=tls) as hook, notifying(webhook(f"https://127.0.0.1:{hook.port}/")) as told:
        told.notify(record(1))
        told.notify(record(2))
        await until(lambda: told.sent == (2,))
    assert hook.told == [1, 2]


@pytest.fixture
def dead_lookups(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The threads that look up dead.example, which does not end before the test."""
    over = threading.Event()
    names: list[str] = []
    import socket

    real = socket.getaddrinfo

    def lookup(host: str, *args: Any, **kwargs: Any) -> Any:
        if host == "dead.example":
            names.append(threading.current_thread().name)
            over.wait(3 * DEADLINE)
            raise socket.gaierror
        return real(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    yield names
    over.set()


async def test_dead_name_servers_hold_up_nobody(dead_lookups: list[str], hook: Hook) -> None:
    """Neither another webhook nor the threads of the loop."""
    dead = [webhook("http://dead.example/hook", timeout="10ms")] * 50
    by_name = webhook(f"http://localhost:{hook.port}/hook")
    async with asyncio.timeout(DEADLINE), notifying(*dead, by_name) as told:
        told.notify(record(1))
        await until(lambda: sum(told.failed) == 50 and told.sent[-1] == 1)
        await asyncio.to_thread(lambda: None)
    assert {name.split("_")[0] for name in dead_lookups} == {"notify"}


async def test_a_bug_costs_a_message_and_not_the_webhook(
    hook: Hook, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    post = Client.post

    async def fail_once(*_: object, **__: object) -> None:
        monkeypatch.setattr(Client, "post", post)
        raise RuntimeError("a bug")

    monkeypatch.setattr(Client, "post", fail_once)
    async with notifying(webhook(hook.url)) as told:
        told.notify(record(1))
        told.notify(record(2))
        await until(lambda: told.sent == (1,))
        assert told.failed == (1,)
    assert hook.told == [2]
    assert "notification failed: internal error" in caplog.text


async def test_a_chat_gets_the_links_of_its_webhook(hook: Hook) -> None:
    chat = webhook(hook.url, format="slack", links=("https://canary.example/",))
    async with notifying(chat) as told:
        told.notify(record(1, "paused"))
        await until(lambda: told.sent == (1,))
    assert hook.got[0].json == {
        "text": "cart-2.4 on edge-1 is paused: by ann. (2026-09-21 14:13:20 UTC) Next: https://canary.example/"
    }
