"""Several workers: one set of counts, one table, and whatever dies is replaced."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvloop

from .processes import Proxy, proxy, serving, until, upstream, variants
from .test_control import Admin, Sender, configure

WORKERS = 3


def pids(running: Proxy) -> list[int]:
    """Return the living children of the proxy: the steering process and the workers, in the order of age."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = entry.read_text().rpartition(")")[2].split()
            if int(fields[1]) == running.pid and fields[0] != "Z":
                found.append((int(fields[19]), int(entry.parent.name)))
    return [pid for _, pid in sorted(found)]


def _document(running: Proxy) -> Any:
    connection = http.client.HTTPConnection("admin")
    connection.sock = socket.socket(socket.AF_UNIX)
    try:
        connection.sock.connect(str(running.socket))
        connection.request("GET", "/v1/release")
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


@contextlib.contextmanager
def all_workers(folder: Path, more: str = "") -> Iterator[Proxy]:
    with serving(folder, WORKERS, f"split: {{weight: 30}}\n{more}") as running:
        until(lambda: len(pids(running)) == WORKERS + 1, "all processes")
        yield running


def total(running: Proxy, name: str = "canaryproxy_requests_total") -> float:
    return sum(value for key, value in running.metrics().items() if key.startswith(name))


def test_counts_are_the_sum_over_workers_and_users_stay(tmp_path: Path) -> None:
    with all_workers(tmp_path) as running:
        sender = Sender(running.port, connections=24)
        uvloop.run(sender.during(lambda: sender.more(20_000)))
        assert {status for _, _, _, status, _ in sender.seen} == {200}
        assert total(running) == len(sender.seen)
        seen: dict[bytes, set[bytes]] = {}
        for _, _, user, _, variant in sender.seen:
            seen.setdefault(user, set()).add(variant)
        assert all(len(who) == 1 for who in seen.values())
        share = sum(who == {b"canary"} for who in seen.values()) / len(seen)
        assert 0.25 < share < 0.35


def test_a_weight_and_a_trip_reach_every_worker_before_its_next_request(tmp_path: Path) -> None:
    with all_workers(tmp_path) as running:
        sender = Sender(running.port, connections=24)
        certain = {}
        """From the acknowledgement of a change to the beginning of the next: the only variant there is."""

        async def story() -> None:
            async with Admin(running) as admin:
                await sender.more(2000)
                for method, path, body, variant in (
                    ("PUT", "/v1/weight", {"weight": 100}, b"canary"),
                    ("PUT", "/v1/weight", {"weight": 0}, b"stable"),
                    ("PUT", "/v1/weight", {"weight": 100}, b"canary"),
                    ("POST", "/v1/release/trip", None, b"stable"),
                ):
                    assert (await admin.ask(method, path, body))[0] == 200
                    begin = time.monotonic()
                    await sender.more(3000)
                    certain[begin, time.monotonic()] = variant

        uvloop.run(sender.during(story))
        assert {status for _, _, _, status, _ in sender.seen} == {200}
        for (begin, end), expected in certain.items():
            found = {
                v for sent, received, _, _, v in sender.seen if begin < sent and received < end
            }
            assert found == {expected}


def test_killed_workers_are_replaced_and_their_counts_stay(tmp_path: Path) -> None:
    with all_workers(tmp_path) as running:
        sender = Sender(running.port, connections=24)
        uvloop.run(sender.during(lambda: sender.more(5000)))
        before = total(running)
        assert before == len(sender.seen)
        children = pids(running)
        workers = [pid for pid in children if pid != _document(running)["pid"]]
        assert len(workers) == WORKERS
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        until(
            lambda: len(pids(running)) == WORKERS + 1 and not set(workers) & set(pids(running)),
            "other workers",
        )
        again = Sender(running.port, connections=24)
        uvloop.run(again.during(lambda: again.more(5000)))
        assert {status for _, _, _, status, _ in again.seen} == {200}
        assert total(running) == before + len(again.seen)
        assert total(running, "canaryproxy_inflight_requests") == 0
        assert total(running, "canaryproxy_open_connections") == 0


