"""Chromium for the tests of the dashboard, and fake proxies for it to look at."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from selenium import webdriver

from tests.browser.fake import FakeAdmin
from tests.browser.page import Page
from tests.browser.scenes import Scene

CHROMIUM = Path("/usr/bin/chromium")
CHROMEDRIVER = Path("/usr/bin/chromedriver")

# The page cannot see violations that the browser reports before its own scripts run.
_WATCH = """
window.violations = [];
document.addEventListener("securitypolicyviolation",
  (event) => window.violations.push(`${event.violatedDirective} ${event.blockedURI}`));
"""


def launch(profile: Path, *arguments: str, **preferences: object) -> webdriver.Chrome:
    """Start a browser whose memory is in a folder, with more arguments of its command.

    Names of preferences have ``__`` for a dot.
    """
    for binary in (CHROMIUM, CHROMEDRIVER):
        if not binary.exists():
            pytest.skip(f"{binary} is not installed (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--no-proxy-server",
        "--process-per-site",  # a process for each page would be a fifth of the time
        f"--user-data-dir={profile}",
        *arguments,
    ):
        options.add_argument(argument)
    if preferences:
        prefs = {name.replace("__", "."): value for name, value in preferences.items()}
        options.add_experimental_option("prefs", prefs)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options, webdriver.ChromeService(str(CHROMEDRIVER)))


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """One browser for all tests."""
    started = launch(tmp_path_factory.mktemp("chromium"))
    try:
        started.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": _WATCH})
        yield started
    finally:
        started.quit()


@pytest.fixture
def page(driver: webdriver.Chrome) -> Iterator[Page]:
    """The dashboard in a tab without memory; afterwards nothing must have been complained about."""
    shown = Page(driver)
    shown.look("dark", 1280, 900)
    yield shown
    complaints = shown.complaints()
    shown.leave()
    assert complaints == []


@pytest.fixture
def serve() -> Iterator[Callable[[Scene], FakeAdmin]]:
    """Start a fake proxy that shows a scene."""
    with ExitStack() as stack:
        yield lambda scene: stack.enter_context(FakeAdmin(scene))


@pytest.fixture(scope="session")
def screenshots() -> Path | None:
    """The folder for screenshots, if somebody wants them."""
    folder = os.environ.get("CANARYPROXY_SCREENSHOTS")
    if folder is None:
        return None
    Path(folder).mkdir(parents=True, exist_ok=True)
    return Path(folder)
