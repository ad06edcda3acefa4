"""Secrets planted wherever the configuration takes one are in nothing that the proxy says of itself."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ports import free_port

from .processes import Process, answers, until, upstream, variants

TOKEN = "token-7f3a9c51d0e84b62a6c1"
HOOK_USER, HOOK_PASSWORD = "hookuser-5521", "hookpassword-88f1"
HOOK_PATH, HOOK_QUERY = "T00SLACKPATH77", "querysecret-31ab"
HOOK_KEY = "webhookkey-0123456789abcdef0123456789"
GATE_KEY = "gatekey-0123456789abcdef0123456789abc"
COOKIE_KEY = "cookiekey-0123456789abcdef0123456789"
REFUSED = "refusedpassword-4242"
SECRETS = (
    *(TOKEN, HOOK_USER, HOOK_PASSWORD, HOOK_PATH, HOOK_QUERY, HOOK_KEY),
    *(GATE_KEY, COOKIE_KEY, REFUSED),
)


def ask(target: Path | int, method: str, path: str, body: object = None) -> str:
    """Ask the admin API without a token; the whole answer."""
    connection = http.client.HTTPConnection("127.0.0.1", target if isinstance(target, int) else 80)
    if isinstance(target, Path):
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(target))
    headers = {} if body is None else {"Content-Type": "application/json"}
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    answer = connection.getresponse()
    text = f"{answer.status} {answer.headers}\n{answer.read().decode()}"
    connection.close()
    return text


def visit(port: int, users: list[str]) -> bool:
    """Send a request of each user, who come back with the cookies that they got."""
    for at, cookie in enumerate(users):
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("GET", "/", headers={"Cookie": cookie} if cookie else {})
        answer = connection.getresponse()
        answer.read()
        users[at] = answer.headers.get("Set-Cookie", cookie).partition(";")[0]
        connection.close()
    return True


def test_no_secret_is_in_what_the_proxy_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, secret in (("token", TOKEN), ("webhook", HOOK_KEY), ("cookie", COOKIE_KEY)):
        (tmp_path / name).write_text(secret)
    monkeypatch.setenv("GATE_KEY", GATE_KEY)
    port, admin, nobody = free_port(), free_port(), free_port()
    hook = f"http://{HOOK_USER}:{HOOK_PASSWORD}@127.0.0.1:{nobody}/{HOOK_PATH}?key={HOOK_QUERY}"
    gate = f"http://127.0.0.1:{nobody}/may-promote"
    path, unix = tmp_path / "c.yaml", tmp_path / "admin.sock"
    with upstream(tmp_path, "stable") as (_, v1), upstream(tmp_path, "canary") as (_, v2):
        text = f"""
listen: 127.0.0.1:{port}
admin: {{socket: {unix}, listen: 127.0.0.1:{admin}, token_file: {tmp_path}/token}}
{variants([v1], [v2])}
split: {{sticky: {{sign: {{key_file: {tmp_path}/cookie}}}}}}
release:
  id: r1
  steps: [{{weight: 50, bake: 100ms, min_requests: 1}}, {{weight: 100}}]
  gates: [{{webhook: "{gate}", timeout: 1s, secret_env: GATE_KEY}}]
judge: {{baseline: 0s, warmup: 0s, min_users: 0, metrics: {{errors: {{}}}}}}
notify: [{{webhook: "{hook}", timeout: 1s, secret_file: {tmp_path}/webhook}}]
access_log: {{path: {tmp_path}/access.log}}
state: {tmp_path}/state.json
"""
        path.write_text(text)
        checked = subprocess.run(
            [sys.executable, "-m", "canaryproxy", "check", "-c", str(path)],
            capture_output=True,
            text=True,
            check=True,
        )
        proxy = Process("-m", "canaryproxy", "run", "-c", str(path), folder=tmp_path)
        try:
            until(lambda: answers(port) and answers(admin), "the proxy")
            said = [checked.stdout, checked.stderr]
            users = [""] * 40  # so that both variants have some
            until(
                lambda: visit(port, users) and '"gate"' in ask(unix, "GET", "/v1/history"),
                "a gate that was asked",
            )
            said.append(ask(unix, "PUT", "/v1/weight", {"weight": 20}))
            said.append(ask(unix, "POST", "/v1/release/trip", {"cause": "try"}))
            said.append(ask(unix, "POST", "/v1/release/reset"))
            broken = text.replace(hook, f"ftp://u:{REFUSED}@h/")
            path.write_text(broken)
            proxy.kill(signal.SIGHUP)
            until(lambda: "reload_failed" in ask(unix, "GET", "/v1/history"), "the refusal")
            path.write_text(text)
            said.append(ask(unix, "POST", "/v1/reload"))
            until(lambda: "retrying notification" in proxy.log.read_text(), "a webhook that fails")
            for where in (unix, admin):
                said += [
                    ask(where, "GET", what)
                    for what in ("/v1/release", "/v1/history", "/v1/series", "/metrics", "/")
                ]
            said.append(ask(admin, "GET", "/v1/config"))
            for command in (["status"], ["status", "--json"], ["history"]):
                done = subprocess.run(
                    [sys.executable, "-m", "canaryproxy", *command, "--admin", str(unix)],
                    capture_output=True,
                    text=True,
                    check=True,
                )
                said += [done.stdout, done.stderr]
            said.append(Path(f"/proc/{proxy.pid}/cmdline").read_text())
            proxy.kill(signal.SIGTERM)
            assert proxy.wait() == 0
        finally:
            proxy.end()
        said += [(tmp_path / "state.json").read_text(), (tmp_path / "access.log").read_text()]
        said.append(proxy.log.read_text())
    assert [secret for secret in SECRETS if any(secret in text for text in said)] == []
    whole = "\n".join(said)  # it did speak of all this
    for word in ("tripped", "gate", f"127.0.0.1:{nobody}", "reload_failed", "key_file"):
        assert word in whole
