"""What a command imports is most of its start and of its memory. These bounds need no clock."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import json, sys
sys.argv = ["canaryproxy", *{arguments!r}]
try:
    from canaryproxy.cli import main
    main(prog_name="canaryproxy")
finally:
    print("\\n" + json.dumps(sorted(sys.modules)))
"""
SERVES = {"aiohttp", "asyncio", "canaryproxy.runtime", "prometheus_client", "uvloop"}
OPTIONAL = {"cryptography", "dns", "re2", "redis", "watchfiles"}
SCREEN = {"rich", "canaryproxy.client"}
UNUSED = {
    "aiohttp.client",
    "aiohttp.connector",
    "difflib",
    "frozenlist._frozenlist",
    "http.server",
    "importlib.metadata",
    "importlib.resources",
    "wsgiref",
    "yaml._yaml",
    "yaml.dumper",
}
"""What packages import for functions that the proxy does not call."""


def modules(program: str) -> set[str]:
    """Run a program that prints its modules last."""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def loaded_by(*arguments: str) -> set[str]:
    return modules(PROGRAM.format(arguments=arguments))


def among(names: set[str], found: set[str]) -> set[str]:
    return {one for one in found for name in names if one == name or one.startswith(f"{name}.")}


def test_help_imports_no_more_than_click() -> None:
    found = loaded_by("--help")
    assert (
        among({*SERVES, *OPTIONAL, *SCREEN, "pydantic", "yaml", "canaryproxy.config"}, found)
        == set()
    )
    assert len(found) <= 130  # 114 with click 8.4 on Python 3.11


@pytest.mark.parametrize("command", ["run", "check", "status", "start"])
def test_a_commands_help_imports_nothing_that_serves(command: str) -> None:
    found = loaded_by(command, "--help")
    assert among({"canaryproxy.proxy", "canaryproxy.admin", "uvloop", *OPTIONAL}, found) == set()


def test_check_imports_the_configuration_and_nothing_that_serves() -> None:
    found = loaded_by("check", "-c", "config/example.yaml")
    assert among({*SERVES, *OPTIONAL, *SCREEN}, found) == set()
    assert len(found) <= 290  # 268 on Python 3.11


def test_the_proxy_imports_neither_screens_nor_what_its_configuration_does_not_need() -> None:
    program = """
import json, sys
from canaryproxy.runtime import imports
imports.prepare()
import canaryproxy.cli.serve
print(json.dumps(sorted(sys.modules)))
"""
    found = modules(program)
    assert among({*OPTIONAL, *SCREEN, *UNUSED, "canaryproxy.demo"}, found) == set()
    foreign = [name for name in found if not name.startswith("canaryproxy")]
    assert len(foreign) <= 430  # 418 on Python 3.11


def test_the_health_check_imports_only_the_standard_library() -> None:
    program = "import json, sys; import canaryproxy.health; print(json.dumps(sorted(sys.modules)))"
    found = modules(program)
    assert among({"click", "pydantic", "aiohttp"}, found) == set()
    assert among({"canaryproxy"}, found) == {"canaryproxy", "canaryproxy.health"}


def test_aiohttp_loads_no_certificate_authorities_in_the_proxy() -> None:
    program = """
import json, os, sys
from canaryproxy.runtime import imports
before = dict(os.environ)
imports.prepare()
import aiohttp
assert "aiohttp.connector" not in sys.modules
assert aiohttp.TCPConnector is aiohttp.connector.TCPConnector
assert dict(os.environ) == before
print(json.dumps([str(len(aiohttp.connector._SSL_CONTEXT_VERIFIED.get_ca_certs()))]))
"""
    assert modules(program) == {"0"}
