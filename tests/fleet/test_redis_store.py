"""The way to Redis: passwords and TLS, that they are asked for, and that nothing tells them."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from canaryproxy.config import Fleet
from canaryproxy.config.secrets import SecretError
from canaryproxy.fleet.redis_store import ExchangeRequest, RedisStore, StoreUnavailable
from tests.ports import free_port

from ..certificates import Authority
from ..system.processes import Proxy, answers, until, upstream, variants
from .server import needs_redis, redis_server

pytestmark = needs_redis

PASSWORD = "redispassword-93b1f0c2"
QUESTION = ExchangeRequest("s", "", "", "s:0:0", "s:0", 0, "", "1 0 1 0")


async def reached(settings: Fleet) -> bool:
    """Look at the store once. Raises ``StoreUnavailable``."""
    link = RedisStore(settings, "me:1")
    try:
        return (await link.exchange(QUESTION)).replicas == 1
    finally:
        await link.close()


async def test_a_password_is_read_from_where_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    monkeypatch.setenv("REDIS_PASSWORD", PASSWORD)
    monkeypatch.setenv("WRONG", "another")
    with redis_server(tmp_path, "--requirepass", PASSWORD) as server:
        whole = {"redis": server.url, "group": "g"}
        assert await reached(Fleet(**whole, password_file=str(tmp_path / "password")))  # type: ignore[arg-type]
        assert await reached(Fleet(**whole, password_env="REDIS_PASSWORD"))  # type: ignore[arg-type]
        for more in ({}, {"password_env": "WRONG"}):
            with pytest.raises(StoreUnavailable, match="Redis") as raised:
                await reached(Fleet(**whole, **more))  # type: ignore[arg-type]
            assert raised.value.refused
            assert "another" not in str(raised.value)
        with pytest.raises(SecretError, match="NOT_SET"):
            RedisStore(Fleet(**whole, password_env="NOT_SET"), "me")  # type: ignore[arg-type]


async def test_tls_is_verified(tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    pair, port = ours.pair(), free_port()
    options = (
        *("--tls-port", str(port), "--tls-auth-clients", "no"),
        *("--tls-cert-file", str(pair.cert), "--tls-key-file", str(pair.key)),
        *("--tls-ca-cert-file", str(ours.ca)),
    )
    with redis_server(tmp_path, *options):
        url = f"rediss://localhost:{port}/0"
        assert await reached(Fleet(redis=url, group="g", ca_file=str(ours.ca)))
        for ca in (str(theirs.ca), None):
            with pytest.raises(StoreUnavailable, match="cannot be reached"):
                await reached(Fleet(redis=url, group="g", ca_file=ca))


def test_the_password_is_in_nothing_that_the_proxy_says(tmp_path: Path) -> None:
    (tmp_path / "password").write_text(PASSWORD)
    with (
        redis_server(tmp_path, "--requirepass", "not-that-one") as server,
        upstream(tmp_path, "stable") as (_, v1),
        upstream(tmp_path, "canary") as (_, v2),
    ):
        more = (
            f"state: {tmp_path}/state.json\n"
            "release: {id: r1, steps: [{weight: 1}, {weight: 100}]}\n"
            f"fleet: {{redis: '{server.url}', group: g, password_file: {tmp_path}/password}}"
        )
        proxy = Proxy(tmp_path, variants([v1], [v2]), more, admin=free_port())
        try:
            until(lambda: answers(proxy.port) and proxy.socket.exists(), "the proxy")
            until(lambda: "password" in proxy.ask("GET", "/v1/release"), "a refusal")
            said = [proxy.ask("GET", path) for path in ("/v1/release", "/v1/history", "/metrics")]
            said += [
                proxy.ask("GET", "/v1/config"),
                proxy.ask("PUT", "/v1/weight", {"weight": 5}, allow=503),
            ]
            for command in (["status"], ["status", "--json"], ["history"]):
                words = [*command, "--admin", str(proxy.socket)]
                done = subprocess.run(
                    [sys.executable, "-m", "canaryproxy", *words],
                    capture_output=True,
                    text=True,
                    check=False,
                )
                said += [done.stdout, done.stderr]
            proxy.kill(signal.SIGTERM)
            assert proxy.wait() == 0
        finally:
            proxy.end()
        said += [proxy.log.read_text(), Path(tmp_path / "state.json").read_text()]
    assert not [text for text in said if PASSWORD in text]
    assert "rejects the user name or the password" in "".join(said)


def test_a_password_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        f"{variants([1], [2])}\nfleet: {{redis: 'redis://h', group: g, password_env: NOT_SET}}\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "canaryproxy", "run", "-c", str(path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "the environment variable NOT_SET is not set" in done.stderr
