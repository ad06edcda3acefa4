"""Lines of the access log: nothing that a client sends leaves its field; what is not written is counted."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canaryproxy import config
from canaryproxy.http1.errors import Refusal, error_response
from canaryproxy.http1.forwarding import Peer
from canaryproxy.proxy import access_log
from canaryproxy.proxy.access_log import AccessLog, Entry, combined_line, json_line, without_user
from canaryproxy.proxy.refusals import refused_entry

DEADLINE = 30.0
PLAIN = Entry(
    started=100.0,
    ended=100.25,
    first_byte=0.125,
    peer="192.0.2.1",
    client=b"",
    method=b"GET",
    target=b"/a?b=c",
    protocol=b"HTTP/1.1",
    status=200,
    sent=5,
    variant=1,
    answered_by="stable",
    rescued=True,
    forced=False,
    bucket=77,
    endpoint="127.0.0.1:9001",
    reason="connect_refused",
    request_id=b"r1",
    trace_id=b"0af7651916cd43dd8448eb211c80319c",
    user_agent=b"curl/8",
    referer=b"https://u:p@example.com/x",
)
EPOCH = 1_790_000_000.0

COMBINED = re.compile(
    r"(?P<host>[!#-\[\]-~]|[!-~]+) - - "
    r"\[(?P<time>\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d \+0000)\] "
    r'"(?P<request>(?:[ !#-\[\]-~]|\\["\\bnrtv]|\\x[0-9a-f]{2})*)" (?P<status>\d{3}) (?P<size>\d+|-) '
    r'"(?P<referer>(?:[ !#-\[\]-~]|\\["\\bnrtv]|\\x[0-9a-f]{2})*)" '
    r'"(?P<agent>(?:[ !#-\[\]-~]|\\["\\bnrtv]|\\x[0-9a-f]{2})*)"\n'
)


async def until(condition: Callable[[], object]) -> None:
    end = monotonic() + DEADLINE
    while not condition():
        assert monotonic() < end
        await asyncio.sleep(0.005)


def settings(path: Path | str, queue: int = 10_000, style: str = "json") -> config.AccessLog:
    return config.AccessLog.model_validate({"path": str(path), "queue": queue, "format": style})


@asynccontextmanager
async def logging_to(path: Path | str, queue: int = 10_000) -> AsyncIterator[AccessLog]:
    log = AccessLog(settings(path, queue))
    log.start()
    try:
        yield log
    finally:
        await log.stop()


# Formats


def test_json_says_everything() -> None:
    assert json.loads(json_line(PLAIN, EPOCH)) == {
        "time": "2026-09-21T14:15:00.000Z",
        "client": "192.0.2.1",
        "peer": "192.0.2.1",
        "method": "GET",
        "target": "/a?b=c",
        "protocol": "HTTP/1.1",
        "status": 200,
        "bytes": 5,
        "duration": 0.25,
        "first_byte": 0.125,
        "variant": "canary",
        "answered_by": "stable",
        "rescued": True,
        "forced": False,
        "bucket": 77,
        "endpoint": "127.0.0.1:9001",
        "reason": "connect_refused",
        "request_id": "r1",
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
        "user_agent": "curl/8",
        "grpc_status": None,
        "referer": "https://example.com/x",
    }


def test_json_names_the_service_where_there_are_several() -> None:
    found = json.loads(json_line(PLAIN._replace(service="cart"), 0.0))
    without = json.loads(json_line(PLAIN, 0.0))
    assert found == without | {"service": "cart"}
    assert "service" not in without
    assert combined_line(PLAIN._replace(service="cart"), 0.0) == combined_line(PLAIN, 0.0)


def test_combined_is_what_apache_writes() -> None:
    assert combined_line(PLAIN, EPOCH) == (
        b'192.0.2.1 - - [21/Sep/2026:14:15:00 +0000] "GET /a?b=c HTTP/1.1" 200 5 '
        b'"https://example.com/x" "curl/8"\n'
    )


def test_what_is_not_known_is_null_or_a_dash() -> None:
    bare = PLAIN._replace(
        peer="", method=b"", target=b"", protocol=b"", sent=0, user_agent=None, referer=None,
        variant=None, answered_by=None, bucket=None, endpoint="", reason="", request_id=b"",
        trace_id=b"", first_byte=None,
    )  # fmt: skip
    line = json.loads(json_line(bare, EPOCH))
    assert {name for name, value in line.items() if value is None} == {
        "client", "peer", "method", "target", "protocol", "user_agent", "referer", "variant",
        "answered_by", "bucket", "endpoint", "reason", "request_id", "trace_id", "first_byte",
        "grpc_status",
    }  # fmt: skip
    assert combined_line(bare, EPOCH) == (b'- - - [21/Sep/2026:14:15:00 +0000] "-" 200 - "-" "-"\n')


def test_an_ipv6_client_is_written_as_it_is() -> None:
    entry = PLAIN._replace(peer="2001:db8::1")
    assert combined_line(entry, EPOCH).startswith(b"2001:db8::1 - - [")


_BYTES = st.binary(max_size=60) | st.sampled_from(
    [b'"\n{}\r\\', b"\x1b[31m", "\u202e\u2066".encode(), b"\x00\x7f\x80\x9f\xff", b'" 200 1 "']
)
_SECONDS = st.floats(0, 1e9)
ENTRIES = st.builds(
    Entry,
    started=_SECONDS,
    ended=_SECONDS,
    first_byte=st.none() | _SECONDS,
    peer=st.sampled_from(["", "192.0.2.1", "2001:db8::1"]),
    client=_BYTES,
    method=_BYTES,
    target=_BYTES,
    protocol=_BYTES,
    status=st.integers(100, 999),
    sent=st.integers(0, 2**63),
    variant=st.sampled_from([None, 0, 1]),
    answered_by=st.sampled_from([None, "stable", "canary", "proxy"]),
    rescued=st.booleans(),
    forced=st.booleans(),
    bucket=st.none() | st.integers(0, 9999),
    endpoint=st.sampled_from(["", "h:1"]),
    reason=st.text(max_size=30),
    request_id=_BYTES,
    trace_id=_BYTES,
    user_agent=st.none() | _BYTES,
    referer=st.none() | _BYTES,
)


def one_line(line: bytes) -> None:
    assert line.endswith(b"\n")
    assert all(0x20 <= byte <= 0x7E for byte in line[:-1])


@given(ENTRIES)
def test_any_bytes_are_one_json_line_that_gives_them_back(entry: Entry) -> None:
    line = json_line(entry, EPOCH)
    one_line(line)
    told = json.loads(line)
    for name in ("method", "target", "protocol", "request_id", "trace_id", "user_agent"):
        value = getattr(entry, name)
        text = told[name]
        assert (text.encode("latin-1") if text else text or b"") == (value or text or b"")
    if entry.client:
        assert told["client"].encode("latin-1") == entry.client
    if entry.referer is not None and b"@" not in entry.referer:
        assert told["referer"].encode("latin-1") == entry.referer
    assert told["reason"] == (entry.reason or None)
    assert told["status"] == entry.status
    assert told["bytes"] == entry.sent
    assert told["bucket"] == entry.bucket
    assert told["time"].endswith("Z")
    moment = datetime.fromisoformat(told["time"])
    assert abs(moment.timestamp() - entry.started - EPOCH) < 0.002


def unescaped(text: str) -> bytes:
    """Undo Apache's escaping."""
    plain = {"b": "\b", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
    undone = re.sub(
        r"\\(?:x([0-9a-f]{2})|(.))",
        lambda m: chr(int(m[1], 16)) if m[1] else plain.get(m[2], m[2]),
        text,
    )
    return undone.encode("latin-1")


@given(ENTRIES)
def test_any_bytes_are_one_combined_line_of_nine_fields(entry: Entry) -> None:
    line = combined_line(entry, EPOCH)
    one_line(line)
    match = COMBINED.fullmatch(line.decode())
    assert match is not None, line
    parts = [part for part in (entry.method, entry.target, entry.protocol) if part]
    assert unescaped(match["request"]) == (b" ".join(parts) or b"-")
    assert unescaped(match["agent"]) == (b"-" if entry.user_agent is None else entry.user_agent)
    assert unescaped(match["host"]) == (entry.client or entry.peer.encode() or b"-")
    assert match["status"] == str(entry.status)
    assert match["size"] == (str(entry.sent) if entry.sent else "-")
    datetime.strptime(match["time"], "%d/%b/%Y:%H:%M:%S %z").astimezone(UTC)


# Refused requests


def refusal_of(head: bytes) -> Any:
    refusal = Refusal(400, "no")
    answer = error_response(400, "no", b"", close=True)
    entry = refused_entry(Peer("192.0.2.1", b"http", False, b"h"), head, refusal, answer, 1.0)
    assert json.loads(json_line(entry, EPOCH))["bytes"] == len(answer.partition(b"\r\n\r\n")[2])
    return entry


@pytest.mark.parametrize(
    ("head", "method", "target", "protocol"),
    [
        (b"", b"", b"", b""),
        (b"GET /x HTTP/1.1\r\nA: b\r\n\r\n", b"GET", b"/x", b"HTTP/1.1"),
        (b"GET /@x HTTP/3.0\r\n\r\n", b"GET", b"/@x", b"HTTP/3.0"),
        (b"CONNECT u:secret@h:443 HTTP/1.1\r\n\r\n", b"CONNECT", b"h:443", b"HTTP/1.1"),
        (b"GET http://u:secret@h/a HTTP/1.1\r\n\r\n", b"GET", b"http://h/a", b"HTTP/1.1"),
        (b"GET http://u:sec/ret@h/a HTTP/1.1\r\n\r\n", b"GET", b"http://h/a", b"HTTP/1.1"),
        (b"GET http://u:sec?ret@h/a HTTP/1.1\r\n\r\n", b"GET", b"http://h/a", b"HTTP/1.1"),
        (b"GET http://u:secret@h/a b HTTP/1.1\r\n\r\n", b"", b"h/a b HTTP/1.1", b""),
        (b"http://u:secret@h/a\r\n\r\n", b"", b"http://h/a", b""),
        (b"GET /x\r\n\r\n", b"GET", b"/x", b""),
        (b"\x16\x03\x01\x02\x00", b"", b"\x16\x03\x01\x02\x00", b""),
        (b"a" * 40_000, b"", b"a" * 8192, b""),
    ],
)
def test_a_refused_request_is_told_as_far_as_it_can_be_read(
    head: bytes, method: bytes, target: bytes, protocol: bytes
) -> None:
    entry = refusal_of(head)
    assert (entry.method, entry.target, entry.protocol) == (method, target, protocol)
    assert entry.variant is None
    assert entry.answered_by == "proxy"
    assert re.fullmatch(rb"[0-9a-f]{16}", entry.request_id)


@given(st.binary(max_size=200))
def test_any_refused_bytes_are_one_line(head: bytes) -> None:
    entry = refusal_of(head)
    one_line(json_line(entry, EPOCH))
    assert COMBINED.fullmatch(combined_line(entry, EPOCH).decode())


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (b"https://u:secret@example.com/x?a=1", b"https://example.com/x?a=1"),
        (b"https://u@secret@example.com:8/x", b"https://example.com:8/x"),
        (b"https://u:sec/ret@example.com/x", b"https://example.com/x"),
        (b"u:secret@example.com", b"example.com"),
        (b"https://example.com/@user/x", b"https://example.com/@user/x"),
        (b"https://[::1]:8080/?to=a@b", b"https://[::1]:8080/?to=a@b"),
        (b"https://u:se@cr/et@example.com/x", b"https://example.com/x"),
        (b"/@user", b"/@user"),
        (b"", b""),
    ],
)
def test_a_url_is_logged_without_its_user(url: bytes, shown: bytes) -> None:
    assert without_user(url) == shown


