"""Every module, test and name of the code that a page mentions exists."""

from __future__ import annotations

import ast
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted(DOCS.rglob("*.md")),
]
FOLDERS = (ROOT, ROOT / "canaryproxy", ROOT / "tests", ROOT / "bench")
"""What paths in pages are relative to."""
ARCHITECTURE = (DOCS / "architecture.md").read_text()
NO_MODULES = {"yaml", "service", "socket", "pid", "cdx", "key", "crt", "pem"}
"""``canaryproxy.yaml`` and the like are files of users."""


def by_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@cache
def files() -> frozenset[str]:
    """Return the names of all modules, for pages that leave out the folder."""
    folders = ("canaryproxy", "tests", "bench")
    within = {path.name for folder in folders for path in (ROOT / folder).rglob("*.py")}
    return frozenset(within | {path.name for path in ROOT.glob("*.py")})


@cache
def defined(path: Path) -> frozenset[str]:
    """Return the names that a module defines: ``function``, ``Class``, ``Class.method``, ``CONSTANT``."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {
                f"{node.name}.{one.name}"
                for one in node.body
                if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)
            }
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign):
            targets = [node.target]
        found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return frozenset(found)


def module(path: str) -> Path:
    (found,) = [folder / path for folder in FOLDERS if (folder / path).exists()]
    return found


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_every_file_of_python_that_a_page_names_exists(page: Path) -> None:
    for path in re.findall(r"(?<![\w./-])[\w/]*\w\.py\b(?!\.)", page.read_text()):
        if "/" in path:
            assert any((folder / path).is_file() for folder in FOLDERS), f"{page.name}: {path}"
        else:
            assert path in files(), f"{page.name}: {path}"


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_every_module_that_a_page_names_with_dots_exists(page: Path) -> None:
    for name in re.findall(r"(?<![\w./-])(?:canaryproxy|tests|bench)(?:\.\w+)+", page.read_text()):
        parts = name.split(".")
        if parts[1] in NO_MODULES:
            continue
        path = ROOT.joinpath(*parts)
        assert path.is_dir() or path.with_suffix(".py").is_file(), f"{page.name}: {name}"


def test_every_function_that_the_architecture_places_in_a_module_is_there() -> None:
    placed = re.findall(r"`([\w/]+\.py)` \(((?:`[\w.]+`(?:, | and )?)+)\)", ARCHITECTURE)
    assert len(placed) > 10
    for path, names in placed:
        for name in re.findall(r"`([\w.]+)`", names):
            assert name in defined(module(path)), f"{path}: {name}"


def test_the_picture_shows_every_room_in_the_layers_of_the_import_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (layers,) = [one["layers"] for one in contracts["contracts"] if one["type"] == "layers"][:1]
    picture = ARCHITECTURE.partition("## Rooms")[2].split("```")[1]
    shown = [
        re.split(r"\s{2,}", line.strip())[0].split(" │ ")
        for line in picture.splitlines()
        if re.match(r"  [a-z]", line)
    ]
    expected = [
        [room.strip().removeprefix("canaryproxy.") for room in re.split(r"[|:]", layer)]
        for layer in layers
    ]
    assert shown == expected
    rooms = {path.parent.name for path in (ROOT / "canaryproxy").glob("*/__init__.py")}
    assert rooms == {room for layer in shown for room in layer}


def test_the_order_inside_the_data_path_is_that_of_its_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (layers,) = [
        one["layers"]
        for one in contracts["contracts"]
        if one.get("containers") == ["canaryproxy.proxy"]
    ]
    level = {
        module.strip(): at for at, layer in enumerate(layers) for module in re.split(r"[|:]", layer)
    }
    shown = ARCHITECTURE.partition("Inside `proxy/`")[2].split("```")[1]
    names = [re.findall(r"^  (\w+)", line)[0] for line in shown.strip("\n").splitlines()]
    assert [level[name] for name in names] == sorted({level[name] for name in names})
