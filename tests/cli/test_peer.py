"""A wrong address: nothing is sent to what is not our admin API, and nothing is reported as done."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from canaryproxy import API_HEADER
from canaryproxy.cli import main
from canaryproxy.client import api
from canaryproxy.client.effect import shows
from canaryproxy.config.units import weight
from tests.certificates import Authority
from tests.cli import peers
from tests.cli.fake import Done, Fake, document

TOKEN = "secret-secret-secret"
COMMANDS = [
    "status", "status --json", "status --watch", "history", "history --follow",
    "wait --for promoted", "wait --for tripped", "start", "pause", "resume", "weight 50 --yes",
    "promote --yes", "abort --yes", "accept errors --reason x --yes", "trip", "reset", "drill --yes",
    "reload",
]  # fmt: skip


async def run(arguments: str, *, admin: str, token: str | None = TOKEN) -> Done:
    """Run a command in this process, against an address."""
    env = {"CANARYPROXY_ADMIN": admin, "CANARYPROXY_TOKEN": token, "CANARYPROXY_CONFIG": None}
    done = await asyncio.to_thread(
        CliRunner().invoke, main, arguments, prog_name="canaryproxy", env=env
    )
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return Done(done.exit_code, done.stdout, done.stderr)


async def refused(arguments: str, admin: str) -> str:
    """Return the one sentence of a command that ends with status 3 and has done nothing."""
    done = await run(arguments, admin=admin)
    assert (done.status, done.out) == (3, ""), (arguments, done)
    (said,) = done.err.splitlines()
    assert said.startswith("canaryproxy: ")
    assert admin in said
    return said


async def all_refused(admin: str, said: str) -> None:
    for arguments in COMMANDS:
        assert said in await refused(arguments, admin), arguments


async def test_a_service_that_says_yes_to_everything_is_sent_nothing() -> None:
    async with peers.echo() as peer:
        await all_refused(peer.address, "is not a canaryproxy admin address (it responds with 200")
        assert len(peer.received) == len(COMMANDS)
    assert peer.wrongly == []


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
async def test_nginx_is_sent_nothing(tmp_path: Path) -> None:
    Authority(tmp_path).pair(file="a")
    async with peers.nginx(tmp_path) as (peer, tls):
        await all_refused(peer.address, "(it responds with 200 as nginx/")
        assert "(it responds with 400 as nginx/" in await refused("trip", tls.address)
        encrypted = peer.address.replace("http", "https")
        assert "speaks plain HTTP, not TLS. Use http://" in await refused("trip", encrypted)
    assert len(peer.received) >= len(COMMANDS)
    assert peer.wrongly == []


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")
async def test_prometheus_is_sent_nothing(tmp_path: Path) -> None:
    async with peers.prometheus(tmp_path) as peer:
        await all_refused(peer.address, "is not a canaryproxy admin address (it responds with 404)")


async def test_the_proxys_own_traffic_port_is_named_and_its_service_sent_nothing(
    tmp_path: Path,
) -> None:
    async with peers.traffic_port(tmp_path, sys.executable) as peer:
        said = "is a canaryproxy traffic port, not an admin address (it forwards requests). Nothing"
        await all_refused(peer.address, said)
        assert len(peer.received) == len(COMMANDS)
    assert peer.wrongly == []


@pytest.mark.parametrize(
    ("headers", "version"), [({"Server": "canaryproxy"}, "0"), ({API_HEADER: "2"}, "2")]
)
async def test_another_version_of_ourselves_is_named(headers: dict[str, str], version: str) -> None:
    async with peers.echo(headers=headers) as peer:
        await all_refused(peer.address, f"has version {version} of the admin API")
    assert peer.wrongly == []


async def test_plain_http_to_a_tls_port_is_told(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with peers.echo(tls=authority.server(authority.pair())) as peer:
        for arguments in ("status", "trip"):
            said = await refused(arguments, peer.address)
            assert "speaks TLS, not plain HTTP. Use https://" in said
        said = await refused("trip", peer.address.replace("http", "https"))
        assert "its certificate is not trusted: unable to get local issuer certificate" in said
        assert "SSL_CERT_FILE" in said
    assert peer.received == []


async def test_tls_to_a_plain_port_is_told() -> None:
    async with peers.echo() as peer:
        said = await refused("trip", peer.address.replace("http", "https"))
        assert "speaks plain HTTP, not TLS. Use http://" in said
    assert peer.received == []


async def test_what_is_not_http_is_told() -> None:
    async def ssh(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2p1\r\n")
        writer.close()

    async with peers.raw(ssh) as peer:
        said = await refused("trip", peer.address)
        assert "is not a canaryproxy admin address (it does not speak HTTP)" in said


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to be another user")
async def test_a_socket_of_another_user_is_named_with_its_owner(fake: Fake) -> None:
    fake.path.chmod(0o600)
    program = (
        "import os, sys, aiohttp.client, getpass, canaryproxy.cli.operate\n"
        "os.environ['LOGNAME'] = 'nobody'\n"
        "os.setresuid(65534, 65534, 65534)\n"
        "canaryproxy.cli.main(['trip', '--admin', sys.argv[1]], prog_name='canaryproxy')"
    )
    here = str(fake.path.parent.parent)
    for folder in (fake.path.parent, fake.path.parent.parent):
        folder.chmod(0o755)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(fake.path), stderr=asyncio.subprocess.PIPE, cwd=here
    )  # fmt: skip
    assert process.stderr is not None
    said = (await process.stderr.read()).decode()
    assert await process.wait() == 3
    assert said.startswith(f"canaryproxy: permission denied: {fake.path} belongs to ")
    assert "you are nobody. Use sudo, or --admin http://HOST:PORT with a token" in said
    assert fake.requests == []


async def test_a_hung_proxy_is_not_to_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "TIMEOUT", 0.2)

    async def hangs(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with peers.raw(hangs) as peer:
        said = await refused("trip", peer.address)
        assert "accepted the connection but did not respond" in said
        assert "Do not start a second one" in said


async def test_the_token_goes_to_a_known_peer_with_changes_only(fake: Fake) -> None:
    async with peers.echo() as stranger:
        ours = str(fake.path)
        await run("pause", admin=ours)
        assert [one.method for one in fake.requests] == ["GET", "GET", "POST"]
        assert stranger.received == []


async def test_what_was_accepted_and_not_done_is_not_done(fake: Fake) -> None:
    fake.obeys = False
    for arguments in ("pause", "trip", "abort --yes", "promote --yes", "weight 50 --yes"):
        done = await run(arguments, admin=str(fake.path))
        assert done.status == 1, arguments
        assert "Done" not in done.out
        name = arguments.split()[0]
        assert done.err == (
            f"canaryproxy: {name} was accepted, but the release does not show it:"
            " now cart-2.4 is running at 5% (step 2 of 5)\n"
        )


async def test_a_change_without_a_response_is_neither_done_nor_undone(fake: Fake) -> None:
    fake.silent = True
    done = await run("trip", admin=str(fake.path))
    assert done.status == 3
    assert "Done" not in done.out
    (said,) = done.err.splitlines()
    assert "did not respond to trip (the connection was closed), which may or may not" in said
    assert said.endswith("now cart-2.4 is tripped (step 2 of 5), all users on stable")


@pytest.mark.parametrize("state", [None, "unknown", 5, "nirvana"])
async def test_an_unknown_state_is_an_error(fake: Fake, state: object) -> None:
    fake.document = document(state=state)
    for arguments in ("status", "status --json", "wait --for ended", "trip"):
        assert "it returns no known" in await refused(arguments, str(fake.path))
    assert fake.changes == []


@pytest.mark.parametrize(
    ("operation", "after", "done"),
    [
        ("trip", {"state": "tripped", "weight": 0.0, "circuit": {"state": "open"}}, True),
        ("trip", {"state": "tripped", "weight": 5.0, "circuit": {"state": "open"}}, False),
        ("trip", {"state": "running", "weight": 0.0, "circuit": {"state": "closed"}}, False),
        ("trip", {}, False),
        ("reset", {"state": "running", "circuit": {"state": "closed"}}, True),
        ("reset", {"state": "probing", "circuit": {"state": "half_open"}}, False),
        ("reset", {"state": "tripped", "circuit": {"state": "open"}}, False),
        ("weight", {"state": "paused", "weight": 7.0}, True),
        ("weight", {"state": "paused", "weight": 5.0}, False),
        ("resume", {"state": "promoted"}, True),
        ("resume", {"state": "paused"}, False),
        ("start", {"state": "aborted"}, False),
        ("abort", {"state": "tripped"}, False),
        ("promote", {"state": "promoted"}, True),
    ],
)
def test_an_operation_shows_in_the_document_or_was_not_done(
    operation: str, after: dict[str, object], done: bool
) -> None:
    assert shows(operation, {"weight": weight(7.0)}, after) is done
