"""Health checks of real processes: who fails them gets no requests, and stable is never empty."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.name_server import NameServer

from .processes import DEADLINE, Proxy, proxy, until
from .test_workers import pids

pytestmark = pytest.mark.slow


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__((host, port), Handler)
        self.hosts: set[str] = set()
        """Of checks."""
        self.healthy = True
        self.status = 200
        self.requests = 0
        self.checks = 0
        self.hangs = threading.Event()
        """Checks get no response."""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        is_check = self.path == "/healthz"
        self.server.requests += not is_check
        self.server.checks += is_check
        if is_check:
            self.server.hosts.add(self.headers["Host"])
        if is_check and self.server.hangs.is_set():
            self.connection.recv(1)  # until the proxy has had enough
            self.close_connection = True
            return
        healthy = 200 if self.server.healthy else 503
        self.send_response(healthy if is_check else self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def servers(number: int, *hosts: str) -> Iterator[list[Server]]:
    """Run so many, or one at each host, all at the same port."""
    found = [Server() for _ in range(number)]
    if hosts:
        first = Server(hosts[0])
        found = [first, *(Server(one, first.server_port) for one in hosts[1:])]
    for one in found:
        threading.Thread(target=one.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield found
    finally:
        for one in found:
            one.shutdown()
            one.server_close()


def send(running: Proxy, requests: int, allowed: tuple[int, ...] = (200,)) -> None:
    """Send requests, each of another user."""
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=DEADLINE)
    for _ in range(requests):
        connection.request("GET", "/")
        answer = connection.getresponse()
        answer.read()
        assert answer.status in allowed
    connection.close()


def states(running: Proxy) -> list[str]:
    rows = json.loads(running.ask("GET", "/v1/endpoints"))["endpoints"]
    return [f"{one['state']} {one['out'] or ''}".strip() for one in rows]


@pytest.mark.parametrize("workers", [1, 2])
def test_one_of_four_fails_its_check_and_then_all_do(tmp_path: Path, workers: int) -> None:
    down = "check failed: status 503, wanted 2xx"
    with servers(4) as four:
        urls = [f"http://127.0.0.1:{one.server_address[1]}" for one in four]
        health = "{path: /healthz, interval: 100ms, timeout: 2s, rise: 2, fall: 2}"
        stable = f"variants: {{stable: {{endpoints: {json.dumps(urls)}, health: {health}}}}}\n"
        with proxy(tmp_path, stable, f"workers: {workers}\nstate: {tmp_path}/s.json\n") as running:
            send(running, 80)
            assert all(one.requests for one in four)
            four[0].healthy = False
            until(lambda: states(running) == [f"down {down}", "up", "up", "up"], "down")
            said = f"stable endpoint {urls[0]} is down: {down}; 3 of 4 stable endpoints left"
            until(lambda: said in running.log.read_text(), "the line of the log")
            read = running.metrics()
            assert 0.0 in [value for name, value in read.items() if "endpoint_up{" in name]

            def is_left_alone() -> bool:
                before = four[0].requests
                send(running, 40)
                return four[0].requests == before

            until(is_left_alone, "the last worker takes note")
            for one in four:
                one.healthy = False
            until(lambda: states(running) == [f"panic {down}"] * 4, "panic")
            empty = "no stable endpoint left: requests are tried on all of them all the same"
            until(lambda: empty in running.log.read_text(), "the line of the log")
            send(running, 80)
            sent = sum(one.requests for one in four)
            routed = [
                value
                for name, value in running.metrics().items()
                if name.startswith("canaryproxy_requests_total")
            ]
            assert sent == sum(routed), "no check is counted as a request"
            for one in four:
                one.healthy = True
            until(lambda: states(running) == ["up"] * 4, "rise")
            before = four[0].requests

            def gets_requests() -> bool:
                send(running, 40)
                return four[0].requests > before

            until(gets_requests, "requests again")


def test_a_canary_endpoint_that_fails_its_check_holds_the_step_and_the_judge_has_what_it_did(
    tmp_path: Path,
) -> None:
    with servers(5) as (stable, *four):
        own, *urls = [f"http://127.0.0.1:{one.server_address[1]}" for one in (stable, *four)]
        variants = (
            f"variants: {{stable: {{endpoints: ['{own}']}}, canary: {{endpoints: {urls},"
            " outliers: false, health: {path: /healthz, interval: 50ms, timeout: 5s, rise: 2, fall: 2}}}"
        )
        more = (
            f"state: {tmp_path}/s.json\nrescue: {{enabled: false}}\n"
            "judge: {baseline: 0s, warmup: 0s, min_users: 1, metrics: {errors: {margin: 60%}}}\n"
            "release: {id: r1, steps: [{weight: 50, bake: 1h}, {weight: 100}]}\n"
        )
        with proxy(tmp_path, variants, more) as running:

            def release() -> dict[str, Any]:
                found: dict[str, Any] = json.loads(running.ask("GET", "/v1/release"))
                return found

            until(lambda: release()["weight"] == 50, "the step")
            four[0].status = 500

            def is_asked() -> bool:
                send(running, 10, (200, 500))
                return four[0].requests > 3

            until(is_asked, "failures before the check")
            four[0].healthy = False
            down = "check failed: status 503, wanted 2xx"
            said = f"1 of 4 canary endpoints is out of service: {urls[0]} ({down})"
            until(lambda: said in release()["holds"], "the hold")
            status = running.ask("GET", "/v1/endpoints")
            assert json.dumps(down) in status

            def is_left_alone() -> bool:
                before = four[0].requests
                send(running, 20, (200, 500))
                return four[0].requests == before

            until(is_left_alone, "that it gets no requests")
            asked = four[0].requests
            until(lambda: release()["variants"]["canary"]["failed"] == asked, "what it did counts")
            for one in four:
                one.healthy = False
            until(
                lambda: any(one.startswith("4 of 4 canary") for one in release()["holds"]),
                "all",
            )
            before = stable.requests
            until(lambda: [one[:5] for one in states(running)] == ["up"] + ["down "] * 4, "down")
            send(running, 20)
            until(lambda: stable.requests >= before + 20, "stable answers for all")
            for one in four:
                one.healthy, one.status = True, 200
            until(lambda: not any("out of service" in one for one in release()["holds"]), "the end")
            checks = running.metrics()
            assert checks['canaryproxy_health_checks_total{result="failed",variant="canary"}'] >= 8
            assert checks['canaryproxy_health_checks_total{result="passed",variant="stable"}'] == 0


def test_what_is_out_stays_out_while_the_control_process_is_replaced(tmp_path: Path) -> None:
    with servers(2) as (bad, good):
        urls = [f"http://127.0.0.1:{one.server_address[1]}" for one in (bad, good)]
        health = "{path: /healthz, interval: 50ms, timeout: 500ms, rise: 3, fall: 1}"
        stable = f"variants: {{stable: {{endpoints: {urls}, health: {health}}}}}"
        bad.healthy = False
        with proxy(tmp_path, stable, f"workers: 2\nstate: {tmp_path}/s.json\n") as running:
            until(lambda: states(running)[0].startswith("down check failed"), "down")

            def is_left_alone() -> bool:
                before = bad.requests
                send(running, 20)
                return bad.requests == before

            until(is_left_alone, "the last worker takes note")
            asked, checks = bad.requests, bad.checks
            control = json.loads(running.ask("GET", "/v1/release"))["pid"]
            bad.hangs.set()  # the first check of the next one says nothing for a while
            os.kill(control, signal.SIGKILL)

            def is_replaced() -> bool:
                send(running, 5)
                return len(pids(running)) == 3 and control not in pids(running)

            until(is_replaced, "another control process")
            until(lambda: bad.checks > checks + 1, "that it checks")
            send(running, 20)
            assert bad.requests == asked
            bad.hangs.clear()
            until(
                lambda: states(running) == ["down check failed: status 503, wanted 2xx", "up"],
                "why",
            )
            bad.healthy = True
            until(lambda: states(running) == ["up", "up"], "up")


def test_a_check_that_hangs_delays_no_end(tmp_path: Path) -> None:
    with servers(1) as (one,):
        one.hangs.set()
        url = f"http://127.0.0.1:{one.server_address[1]}"
        health = "{path: /healthz, interval: 10m, timeout: 10m}"
        stable = f"variants: {{stable: {{endpoints: ['{url}'], health: {health}}}}}"
        with proxy(tmp_path, stable, f"state: {tmp_path}/s.json\n") as running:
            until(lambda: one.checks, "a check")
            send(running, 3)
            running.kill(signal.SIGTERM)
            assert running.wait() == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_each_address_of_a_name_is_checked_and_followed(tmp_path: Path, workers: int) -> None:
    hosts = ["127.0.0.2", "127.0.0.3", "127.0.0.4"]
    with NameServer() as names, servers(0, *hosts) as pods:
        names.records["cart.test.", "A"] = hosts[:2]
        port = pods[0].server_port
        pods[1].healthy = pods[2].healthy = False
        stable = (
            f"variants: {{stable: {{endpoints: ['http://cart.test:{port}'], health:"
            " {path: /healthz, interval: 50ms, timeout: 5s, rise: 2, fall: 2}}}"
        )
        more = (
            f"workers: {workers}\nstate: {tmp_path}/s.json\n"
            f'dns: {{interval: 100ms, servers: ["127.0.0.1:{names.port}"]}}\n'
        )
        with proxy(tmp_path, stable, more) as running:
            down = "down check failed: status 503, wanted 2xx"
            until(lambda: states(running) == ["up", down], "the second address")
            send(running, 20)
            names.records["cart.test.", "A"] = [hosts[0], hosts[2]]
            until(lambda: pods[2].checks > 0, "a check of the new address")
            until(lambda: states(running) == ["up", down], "the third address")
            names.records["cart.test.", "A"] = hosts[1:2]
            until(lambda: states(running) == [down.replace("down", "panic")], "one, which fails")
            checks = pods[0].checks

            def is_served_by_it() -> bool:
                send(running, 5)
                return pods[1].requests >= 20

            until(is_served_by_it, "that stable is never empty")
            assert pods[0].checks <= checks + 1, "the address is gone"
            assert all(one.hosts == {f"cart.test:{port}"} for one in pods)
