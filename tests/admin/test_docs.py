"""What docs/api.md says is so: every line runs, every route is there."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from pathlib import Path

import pytest

from canaryproxy import config
from canaryproxy.admin import openapi
from tests.admin.fake import TOKEN, Served
from tests.admin.real import proxy

TEXT = (Path(__file__).parents[2] / "docs" / "api.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def lines() -> list[str]:
    return [line for block in blocks("sh") for line in block.splitlines()]


def test_every_route_has_a_line() -> None:
    shown = {
        line.split()[-1].strip("'").split("?")[0].partition("localhost")[2] for line in lines()
    }
    names = {"/static/{name}": "main.js"}
    for path in openapi.description()["paths"]:
        if path.startswith(f"{openapi.PREFIX}/"):  # as the page says, those of a release
            path = path.replace(openapi.PREFIX, "/v1")
        if path.startswith("/services/"):
            continue  # there for several services only
        assert path.replace("{name}", names.get(path, "default")) in shown, path


def test_the_configurations_are_some() -> None:
    first, overview = (config.parse(text, file="docs").admin for text in blocks("yaml"))
    assert first.hosts == ("canary-admin.example.com",)
    assert [(each.name, each.link) for each in overview.overview] == [
        (None, "http://10.0.0.7:9900/"),
        ("search", "https://search-admin.example.com"),
        ("pay", "https://pay-admin.example.com:443/"),
    ]


def test_the_statuses_are_those_of_the_description() -> None:
    table = TEXT.partition("## Problems")[2].partition("## Bounds")[0]
    named = {status for row in re.findall(r"^\| ([0-9, ]+) \|", table, re.MULTILINE)
             for status in row.split(", ")}  # fmt: skip
    documented = {
        status
        for item in openapi.description()["paths"].values()
        for operation in item.values()
        for status in operation["responses"]
        if status >= "4"
    }
    assert named == documented | {"405"}  # which is of no operation


async def test_the_problem_is_as_shown(tmp_path: Path) -> None:
    async with proxy(tmp_path) as real:
        await real.ask("POST", "/v1/release/trip")
        answer = await real.ask("POST", "/v1/release/resume")
        assert answer.json == json.loads(blocks("json")[0])


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
async def test_every_line_works(tmp_path: Path) -> None:
    """In the order of the page, on one running release."""
    async with proxy(tmp_path) as real:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "admin.sock").symlink_to(real.unix)
        await real.wait_for(weight=5.0)
        for line in lines():
            if line.startswith("(umask"):
                made = await _run(line.replace("> token", "> made"), tmp_path)
                assert made[0] == 0
                assert len((tmp_path / "made").read_text().strip()) >= 16
                continue
            if line.startswith("etag="):
                continue  # together with the next
            if "$etag" in line:
                await real.ask("POST", "/v1/release/resume")
                line = "\n".join([one for one in lines() if one.startswith("etag=")] + [line])
            endless = "/v1/stream" in line
            code, output = await _run(
                line.replace("127.0.0.1:9900", f"127.0.0.1:{real.port}"),
                tmp_path,
                "--max-time 1.5" if endless else "",
            )
            assert code == (28 if endless else 0), (line, output)
            assert output
            if endless:
                assert "event: release" in output
                assert "event: point" in output
        assert (await real.release())["state"] == "running"


async def _run(line: str, folder: Path, more: str = "") -> tuple[int, str]:
    script = f'curl() {{ command curl -sS --fail-with-body {more} "$@"; }}\n{line}'
    process = await asyncio.create_subprocess_exec(
        "bash",
        "-ec",
        script,
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(60):
        output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


async def test_bounds_and_token_are_as_said(served: Served) -> None:
    from canaryproxy.admin import bodies, connection, stream
    from canaryproxy.config import secrets, yaml_reader

    bounds, pace = connection.BOUNDS, stream.PACE
    assert (bounds.connections, bounds.streams) == (128, 50)
    assert (bounds.head, bounds.body, bounds.stall, pace.heartbeat) == (15, 10, 10, 15)
    assert (stream.BACKLOG, secrets.MIN_TOKEN) == (256, 16)
    assert (bodies.MAX_JSON, yaml_reader.MAX_BYTES) == (64 << 10, 4_000_000)
    assert len(TOKEN) >= secrets.MIN_TOKEN
