"""Slow and half-open clients in all forms, and many of them, while users go on."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ..system.processes import proxy, until, upstream, variants
from .users import Users

CROWD = Path(__file__).with_name("crowd.py")
TOOL = shutil.which("slowhttptest")
LIMITS = (
    "limits: {header_timeout: 2s, body_timeout: 2s, idle_timeout: 5s, first_byte_timeout: 5s,"
    " max_connections: %d}\n"
)
CONNECTIONS = int(os.environ.get("CONNECTIONS", "4000"))
BASE, HELD = 100 << 20, 700 << 10
"""Bytes of a proxy, and that each client who does not read may hold: what was read ahead for it."""
FORMS = {
    "slow heads": ["-H"],
    "slow bodies": ["-B", "-s", "100000"],
    "slow readers": ["-X", "-w", "10", "-y", "20", "-n", "5", "-z", "32", "-k", "3"],
}


@pytest.mark.skipif(TOOL is None, reason="slowhttptest is not installed (apt)")
@pytest.mark.parametrize("form", FORMS)
def test_slow_clients_are_ended_and_users_do_not_notice(tmp_path: Path, form: str) -> None:
    assert TOOL is not None
    seconds, connections = 6, 300
    with (
        upstream(tmp_path, "s") as (_, stable),
        proxy(tmp_path, variants([stable]), LIMITS % 2000, fresh=True) as running,
    ):
        path = "/zeros?1000000" if form == "slow readers" else "/"
        attack = [
            *(TOOL, *FORMS[form], "-c", str(connections), "-r", "200", "-i", "1", "-x", "10"),
            *("-l", str(seconds), "-p", "5", "-u", f"http://127.0.0.1:{running.port}{path}"),
        ]
        with (
            Users(running.port, 4) as users,
            subprocess.Popen(attack, stdout=subprocess.DEVNULL, cwd=tmp_path) as attacker,
        ):
            most = 0.0
            while attacker.poll() is None:
                most = max(most, running.metrics()["canaryproxy_open_connections"])
                time.sleep(0.1)
        assert most > 30, "the attack did not reach the proxy"
        assert users.seen == {200: users.sent}
        assert users.sent > 20  # they were there: how many they are depends on the machine
        assert users.longest < 10
        until(lambda: running.metrics()["canaryproxy_open_connections"] == 0, "nobody left")
        assert running.memory("VmRSS") < BASE + connections * HELD


def test_thousands_of_connections_are_kept_and_served(tmp_path: Path) -> None:
    """``CONNECTIONS`` of them (``make faults``: 20,000), with a request each before and after."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    workers = 1 + CONNECTIONS // (most - 1000)
    more = (
        f"workers: {workers}\n"
        f"limits: {{idle_timeout: 300s, max_connections: {CONNECTIONS + 100},"
        f" max_requests: {CONNECTIONS + 100}, max_endpoint_connections: 64}}\n"
    )
    crowds = 1 + (CONNECTIONS - 1) // 5000
    each = CONNECTIONS // crowds
    with (
        upstream(tmp_path, "s") as (_, stable),
        proxy(tmp_path, variants([stable]), more, fresh=True) as running,
        contextlib.ExitStack() as stack,
    ):
        before = _resident(running.pid)
        waiting = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, CROWD, str(running.port), str(each), str(number)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for number in range(crowds)
        ]
        for one in waiting:
            assert one.stdout is not None
            assert int(one.stdout.readline()) == each
        assert running.metrics()["canaryproxy_open_connections"] == crowds * each
        grown = (_resident(running.pid) - before) / (crowds * each)
        print(f"{crowds * each} connections, {workers} workers, {grown / 1024:.1f} KiB each")
        assert grown < 24 * 1024
        with Users(running.port, 4) as users:
            until(lambda: users.seen[200] > 500, "answers")
        assert users.seen == {200: users.sent}
        for one in waiting:
            assert one.stdin is not None
            print(file=one.stdin, flush=True)
        for one in waiting:
            assert one.stdout is not None
            assert int(one.stdout.readline()) == each
            assert one.stdin is not None
            one.stdin.close()
        until(lambda: running.metrics()["canaryproxy_open_connections"] == 0, "nobody left")
        found = running.metrics()
        total = sum(v for k, v in found.items() if k.startswith("canaryproxy_requests_total"))
        assert total == 2 * crowds * each + users.sent


def _resident(pid: int) -> int:
    """Return the resident bytes of a process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() + sum(_resident(int(child)) for child in children)
