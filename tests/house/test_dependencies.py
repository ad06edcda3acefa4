"""What the package imports is declared, and internals of others are used only within a tested bound."""

from __future__ import annotations

import ast
import sys
import tomllib
from importlib.metadata import packages_distributions, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIRED = [Requirement(line) for line in PROJECT["dependencies"]]
OPTIONAL = [
    Requirement(line)
    for extra in ("redis", "dns")
    for line in PROJECT["optional-dependencies"][extra]
]

NEW_IN_THE_STANDARD_LIBRARY = {"compression"}


def imported() -> set[str]:
    """Return the top-level packages that the package imports, without its own and the standard library's."""
    found = set()
    for path in (ROOT / "canaryproxy").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {name.name.partition(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module == "backports":
                found |= {f"backports.{name.name}" for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names - {"canaryproxy", *NEW_IN_THE_STANDARD_LIBRARY}


def test_every_import_is_a_declared_dependency() -> None:
    distributions = packages_distributions()
    needed = {canonicalize_name(distributions.get(name, [name])[0]) for name in imported()}
    needed.discard("pydantic-core")  # pydantic pins it
    assert needed == {canonicalize_name(one.name) for one in [*REQUIRED, *OPTIONAL]}


def test_aiohttp_has_an_upper_bound_that_is_the_next_minor_version() -> None:
    """Its parsers are internals: a version that was not tested is not installed."""
    (aiohttp,) = [one for one in REQUIRED if one.name == "aiohttp"]
    tested = Version(version("aiohttp"))
    assert tested in aiohttp.specifier
    assert f"aiohttp=={tested} " in (ROOT / "requirements.lock").read_text()
    assert f"{tested.major}.{tested.minor}.99" in aiohttp.specifier
    assert f"{tested.major}.{tested.minor + 1}.0" not in aiohttp.specifier
