"""Endpoints by name: real look-ups of a DNS server here, real upstreams at several addresses."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.users import Users
from tests.name_server import NameServer
from tests.ports import free_port

from .processes import DEADLINE, Process, Proxy, proxy, until, upstream

pytestmark = pytest.mark.slow

ADDRESSES = [f"127.0.0.{number}" for number in range(2, 7)]
CART, SRV = ("cart.test.", "A"), ("_http._tcp.pods.test.", "SRV")


@contextlib.contextmanager
def pods(folder: Path, port: int) -> Iterator[dict[str, Process]]:
    """An upstream at each address, whose name is that."""
    with contextlib.ExitStack() as stack:
        yield {one: stack.enter_context(upstream(folder, one, port, one))[0] for one in ADDRESSES}


def rows(running: Proxy, variant: str) -> dict[str, bool]:
    """Return for each endpoint whether both workers use it."""
    endpoints = json.loads(running.ask("GET", "/v1/endpoints"))["endpoints"]
    return {
        one["url"]: one["up"] and one["workers"] == 2
        for one in endpoints
        if one["variant"] == variant
    }


def states(running: Proxy, variant: str) -> dict[str, str]:
    endpoints = json.loads(running.ask("GET", "/v1/endpoints"))["endpoints"]
    return {one["url"]: one["state"] for one in endpoints if one["variant"] == variant}


def gets_none(users: Users, addresses: list[str]) -> bool:
    """Wait for a hundred requests, and tell whether none of them went there."""

    def there() -> int:
        return sum(users.bodies[one.encode()] for one in addresses)

    before, sent = there(), users.sent
    until(lambda: users.sent > sent + 100, "requests")
    return there() == before


def test_a_name_is_all_its_addresses_and_follows_them_without_a_failed_request(
    tmp_path: Path,
) -> None:
    port = free_port()

    def used(addresses: list[str]) -> dict[str, bool]:
        return {f"http://cart.test:{port} ({one})": True for one in addresses}

    with NameServer() as names, pods(tmp_path, port) as running_pods:
        names.records[CART] = ADDRESSES[:3]
        settings = f'dns: {{interval: 100ms, servers: ["127.0.0.1:{names.port}"]}}'
        variants = (
            f'variants: {{stable: {{endpoints: ["http://cart.test:{port}"]}},'
            f' canary: {{endpoints: ["dns+srv://_http._tcp.pods.test"]}}}}'
        )
        more = (
            "workers: 2\nrescue: {budget: false}\nsplit: {weight: 50}\n"
            f"state: {tmp_path}/state.json\n{settings}"
        )
        with proxy(tmp_path, variants, more) as running:
            until(lambda: rows(running, "stable") == used(ADDRESSES[:3]), "rows")
            with Users(running.port, 4, pause=0.002) as users:
                # The canary's name does not exist yet: its users get stable's answers.
                until(lambda: all(users.bodies[one.encode()] for one in ADDRESSES[:3]), "stable")
                names.records[CART] = [ADDRESSES[4], *reversed(ADDRESSES[:4])]
                until(lambda: all(users.bodies[one.encode()] for one in ADDRESSES), "new pods")
                until(lambda: rows(running, "stable") == used(ADDRESSES), "more rows")
                names.records[CART] = ADDRESSES[3:]
                until(lambda: rows(running, "stable") == used(ADDRESSES[3:]), "fewer rows")
                until(lambda: gets_none(users, ADDRESSES[:3]), "that pods are left")
                for one in ADDRESSES[:3]:
                    running_pods[one].end()
                seen = users.bodies[ADDRESSES[4].encode()]
                until(lambda: users.bodies[ADDRESSES[4].encode()] > seen + 50, "the rest")
                # SRV: those of the best priority get the requests, at their ports.
                names.records[SRV] = [f"10 1 {port} a.pods.test.", f"20 1 {port} b.pods.test."]
                names.records["a.pods.test.", "A"] = [ADDRESSES[3]]
                names.records["b.pods.test.", "A"] = [ADDRESSES[4]]
                first, other = (f"http://pods.test:{port} ({one})" for one in ADDRESSES[3:])
                until(
                    lambda: states(running, "canary") == {first: "up", other: "standby"}, "canary"
                )
                names.fails = True
                asked = names.asked
                until(lambda: names.asked > asked + 20, "look-ups that fail")
                sent = users.sent
                until(lambda: users.sent > sent + 100, "requests meanwhile")
            assert users.seen == {200: users.sent}
            assert rows(running, "stable") == used(ADDRESSES[3:])
            # What is said of the failures: status, the table and metrics.
            name = f"http://cart.test:{port}"
            for path in ("/v1/release", "/v1/endpoints"):
                cart, srv = json.loads(running.ask("GET", path))["unresolved"]
                assert cart.startswith(f"{name} has not been resolved for ")
                assert cart.endswith("; 2 addresses of its last answer in use")
                assert srv.startswith("http+srv://_http._tcp.pods.test has not ")
            metrics = running.metrics()
            assert metrics[f'canaryproxy_name_addresses{{name="{name}"}}'] == 2
            assert metrics[f'canaryproxy_name_lookup_failures_total{{name="{name}"}}'] >= 1
            assert metrics[f'canaryproxy_name_answer_age_seconds{{name="{name}"}}'] > 0
            names.fails = False
            until(lambda: not json.loads(running.ask("GET", "/v1/release"))["unresolved"], "again")
            log = running.log.read_text()
            assert log.count(f"http://cart.test:{port} cannot be resolved: ") == 1
            assert "2 addresses of its last answer in use" in log


def test_a_proxy_starts_without_an_answer_and_serves_soon_after_the_first(tmp_path: Path) -> None:
    port = free_port()
    variants = f'variants: {{stable: {{endpoints: ["http://cart.test:{port}"]}}}}'
    with NameServer() as names, upstream(tmp_path, "pod", port, ADDRESSES[0]):
        more = (
            f'dns: {{interval: 60s, servers: ["127.0.0.1:{names.port}"]}}\n'
            "limits: {connect_timeout: 30s}\n"
            f"state: {tmp_path}/state.json"
        )
        with proxy(tmp_path, variants, more) as running:
            with Users(running.port, 1) as users:
                until(lambda: users.sent > 10, "requests")
            assert users.seen.keys() <= {502, 503}
            check = [
                sys.executable,
                "-m",
                "canaryproxy",
                "check",
                "-c",
                str(tmp_path / "proxy.yaml"),
            ]
            done = subprocess.run(
                check, capture_output=True, text=True, timeout=DEADLINE, check=True
            )
            assert f"warning: http://cart.test:{port} does not resolve here: " in done.stderr
            names.records[CART] = ADDRESSES[:1]
            with Users(running.port, 1) as users:
                until(lambda: users.bodies[b"pod"] > 5, "the first answer")
            done = subprocess.run(
                check, capture_output=True, text=True, timeout=DEADLINE, check=True
            )
            assert f"http://cart.test:{port}: {ADDRESSES[0]}\n" in done.stdout
