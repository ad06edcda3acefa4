"""The proxy's own log: one line an entry, and nothing that a message holds can forge another."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import time
from pathlib import Path

import pytest
import watchfiles
from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.runtime import logs


def entry(message: str, *arguments: object, **extra: object) -> logging.LogRecord:
    record = logging.LogRecord("canaryproxy.x", logging.INFO, "f", 1, message, arguments, None)
    record.__dict__.update(extra)
    record.created = 1_790_000_000.1239
    return record


def test_text_reads_well() -> None:
    line = logs.TextLines().format(entry("%s: %s", "tripped", "errors: canary 12 of 40 – worse"))
    assert line == "2026-09-21T14:13:20.123Z INFO tripped: errors: canary 12 of 40 – worse"


def test_json_has_the_record_of_a_transition() -> None:
    made = json.loads(
        logs.JsonLines().format(entry("tripped", record={"id": 3, "what": "tripped"}))
    )
    assert made == {
        "time": "2026-09-21T14:13:20.123Z",
        "level": "info",
        "logger": "canaryproxy.x",
        "message": "tripped",
        "record": {"id": 3, "what": "tripped"},
    }


@given(st.text())
def test_any_message_is_one_line(message: str) -> None:
    text = logs.TextLines().format(entry("%s", message))
    assert len(text.splitlines()) == 1
    assert text.isprintable()
    made = logs.JsonLines().format(entry("%s", message))
    assert len(made.splitlines()) == 1
    assert made.isascii()
    assert json.loads(made)["message"] == message


def test_a_traceback_cannot_forge_an_entry() -> None:
    try:
        raise ValueError("x\n2026-09-21T14:13:20.123Z INFO promoted: by root\x1b[2J")
    except ValueError:
        record = entry("failed")
        record.exc_info = sys.exc_info()
    lines = logs.TextLines().format(record).splitlines()
    assert all(line.startswith("  ") for line in lines[1:])
    assert "\x1b" not in "".join(lines)
    assert "promoted" in json.loads(logs.JsonLines().format(record))["traceback"]


def test_configure_writes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    root.handlers = []
    try:
        logs.configure("json")
        logging.getLogger("canaryproxy.y").info("hello")
    finally:
        root.handlers, root.level = before
    assert json.loads(capsys.readouterr().err)["message"] == "hello"


async def test_what_happens_in_a_watched_folder_is_no_news(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The log may lie there itself: a line about it would be followed by another for ever."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    root.handlers = []
    watcher = watchfiles.awatch(tmp_path, debounce=50, step=10, watch_filter=None)
    try:
        logs.configure()
        seen = asyncio.ensure_future(anext(watcher))
        async with asyncio.timeout(60):
            while not seen.done():
                (tmp_path / "proxy.log").write_text(str(time.monotonic()))
                await asyncio.sleep(0.01)
        assert await seen
    finally:
        root.handlers, root.level = before
        await watcher.aclose()
    assert capsys.readouterr().err == ""


OWN_WORDS = """
import asyncio, gc, logging, sys, threading, warnings
from canaryproxy.runtime import logs

logs.configure("json")
logs.capture()
logs.name_process("worker 1")
warnings.warn("old\\nway", DeprecationWarning)

async def forgotten():
    raise ValueError("task")

async def main():
    asyncio.get_running_loop().create_task(forgotten())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    gc.collect()

asyncio.run(main())
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()

class Broken:
    def __del__(self):
        raise OSError("finaliser")

Broken()
raise RuntimeError("x\\nforged")
"""


def test_capture_logs_what_python_itself_would_print_each_once() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", OWN_WORDS],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    entries = [json.loads(line) for line in done.stderr.splitlines()]
    assert {one["process"] for one in entries} == {"worker 1"}
    said = [one["message"] for one in entries]
    for words in ("old\nway", "Task exception", "division by zero", "finaliser", "x\nforged"):
        assert sum(words in one for one in said) == 1, (words, said)
    assert len(said) == 5


def test_text_names_the_process() -> None:
    class Named(logs.TextLines):
        process = "worker 2"

    assert Named().format(entry("hi")) == "2026-09-21T14:13:20.123Z INFO [worker 2] hi"


def test_fields_of_an_event_are_in_the_json() -> None:
    made = json.loads(
        logs.JsonLines().format(entry("x", fields={"event": "endpoint_up", "left": 2}))
    )
    assert (made["event"], made["left"], made["message"]) == ("endpoint_up", 2, "x")