# The writer


async def test_lines_are_appended_in_order_and_all_at_stop(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"before\n")
    async with logging_to(path) as log:
        for number in range(1000):
            log.add(PLAIN._replace(bucket=number))
    lines = path.read_bytes().splitlines()
    assert lines[0] == b"before"
    assert [json.loads(line)["bucket"] for line in lines[1:]] == list(range(1000))
    assert (log.written, log.dropped) == (1000, 0)


async def test_lines_come_without_being_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "log"
    async with logging_to(path) as log:
        for number in range(1, 4):
            log.add(PLAIN)
            await until(lambda number=number: path.read_bytes().count(b"\n") == number)  # type: ignore[misc]


async def test_a_full_queue_drops_and_counts(tmp_path: Path) -> None:
    path = tmp_path / "log"
    async with logging_to(path, queue=10) as log:
        for number in range(25):  # the loop does not run, so the writer is not woken by its timer
            log.add(PLAIN._replace(bucket=number))
    assert log.written + log.dropped == 25
    assert log.written >= 10
    assert path.read_bytes().count(b"\n") == log.written


async def test_who_is_not_started_or_stopped_drops(tmp_path: Path) -> None:
    log = AccessLog(settings(tmp_path / "log"))
    log.add(PLAIN)
    await log.stop()
    assert log.dropped == 1
    log.start()
    await log.stop()
    log.add(PLAIN)
    assert (log.written, log.dropped) == (0, 2)


