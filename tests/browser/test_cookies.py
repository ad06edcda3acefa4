"""The sticky cookie in Chromium: back from another site, in frames, after a restart.

``shop.localhost`` and ``bank.localhost`` are two sites for the browser, and trustworthy ones: it sends
Sec-Fetch fields and keeps Secure cookies without TLS.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.support.ui import WebDriverWait

from canaryproxy.measure.routing import bucket_of
from tests.browser.conftest import launch
from tests.system import processes

DEADLINE = 60.0
USERS = 6
WITHHELD = 'canaryproxy_unidentified_total{reason="cookie_withheld"}'


class Site(ThreadingHTTPServer):
    """Answers every path: pages of its own, or the ones that are put there."""

    daemon_threads = True

    def __init__(self, name: str) -> None:
        super().__init__(("127.0.0.1", 0), Page)
        self.name = name
        self.pages: dict[str, str] = {}


class Page(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Site

    def do_GET(self) -> None:
        name = self.server.name
        body = self.server.pages.get(self.path, f"<p id=variant>{name}</p><img src=/image>")
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def site(name: str) -> Iterator[Site]:
    server = Site(name)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class World:
    """A shop behind the proxy, a bank, and a browser that goes to and fro."""

    def __init__(self, driver: webdriver.Chrome, proxy: processes.Proxy, bank: Site) -> None:
        self.driver = driver
        self.proxy = proxy
        self.shop = f"http://shop.localhost:{proxy.port}"
        self.bank = f"http://bank.localhost:{bank.server_port}"
        bank.pages["/pay"] = (
            f'<form method=post action="{self.shop}/paid"><button id=go>Back to the shop</button></form>'
        )
        bank.pages["/frame"] = f'<iframe id=shop src="{self.shop}/"></iframe>'
        bank.pages["/link"] = f'<a id=go href="{self.shop}/">To the shop</a>'

    def open(self, url: str) -> str:
        """Open a page of the shop and return the variant that answers."""
        self.driver.get(url)
        return self.variant()

    def variant(self) -> str:
        found = WebDriverWait(self.driver, DEADLINE).until(
            lambda driver: driver.find_elements("id", "variant")
        )
        return str(found[0].text)

    def come_from(self, page: str) -> str:
        """Go to the bank, press its button, and return the variant that answers."""
        self.driver.get(self.bank + page)
        self.driver.find_element("id", "go").click()
        return self.variant()

    def framed(self) -> str:
        """Return the variant that answers in a frame of the bank."""
        self.driver.get(self.bank + "/frame")
        self.driver.switch_to.frame("shop")
        try:
            return self.variant()
        finally:
            self.driver.switch_to.default_content()

    def cookie(self, name: str = "canary_id") -> str | None:
        """Return the cookie that the browser keeps for the shop. Call it on a page of the shop."""
        found = self.driver.get_cookie(name)
        return None if found is None else str(found["value"])

    def forget(self) -> None:
        self.driver.execute_cdp_cmd("Network.clearBrowserCookies", {})

    def withheld(self) -> float:
        return self.proxy.metrics()[WITHHELD]


def variant_of(cookie: str) -> str:
    return "canary" if bucket_of(b"", cookie.encode()) < 5000 else "stable"


@contextlib.contextmanager
def world(folder: Path, driver: webdriver.Chrome, sticky: str = "{}") -> Iterator[World]:
    with site("stable") as stable, site("canary") as canary, site("bank") as bank:
        sides = processes.variants([stable.server_port], [canary.server_port])
        split = f"split: {{weight: 50, sticky: {sticky}}}\nstate: {folder}/state.json"
        with processes.proxy(folder, sides, split) as running:
            found = World(driver, running, bank)
            found.forget()
            yield found


def test_who_comes_back_by_a_cross_site_post_stays_the_same_user(
    tmp_path: Path, driver: webdriver.Chrome
) -> None:
    with world(tmp_path, driver) as it:
        for _ in range(USERS):
            it.forget()
            before = it.open(it.shop)
            cookie = it.cookie()
            assert cookie is not None
            assert before == variant_of(cookie)
            # Who this is the proxy cannot know; the user keeps the cookie and so the variant.
            assert it.come_from("/pay") == "stable"
            assert it.cookie() == cookie
            assert it.open(it.shop) == before
        assert it.withheld() >= USERS


def test_a_link_from_elsewhere_is_an_ordinary_visit(
    tmp_path: Path, driver: webdriver.Chrome
) -> None:
    with world(tmp_path, driver) as it:
        first = it.come_from("/link")
        cookie = it.cookie()
        assert cookie is not None
        assert first == variant_of(cookie)
        assert it.come_from("/link") == first
        assert it.cookie() == cookie


def test_a_strict_cookie_is_not_replaced_either(tmp_path: Path, driver: webdriver.Chrome) -> None:
    with world(tmp_path, driver, "{same_site: Strict}") as it:
        it.open(it.shop)
        cookie = it.cookie()
        assert it.come_from("/link") == "stable"
        assert it.cookie() == cookie
        assert it.come_from("/pay") == "stable"
        assert it.cookie() == cookie


def test_frames_of_other_sites_go_to_stable_and_change_no_cookie(
    tmp_path: Path, driver: webdriver.Chrome
) -> None:
    with world(tmp_path, driver) as it:
        assert {it.framed() for _ in range(USERS)} == {"stable"}
        before = it.open(it.shop)
        cookie = it.cookie()
        assert cookie is not None
        assert it.framed() == "stable"
        assert it.open(it.shop) == before
        assert it.cookie() == cookie
        assert it.withheld() >= USERS


def test_with_same_site_none_a_cross_site_post_is_the_users(
    tmp_path: Path, driver: webdriver.Chrome
) -> None:
    with world(tmp_path, driver, "{same_site: None}") as it:
        for _ in range(USERS):
            it.forget()
            before = it.open(it.shop)
            cookie = it.cookie()
            assert it.come_from("/pay") == before
            assert it.cookie() == cookie
        assert it.withheld() == 0


@pytest.mark.parametrize("blocked", [False, True])
def test_with_same_site_none_frames_are_the_users_unless_the_browser_blocks_that(
    tmp_path: Path, driver: webdriver.Chrome, blocked: bool
) -> None:
    browser = launch(tmp_path / "profile", profile__cookie_controls_mode=int(blocked))
    try:
        with world(tmp_path, driver, "{same_site: None}") as it:
            it.driver = browser
            for _ in range(USERS):
                it.forget()
                before = it.open(it.shop)
                cookie = it.cookie()
                assert it.framed() == ("stable" if blocked else before)
                assert it.open(it.shop) == before
                assert it.cookie() == cookie
            assert (it.withheld() > 0) == blocked
    finally:
        browser.quit()


@pytest.mark.parametrize("name", ["__Host-user", "__Secure-user"])
def test_the_browser_keeps_a_cookie_with_a_prefix(
    tmp_path: Path, driver: webdriver.Chrome, name: str
) -> None:
    with world(tmp_path, driver, f"{{cookie: {name}}}") as it:
        before = it.open(it.shop)
        cookie = it.cookie(name)
        assert cookie is not None
        assert before == variant_of(cookie)
        assert it.open(it.shop) == before
        assert it.cookie(name) == cookie


def test_a_partitioned_cookie_is_one_for_each_site_around(
    tmp_path: Path, driver: webdriver.Chrome
) -> None:
    with world(tmp_path, driver, "{same_site: None, partitioned: true}") as it:
        before = it.framed()
        assert {it.framed() for _ in range(3)} == {before}


def test_a_restarted_browser_is_the_same_user(tmp_path: Path, driver: webdriver.Chrome) -> None:
    profile = tmp_path / "profile"
    with world(tmp_path, driver) as it:
        seen = []
        for _ in range(2):
            browser = launch(profile)
            try:
                it.driver = browser
                variant = it.open(it.shop)
                seen.append((variant, it.cookie()))
                # Closed in order: what the profile has is on the disk then.
                with contextlib.suppress(WebDriverException):  # it may be gone before it replies
                    browser.execute_cdp_cmd("Browser.close", {})
            finally:
                browser.quit()
        assert seen[0] == seen[1]
        assert seen[0][1] is not None
