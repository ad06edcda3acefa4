"""Each import is valid, says what it has no equivalent for, and splits as the original says.

nginx and Envoy check their own sources. Objects of Kubernetes are not checked: that needs the definitions of
a cluster.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path

import aiohttp
import mmh3
import pytest
import yaml
from aiohttp import web
from aiohttp.test_utils import TestServer

from canaryproxy import config
from tests.importing.cases import CASES, SOURCES, Case, expected, imported
from tests.ports import free_port
from tests.system.processes import Process

USERS = 200


def by_file(case: Case) -> str:
    return case.file


@pytest.mark.parametrize("case", CASES, ids=by_file)
def test_import_is_the_expected_one_and_valid(case: Case) -> None:
    done = imported(case)
    assert done.kind == case.kind
    assert done.text == expected(case).read_text(), "python -m tests.importing.cases"
    found = config.parse(done.text, file=case.file)
    if case.steps:
        assert found.release is not None
        assert tuple(step.weight for step in found.release.steps) == case.steps
    else:
        assert (found.release, found.split.weight) == (None, case.weight)


@pytest.mark.parametrize("case", CASES, ids=by_file)
def test_every_line_says_where_it_is_from(case: Case) -> None:
    lines = expected(case).read_text().splitlines()
    values = [one for one in lines if not one.startswith("#") and not one.rstrip().endswith(":")]
    assert values
    for line in values:
        _, _, origin = line.rpartition("  # ")
        file, number, _ = origin.split(":", 2)
        path = (SOURCES / case.file).parent / file
        assert 1 <= int(number) <= len(path.read_text().splitlines()), line


@pytest.mark.parametrize("case", [one for one in CASES if one.kind == "nginx"], ids=by_file)
def test_nginx_takes_the_source(case: Case, tmp_path: Path) -> None:
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not installed")
    path = SOURCES / case.file
    if "http {" not in path.read_text():
        path = tmp_path / "nginx.conf"
        path.write_text(f"events {{}}\nhttp {{ include {SOURCES / case.file}; }}\n")
    done = subprocess.run(
        ["nginx", "-t", "-c", path, "-p", tmp_path, "-g", f"pid {tmp_path}/pid; error_log {tmp_path}/log;"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("case", [one for one in CASES if one.kind == "envoy"], ids=by_file)
def test_envoy_takes_the_source(case: Case) -> None:
    envoy = Path(sys.executable).with_name("envoy")
    if not envoy.exists():
        pytest.skip("envoy is not installed")
    done = subprocess.run(
        [envoy, "--mode", "validate", "-c", SOURCES / case.file, "-l", "error"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def localised(text: str, folder: Path, port: int, upstreams: dict[str, int]) -> str:
    """Return an import with local addresses; the judge needs no traffic before the first step."""
    tree = yaml.safe_load(text)
    tree["listen"] = f"127.0.0.1:{port}"
    tree["admin"] = {"socket": f"{folder}/admin.sock"}
    tree["state"] = f"{folder}/state.json"
    tree.setdefault("judge", {})["baseline"] = "0s"
    for name, upstream in upstreams.items():
        tree["variants"][name]["endpoints"] = [f"http://127.0.0.1:{upstream}"]
    return json.dumps(tree)


def service(variant: str) -> web.Application:
    """Return a service that says which version it is."""

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(text=variant)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    return app


def user(case: Case, number: int) -> tuple[str, dict[str, str]]:
    """Return the sticky key of a user, and the header that carries it."""
    if case.key == "address":
        address = f"10.1.{number // 250}.{number % 250 + 1}"
        return address, {"X-Forwarded-For": address}
    return f"user-{number}", {"Cookie": f"{case.key}=user-{number}"}


@pytest.mark.parametrize("case", CASES, ids=by_file)
async def test_proxy_splits_as_the_source_says(case: Case, tmp_path: Path) -> None:
    port = free_port()
    async with TestServer(service("stable")) as stable, TestServer(service("canary")) as canary:
        assert stable.port
        assert canary.port
        file = tmp_path / "canaryproxy.yaml"
        ports = {"stable": stable.port, "canary": canary.port}
        file.write_text(localised(expected(case).read_text(), tmp_path, port, ports))
        process = Process("-m", "canaryproxy", "run", "-c", str(file), folder=tmp_path)
        try:
            await at_weight(case.weight, tmp_path, process)
            await check(case, port)
        finally:
            process.end()


async def at_weight(weight: float, folder: Path, process: Process) -> None:
    """Wait until the proxy runs at a weight."""
    connector = aiohttp.UnixConnector(f"{folder}/admin.sock")
    async with asyncio.timeout(60), aiohttp.ClientSession(connector=connector) as session:
        while True:
            assert process.child.poll() is None, process.log.read_text()
            try:
                async with session.get("http://localhost/v1/release") as answer:
                    if (await answer.json())["weight"] == weight:
                        return
            except (aiohttp.ClientError, OSError):
                pass
            await asyncio.sleep(0.02)


async def check(case: Case, port: int) -> None:
    """Compare the version of each user and of each forced request with the source."""

    async def version(request: str, headers: dict[str, str]) -> str:
        method, path = request.split()
        url = f"http://127.0.0.1:{port}{path}"
        async with session.request(method, url, headers=headers) as answer:
            assert answer.status == 200
            return await answer.text()

    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        on_canary = 0
        for number in range(USERS):
            key, headers = user(case, number)
            bucket = mmh3.hash(case.salt + key, signed=False) % 10_000
            drawn = "canary" if bucket < round(case.weight * 100) else "stable"
            assert await version(f"GET {case.path}", headers) == drawn, key
            on_canary += drawn == "canary"
        assert abs(on_canary / USERS * 100 - case.weight) <= 10
        users = [user(case, number) for number in range(20)]
        for request, headers, wanted in case.forced:
            found = set()
            for _, identity in users:
                both = {**identity, **headers}
                if "Cookie" in headers and "Cookie" in identity:
                    both["Cookie"] = f"{headers['Cookie']}; {identity['Cookie']}"
                found.add(await version(request, both))
            if wanted:
                assert found == {wanted}, (request, headers)
            else:  # split like any other request
                assert "stable" in found, (request, headers)