async def test_the_file_is_not_for_everybody(tmp_path: Path) -> None:
    async with logging_to(tmp_path / "log"):
        assert (tmp_path / "log").stat().st_mode & 0o007 == 0


async def test_a_log_that_cannot_be_opened_is_said_at_once_and_opened_when_it_can_be(
    tmp_path: Path,
) -> None:
    path = tmp_path / "no" / "log"
    log = AccessLog(settings(path))
    with pytest.raises(FileNotFoundError):
        log.check()
    log.start()
    path.parent.mkdir()
    end = monotonic() + 10
    while not path.exists():
        assert monotonic() < end
        log.add(PLAIN)
        await asyncio.sleep(0.05)
    await log.stop()


async def test_a_moved_file_is_left_at_reopen(tmp_path: Path) -> None:
    path = tmp_path / "log"
    async with logging_to(path) as log:
        log.add(PLAIN._replace(bucket=1))
        await until(lambda: log.written == 1)
        path.rename(tmp_path / "log.1")
        log.add(PLAIN._replace(bucket=2))
        await until(lambda: log.written == 2)
        assert not path.exists()
        log.reopen()
        await until(path.exists)
        log.add(PLAIN._replace(bucket=3))
        await until(lambda: log.written == 3)
        assert [
            json.loads(line)["bucket"] for line in (tmp_path / "log.1").read_bytes().splitlines()
        ] == [1, 2]
        assert [json.loads(line)["bucket"] for line in path.read_bytes().splitlines()] == [3]


