"""From one process of the proxy to the next: under load, in a release, and when either of them fails."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bench import departure
from canaryproxy.runtime.hot_restart import ENVIRONMENT
from canaryproxy.runtime.workers import is_alive
from tests.ports import free_port

from .accounts import Accounts
from .processes import DEADLINE, Proxy, answers, proxy, serving, until, variants

pytestmark = pytest.mark.slow

LIMITS = "limits: {drain_timeout: 8s}"


def ask(running: Proxy, path: str = "/v1/release", method: str = "GET", body: Any = None) -> Any:
    """Return the answer of the admin API, asking again while it changes hands."""
    end = time.monotonic() + DEADLINE
    while True:
        connection = http.client.HTTPConnection("admin", timeout=DEADLINE)
        connection.sock = socket.socket(socket.AF_UNIX)
        try:
            connection.sock.connect(str(running.socket))
            sent = None if body is None else json.dumps(body)
            connection.request(method, path, sent, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
            assert answer.status == 200, text
            return json.loads(text)
        except (OSError, http.client.HTTPException):
            assert time.monotonic() < end
            time.sleep(0.02)
        finally:
            connection.close()


def records(running: Proxy, what: str) -> list[str]:
    found = ask(running, "/v1/history?limit=1000")["records"]
    return [record["cause"] for record in found if record["what"] == what]


@contextlib.contextmanager
def replaceable(folder: Path, workers: int, more: str = LIMITS) -> Iterator[Proxy]:
    """Run the proxy until the block ends; processes that have replaced it are ended with it."""
    with serving(folder, workers, more) as running:
        try:
            until(lambda: ask(running)["main_pid"] == running.pid, "steering")
            yield running
        finally:
            end_all(folder / "proxy.yaml")


def end(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def end_all(config: Path) -> None:
    """End every proxy with this configuration: successors are nobody's children."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(config).encode() in entry.read_bytes().split(b"\0"):
                end(int(entry.parent.name))


def handed_over(running: Proxy, old: int) -> int:
    """Wait until another process steers; return it."""
    until(lambda: ask(running)["main_pid"] != old, f"another process than {old}")
    new: int = ask(running)["main_pid"]
    return new


def drained(running: Proxy, pid: int) -> None:
    """Wait until a replaced process has ended."""
    if pid == running.pid:
        assert running.wait() == 0, running.log.read_text()
    else:
        until(lambda: not is_alive(pid), "the end of the old process")


@pytest.mark.parametrize("workers", [1, 2])
def test_four_in_a_row_under_load(tmp_path: Path, workers: int) -> None:
    with replaceable(tmp_path, workers, f"{LIMITS}\nsplit: {{weight: 30}}") as running:
        seen = [running.pid]
        with Accounts(running.port) as load:
            for _ in range(4):
                os.kill(seen[-1], signal.SIGUSR2)
                seen.append(handed_over(running, seen[-1]))
                drained(running, seen[-2])
        load.check()
        assert len(set(seen)) == 5
        assert load.closes > 0
        assert len(records(running, "upgrade")) == 4
        counted = [
            value
            for key, value in running.metrics().items()
            if key.startswith("canaryproxy_requests_total")
        ]
        assert sum(counted) == load.sent  # by five processes, in one block
        os.kill(seen[-1], signal.SIGTERM)
        until(lambda: not is_alive(seen[-1]), "the end")
        assert not running.socket.exists()


