"""A deferred package means the same as the package; it only imports less."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import pytest

from canaryproxy.deferred import defer


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package ``heavy`` that imports its module ``part`` and defines ``VALUE``."""
    folder = tmp_path / "heavy"
    folder.mkdir()
    (folder / "__init__.py").write_text("from heavy import part\nVALUE = part.NAME\n")
    (folder / "part.py").write_text("NAME = __name__\n")
    (folder / "other.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    yield "heavy"
    for name in [name for name in sys.modules if name.partition(".")[0] == "heavy"]:
        del sys.modules[name]


def test_a_module_of_a_deferred_package_is_imported_alone(package: str) -> None:
    defer(package)
    import_module("heavy.other")
    assert "heavy.part" not in sys.modules


def test_an_attribute_of_a_deferred_package_imports_the_package_once(package: str) -> None:
    entered = []

    @contextmanager
    def context() -> Iterator[None]:
        entered.append(package)
        yield

    defer(package, context())
    heavy = import_module(package)

    assert heavy.VALUE == "heavy.part"
    assert heavy.part.NAME == "heavy.part"
    assert not hasattr(heavy, "MISSING")
    assert entered == [package]


def test_given_attributes_do_not_import_the_package(package: str) -> None:
    defer(package, VERSION="1")
    heavy = import_module(package)

    assert heavy.VERSION == "1"
    assert "heavy.part" not in sys.modules


def test_a_package_that_is_imported_already_stays_as_it_is(package: str) -> None:
    heavy = import_module(package)

    defer(package)
    assert sys.modules[package] is heavy
    assert "VALUE" in vars(heavy)