async def test_a_reopen_that_fails_goes_on_with_the_old_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    async with logging_to(folder / "log") as log:
        folder.rename(tmp_path / "away")
        log.reopen()
        await until(lambda: "No such file" in caplog.text)
        log.add(PLAIN)
        await until(lambda: log.written == 1)
        assert (tmp_path / "away" / "log").read_bytes().count(b"\n") == 1


async def test_no_file_is_left_open(tmp_path: Path) -> None:
    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    async with logging_to(tmp_path / "log"):
        pass  # what a first run opens for good
    before = count()
    async with logging_to(tmp_path / "log") as log:
        for _ in range(5):
            log.reopen()
            log.add(PLAIN)
            await until(lambda: log.written)
    assert count() == before


async def test_a_full_disk_is_counted_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    async with logging_to("/dev/full") as log:
        for count in (1, 2, 3):
            log.add(PLAIN)
            await until(lambda count=count: log.dropped == count)  # type: ignore[misc]
    assert log.written == 0
    assert caplog.text.count("No space left") == 1


async def test_a_line_cut_by_a_full_disk_is_ended_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "log"
    real = os.write
    room = 700

    def write(descriptor: int, data: bytes) -> int:
        nonlocal room
        if threading.current_thread().name != "access log":
            return real(descriptor, data)
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        done = real(descriptor, data[:room])
        room -= done
        return done

    async with logging_to(path) as log:
        monkeypatch.setattr(os, "write", write)
        for number in range(4):
            log.add(PLAIN._replace(bucket=number))
        await until(lambda: log.dropped)
        assert path.stat().st_size == 700
        assert log.written == 1
        log.add(PLAIN._replace(bucket=9))
        await until(lambda: log.dropped == 3)
        room = 1 << 20
        log.add(PLAIN._replace(bucket=4))
        await until(lambda: log.written == 3)
    buckets = [json.loads(line)["bucket"] for line in path.read_bytes().splitlines()]
    assert buckets == [0, 1, 4]
    assert log.dropped == 3
    assert "writing again" in caplog.text