RELEASE = f"""{LIMITS}
judge: {{baseline: 0s, warmup: 0s, min_users: 1}}
release:
  id: cart-2
  steps:
    - {{weight: 5, bake: 0s, min_requests: 0}}
    - {{weight: 40, bake: 5m, min_requests: 10}}
    - {{weight: 100}}
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_in_the_middle_of_a_release(tmp_path: Path, workers: int) -> None:
    with replaceable(tmp_path, workers, RELEASE) as running, Accounts(running.port) as load:
        until(lambda: ask(running)["step"] == 2, "the second step")
        until(lambda: ask(running)["requests"] >= 200, "evidence")
        before = ask(running)
        history = ask(running, "/v1/history?limit=1000")["records"]
        os.kill(running.pid, signal.SIGUSR2)
        new = handed_over(running, running.pid)
        after = ask(running)
        assert (after["state"], after["step"], after["weight"]) == ("running", 2, 40)
        assert after["requests"] >= before["requests"]
        assert after["baked"] >= before["baked"] > 0
        trials = {one["metric"]: one["canary"]["trials"] for one in before["metrics"]}
        assert any(trials.values())
        for one in after["metrics"]:
            assert one["canary"]["trials"] >= trials[one["metric"]]
        until(lambda: records(running, "upgrade"), "the record")
        kept = ask(running, "/v1/history?limit=1000")["records"]
        assert kept[: len(history)] == history
        assert [record["what"] for record in kept[len(history) :]] == ["upgrade"]

        ask(running, "/v1/release/trip", "POST", {"cause": "the test says so"})
        drained(running, running.pid)
        os.kill(new, signal.SIGUSR2)
        handed_over(running, new)
        tripped = ask(running)
        assert (tripped["state"], tripped["weight"]) == ("tripped", 0)
        assert tripped["circuit"]["state"] == "open"
        assert "the test says so" in tripped["circuit"]["cause"]
        load.stop()
        load.check()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_trip_reaches_what_still_drains(tmp_path: Path, workers: int) -> None:
    """A request that the old process got as its last is routed by the table of the new one."""
    with replaceable(tmp_path, workers, f"{LIMITS}\nsplit: {{weight: 100}}") as running:
        client = http.client.HTTPConnection("127.0.0.1", running.port, timeout=DEADLINE)
        client.request("GET", "/")
        with client.getresponse() as answer:
            assert answer.read() == b"canary"
        os.kill(running.pid, signal.SIGUSR2)
        handed_over(running, running.pid)
        ask(running, "/v1/release/trip", "POST", {"cause": "now"})

        def old_says_goodbye() -> bool:
            client.request("GET", "/")
            with client.getresponse() as answer:
                assert answer.read() == b"stable"
                return answer.getheader("Connection") == "close"

        until(old_says_goodbye, "the old process's last answer")
        client.close()
        drained(running, running.pid)


@pytest.mark.parametrize("during", ["reload", "upgrade"])
def test_long_lived_connections_go_on_leaving_evenly_through_a_reload_and_an_upgrade(
    tmp_path: Path, during: str
) -> None:
    asyncio.run(_leave(tmp_path, during))


async def _leave(folder: Path, during: str) -> None:
    seen, count, workers, after, spread = departure.Seen(), 40, 2, 0.1, 2.0
    loop = asyncio.get_running_loop()
    servers = [
        await loop.create_server(partial(departure.Upstream, seen, canary=canary), "127.0.0.1", 0)
        for canary in (False, True)
    ]
    ports = [[server.sockets[0].getsockname()[1]] for server in servers]
    times = "circuit: {close_after: 100ms, spread: 2s}"
    more = (
        f"{LIMITS}\nworkers: {workers}\nstate: {folder}/state.json\nsplit: {{weight: 100}}\n{times}"
    )
    with proxy(folder, variants(*ports), more) as running:
        for number in range(count):
            one = partial(departure.Client, seen, running.port, number, websocket=number % 4 > 0)
            await loop.create_connection(one, "127.0.0.1", running.port)
        for _ in range(count):
            await seen.opened.acquire()
        seen.over = True  # they do not come back
        began = time.monotonic()
        ask(running, "/v1/release/trip", "POST", {"cause": "now"})
        try:
            async with asyncio.timeout(DEADLINE):
                while len(seen.clean) < 4:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                if during == "reload":
                    config = folder / "proxy.yaml"
                    config.write_text(config.read_text().replace("spread: 2s", "spread: 100ms"))
                    ask(running, "/v1/reload", "POST")
                else:
                    os.kill(running.pid, signal.SIGUSR2)
                while seen.on_canary:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            if during == "upgrade":
                await asyncio.to_thread(drained, running, running.pid)
        finally:
            end_all(folder / "proxy.yaml")
    assert (len(seen.clean), seen.broken) == (count, 0)
    # None is earlier than the even spread has it, and each worker begins with one.
    for place, moment in enumerate(sorted(seen.clean)):
        assert moment - began > after + (place - workers) * spread / count - 0.01
    for server in servers:
        server.close()


@pytest.mark.parametrize(
    ("workers", "more", "why"),
    [
        (1, "split: {weight: 200}\n", "split.weight"),
        (2, "no_such_key: 1\n", "no_such_key"),
        (2, "access_log: {path: /nowhere/at/all/log}\n", "access log"),
    ],
)
def test_a_successor_that_cannot_start_changes_nothing(
    tmp_path: Path, workers: int, more: str, why: str
) -> None:
    with replaceable(tmp_path, workers) as running, Accounts(running.port, 3, 1) as load:
        file = tmp_path / "proxy.yaml"
        good = file.read_text()
        file.write_text(good + more)
        os.kill(running.pid, signal.SIGUSR2)
        until(lambda: records(running, "upgrade_failed"), "the record")
        (cause,) = records(running, "upgrade_failed")
        assert why in cause
        assert "this process continues" in cause
        assert cause in running.log.read_text()
        assert ask(running)["main_pid"] == running.pid
        # It was no accident of state: the next one, with a good file, goes on.
        file.write_text(good)
        os.kill(running.pid, signal.SIGUSR2)
        handed_over(running, running.pid)
        load.stop()
        load.check()


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]


def runs_a_program(successor: int) -> bool:
    """Tell whether a successor has an environment of its own: until then it is its parent's, which waits."""
    return f"{ENVIRONMENT}=".encode() in Path(f"/proc/{successor}/environ").read_bytes()


