"""TLS and PROXY protocol with whole processes: reloads, the command line, and programs of others."""

from __future__ import annotations

import contextlib
import datetime
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.certificates import Authority, Pair
from tests.ports import free_port
from tests.system import processes
from tests.system.processes import Proxy, answers, until
from tests.system.test_hot_restart import end_all

LAST = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def own(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "tls")


def secure(pair: Pair, port: int, more: str = "") -> str:
    """Return a listener with TLS, to be put before the plain one of the helper."""
    return f"{{address: 127.0.0.1:{port}, tls: {{certificates: [{pair.yaml()}]}}{more}}}"


@contextlib.contextmanager
def running(folder: Path, listeners: str, upstream: int, more: str = "") -> Iterator[Listening]:
    """Run a proxy with these listeners beside a plain one."""
    port = free_port()
    process = Listening(folder, port, listeners, upstream, more)
    try:
        until(lambda: answers(port) or process.child.poll() is not None, "proxy")
        assert process.child.poll() is None, process.log.read_text()
        yield process
    finally:
        process.end()


class Listening(Proxy):
    def __init__(self, folder: Path, port: int, listeners: str, upstream: int, more: str) -> None:
        self.port = port
        self.socket = folder / "admin.sock"
        self.config = folder / "proxy.yaml"
        self.config.write_text(
            f"listen: [{listeners}, 127.0.0.1:{port}]\nadmin: {{socket: {self.socket}}}\n"
            f"state: {folder}/state.json\n{processes.variants([upstream])}\n{more}\n"
        )
        processes.Process.__init__(
            self, "-m", "canaryproxy", "run", "-c", str(self.config), folder=folder
        )


def connect(own: Authority, port: int) -> ssl.SSLSocket:
    sock = socket.create_connection(("127.0.0.1", port), 10)
    return own.client().wrap_socket(sock, server_hostname="localhost", suppress_ragged_eofs=False)


def serial(sock: ssl.SSLSocket) -> str:
    found = sock.getpeercert()
    assert found is not None
    return str(found["serialNumber"])


def shown(own: Authority, port: int) -> str:
    """Return the serial number of the certificate that a new connection is shown."""
    with connect(own, port) as sock:
        return serial(sock)


def ask(sock: ssl.SSLSocket, request: bytes) -> bytes:
    sock.sendall(request)
    got = b""
    while b"\r\n\r\n" not in got:
        piece = sock.recv(1 << 16)
        assert piece, got
        got += piece
    return got


@pytest.mark.parametrize("workers", [1, 2])
def test_certificates_are_renewed_under_connections_that_go_on(
    tmp_path: Path, own: Authority, workers: int
) -> None:
    pair, port = own.pair(), free_port()
    with (
        processes.upstream(tmp_path, "stable") as (_, upstream),
        running(tmp_path, secure(pair, port), upstream, f"workers: {workers}") as proxy,
    ):
        old = [connect(own, port) for _ in range(4)]
        before = serial(old[0])
        for sock in old:
            assert ask(sock, GET).startswith(b"HTTP/1.1 200")

        own.pair()
        proxy.kill(signal.SIGHUP)
        until(lambda: all(shown(own, port) != before for _ in range(8)), "the new certificate")
        after = shown(own, port)

        pair.key.write_bytes(b"nonsense")  # a reload that must not happen
        proxy.kill(signal.SIGHUP)
        said = (
            f"listen[0].tls.certificates[0].key: {pair.key} contains no private key in PEM format"
        )
        until(lambda: said in proxy.log.read_text(), "the reason")
        assert all(shown(own, port) == after for _ in range(8))

        for sock in old:
            assert ask(sock, GET).startswith(b"HTTP/1.1 200")
            sock.close()
        own.pair()  # and one that must, after all
        proxy.kill(signal.SIGHUP)
        until(lambda: all(shown(own, port) not in (before, after) for _ in range(8)))
        ends = 'canaryproxy_certificate_expiry_timestamp_seconds{name="localhost"}'
        assert proxy.metrics()[ends] > datetime.datetime.now(datetime.UTC).timestamp()


def test_a_worker_that_is_replaced_serves_by_what_was_checked(
    tmp_path: Path, own: Authority
) -> None:
    pair, port = own.pair(), free_port()
    with (
        processes.upstream(tmp_path, "stable") as (_, upstream),
        running(tmp_path, secure(pair, port), upstream, "workers: 2") as proxy,
    ):
        before = shown(own, port)
        pair.cert.write_bytes(b"")
        children = Path(f"/proc/{proxy.pid}/task/{proxy.pid}/children").read_text().split()
        for child in children:
            subprocess.run(["kill", "-KILL", child], check=True)
        until(lambda: proxy.log.read_text().count("; restarting in ") == len(children))

        def again() -> bool:
            with contextlib.suppress(OSError):
                return {shown(own, port) for _ in range(8)} == {before}
            return False

        until(again, "the same certificate")


def test_a_listener_with_tls_is_handed_over(tmp_path: Path, own: Authority) -> None:
    pair, port = own.pair(), free_port()
    with (
        processes.upstream(tmp_path, "stable") as (_, upstream),
        running(tmp_path, secure(pair, port), upstream) as proxy,
    ):
        try:
            before = shown(own, port)
            with connect(own, port) as old:
                assert ask(old, GET).startswith(b"HTTP/1.1 200")
                own.pair()  # the next process reads the files anew
                proxy.kill(signal.SIGUSR2)
                until(lambda: all(shown(own, port) != before for _ in range(8)), "the new process")
                with connect(own, port) as new:
                    assert ask(new, LAST).startswith(b"HTTP/1.1 200")
        finally:
            end_all(proxy.config)


