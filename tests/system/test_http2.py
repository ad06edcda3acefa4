"""Real clients of HTTP/2 and real processes of the proxy."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import pytest

from tests.certificates import authority, loopback
from tests.ports import free_port

from .http2_load import Http2Accounts
from .processes import until, upstream
from .test_hot_restart import LIMITS, drained, end_all, handed_over
from .test_tls import running, secure

pytestmark = pytest.mark.slow


CA = ("--cacert", str(authority().ca))
MIB = 1 << 20
POSTED = bytes(64 * 1024)


@dataclass
class World:
    """A proxy with three listeners, and a file of 64 KiB."""

    plain: str
    tls: str
    unix: Path
    posted: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder, port = tmp_path_factory.mktemp("http2"), free_port()
    posted = folder / "posted"
    posted.write_bytes(POSTED)
    with TemporaryDirectory(prefix="cp-") as short, upstream(folder, "stable") as (_, behind):
        unix = Path(short) / "p.sock"
        with running(folder, f"{secure(loopback(), port)}, 'unix:{unix}'", behind) as proxy:
            yield World(f"http://127.0.0.1:{proxy.port}", f"https://localhost:{port}", unix, posted)


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"needs {program}")


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done
    return done.stdout.decode("latin-1")


@needs("curl")
def test_curl_over_tls_posts_and_downloads_and_keeps_its_cookie(
    world: World, tmp_path: Path
) -> None:
    jar = str(tmp_path / "jar")
    shown = "%{http_version} %{http_code} %{size_download} %{num_connects}\n"
    command = ["curl", "-sS", *CA, "--http2", "-c", jar, "-b", jar, "-w", shown]
    zeros = f"{world.tls}/zeros?{MIB}"
    got = run(*command, "-o", "/dev/null", zeros, "-o", "/dev/null", f"{world.tls}/again")
    assert got.splitlines() == [f"2 200 {MIB} 1", "2 200 6 0"]
    cookie = Path(jar).read_text().split("canary_id\t")[1].strip()
    assert f"cookie: canary_id={cookie}" in run(*command, f"{world.tls}/head").lower()
    sent = run(*command, "--data-binary", f"@{world.posted}", world.tls)
    assert sent.startswith(f"{len(POSTED)}2 200 ")


@needs("curl")
def test_curl_with_prior_knowledge_over_tcp_and_a_unix_socket(world: World) -> None:
    command = ["curl", "-sS", "--http2-prior-knowledge", "-w", " %{http_version}"]
    assert run(*command, world.plain) == "stable 2"
    got = run(*command, "--unix-socket", str(world.unix), "http://shop.example/head")
    assert "\nHost: shop.example\r\n" in got
    assert got.endswith(" 2")


@needs("nghttp")
def test_nghttp_posts_and_downloads(world: World) -> None:
    assert run("nghttp", "-d", str(world.posted), f"{world.plain}/") == str(len(POSTED))
    assert len(run("nghttp", f"{world.plain}/zeros?{MIB}")) == MIB


@needs("h2load")
@pytest.mark.parametrize("scheme", ["plain", "tls"])
def test_h2load_downloads_and_posts_on_many_streams(world: World, scheme: str) -> None:
    base = getattr(world, scheme)
    for more in ([f"{base}/zeros?{MIB}"], ["-d", str(world.posted), f"{base}/"]):
        got = run("h2load", "-n", "24", "-c", "2", "-m", "6", *more)
        assert "24 succeeded, 0 failed, 0 errored, 0 timeout" in got
        assert "status codes: 24 2xx" in got


def test_httpx_posts_and_downloads_and_keeps_its_cookie(world: World) -> None:
    with httpx.Client(
        http1=False, http2=True, verify=authority().client(), base_url=world.tls, timeout=30
    ) as client:
        page = client.get("/")
        assert (page.http_version, page.status_code, page.text) == ("HTTP/2", 200, "stable")
        assert f"canary_id={page.cookies['canary_id']}" in client.get("/head").text
        assert client.post("/", content=POSTED).text == str(len(POSTED))
        assert client.get(f"/zeros?{MIB}").content == bytes(MIB)


@contextlib.contextmanager
def curl(url: str, log: Path) -> Iterator[None]:
    """Have curl ask fifty times a second, over a connection that it keeps."""
    command = ["curl", "-sS", "--http2", *CA, "--rate", "50/s"]
    command += ["-o", "/dev/null", "-w", "%{http_code} %{http_version} %{num_connects}\n", url]
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as child:
        try:
            yield
        finally:
            child.terminate()


@needs("curl")
@pytest.mark.parametrize("workers", [2])
def test_a_hot_restart_loses_no_stream(tmp_path: Path, workers: int) -> None:
    port, log = free_port(), tmp_path / "curl.log"
    with (
        upstream(tmp_path, "stable") as (_, behind),
        running(
            tmp_path, secure(loopback(), port), behind, f"workers: {workers}\n{LIMITS}"
        ) as before,
        curl(f"https://localhost:{port}/[1-100000]", log),
    ):
        until(lambda: log.read_text().count("\n") >= 5, "responses to curl")
        with Http2Accounts(before.port) as load:
            os.kill(before.pid, signal.SIGUSR2)
            handed_over(before, before.pid)
            drained(before, before.pid)
            asked = log.read_text().count("\n")
            until(lambda: log.read_text().count("\n") >= asked + 5, "responses of the successor")
        load.check()
        assert load.farewells == 3  # the connections of this load
        end_all(tmp_path / "proxy.yaml")
        lines = log.read_text().splitlines()[:-1]  # without the one that the end cuts off
    assert {line[:5] for line in lines} == {"200 2"}, lines
    assert sum(int(line[6:]) for line in lines) == 2
