"""The wall clock jumps, and names point somewhere else: in processes that see their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest

from tests.ports import free_port

from ..system.processes import Process, Proxy, answers, until, upstream, variants
from .users import Users

pytestmark = pytest.mark.slow

SKEWED = Path(__file__).with_name("skewed.py")
HOUR = 3600
JUMPS = (2 * HOUR, -30 * 24 * HOUR, 400 * 24 * HOUR, -24 * HOUR)
RELEASE = (
    "release: {id: r1, steps: [{weight: 20, bake: 1h, min_requests: 5}, {weight: 100}]}\n"
    "judge: {baseline: 0s}\n"
)


def test_a_wall_clock_that_jumps_changes_nothing(tmp_path: Path) -> None:
    clock, port, admin = tmp_path / "clock", free_port(), tmp_path / "admin.sock"
    _write(clock, 0)
    config = tmp_path / "proxy.yaml"
    with upstream(tmp_path, "s") as (_, stable), upstream(tmp_path, "c") as (_, canary):
        config.write_text(
            f"listen: 127.0.0.1:{port}\nadmin: {{socket: {admin}}}\n"
            f"{variants([stable], [canary])}\nstate: {tmp_path}/state.json\n{RELEASE}"
        )
        running = Skewed(str(SKEWED), str(clock), "run", "-c", str(config), folder=tmp_path)
        running.port, running.socket = port, admin
        try:
            until(lambda: answers(port) and admin.exists(), "the proxy")
            with Users(port) as users:
                until(lambda: users.bodies[b"c"] > 50, "users of the canary")
                for jump in JUMPS:
                    _write(clock, jump)
                    until(lambda jump=jump: running.hours_off() == jump // HOUR, "the jump")  # type: ignore[misc]
                    enough = users.sent + 300
                    until(lambda enough=enough: users.sent > enough, "requests")  # type: ignore[misc]
            assert users.seen == {200: users.sent}
            users.agree(running)
            document = json.loads(running.ask("GET", "/v1/release"))
            assert (document["state"], document["weight"], document["step"]) == ("running", 20, 1)
            assert document["baked"] < 600  # no jump is time that was watched
            assert document["circuit"]["state"] == "closed"
            running.ask("POST", "/v1/release/trip", {"cause": "try"})
            assert running.metrics()["canaryproxy_weight_ratio"] == 0
            assert running.metrics()["canaryproxy_state_unsaved"] == 0
        finally:
            running.end()


class Skewed(Proxy):
    """A proxy whose wall clock is ours plus what is in a file."""

    def __init__(self, *arguments: str, folder: Path) -> None:
        Process.__init__(self, *arguments, folder=folder, fresh=True)

    def hours_off(self) -> int:
        """How far its log's clock is from ours."""
        self.ask("POST", "/v1/release/pause")
        self.ask("POST", "/v1/release/resume")
        last = self.log.read_text().splitlines()[-1].partition(" ")[0]
        return round((datetime.fromisoformat(last).timestamp() - time.time()) / HOUR)


def _write(clock: Path, seconds: int) -> None:
    beside = clock.with_suffix(".new")
    beside.write_text(str(seconds))
    beside.replace(clock)


HOSTS = "127.0.0.1 localhost\n"


def can_unshare() -> bool:
    if os.getuid() != 0 or shutil.which("unshare") is None:
        return False
    trial = subprocess.run(
        ["unshare", "--mount", "mount", "--bind", "/dev/null", "/etc/hosts"],
        capture_output=True,
        check=False,
    )
    return trial.returncode == 0


@pytest.mark.skipif(not can_unshare(), reason="no mount namespaces here")
def test_a_name_that_moves_is_followed_and_one_that_is_lost_stays(tmp_path: Path) -> None:
    """An endpoint by name: its address changes, the old one goes; then names do not resolve any more."""
    hosts = tmp_path / "hosts"
    hosts.write_text(HOSTS + "127.0.0.1 cart.test\n")
    port, old = free_port(), upstream(tmp_path, "old")
    process, service_port = old.__enter__()
    config = tmp_path / "proxy.yaml"
    config.write_text(
        f"listen: 127.0.0.1:{port}\nadmin: {{socket: {tmp_path}/admin.sock}}\n"
        f'variants: {{stable: {{endpoints: ["http://cart.test:{service_port}"]}}}}\n'
        f"state: {tmp_path}/state.json\nlimits: {{connect_timeout: 500ms}}\n"
    )
    script = 'mount --bind "$1" /etc/hosts && shift && exec "$@"'
    command = [sys.executable, "-m", "canaryproxy", "run", "-c", str(config)]
    child = subprocess.Popen(["unshare", "--mount", "sh", "-c", script, "sh", str(hosts), *command])
    other = upstream(tmp_path, "new", service_port, "127.0.0.2")
    new, _ = other.__enter__()
    try:
        until(lambda: answers(port), "the proxy")
        with Users(port, 4, pause=0.02) as users:
            until(lambda: users.bodies[b"old"] > 50, "answers of the old one")
            hosts.write_text(HOSTS + "127.0.0.2 cart.test\n")
            time.sleep(0.1)  # both serve: nobody is cut
            process.kill()
            until(lambda: users.bodies[b"new"] > 50, "answers of the new one")
            hosts.write_text(HOSTS)
            seen = users.bodies[b"new"]
            began = time.monotonic()
            until(
                lambda: time.monotonic() - began > 6 and users.bodies[b"new"] > seen + 50,
                "answers while the name does not resolve",
            )
        # Until the next look at the name, connections were tried where nobody is.
        assert users.seen.keys() <= {200, 502, 503, 504}
        assert users.cut == 0
        hosts.write_text(HOSTS + "127.0.0.2 cart.test\n")
        with Users(port, 4) as users:
            until(lambda: users.seen[200] > 100, "answers")
        assert users.seen == {200: users.sent}
    finally:
        child.kill()
        child.wait()
        new.end()
        process.end()
