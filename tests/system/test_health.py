"""Health checks of real processes: who fails them gets no requests, and stable is never empty."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from .processes import DEADLINE, Proxy, proxy, until

pytestmark = pytest.mark.slow


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.healthy = True
        self.requests = 0


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        is_check = self.path == "/healthz"
        self.server.requests += not is_check
        self.send_response(200 if self.server.healthy or not is_check else 503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def servers(number: int) -> Iterator[list[Server]]:
    found = [Server() for _ in range(number)]
    for one in found:
        threading.Thread(target=one.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield found
    finally:
        for one in found:
            one.shutdown()
            one.server_close()


def send(running: Proxy, requests: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=DEADLINE)
    for _ in range(requests):
        connection.request("GET", "/")
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200
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