def test_watched_certificates_are_taken_as_they_change(tmp_path: Path, own: Authority) -> None:
    pair, port = own.pair(), free_port()
    with (
        processes.upstream(tmp_path, "stable") as (_, upstream),
        running(tmp_path, secure(pair, port), upstream, "reload: {watch: true}"),
    ):
        before = shown(own, port)
        own.pair()
        until(lambda: shown(own, port) != before, "the new certificate")


def canaryproxy(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "canaryproxy", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
    )


def test_check_and_run_look_into_the_files(tmp_path: Path, own: Authority) -> None:
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=2)
    pair = own.pair(until=past)
    file = tmp_path / "f.yaml"
    file.write_text(
        f"listen: [{secure(pair, 8443)}]\n{processes.variants([9001])}\n"
        f"admin: {{socket: {tmp_path}/a.sock}}\n"
    )
    done = canaryproxy("check", "-c", str(file))
    assert done.returncode == 0
    assert f"the certificate in {pair.cert} expired on {past:%Y-%m-%d}" in done.stderr
    pair.key.unlink()
    for command in ("check", "run"):
        done = canaryproxy(command, "-c", str(file))
        assert done.returncode == 2
        assert "listen[0].tls.certificates[0].key" in done.stderr
        assert f"{file}:1:" in done.stderr.splitlines()[0]


# Programs of others


def program(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_curl_and_openssl_are_served(tmp_path: Path, own: Authority, version: str) -> None:
    pair, port = own.pair(), free_port()
    with (
        processes.upstream(tmp_path, "stable") as (_, upstream),
        running(tmp_path, secure(pair, port), upstream),
    ):
        done = subprocess.run(
            [
                *(program("curl"), "-sS", "-i", "--fail", "--cacert", str(own.ca)),
                *(f"--tlsv{version}", "--tls-max", version, "--http2"),
                f"https://localhost:{port}/",
            ],
            capture_output=True,
            timeout=60,
            check=True,
        )
        assert done.stdout.startswith(b"HTTP/2 200")
        done = subprocess.run(
            [
                *(program("openssl"), "s_client", "-quiet", "-connect", f"127.0.0.1:{port}"),
                *("-CAfile", str(own.ca), "-verify_return_error", "-no_ign_eof"),
                f"-tls{version.replace('.', '_')}",
            ],
            input=LAST,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert b"unexpected eof" not in done.stderr


@contextlib.contextmanager
def balancer(command: list[str], port: int, folder: Path) -> Iterator[None]:
    """Run a load balancer in the foreground until the block ends."""
    with (folder / "balancer.log").open("wb") as log:
        child = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    try:
        until(lambda: answers(port) or child.poll() is not None, command[0])
        assert child.poll() is None, (folder / "balancer.log").read_text()
        yield
    finally:
        child.terminate()
        child.wait(20)


def forwarded_for(port: int) -> str:
    """Return what the upstream is told of a client of 127.0.0.2 that connects to a port."""
    with socket.create_connection(("127.0.0.1", port), 10, ("127.0.0.2", 0)) as sock:
        sock.sendall(b"GET /head HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        got = b""
        while piece := sock.recv(1 << 16):
            got += piece
    assert got.startswith(b"HTTP/1.1 200"), got
    found = [line for line in got.decode().splitlines() if "x-forwarded-for" in line.lower()]
    return found[0]


@pytest.mark.parametrize("option", ["send-proxy", "send-proxy-v2", "send-proxy-v2-ssl"])
def test_haproxy_names_the_client(tmp_path: Path, option: str) -> None:
    mine, front = free_port(), free_port()
    listener = f"{{address: 127.0.0.1:{mine}, proxy_protocol: trusted}}"
    (tmp_path / "haproxy.cfg").write_text(
        "global\n  nbthread 1\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 30s\n"
        f"  timeout server 30s\nlisten front\n  bind 127.0.0.1:{front}\n"
        f"  server one 127.0.0.1:{mine} {option} check\n"
    )
    with (
        processes.upstream(tmp_path, "stable") as (_, upstream),
        running(tmp_path, listener, upstream, 'forwarded: {trust: ["127.0.0.1"]}'),
        balancer([program("haproxy"), "-db", "-f", "haproxy.cfg"], front, tmp_path),
    ):
        assert "127.0.0.2" in forwarded_for(front)


def test_nginx_names_the_client(tmp_path: Path) -> None:
    module = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
    if not module.exists():
        pytest.skip("nginx's stream module is not installed")
    mine, front = free_port(), free_port()
    (tmp_path / "nginx.conf").write_text(
        f"load_module {module};\ndaemon off;\nmaster_process off;\nworker_processes 1;\n"
        f"pid {tmp_path}/nginx.pid;\nerror_log stderr error;\nevents {{}}\n"
        f"stream {{ server {{ listen 127.0.0.1:{front}; proxy_pass 127.0.0.1:{mine};"
        " proxy_protocol on; } }\n"
    )
    listener = f"{{address: 127.0.0.1:{mine}, proxy_protocol: required}}"
    with (
        processes.upstream(tmp_path, "stable") as (_, upstream),
        running(tmp_path, listener, upstream),
        balancer(
            [program("nginx"), "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")],
            front,
            tmp_path,
        ),
    ):
        assert "127.0.0.2" in forwarded_for(front)
