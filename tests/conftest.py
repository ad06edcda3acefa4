"""What all tests share."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Generator
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import pytest
from hypothesis import settings

pytest_plugins = ["pytester", "tests.forks", "tests.second_chance"]

# A slow machine is not a failure. The same code draws the same examples; `make fuzz` draws others each time.
settings.register_profile("canaryproxy", deadline=None, derandomize="SEARCH" not in os.environ)
settings.load_profile("canaryproxy")

# A shell starts jobs in the background with SIGINT ignored, and processes of the tests would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _defer_grammars() -> None:
    """Let ``rfc3987_syntax`` make its grammars when an IRI is checked, and not when it is imported.

    ``jsonschema`` imports it where it is installed, and would take 3 s of processor time for it.
    """
    name = "rfc3987_syntax"
    if name in sys.modules or find_spec(name) is None:
        return
    deferred = ModuleType(name)

    def is_valid_syntax(rule: str, text: str) -> bool:
        if sys.modules[name] is deferred:
            del sys.modules[name]
        return bool(import_module(name).is_valid_syntax(rule, text))

    vars(deferred)["is_valid_syntax"] = is_valid_syntax
    sys.modules[name] = deferred


_defer_grammars()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect without the garbage collector: of what is made here, nearly all stays to the end."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that none of them is alone at the end."""
    from tests.second_chance import FOLDERS

    slow = {item.path for item in items if item.get_closest_marker("slow")}

    def order(item: pytest.Item) -> tuple[bool, bool]:
        folder = item.path.relative_to(config.rootpath).parts[1]
        return item.path not in slow, folder not in FOLDERS

    items.sort(key=order)