def successor_of(running: Proxy) -> int:
    """Return the process that is being started: the child with arguments of its own, and not forked."""
    before = set(children(running.pid))
    os.kill(running.pid, signal.SIGUSR2)
    until(lambda: set(children(running.pid)) - before, "the successor")
    return (set(children(running.pid)) - before).pop()


@pytest.mark.parametrize("workers", [1])
def test_the_successor_is_killed_while_it_starts(tmp_path: Path, workers: int) -> None:
    with replaceable(tmp_path, workers) as running, Accounts(running.port, 3, 1) as load:
        new = successor_of(running)
        end(new)
        until(lambda: records(running, "upgrade_failed"), "the record")
        assert "ended by SIGKILL" in records(running, "upgrade_failed")[0]
        assert ask(running)["main_pid"] == running.pid
        load.stop()
        load.check()


@contextlib.contextmanager
def between(running: Proxy, folder: Path) -> Iterator[int]:
    """Hold a hand-over where the old process has let go and the new one does not steer yet.

    Whoever steers holds the lock of the state file; here it is taken in between. Yields the new process.
    """
    with (folder / ".state.json.lock").open("rb+") as lock:
        taken = threading.Thread(target=fcntl.flock, args=(lock, fcntl.LOCK_EX))
        taken.start()
        new = successor_of(running)
        taken.join(DEADLINE)
        assert not taken.is_alive()
        yield new


@pytest.mark.parametrize("workers", [1, 2])
def test_the_successor_is_killed_when_nobody_steers(tmp_path: Path, workers: int) -> None:
    with replaceable(tmp_path, workers, RELEASE) as running, Accounts(running.port, 3, 1) as load:
        until(lambda: ask(running)["step"] == 2, "the second step")
        with between(running, tmp_path) as new:
            sent = load.sent
            until(lambda: load.sent > sent + 50, "requests without steering")
            end(new)
        until(lambda: records(running, "upgrade_failed"), "the record")
        found = ask(running)
        assert (found["main_pid"], found["step"], found["weight"]) == (running.pid, 2, 40)
        assert ask(running, "/v1/weight", "PUT", {"weight": 7})["weight"] == 7
        load.stop()
        load.check()


@pytest.mark.parametrize("workers", [2])
def test_the_old_one_is_killed_while_the_successor_starts(tmp_path: Path, workers: int) -> None:
    with replaceable(tmp_path, workers, RELEASE) as running, Accounts(running.port, 3, 1) as load:
        until(lambda: ask(running)["step"] == 2, "the second step")
        new = successor_of(running)
        running.kill()
        try:
            assert handed_over(running, running.pid) == new
            assert ask(running)["step"] == 2
            until(lambda: new_is_alone(new, running), "the end of the workers before")
            load.stop()
            assert load.outcomes["ok"] > 0
            # Those that were in flight there; every other one waited in the sockets.
            assert load.sent - load.outcomes["ok"] <= 4, load.outcomes
            assert not any(outcome.startswith("refused") for outcome in load.outcomes)
        finally:
            end(new)


def new_is_alone(new: int, running: Proxy) -> bool:
    found: bool = is_alive(new) and ask(running)["state"] == "running"
    return found


@pytest.mark.parametrize("workers", [1, 2])
def test_the_old_one_is_killed_when_nobody_steers(tmp_path: Path, workers: int) -> None:
    with replaceable(tmp_path, workers, RELEASE) as running, Accounts(running.port, 3, 1) as load:
        until(lambda: ask(running)["step"] == 2, "the second step")
        with between(running, tmp_path) as new:
            running.kill()
        try:
            assert handed_over(running, running.pid) == new
            assert (ask(running)["step"], ask(running)["weight"]) == (2, 40)
            sent = load.sent
            until(lambda: load.sent > sent + 50, "requests")
            load.stop()
            assert load.sent - load.outcomes["ok"] <= 4, load.outcomes
            assert not any(outcome.startswith("refused") for outcome in load.outcomes)
        finally:
            end(new)


