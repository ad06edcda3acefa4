"""Real HAProxy, nginx and Varnish before the proxy: health checks, clients' addresses, caching."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from canaryproxy.measure.concentration import WINDOW
from canaryproxy.measure.routing import bucket_of
from tests.ports import free_port
from tests.system import processes
from tests.system.processes import until
from tests.system.test_tls import balancer, program


class Shop(ThreadingHTTPServer):
    """A variant: says its name, counts health checks, and lets caches keep everything for a minute."""

    daemon_threads = True

    def __init__(self, name: str, *, has_healthz: bool) -> None:
        super().__init__(("127.0.0.1", 0), Page)
        self.name = name
        self.has_healthz = has_healthz
        self.checks = 0
        self.pages = 0
        self.files = 0


class Page(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # Head and body in one packet: the second of two would wait for the first's ACK.
    server: Shop

    def do_GET(self) -> None:
        is_check = self.path == "/healthz"
        self.server.files += self.path.startswith("/assets/")
        self.server.checks += is_check
        self.server.pages += not is_check
        found = self.server.has_healthz or not is_check
        self._answer(200 if found else 404, self.server.name)

    def do_OPTIONS(self) -> None:
        self.server.checks += 1
        self._answer(200 if self.server.has_healthz else 404, "")

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        immutable = ", immutable" if self.path.startswith("/assets/") else ""
        self.send_header("Cache-Control", f"public, max-age=60{immutable}")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def shops() -> Iterator[tuple[Shop, Shop]]:
    """Run stable, and a canary that knows no health check yet."""
    both = Shop("stable", has_healthz=True), Shop("canary", has_healthz=False)
    for shop in both:
        threading.Thread(target=shop.serve_forever, daemon=True).start()
    try:
        yield both
    finally:
        for shop in both:
            shop.shutdown()
            shop.server_close()


@contextlib.contextmanager
def proxied(
    folder: Path, split: str, more: str = ""
) -> Iterator[tuple[Shop, Shop, processes.Proxy]]:
    with shops() as (stable, canary):
        sides = processes.variants([stable.server_port], [canary.server_port])
        settings = f"split: {split}\nstate: {folder}/state.json\n{more}"
        with processes.proxy(folder, sides, settings) as running:
            yield stable, canary, running


def ask(
    port: int, *, source: str = "127.0.0.1", path: str = "/", **headers: str
) -> http.client.HTTPResponse:
    """Ask once on a connection of its own; the answer has ``text``."""
    connection = http.client.HTTPConnection("127.0.0.1", port, 20, (source, 0))
    try:
        connection.request(
            "GET", path, headers={k.replace("_", "-"): v for k, v in headers.items()}
        )
        answer = connection.getresponse()
        answer.text = answer.read().decode()  # type: ignore[attr-defined]
        return answer
    finally:
        connection.close()


def text(answer: http.client.HTTPResponse) -> str:
    found: str = answer.text  # type: ignore[attr-defined]
    return found


# HAProxy

HAPROXY = """\
global
  nbthread 1
defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
  {check}
  default-server inter 50ms fall 2 rise 1
listen front
  bind 127.0.0.1:{front}
  option forwardfor
  server proxy 127.0.0.1:{mine} check