def test_a_worker_killed_with_requests_in_flight_settles_its_accounts(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(64)
        port = silent.getsockname()[1]
        text = f"workers: {WORKERS}\nstate: {tmp_path}/state.json"
        with proxy(tmp_path, variants([port]), text) as running, contextlib.ExitStack() as open_:
            until(lambda: len(pids(running)) == WORKERS + 1, "all processes")
            for _ in range(30):
                client = open_.enter_context(socket.create_connection(("127.0.0.1", running.port)))
                client.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            until(lambda: total(running, "canaryproxy_inflight_requests") == 30, "requests")
            keep = _document(running)["pid"]
            for pid in pids(running):
                if pid != keep:
                    os.kill(pid, signal.SIGKILL)
            until(lambda: total(running, "canaryproxy_inflight_requests") == 0, "settled accounts")
            assert total(running, "canaryproxy_client_closed_total") == 30
            until(lambda: len(pids(running)) == WORKERS + 1, "other workers")


def test_traffic_goes_on_by_the_last_table_while_nobody_steers(tmp_path: Path) -> None:
    """The steering process is killed again and again; no request fails and no user moves."""
    with all_workers(tmp_path) as running:
        sender = Sender(running.port, connections=24)

        async def story() -> None:
            for _ in range(3):
                old = (await asyncio.to_thread(_document, running))["pid"]
                os.kill(old, signal.SIGKILL)
                await sender.more(2000)
                await asyncio.to_thread(_until_another, running, old)

        uvloop.run(sender.during(story))
        assert {status for _, _, _, status, _ in sender.seen} == {200}
        seen: dict[bytes, set[bytes]] = {}
        for _, _, user, _, variant in sender.seen:
            seen.setdefault(user, set()).add(variant)
        assert all(len(who) == 1 for who in seen.values())
        assert total(running) == len(sender.seen)
        assert _document(running)["weight"] == 30


def _until_another(running: Proxy, old: int) -> None:
    until(lambda: _answers(running, old), "another steering process")


def _answers(running: Proxy, old: int) -> bool:
    try:
        return bool(_document(running)["pid"] != old)
    except (OSError, http.client.HTTPException):
        return False


def test_a_trip_survives_a_steering_process_that_dies_before_it_is_on_the_disk(
    tmp_path: Path,
) -> None:
    with all_workers(tmp_path) as running:
        state = tmp_path / "state.json"
        until(lambda: _document(running)["state"] == "idle", "state")
        assert _document(running)["circuit"]["state"] == "closed"
        state.unlink(missing_ok=True)
        state.mkdir()  # nothing can be saved
        (state / "x").write_text("")

        async def trip() -> int:
            async with Admin(running) as admin:
                return (await admin.ask("POST", "/v1/release/trip"))[0]

        assert uvloop.run(trip()) == 507
        (state / "x").unlink()
        state.rmdir()
        old = _document(running)["pid"]
        os.kill(old, signal.SIGKILL)
        _until_another(running, old)
        document = _document(running)
        assert document["circuit"]["state"] == "open"
        assert document["weight"] == 0
        sender = Sender(running.port)
        uvloop.run(sender.during(lambda: sender.more(500)))
        assert {variant for *_, variant in sender.seen} == {b"stable"}


def test_a_reload_reaches_all_workers_and_those_that_come_later(tmp_path: Path) -> None:
    with (
        upstream(tmp_path, "stable") as (_, v1),
        upstream(tmp_path, "canary") as (_, v2),
        proxy(
            tmp_path,
            variants([v1], [v2]),
            f"workers: {WORKERS}\nstate: {tmp_path}/state.json\nsplit: {{weight: 0}}",
        ) as running,
    ):
        until(lambda: len(pids(running)) == WORKERS + 1, "all processes")
        rule = "split: {weight: 0, match: [{variant: canary, path: {equals: /}}]}"
        text = f"workers: {WORKERS}\n{variants([v1], [v2])}\n{rule}\nstate: {tmp_path}/state.json"
        configure(running, tmp_path, text)

        async def reload() -> Any:
            async with Admin(running) as admin:
                return await admin.ask("POST", "/v1/reload")

        assert uvloop.run(reload())[0] == 200

        def all_on_canary() -> None:
            sender = Sender(running.port, connections=24)
            uvloop.run(sender.during(lambda: sender.more(1000)))
            assert {variant for *_, variant in sender.seen} == {b"canary"}

        all_on_canary()
        children = set(pids(running))
        for pid in children:
            os.kill(pid, signal.SIGKILL)
        until(
            lambda: len(pids(running)) == WORKERS + 1 and not children & set(pids(running)),
            "other processes",
        )
        _until_another(running, 0)
        all_on_canary()
        document = _document(running)
        assert document["config"]["error"] is None
        assert uvloop.run(reload())[1]["changed"] == []


def test_sigterm_drains_every_process(tmp_path: Path) -> None:
    with all_workers(tmp_path) as running:
        children = pids(running)
        sender = Sender(running.port, connections=6, may_close=True)

        async def story() -> None:
            await sender.more(1000)
            running.kill(signal.SIGTERM)

        uvloop.run(sender.during(story))
        assert {status for _, _, _, status, _ in sender.seen} == {200}
        assert running.wait() == 0
        assert not any(Path(f"/proc/{pid}").exists() for pid in children)
        assert not running.socket.exists()


def test_children_of_a_killed_parent_do_not_stay(tmp_path: Path) -> None:
    with all_workers(tmp_path) as running:
        children = pids(running)
        running.kill()
        running.wait()
        until(lambda: not any(_lives(pid) for pid in children), "the end of the children")


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
