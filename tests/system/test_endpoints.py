"""Two canary endpoints, one of them bad: command line, API, metrics, status and cause say which."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.ports import free_port

from .processes import DEADLINE, Proxy, proxy, until, upstream, variants
from .test_workers import pids

pytestmark = pytest.mark.slow


class _Broken(http.server.BaseHTTPRequestHandler):
    """Responds with 500, and breaks off every tenth response."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        self.server.asked += 1
        breaks_off = self.server.asked % 10 == 0
        self.send_response(500)
        self.send_header("Content-Length", "9" if breaks_off else "0")
        self.end_headers()
        self.close_connection = breaks_off

    def log_message(self, *_: object) -> None:
        pass


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    asked = 0


@contextlib.contextmanager
def broken() -> Iterator[_Server]:
    with _Server(("127.0.0.1", 0), _Broken) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


def send(running: Proxy, users: Iterator[int], requests: int) -> None:
    for _ in range(requests):
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=DEADLINE)
        try:
            connection.request("GET", "/", headers={"Cookie": f"canary_id=user{next(users)}"})
            with contextlib.suppress(http.client.IncompleteRead):
                connection.getresponse().read()
        finally:
            connection.close()


def command(running: Proxy, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "canaryproxy", *arguments, "--admin", str(running.socket)],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=True,
    )
    return done.stdout


def rows(running: Proxy) -> dict[str, dict[str, Any]]:
    found = json.loads(running.ask("GET", "/v1/endpoints"))
    return {row["url"]: row for row in found["endpoints"]}


