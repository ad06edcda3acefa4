"""The log of real processes while both variants fail, come and go: what a colleague reads, as JSON."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.ports import free_port

from .processes import DEADLINE, Process, Proxy, answers, until, variants
from .processes import HERE as SYSTEM

pytestmark = pytest.mark.slow


class JsonProxy(Proxy):
    """A proxy that logs JSON."""

    OPTIONS = ("--log-format", "json")

    def entries(self) -> list[dict[str, Any]]:
        """Parse every complete line; fails at the first that is no object with the four fields."""
        found = []
        for line in self.log.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                entry = json.loads(line)
                assert {"time", "level", "logger", "message"} <= set(entry), line
                found.append(entry)
        return found

    def events(self, name: str, **fields: object) -> list[dict[str, Any]]:
        return [
            one
            for one in self.entries()
            if one.get("event") == name and fields.items() <= one.items()
        ]

    def get_at_once(self, users: Sequence[int]) -> list[str]:
        """Send all requests before a response is read; return the bodies."""
        with contextlib.ExitStack() as stack:
            asked = []
            for _ in users:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE)
                stack.callback(connection.close)
                connection.connect()
                asked.append(connection)
            for user, connection in zip(users, asked, strict=True):
                connection.request("GET", "/", headers={"Cookie": f"canary_id=user{user}"})
            return [connection.getresponse().read().decode() for connection in asked]


@contextlib.contextmanager
def service(folder: Path, name: str, port: int) -> Any:
    process = Process(str(SYSTEM / "upstream.py"), name, str(port), folder=folder)
    try:
        until(lambda: answers(port), name)
        yield
    finally:
        process.end()


@pytest.mark.parametrize("workers", [1, 2])
def test_both_variants_fail_and_come_back_and_each_event_is_logged_once(
    tmp_path: Path, workers: int
) -> None:
    stable, canary, other = free_port(), free_port(), free_port()
    where = {"stable": stable, "canary": canary, "other": other}
    url = {name: f"http://127.0.0.1:{port}" for name, port in where.items()}
    running = JsonProxy(
        tmp_path,
        variants([stable], [canary, other]),
        f"workers: {workers}\nstate: {tmp_path}/state.json\nsplit: {{weight: 50}}\n",
    )
    users = iter(range(10**6))
    bodies: list[str] = []

    def ask_until_logged(event: str, at_once: int = 1, **fields: object) -> dict[str, Any]:
        def logged() -> bool:
            bodies.extend(running.get_at_once([next(users) for _ in range(at_once)]))
            return bool(running.events(event, **fields))

        until(logged, f"{event} {fields}")
        (found,) = running.events(event, **fields)
        return found

    try:
        until(lambda: running.serves() or running.child.poll() is not None, "proxy")
        with service(tmp_path, "stable", stable), service(tmp_path, "other", other):
            # One of two canary endpoints does not run.
            down = ask_until_logged("endpoint_down", endpoint=url["canary"])
            assert (down["level"], down["reason"], down["errno"]) == (
                "warning",
                "connect_refused",
                111,
            )
            assert (down["left"], down["endpoints"]) == (1, 2)
            assert "1 of 2 canary endpoints left" in down["message"]
        # Now nothing runs.
        down = ask_until_logged("endpoint_down", endpoint=url["other"])
        assert (down["level"], down["left"]) == ("error", 0)
        down = ask_until_logged("endpoint_down", endpoint=url["stable"])
        assert (down["level"], down["left"]) == ("error", 0)
        ask_until_logged("failures_began", endpoint=url["stable"])
        # Those that come while the only endpoint is being tried.
        ask_until_logged("failures_began", 16, variant="stable", reason="no_endpoint")
        for variant in ("stable", "canary"):
            ask_until_logged("panic_began", variant=variant)
            gauge = f'canaryproxy_panic{{variant="{variant}"}}'
            until(lambda gauge=gauge: running.metrics()[gauge] == 1, gauge)  # type: ignore[misc]
        with service(tmp_path, "stable", stable), service(tmp_path, "canary", canary):
            for variant in ("stable", "canary"):
                assert ask_until_logged("panic_ended", variant=variant)["seconds"] >= 0
            until(lambda: running.metrics()['canaryproxy_panic{variant="stable"}'] == 0, "calm")
            assert ask_until_logged("endpoint_up", endpoint=url["stable"])["left"] == 1
            assert ask_until_logged("endpoint_up", endpoint=url["canary"])["left"] == 1
        running.kill(15)
        assert running.wait() == 0
    finally:
        running.end()

    entries = running.entries()
    print(running.log.read_text())
    assert len(entries) == len(running.log.read_text().splitlines())
    # An error that a client saw leads to a line with variant, endpoint and reason.
    shown = {found[1] for body in bodies if (found := re.search(r"Request ID: (\w+)", body))}
    logged = {one["request_id"]: one for one in running.events("request_failed")}
    assert logged
    assert set(logged) <= shown
    for one in logged.values():
        assert one["variant"] in {"stable", "canary"}
        assert one["reason"] == "no_endpoint" or one["endpoint"].startswith("127.0.0.1:")
        assert workers == 1 or re.fullmatch(r"worker \d", one["process"])
    assert not any("127.0.0.1" in body for body in bodies)
    # Good requests leave no line, and the flood of bad ones is bounded.
    assert "stable" in bodies
    assert len(logged) < len(shown) or len(shown) <= 40 * workers


def test_log_is_json_from_the_first_line_when_the_proxy_cannot_start(tmp_path: Path) -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    broken = {
        "port in use": f"listen: 127.0.0.1:{port}\n" + variants([free_port()]),
        "unknown key": "listne: 127.0.0.1:1\n" + variants([free_port()]),
        "not YAML": "listen: [\n",
        "missing": None,
    }
    with taken:
        for name, text in broken.items():
            path = tmp_path / "proxy.yaml"
            path.unlink(missing_ok=True)
            if text is not None:
                path.write_text(f"{text}\nadmin: {{socket: {tmp_path}/a.sock}}\n")
            done = subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "canaryproxy",
                    "run",
                    "-c",
                    str(path),
                    "--log-format",
                    "json",
                ],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                check=False,
            )
            entries = [json.loads(line) for line in done.stderr.splitlines()]
            assert done.returncode in {1, 2}, name
            assert done.stdout == "", name
            assert entries[-1]["level"] == "error", name
