"""``make dist``: the wheel and the sdist are whole, reproducible, and run without the repository."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

import canaryproxy
from tests.deploy.dockerfile import ROOT

VERSION = canaryproxy.__version__
PACKED = ["canaryproxy", "config", "docs", "tests", "bench"]
FILES = [
    "pyproject.toml",
    "hatch_build.py",
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
    "Makefile",
    "Dockerfile",
]
FILES += [".dockerignore", ".gitignore", "requirements.lock", "requirements-build.lock"]
GIT = ["git", "-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with one commit that holds what this one holds."""
    folder = tmp_path_factory.mktemp("release") / "checkout"
    folder.mkdir()
    for name in PACKED:
        ignore = shutil.ignore_patterns("__pycache__", "out", "*.pyc")
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    for name in FILES:
        shutil.copy(ROOT / name, folder)
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "-m", "all"]):
        subprocess.run([*GIT, *command], cwd=folder, check=True)
    return folder


def make_dist(folder: Path, umask: int = 0o022) -> subprocess.CompletedProcess[str]:
    venv = ROOT / ".venv"
    old = [f"--old-file={venv}/.installed", f"--old-file={venv}/.installed-bench"]
    return subprocess.run(
        ["make", *old, f"VENV={venv}", "dist"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        umask=umask,
        check=False,
    )


@pytest.fixture(scope="module")
def dist(checkout: Path) -> Path:
    made = make_dist(checkout)
    assert made.returncode == 0, made.stdout + made.stderr
    return checkout / "dist"


def test_the_wheel_has_all_of_the_package_and_nothing_else(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    assert wheel.name == f"canaryproxy-{VERSION}-py3-none-any.whl"
    names = zipfile.ZipFile(wheel).namelist()
    packed = {name for name in names if ".dist-info/" not in name}
    here = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "canaryproxy").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    (manual,) = [name for name in packed if name.endswith("/share/man/man1/canaryproxy.1")]
    assert packed - {manual} == here
    assert "canaryproxy/py.typed" in packed
    assert "canaryproxy/admin/static/index.html" in packed
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_sdist_has_what_is_needed_to_test_and_build_it(dist: Path) -> None:
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"Dockerfile", "Makefile", "docs/api.md", "config/alerts.yml"} <= names
    assert {"requirements.lock", "tests/deploy/test_dist.py", "canaryproxy/py.typed"} <= names


def test_the_same_commit_gives_the_same_bytes(checkout: Path, dist: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    subprocess.run(["git", "clone", "--quiet", checkout, again], check=True)
    made = make_dist(again, umask=0o077)
    assert made.returncode == 0, made.stdout + made.stderr
    for one in dist.iterdir():
        assert (again / "dist" / one.name).read_bytes() == one.read_bytes(), one.name
    for line in (dist / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split()
        assert hashlib.sha256((dist / name).read_bytes()).hexdigest() == digest


def test_a_tag_that_is_not_the_version_is_refused(checkout: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    subprocess.run(["git", "clone", "--quiet", checkout, other], check=True)
    subprocess.run(["git", "tag", "v0.0.0"], cwd=other, check=True)
    made = make_dist(other)
    assert made.returncode != 0
    assert f"the tag is v0.0.0, but canaryproxy/__init__.py says {VERSION}" in made.stdout
    assert not (other / "dist").exists()


def test_the_changelog_knows_the_version_that_is_next() -> None:
    assert re.search(
        r"^## \[(Unreleased|" + re.escape(VERSION) + r")\]", _changelog(), re.MULTILINE
    )


def _changelog() -> str:
    return (ROOT / "CHANGELOG.md").read_text()
