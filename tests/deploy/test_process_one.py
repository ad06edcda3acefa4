"""The proxy as process 1 of a container, and its health check. ``unshare`` makes the container."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from canaryproxy import health
from tests.ports import free_port
from tests.system.processes import DEADLINE, Proxy, until, upstream, variants

NAMESPACE = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
CAN_UNSHARE = os.getuid() == 0 and (
    subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode == 0
)


def children(pid: int) -> dict[int, str]:
    """The state of each child, such as Z for a zombie."""
    found = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(FileNotFoundError):
            stat = Path(f"/proc/{child}/stat").read_text()
            found[int(child)] = stat.rpartition(")")[2].split()[0]
    return found


@contextlib.contextmanager
def process_one(folder: Path, workers: int) -> Iterator[tuple[subprocess.Popen[bytes], int, Path]]:
    """Yield ``unshare``, the pid of the proxy outside of its namespace, and its socket."""
    socket = folder / "admin.sock"
    config = folder / "proxy.yaml"
    config.write_text(
        f"listen: 127.0.0.1:{free_port()}\nadmin: {{socket: {socket}}}\nworkers: {workers}\n"
        f"{variants([free_port()])}\nstate: {folder}/state.json\n"
    )
    command = [sys.executable, "-m", "canaryproxy", "run", "-c", str(config)]
    with subprocess.Popen([*NAMESPACE, *command]) as outside:
        try:
            until(lambda: health.unready(str(socket)) is None, "ready")
            (pid,) = children(outside.pid)
            yield outside, pid, socket
        finally:
            outside.kill()  # takes the namespace with it


@pytest.mark.skipif(not CAN_UNSHARE, reason="needs root and namespaces")
@pytest.mark.parametrize("workers", [1, 2])
def test_as_process_one_it_reaps_and_ends_on_sigterm(tmp_path: Path, workers: int) -> None:
    with process_one(tmp_path, workers) as (outside, pid, _):
        assert f"NSpid:\t{pid}\t1\n" in Path(f"/proc/{pid}/status").read_text()
        until(lambda: len(children(pid)) == (workers + 1 if workers > 1 else 0), "its children")
        own = set(children(pid))
        # As `docker exec` does: a shell that ends before what it started.
        flag = tmp_path / "flag"
        flag.touch()
        orphan = f"while [ -e {flag} ]; do sleep 0.1; done &"
        subprocess.run(["nsenter", "--target", str(pid), "--pid", "sh", "-c", orphan], check=True)
        until(lambda: len(set(children(pid)) - own) == 1, "it is given to the proxy")
        flag.unlink()
        until(lambda: set(children(pid)) == own, "only the proxy's own children")
        if workers > 1:  # and it still sees its own end
            os.kill(max(own), signal.SIGKILL)
            until(lambda: max(own) not in children(pid) and len(children(pid)) == len(own))
        os.kill(pid, signal.SIGTERM)
        assert outside.wait(DEADLINE) == 0


def test_the_health_check(tmp_path: Path) -> None:
    def check(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "canaryproxy.health", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **environment},
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )

    missing = check()
    assert missing.returncode == 1
    assert missing.stderr.startswith("./run/admin.sock: no response: ")
    admin = free_port()
    with upstream(tmp_path, "stable") as (_, port):
        proxy = Proxy(tmp_path, variants([port]), admin=admin)
        try:
            until(lambda: health.unready(str(proxy.socket)) is None, "ready")
            assert check(str(proxy.socket)).returncode == 0
            assert check(f"http://127.0.0.1:{admin}").returncode == 0
            assert check(CANARYPROXY_ADMIN=str(proxy.socket)).returncode == 0
        finally:
            proxy.end()
