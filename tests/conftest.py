"""What all tests share."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import settings

pytest_plugins = ["pytester", "tests.forks", "tests.second_chance"]

# A slow machine is not a failure. The same code draws the same examples; `make fuzz` draws others each time.
settings.register_profile("canaryproxy", deadline=None, derandomize="SEARCH" not in os.environ)
settings.load_profile("canaryproxy")

# A shell starts jobs in the background with SIGINT ignored, and processes of the tests would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that none of them is alone at the end."""
    from tests.second_chance import FOLDERS

    slow = {item.path for item in items if item.get_closest_marker("slow")}

    def order(item: pytest.Item) -> tuple[bool, bool]:
        folder = item.path.relative_to(config.rootpath).parts[1]
        return item.path not in slow, folder not in FOLDERS

    items.sort(key=order)