def test_two_proxies_never_steer_by_one_state_file(tmp_path: Path) -> None:
    with replaceable(tmp_path, 1) as running:
        other = tmp_path / "other.yaml"
        text = (tmp_path / "proxy.yaml").read_text()
        other.write_text(
            text.replace(str(running.port), str(free_port())).replace("admin.sock", "other.sock")
        )
        done = subprocess.run(
            [sys.executable, "-m", "canaryproxy", "run", "-c", str(other)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 1
        assert (
            f"already in use: state file {tmp_path}/state.json (by pid {running.pid})"
            in done.stderr
        )
        assert ask(running)["main_pid"] == running.pid


@pytest.mark.parametrize(("before", "after"), [(1, 2), (3, 2)])
def test_another_number_of_workers(tmp_path: Path, before: int, after: int) -> None:
    with replaceable(tmp_path, before) as running, Accounts(running.port) as load:
        file = tmp_path / "proxy.yaml"
        file.write_text(file.read_text().replace(f"workers: {before}", f"workers: {after}"))
        os.kill(running.pid, signal.SIGUSR2)
        new = handed_over(running, running.pid)
        drained(running, running.pid)
        assert len(children(new)) == (after + 1 if after > 1 else 0)
        sent = load.sent
        until(lambda: load.sent > sent + 100, "requests")
        load.stop()
        load.check()


def test_addresses_come_and_go(tmp_path: Path) -> None:
    with replaceable(tmp_path, 1) as running, Accounts(running.port) as load:
        file, more, socket_path = tmp_path / "proxy.yaml", free_port(), tmp_path / "web.sock"
        text = file.read_text()
        line = f"listen: 127.0.0.1:{running.port}"
        file.write_text(
            text.replace(
                line, f"{line[:8]}[127.0.0.1:{running.port}, 127.0.0.1:{more}, unix:{socket_path}]"
            )
        )
        os.kill(running.pid, signal.SIGUSR2)
        new = handed_over(running, running.pid)
        drained(running, running.pid)
        assert answers(more)
        assert socket_path.is_socket()
        file.write_text(text)
        os.kill(new, signal.SIGUSR2)
        handed_over(running, new)
        drained(running, new)
        assert not answers(more)
        assert not socket_path.exists()
        load.stop()
        load.check()


def test_the_command_waits_for_the_new_process_or_says_why_not(tmp_path: Path) -> None:
    def upgrade(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "canaryproxy", "upgrade", *options],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    with replaceable(tmp_path, 2) as running:
        done = upgrade("--admin", str(running.socket))
        assert done.returncode == 0, done.stderr
        new = ask(running)["main_pid"]
        assert f"process {new} took over from process {running.pid}" in done.stdout
        drained(running, running.pid)
        file = tmp_path / "proxy.yaml"
        file.write_text(file.read_text() + "no_such_key: 1\n")
        done = upgrade("--admin", str(running.socket))
        assert done.returncode == 1
        assert "no_such_key" in done.stderr
        assert ask(running)["main_pid"] == new
        done = upgrade("--admin", "http://127.0.0.1:9")
        assert done.returncode == 3
        assert "admin socket" in done.stderr


def test_the_command_says_at_once_that_the_proxy_was_stopped(tmp_path: Path) -> None:
    with replaceable(tmp_path, 1) as running:
        before = set(children(running.pid))
        command = [sys.executable, "-m", "canaryproxy", "upgrade", "--admin", str(running.socket)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as waiting:
            until(lambda: set(children(running.pid)) - before, "the successor")
            for new in set(children(running.pid)) - before:
                until(partial(runs_a_program, new), "that it runs")  # else its parent waits
                os.kill(new, signal.SIGSTOP)
            os.kill(running.pid, signal.SIGTERM)
            assert running.wait() == 0
            _, said = waiting.communicate(timeout=DEADLINE)
        assert (waiting.returncode, "during the upgrade" in said) == (3, True) or (
            waiting.returncode == 1 and "the proxy is shutting down" in said
        ), said


def test_not_before_the_one_before_has_drained(tmp_path: Path) -> None:
    with replaceable(tmp_path, 1) as running:
        client = http.client.HTTPConnection("127.0.0.1", running.port, timeout=DEADLINE)
        client.request("GET", "/")
        client.getresponse().read()  # and it stays open, for the five seconds that it may
        os.kill(running.pid, signal.SIGUSR2)
        new = handed_over(running, running.pid)
        os.kill(new, signal.SIGUSR2)
        until(lambda: records(running, "upgrade_failed"), "the record")
        assert "the predecessor is still draining" in records(running, "upgrade_failed")[0]
        client.close()
        drained(running, running.pid)