"""


@contextlib.contextmanager
def haproxy(folder: Path, mine: int, check: str = "") -> Iterator[int]:
    front = free_port()
    (folder / "haproxy.cfg").write_text(HAPROXY.format(check=check, front=front, mine=mine))
    with balancer([program("haproxy"), "-db", "-f", "haproxy.cfg"], front, folder):
        yield front


CHECKS = ["option httpchk GET /healthz", "option httpchk"]


@pytest.mark.parametrize("check", CHECKS)
def test_a_canary_without_health_check_does_not_take_the_proxy_down(
    tmp_path: Path, check: str
) -> None:
    with (
        proxied(tmp_path, "{weight: 99}") as (stable, canary, running),
        haproxy(tmp_path, running.port, check) as front,
    ):
        until(lambda: stable.checks >= 40, "forty checks of stable")
        found = Counter(ask(front).status for _ in range(50))
        assert found == {200: 50}
        assert canary.checks == 0
        assert canary.pages > 0
        metrics = running.metrics()
        assert metrics['canaryproxy_unidentified_total{reason="probe"}'] >= 40


@pytest.mark.parametrize("check", CHECKS)
def test_without_that_rule_the_balancer_takes_the_proxy_out(tmp_path: Path, check: str) -> None:
    """What the rule is for: here probes are users, and nearly all users are on the canary."""
    with (
        proxied(tmp_path, "{weight: 99, probes: false}") as (_, canary, running),
        haproxy(tmp_path, running.port, check) as front,
    ):
        until(lambda: canary.checks >= 2, "checks of the canary")
        until(lambda: ask(front).status == 503, "the balancer to give up")


# Addresses

NGINX = """\
daemon off;
master_process off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr error;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  {more}
  server {{
    listen 127.0.0.1:{front};
    location / {{
      proxy_pass http://127.0.0.1:{back};
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      {location}
    }}
  }}
}}
"""


@contextlib.contextmanager
def nginx(folder: Path, back: int, more: str = "", location: str = "") -> Iterator[int]:
    front = free_port()
    path = folder / "nginx.conf"
    path.write_text(
        NGINX.format(folder=folder, front=front, back=back, more=more, location=location)
    )
    with balancer([program("nginx"), "-p", str(folder), "-c", str(path)], front, folder):
        yield front


def test_users_behind_nginx_and_haproxy_are_told_apart(tmp_path: Path) -> None:
    """nginx stands for the CDN: it appends the user, and HAProxy adds a line with nginx."""
    log = tmp_path / "access.log"
    more = f"forwarded: {{trust: [127.0.0.1]}}\naccess_log: {{path: {log}}}"
    users = [f"127.0.0.{host}" for host in range(2, 62)]
    with (
        proxied(tmp_path, "{weight: 50, sticky: {address: true}}", more) as (_, _, running),
        haproxy(tmp_path, running.port) as lb,
        nginx(tmp_path, lb) as cdn,
    ):
        for user in users:
            expected = "canary" if bucket_of(b"", user.encode()) < 5000 else "stable"
            assert text(ask(cdn, source=user)) == expected
            forged = ask(cdn, source=user, X_Forwarded_For="198.51.100.77, 127.0.0.1")
            assert text(forged) == expected
        until(lambda: len(log.read_text().splitlines()) >= 2 * len(users), "the access log")
        clients = Counter(json.loads(line)["client"] for line in log.read_text().splitlines())
        assert clients == dict.fromkeys(users, 2)


def test_one_address_that_makes_all_requests_is_reported(tmp_path: Path) -> None:
    with proxied(tmp_path, "{weight: 50, sticky: {address: true}}") as (_, _, running):
        connection = http.client.HTTPConnection("127.0.0.1", running.port, 20)

        def noticed() -> object:  # of many requests at once a part is counted
            for _ in range(WINDOW // 4):
                connection.request("GET", "/", headers={"User-Agent": "a client"})
                connection.getresponse().read()
            return json.loads(running.ask("GET", "/v1/release"))["notice"]

        until(noticed, "the notice")
        connection.close()
        notice = json.loads(running.ask("GET", "/v1/release"))["notice"]
        assert notice.startswith("one sticky key makes 100% of the requests")
        assert running.metrics()["canaryproxy_equal_sticky_keys"] == 1
        assert running.log.read_text().count("one sticky key makes 100%") == 1


# Caches

VCL = """\
vcl 4.1;
backend proxy {{
  .host = "127.0.0.1";
  .port = "{mine}";
  .probe = {{ .url = "/healthz"; .interval = 0.1s; .window = 4; .threshold = 3; .initial = 3; }}
}}
{more}
"""
IGNORES_COOKIES = """
sub vcl_recv { return (hash); }
sub vcl_backend_response { if (beresp.http.Cache-Control ~ "public") { return (deliver); } }
"""
"""Looks responses up whatever cookies there are, and keeps what is public even if it sets one."""


@contextlib.contextmanager
def varnish(folder: Path, mine: int, more: str = "") -> Iterator[int]:
    front = free_port()
    (folder / "cache.vcl").write_text(VCL.format(mine=mine, more=more))
    command = [
        *(program("varnishd"), "-F", "-j", "none", "-n", str(folder / "varnish")),
        *("-a", f"127.0.0.1:{front}", "-f", str(folder / "cache.vcl"), "-s", "malloc,16m"),
    ]
    with balancer(command, front, folder):
        yield front


def test_varnish_checks_stable_and_keeps_nothing_of_a_user(tmp_path: Path) -> None:
    with (
        proxied(tmp_path, "{weight: 50}") as (stable, canary, running),
        varnish(tmp_path, running.port) as front,
    ):
        until(lambda: stable.checks >= 10, "ten checks of stable")
        # What a monitor or a withheld cookie gets is not kept for the users who come after.
        monitor = ask(front, User_Agent="kube-probe/1.29")
        assert text(monitor) == "stable"
        seen = Counter[str]()
        for _ in range(30):
            first = ask(front)
            cookie = (first.headers["Set-Cookie"] or "").partition(";")[0]
            assert re.fullmatch("canary_id=[0-9a-f]{32}", cookie)
            for _ in range(2):
                assert text(ask(front, Cookie=cookie)) == text(first)
            seen[text(first)] += 1
        assert set(seen) == {"stable", "canary"}
        assert canary.checks == 0


NGINX_CACHE = "proxy_cache all; proxy_ignore_headers Set-Cookie;"
"""Keeps responses that set a cookie, too, and looks at no cookie of a request."""


@contextlib.contextmanager
def cache(kind: str, folder: Path, mine: int) -> Iterator[int]:
    if kind == "varnish":
        with varnish(folder, mine, IGNORES_COOKIES) as front:
            yield front
    else:
        zone = f"proxy_cache_path {folder}/cache keys_zone=all:1m;"
        with nginx(folder, mine, zone, NGINX_CACHE) as front:
            yield front


@pytest.mark.parametrize("kind", ["varnish", "nginx"])
@pytest.mark.parametrize("cacheable", ["auto", "vary", "private"])
def test_no_cache_gives_a_user_the_other_version_or_another_ones_cookie(
    tmp_path: Path, kind: str, cacheable: str
) -> None:
    with (
        proxied(tmp_path, f"{{weight: 50, cacheable: {cacheable}}}") as (stable, canary, running),
        cache(kind, tmp_path, running.port) as front,
    ):
        seen = Counter[str]()
        cookies = set()
        for _ in range(16):
            first = ask(front)
            cookie = (first.headers["Set-Cookie"] or "").partition(";")[0]
            key = cookie.partition("=")[2]
            expected = "canary" if bucket_of(b"", key.encode()) < 5000 else "stable"
            for answer in (first, *(ask(front, Cookie=cookie) for _ in range(2))):
                assert text(answer) == expected
            cookies.add(cookie)
            seen[expected] += 1
        assert len(cookies) == 16
        assert set(seen) == {"stable", "canary"}
        # A file whose name has a hash: from the cache for all, without a cookie of anyone.
        files = [ask(front, path="/assets/app.0123abcd.js") for _ in range(6)]
        if cacheable != "private":
            assert not any(one.headers["Set-Cookie"] for one in files)
            assert stable.files + canary.files == 1
        # After a trip all users get stable again; with vary, a cache may keep what it has of a user.
        running.ask("PUT", "/v1/weight", {"weight": 0})
        if cacheable != "vary":
            assert {text(ask(front, Cookie=one)) for one in cookies} == {"stable"}
        if cacheable == "auto":  # and the cache works again, with one version for all
            ask(front, path="/kept", Cookie="canary_id=a")
            pages = stable.pages
            assert text(ask(front, path="/kept", Cookie="canary_id=b")) == "stable"
            assert stable.pages == pages
