"""The Dockerfile: its rules, its facts, and its build steps run here without an engine."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import canaryproxy
from canaryproxy.cli import command_named
from tests.deploy.dockerfile import DOCKERFILE, ROOT, Line, lines, locked, stages

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def only(stage: list[Line], name: str) -> str:
    (value,) = [line.value for line in stage if line.name == name]
    return value


def copied() -> list[tuple[str, list[str]]]:
    """From the context: the target and the sources of each COPY."""
    found = []
    for line in stages()[0]:
        if line.name == "COPY":
            *sources, target = line.value.split()
            found.append((target, sources))
    return found


def test_hadolint_has_nothing_to_say() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, DOCKERFILE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_base_is_one_image_with_a_full_name_and_a_tag() -> None:
    (base,) = [line.value for line in lines()[:1]]
    assert re.fullmatch(
        r"BASE=docker\.io/library/python:3\.11-slim-bookworm(@sha256:[0-9a-f]{64})?", base
    )
    froms = [stage[0].value for stage in stages()]
    assert froms == ["${BASE} AS build", "${BASE}"]
    supported = PROJECT["project"]["classifiers"]
    assert "Programming Language :: Python :: 3.11" in supported


def test_every_copied_file_exists_and_reaches_the_build() -> None:
    wanted = {source.rstrip("/") for _, sources in copied() for source in sources}
    for source in wanted:
        assert (ROOT / source).exists(), source
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in ignore if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {line[1:] for line in rules if line.startswith("!")} == wanted
    # What the wheel's build reads, by pyproject.toml, is copied.
    project = PROJECT["project"]
    assert {project["readme"], *project["license-files"], "pyproject.toml"} <= wanted


def test_nothing_is_installed_but_what_the_locks_have_hashes_of() -> None:
    steps = " && ".join(line.value for line in lines() if line.name == "RUN")
    installs = re.findall(r"pip (?:--python \S+ +)?(?:install|wheel) (?:(?!&&).)*", steps)
    assert len(installs) == 4
    for step in installs:
        assert ("--require-hashes" in step and "--only-binary :all:" in step) or (
            "--no-deps" in step and "--no-index" in step
        ), step


def test_the_locks_are_those_of_this_project() -> None:
    project = PROJECT["project"]
    extras = [one for name in ("redis", "dns") for one in project["optional-dependencies"][name]]
    for name, wanted in (
        ("requirements.lock", [*project["dependencies"], *extras]),
        ("requirements-build.lock", PROJECT["build-system"]["requires"]),
    ):
        pins = locked(name)
        for text in wanted:
            one = Requirement(text)
            pin = canonicalize_name(one.name)
            assert pin in pins, f"{one.name} is not in {name}: make lock"
            assert pins[pin] in one.specifier, f"{one} in {name}: make lock"


def test_the_process_that_runs() -> None:
    final = stages()[1]
    user, group = only(final, "USER").split(":")
    assert (
        int(user) == int(group) >= 10000
    )  # a number, so that Kubernetes can see that it is not root
    assert json.loads(only(final, "ENTRYPOINT")) == ["canaryproxy"]
    command, *arguments = json.loads(only(final, "CMD"))
    options = {name for option in command_named(command).params for name in option.opts}
    assert {one for one in arguments if one.startswith("-")} <= options
    made = only(final, "RUN")
    assert only(final, "WORKDIR") in made
    assert f"--owner={user} --group={group}" in made
    assert str(Path(arguments[1]).parent) in made
    assert only(final, "STOPSIGNAL") == "SIGTERM"
    check = only(final, "HEALTHCHECK")
    health = json.loads(check[check.index("[") :])
    assert health[:2] == ["python", "-m"]
    assert (ROOT / (health[2].replace(".", "/") + ".py")).is_file()


FAKE = """#!/bin/sh
echo "$0" "$@" >> "$LOG"
case "$*" in *inspect*) echo sha256:%s ;; esac
"""


@pytest.fixture
def builder(tmp_path: Path) -> Path:
    """A checkout, and a docker that only writes down what it is asked."""
    for name in ("config/image/build.sh", "Dockerfile", "canaryproxy/__init__.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "bin").mkdir()
    for name in ("docker", "git"):
        (tmp_path / "bin" / name).write_text(FAKE % ("0123456789abcdef" * 4))
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


def build(folder: Path, *arguments: str) -> tuple[int, str]:
    log = folder / "log"
    done = subprocess.run(
        [folder / "config" / "image" / "build.sh", *arguments],
        env={"PATH": f"{folder}/bin:/usr/bin:/bin", "LOG": str(log)},
        capture_output=True,
        check=False,
    )
    return done.returncode, log.read_text() if log.exists() else ""


def test_the_base_is_pinned_to_the_digest_that_the_registry_tells(builder: Path) -> None:
    tag = re.search(r"^ARG BASE=([^@\n]+)", DOCKERFILE.read_text(), re.MULTILINE)
    assert tag
    pinned = f"{tag[1]}@sha256:{'0123456789abcdef' * 4}"
    status, asked = build(builder, "build", "canaryproxy")
    assert status == 0
    assert f"--build-arg BASE={pinned} " in asked
    assert f"--tag canaryproxy:{canaryproxy.__version__} " in asked
    assert {f"ARG {one.partition('=')[0]}" for one in re.findall(r"--build-arg (\S+)", asked)} <= {
        f"{line.name} {line.value.partition('=')[0]}" for line in lines()
    }
    assert build(builder, "pin")[0] == 0
    assert f"\nARG BASE={pinned}\n" in (builder / "Dockerfile").read_text()
    assert build(builder, "pin")[0] == 0  # and again: one digest, not two
    assert f"\nARG BASE={pinned}\n" in (builder / "Dockerfile").read_text()


def test_no_digest_means_no_image(builder: Path) -> None:
    (builder / "bin" / "docker").write_text("#!/bin/sh\nexit 1\n")
    assert build(builder, "build", "canaryproxy")[0] != 0
    (builder / "bin" / "docker").write_text("#!/bin/sh\necho none\n")
    before = (builder / "Dockerfile").read_text()
    assert build(builder, "pin")[0] == 1
    assert (builder / "Dockerfile").read_text() == before
