"""The overview in a real browser, looking at a fake proxy."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from canaryproxy.admin import dashboard
from canaryproxy.admin.guard import secure
from tests.browser.page import SCHEMES, Page

pytestmark = pytest.mark.slow

NOW = 1790000000.0


def proxy(name: str, attention: str = "none", **changed: Any) -> dict[str, Any]:
    """Return a row of the overview."""
    return {
        "name": name, "address": f"https://{name}.example.com:9900", "attention": attention,
        "dashboard": f"https://{name}.example.com:9900/", "error": None, "reached": NOW,
        "environment": "production", "host": "vm", "version": "0.1.0", "release": f"{name}-2.4",
        "state": "running", "since": NOW - 400, "step": 2, "steps": 5, "weight": 5.0,
        "circuit": "closed", "verdict": "ok", "said": "the judge sees no regression", "problems": [],
        **changed,
    }  # fmt: skip


STAFF = [{"name": "staff", "weight": 50.0}]
NOTHING = dict.fromkeys(
    ("environment", "host", "version", "release", "state", "since", "step", "steps", "weight",
     "circuit", "verdict", "said")
)  # fmt: skip
ROWS = [
    proxy("cart", "tripped", state="tripped", weight=0.0, circuit="open", verdict="breach",
          said="rolled back: error rate 2.36% on canary (15 of 635) vs 0.15% on stable (2 of 1,295)"),
    proxy("pay", "held", verdict="held", said="held: latency P95 has too few requests"),
    proxy("search", "unreachable", **NOTHING | {"error": "no response within 3 s"},
          reached=NOW - 7200),
    proxy("mail", "configuration",
          problems=["configuration invalid, the previous one stays in force: a.yaml:1:1: listen"]),
    proxy("login", "waiting", state="paused"),
    proxy("vm", address=None, dashboard="./", environment=None),
]  # fmt: skip


class Site:
    """Serves the page and its rows from a thread of its own."""

    rows = ROWS
    down = False

    def __enter__(self) -> Site:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.url = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> str:
        app = web.Application()
        dashboard.add_routes(app)
        app.router.add_get("/v1/overview", self._overview)
        app.on_response_prepare.append(self._secure)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}/overview"

    async def _secure(self, request: web.Request, response: web.StreamResponse) -> None:
        secure(response, request.path)

    async def _overview(self, _request: web.Request) -> web.Response:
        if self.down:
            return web.Response(status=503)
        return web.json_response({"overview": self.rows, "time": NOW})


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as running:
        yield running


def test_each_proxy_is_a_row_in_the_given_order_with_its_link(page: Page, site: Site) -> None:
    page.driver.get(site.url)
    page.says("needing", "5")
    page.says("number", "6")
    cells = [row.text for row in page.all("#proxies tbody th")]
    assert [cell.split()[0] for cell in cells] == ["cart", "pay", "search", "mail", "login", "vm"]
    links = [one.get_dom_attribute("href") for one in page.all("#proxies tbody th a")]
    assert links[0] == "https://cart.example.com:9900/"
    tripped, _, lost = (one.text for one in page.all("#proxies tbody tr")[:3])
    for words in ("Tripped, step 2 of 5", "0%", "open", "rolled back: error rate 2.36% on canary"):
        assert words in tripped
    assert "unreachable" in lost
    assert "no response within 3 s" in lost
    assert "last reached" in lost
    assert page.driver.title.startswith("5 proxies need attention")
    page.says("status", "cart: tripped, pay: holds the step, search: unreachable")
    site.rows = [ROWS[-1]]
    page.says("needing", "none")
    assert page.shown("alone")
    assert page.driver.title.startswith("All well")


def test_each_service_of_a_proxy_is_a_row_that_leads_to_its_page(page: Page, site: Site) -> None:
    site.rows = [
        proxy("edge-2", "held", service="cart"),
        proxy(
            "edge-2", service="pay", weight=1.0, cohorts=STAFF, share="1% of users, 50% of staff"
        ),
        proxy("vm", "configuration", address=None, dashboard="./", problems=["restart needed"]),
        proxy("vm", address=None, dashboard="./", service="cart"),
    ]
    page.driver.get(site.url)
    page.says("number", "2")
    rows = [row.text.split("\n") for row in page.all("#proxies tbody th")]
    assert [row[:2] for row in rows] == [
        ["cart", "edge-2"], ["pay", "edge-2"], ["vm", "this proxy"], ["cart", "vm"]
    ]  # fmt: skip
    shares = [row.text.split("\n") for row in page.all("#proxies tbody td[data-label=Weight]")]
    assert shares == [["5%"], ["1% of users, 50% of staff"], ["5%"], ["5%"]]
    links = [one.get_dom_attribute("href") for one in page.all("#proxies tbody th a")]
    assert links == [
        "https://edge-2.example.com:9900/services/cart/",
        "https://edge-2.example.com:9900/services/pay/",
        "./",
        "./services/cart/",
    ]
    assert page.driver.title.startswith("2 services need attention")
    page.says("status", "edge-2, cart: holds the step, vm: problem")


def test_lost_is_said_and_the_figures_stay(page: Page, site: Site) -> None:
    page.driver.get(site.url)
    page.says("live", "live")
    site.down = True
    page.expected = "503"
    page.says("lost", "No connection to the proxy. These figures are")
    assert len(page.all("#proxies tbody tr")) == 6
    site.down = False
    page.says("live", "live")


def test_nothing_that_axe_complains_about_and_nothing_wider_than_the_window(
    page: Page, site: Site, screenshots: Path | None
) -> None:
    for width, height in ((1920, 900), (1280, 900), (1000, 900), (390, 844), (320, 844)):
        page.look("dark", width, height)
        page.driver.get(site.url)
        page.says("number", "6")
        assert page.run("return document.documentElement.scrollWidth") <= width
        for scheme in SCHEMES:
            page.look(scheme, width, height)
            assert page.violations(scheme) == []
            if screenshots is not None:
                file = screenshots / f"overview-{scheme}-{width}.png"
                file.write_bytes(page.driver.get_screenshot_as_png())
    if screenshots is not None:
        page.look("light", 1280, 900)
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
        (screenshots / "overview-print.png").write_bytes(page.driver.get_screenshot_as_png())
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
