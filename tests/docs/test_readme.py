"""The README's commands do what it says: each one is run, or is a make target that exists."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from canaryproxy import config
from tests.ports import named_ports

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DEADLINE = 300.0


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


COMMANDS = [line for block in blocks("sh") for line in block.splitlines()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkout as the README's reader has it, with the installed command in ``.venv/bin``."""
    (tmp_path / "config").symlink_to(ROOT / "config")
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for name, arguments in (("canaryproxy", " -m canaryproxy"), ("python", "")):
        command = tmp_path / ".venv" / "bin" / name
        command.write_text(f'#!/bin/sh\nexec {sys.executable}{arguments} "$@"\n')
        command.chmod(0o755)
    return tmp_path


@pytest.fixture
def services(folder: Path) -> Iterator[None]:
    """The two services as the README starts them in the background."""
    lines = [line.removesuffix(" &") for line in COMMANDS if line.endswith(" &")]
    assert len(lines) == 2
    with ExitStack() as stack:
        stack.enter_context(named_ports(8080, *(int(line.split()[-1]) for line in lines)))
        for line in lines:
            service = subprocess.Popen(shlex.split(line), cwd=folder, env=ENVIRONMENT)
            stack.callback(service.wait)
            stack.callback(service.kill)
            until_listening(int(line.split()[-1]))
        yield


def until_listening(port: int) -> None:
    deadline = time.monotonic() + DEADLINE
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def proxy(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The proxy as the README starts it."""
    line = next(line for line in COMMANDS if " run " in line)
    with subprocess.Popen(shlex.split(line), cwd=folder, env=ENVIRONMENT) as process:
        deadline = time.monotonic() + DEADLINE
        while not (folder / "run" / "admin.sock").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def run(line: str, folder: Path) -> str:
    done = subprocess.run(
        shlex.split(line),
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize("target", ["demo", "dashboard"])
def test_a_newcomer_waits_for_nothing_that_only_tests_need(tmp_path: Path, target: str) -> None:
    for name in ("Makefile", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    steps = run(f"make --dry-run {target}", tmp_path)
    assert "--editable '.'" in steps
    assert "[test" not in steps
    assert f"canaryproxy demo{' --dashboard' if target == 'dashboard' else ''}" in steps
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / ".installed").touch()
    assert "pip" not in run(f"make --dry-run {target}", tmp_path)


def test_every_command_is_known_to_these_tests() -> None:
    for line in COMMANDS:
        assert re.match(
            r"make [a-z-]+$"
            r"|python3 -m venv \.venv$|\.venv/bin/pip install \.$"
            r"|\.venv/bin/canaryproxy (check|run|schema|plan|judge)\b"
            r"|\.venv/bin/python -m canaryproxy\.demo\.service (stable 9001|canary 9002) &$"
            r"|\.venv/bin/canaryproxy (status|weight|trip|reset|history|reload)\b"
            r"|curl ",
            line,
        ), line


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("make ")])
def test_make_targets_exist(line: str) -> None:
    target = line.split()[1]
    made = subprocess.run(
        ["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert made.stdout
    assert f"{target}:" in (ROOT / "Makefile").read_text()


def test_the_gate_is_the_readmes_test_command() -> None:
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == "make test"
    assert "make test" in COMMANDS


@pytest.mark.parametrize(
    "line", [line for line in COMMANDS if re.search(r" (check|schema|plan|judge)\b", line)]
)
def test_commands_that_end_by_themselves(line: str, folder: Path) -> None:
    assert run(line, folder)


@pytest.mark.usefixtures("services", "proxy")
def test_the_proxy_answers_as_the_readme_asks(folder: Path) -> None:
    steering = r"curl |\.venv/bin/canaryproxy (status|weight|trip|reset|history|reload)\b"
    answers = {line: run(line, folder) for line in COMMANDS if re.match(steering, line)}

    def of(part: str) -> str:
        return next(answer for line, answer in answers.items() if part in line)

    assert of("curl -i").startswith("HTTP/1.1 200")
    assert "canaryproxy_requests_total" in of("/metrics")
    assert of("/readyz") == "ok\n"
    assert re.search(r"\b5 ?%", of("canaryproxy status"))
    assert "10" in of("canaryproxy weight 10")
    for command in ("trip", "reset", "reload"):
        assert of(f"canaryproxy {command}")
    assert "checkout looks wrong" in of("canaryproxy history")
    assert json.loads(of("http://x/v1/weight"))["weight"] == 5.0
    assert json.loads(of("http://x/v1/release"))["state"] == "idle"


def test_the_configuration_shown_is_the_one_shipped() -> None:
    shown = blocks("yaml")[0]
    shipped = (ROOT / "config" / "minimal.yaml").read_text()
    assert config.parse(shown, file="README") == config.parse(shipped, file="minimal")


PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "bench/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", page.read_text()):
        target = page.parent / link if link else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}#{anchor}"


def test_the_index_of_decisions_lists_each() -> None:
    folder = ROOT / "docs" / "decisions"
    records = {path.name for path in folder.glob("0*.md")}
    assert set(re.findall(r"\]\((0[^)]+)\)", (folder / "README.md").read_text())) == records


LOADS = {
    "small responses": "small-32",
    "as above, unique trace id": "traced",
    "as above, over TLS": "tls",
    "as above, a new connection": "connect",
    "responses of 1 MiB": "1m",
}


@pytest.mark.parametrize("row", LOADS)
def test_figures_of_the_speed_table_are_those_of_the_results(row: str) -> None:
    results = (ROOT / "bench" / "RESULTS.md").read_text()
    (commit,) = re.findall(r"commit (\w+)", results.partition("\n##")[0])
    assert f"commit {commit}" in README
    section = results.partition(f"\n## {LOADS[row]}\n")[2].partition("\n## ")[0]
    cells = {
        line.split("|")[1].strip(): [
            cell.replace("not published:", "").split()[0] for cell in line.split("|")[2:5]
        ]
        for line in section.splitlines()
        if re.match(r"\| (ours|pure|nginx|haproxy|envoy) \|", line)
    }
    expected = [cells[name][1] for name in ("ours", "pure", "nginx", "haproxy", "envoy")]
    expected += [cells[name][2] for name in ("nginx", "envoy")]
    (line,) = [line for line in README.splitlines() if line.startswith(f"| {row}")]
    assert [cell.strip() for cell in line.split("|")[2:-1]] == expected


def test_the_size_is_about_what_it_says() -> None:
    lines, dependencies = re.findall(r"([\d,]+) lines of Python, (\d+) direct", README)[0]
    sources = (ROOT / "canaryproxy").rglob("*.py")
    actual = sum(len(path.read_text().splitlines()) for path in sources)
    assert int(lines.replace(",", "")) == pytest.approx(actual, rel=0.15)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert int(dependencies) == len(project["dependencies"])


def test_added_latency_is_that_of_the_results() -> None:
    results = (ROOT / "bench" / "RESULTS.md").read_text()
    section = results.partition("\n## latency-half\n")[2].partition("\n## ")[0]
    found = {
        cells[1].strip(): (cells[2].split()[0], int(cells[3].split()[0]), int(cells[4].split()[0]))
        for cells in (line.split("|") for line in section.splitlines())
        if len(cells) > 4 and cells[1].strip() in ("ours", "nginx")
    }
    text = " ".join(README.split())
    _, median, p99 = found["ours"]
    assert f"adds {median} µs to the median and {p99 / 1000:.1f} ms to the 99th percentile" in text
    rate, median, p99 = found["nginx"]
    assert f"nginx, at {rate} requests per second, {median} µs and {p99 / 1000:.1f} ms" in text