async def test_a_pipe_that_nobody_reads_is_opened_when_somebody_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access_log, "_RETRY", 0.01)
    path = tmp_path / "pipe"
    os.mkfifo(path)
    async with logging_to(path) as log:
        log.add(PLAIN)
        await until(lambda: log.dropped == 1)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

        def add() -> bool:
            log.add(PLAIN)
            return log.written > 0

        await until(add)
        assert json.loads(os.read(reader, 1 << 16).splitlines()[0])["bucket"] == 77
        os.close(reader)
        lost = log.dropped
        log.add(PLAIN)  # EPIPE
        await until(lambda: log.dropped > lost)


async def test_stop_ends_although_a_pipe_is_full(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    log = AccessLog(settings(path, queue=1000))
    log.start()
    for _ in range(1000):
        log.add(PLAIN)
    await until(lambda: log.written >= 64)
    await log.stop(0.05)
    assert log.dropped > 0
    while log._thread.is_alive():  # let the thread go, also for the other tests
        try:
            os.read(reader, 1 << 16)
        except BlockingIOError:
            await asyncio.sleep(0.001)
    os.close(reader)
    assert log.written + log.dropped == 1000


async def test_a_log_to_standard_output_stays_open_when_reopened(
    capfd: pytest.CaptureFixture[str],
) -> None:
    async with logging_to("-") as log:
        log.add(PLAIN)
        log.reopen()
        log.add(PLAIN)
    assert len([json.loads(line) for line in capfd.readouterr().out.splitlines()]) == 2
    os.fstat(1)  # still open


async def test_a_pipe_made_non_blocking_by_others_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    monkeypatch.setattr(os, "set_blocking", lambda *_: None)
    log = AccessLog(settings(path, queue=1000))
    log.start()
    for number in range(1000):
        log.add(PLAIN._replace(bucket=number))
    await until(lambda: log.written >= 64)
    got = b""
    while got.count(b"\n") < 1000:
        try:
            got += os.read(reader, 1 << 16)
        except BlockingIOError:
            await asyncio.sleep(0.001)
    await log.stop()
    os.close(reader)
    assert [json.loads(line)["bucket"] for line in got.splitlines()] == list(range(1000))
    assert (log.written, log.dropped) == (1000, 0)


async def test_lines_of_two_workers_do_not_mingle_in_a_pipe(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    logs = [AccessLog(settings(path)), AccessLog(settings(path))]
    for worker, log in enumerate(logs):
        log.start()
        for number in range(1000):
            agent = b"a" * (number % 600)
            log.add(PLAIN._replace(variant=worker, bucket=number, user_agent=agent))
    got = b""
    while got.count(b"\n") < 2000:
        try:
            got += os.read(reader, 1000)
        except BlockingIOError:
            await asyncio.sleep(0.001)
    for log in logs:
        await log.stop()
    os.close(reader)
    lines = [json.loads(line) for line in got.splitlines()]
    for name in ("stable", "canary"):
        assert [line["bucket"] for line in lines if line["variant"] == name] == list(range(1000))