@pytest.mark.parametrize("workers", [1, 2])
def test_everything_says_which_of_two_canary_endpoints_fails(tmp_path: Path, workers: int) -> None:
    users = iter(range(10**6))
    with (
        upstream(tmp_path, "stable") as (_, stable),
        upstream(tmp_path, "canary") as (_, good_port),
        broken() as server,
        proxy(
            tmp_path,
            variants([stable], [good_port, server.server_port]),
            f"workers: {workers}\nstate: {tmp_path}/state.json\nrescue: {{enabled: false}}\n"
            "judge: {baseline: 0s, guard_rails: {errors: 30%, min_requests: 30}}\n"
            "release: {id: r1, steps: [{weight: 50, bake: 1h}, {weight: 100}]}\n",
        ) as running,
    ):
        good, bad = (f"http://127.0.0.1:{port}" for port in (good_port, server.server_port))

        def trips() -> bool:
            send(running, users, 5)
            return bool(json.loads(running.ask("GET", "/v1/release"))["state"] == "tripped")

        until(trips, "a trip")
        release = json.loads(running.ask("GET", "/v1/release"))
        said = f"1 of 2 canary endpoints fails: {bad} ("
        assert said in release["circuit"]["cause"], "and so webhook, log and history say it"
        until(lambda: rows(running)[bad]["total"]["requests"] == server.asked, "the last counts")
        found = rows(running)
        assert found[good]["total"]["failed"] == 0
        assert found[good]["total"]["codes"].keys() == {"2xx"}
        assert found[good]["recent"]["p95"] > 0
        asked = server.asked
        errors = found[bad]["total"]["errors"]
        assert errors == {"incomplete_answer": asked // 10}
        assert found[bad]["total"]["codes"] == {"5xx": asked - asked // 10}
        assert found[bad]["total"]["failed"] == asked
        assert found[bad]["recent"]["requests"] == asked
        assert found[f"http://127.0.0.1:{stable}"]["variant"] == "stable"

        (words,) = json.loads(running.ask("GET", "/v1/endpoints"))["at_fault"]
        named = f"{said}{asked} of {asked} requests failed in "
        assert words.startswith(named)
        if workers == 1:  # the commands know nothing of workers
            assert named in command(running, "endpoints")
            status = " ".join(command(running, "status").split())
            assert "endpoints 1 of 2 canary endpoints fails:" in status
        metrics = running.metrics()
        of = f'endpoint="{bad}"'
        failed = f'canaryproxy_endpoint_failed_total{{{of},variant="canary"}}'
        assert metrics[failed] == asked
        assert metrics[failed.replace(bad, good)] == 0
        classes = f'canaryproxy_endpoint_responses_total{{class="5xx",{of},variant="canary"}}'
        assert metrics[classes] == asked - asked // 10


def test_counts_survive_reloads_and_the_death_of_a_worker(tmp_path: Path) -> None:
    users = iter(range(10**6))
    with (
        upstream(tmp_path, "stable") as (_, stable),
        upstream(tmp_path, "other") as (_, other),
        proxy(
            tmp_path,
            variants([stable, other]),
            f"workers: 2\nstate: {tmp_path}/state.json\n",
        ) as running,
    ):
        url, second = (f"http://127.0.0.1:{port}" for port in (stable, other))
        send(running, users, 40)

        def total(of: str) -> int:
            found: int = rows(running)[of]["total"]["requests"]
            return found

        until(lambda: total(url) + total(second) == 40, "all requests")
        before = total(second)
        file = tmp_path / "proxy.yaml"
        text = file.read_text()
        new = f"http://127.0.0.1:{free_port()}"
        file.write_text(text.replace(f'"{url}", "{second}"', f'"{new}", "{second}"'))
        running.ask("POST", "/v1/reload")
        assert list(rows(running)) == [new, second]
        assert (total(new), total(second)) == (0, before)

        killed = pids(running)[-1]
        os.kill(killed, signal.SIGKILL)
        until(lambda: killed not in pids(running) and len(pids(running)) == 3, "another worker")
        assert total(second) == before, "the new worker goes on with the counts of the dead one"
        send(running, users, 20)  # the endpoint that does not run is retried on the other
        until(lambda: total(second) == before + 20, "the new requests")
        assert rows(running)[new]["total"]["errors"].keys() == {"connect_refused"}
        assert (
            running.metrics()[f'canaryproxy_endpoint_up{{endpoint="{second}",variant="stable"}}']
            == 1
        )


@pytest.mark.parametrize("variant", ["canary", "stable"])
def test_one_of_four_endpoints_that_answers_500_is_ejected_and_the_judge_knows(
    tmp_path: Path, variant: str
) -> None:
    users = iter(range(10**6))
    with contextlib.ExitStack() as stack:
        good = [stack.enter_context(upstream(tmp_path, f"good{at}"))[1] for at in range(4)]
        server = stack.enter_context(broken())
        four, one = [server.server_port, *good[:3]], [good[3]]
        ports = (one, four) if variant == "canary" else (four, one)
        running = stack.enter_context(
            proxy(
                tmp_path,
                variants(*ports),
                f"workers: 2\nstate: {tmp_path}/state.json\nrescue: {{enabled: false}}\n"
                "judge: {baseline: 0s, warmup: 0s, min_users: 1, metrics: {errors: {margin: 60%}}}\n"
                "release: {id: r1, steps: [{weight: 50, bake: 1h}, {weight: 100}]}\n",
            )
        )
        bad = f"http://127.0.0.1:{server.server_port}"

        until(lambda: json.loads(running.ask("GET", "/v1/release"))["weight"] == 50, "the step")

        def ejected() -> bool:
            send(running, users, 2)
            return "outlier: " in (rows(running)[bad]["out"] or "")

        until(ejected, "an ejection")
        row = rows(running)[bad]
        assert server.asked <= 20
        assert row["out"].startswith("outlier: ")
        assert re.search(r"requests failed in [0-9a-z. ]+, others 0 of", row["out"])
        assert not row["up"]

        def left_alone() -> bool:
            before = server.asked
            send(running, users, 40)
            return server.asked == before

        until(left_alone, "that no worker asks it any more")
        asked = server.asked
        until(lambda: rows(running)[bad]["total"]["failed"] == asked, "the last counts")
        release = json.loads(running.ask("GET", "/v1/release"))
        assert release["variants"][variant]["failed"] == asked, "what it did counts"

        def judged() -> int:
            found = json.loads(running.ask("GET", "/v1/release"))["metrics"]
            (errors,) = [one for one in found if (one["metric"], one["route"]) == ("errors", None)]
            events: int = errors[variant]["events"]
            return events

        until(lambda: judged() == asked, "that the judge has all of them")
        said = f"1 of 4 canary endpoints is ejected: {bad}"

        def holds() -> bool:
            found = json.loads(running.ask("GET", "/v1/release"))["holds"]
            return any(said in one for one in found)

        if variant == "canary":
            until(holds, "the hold of the step")
        else:
            assert not holds()
        history = json.loads(running.ask("GET", "/v1/history"))
        (record,) = [one for one in history["records"] if one["what"] == "ejected"]
        assert record["cause"].startswith(f"{variant} endpoint {bad}: outlier: ")
        assert record["figures"]["endpoints"] == [bad]
        of = f'{{endpoint="{bad}",variant="{variant}"}}'
        assert running.metrics()[f"canaryproxy_endpoint_up{of}"] == 0
        assert "down: outlier: " in command(running, "endpoints")
        assert bad in command(running, "status").replace("\n", " ")
