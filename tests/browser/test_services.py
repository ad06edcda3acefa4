"""The overview of several services and the page of one of them in a real browser, looking at a fake proxy."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from tests.browser.fake import TOKEN, FakeAdmin, Received
from tests.browser.page import SCHEMES, Page
from tests.browser.scenes import healthy

pytestmark = pytest.mark.slow

LONGEST = "a" * 31 + "-" + "b" * 31
PLAN = [{"weight": weight, "bake": 600.0} for weight in (1.0, 5.0, 25.0, 50.0)]


def service(name: str, attention: str = "none", **changed: Any) -> dict[str, Any]:
    """Return a row of ``/v1/services``."""
    return {
        "name": name, "hosts": [f"{name}.example.com"], "paths": [], "attention": attention,
        "release": f"{name}-2.4", "state": "running", "since": time.time() - 400, "step": 2,
        "steps": 4, "weight": 5.0, "ready": False, "circuit": "closed", "verdict": "ok",
        "said": "the judge sees no regression", "problems": [], "fleet": None, "plan": PLAN,
        **changed,
    }  # fmt: skip


def idle(name: str, **changed: Any) -> dict[str, Any]:
    """Return the row of a service without a release under way."""
    nothing: dict[str, Any] = {
        "release": None, "state": "idle", "since": None, "step": 0, "steps": 0, "weight": 0.0,
        "plan": [], "verdict": "unknown",
    }  # fmt: skip
    return service(name, **{**nothing, **changed})


TRIPPED = service(
    "cart", "tripped", state="tripped", weight=0.0, circuit="open", verdict="breach", step=3,
    said="error rate 2.36% on canary (15 of 635) vs 0.15% on stable (2 of 1,295)",
)  # fmt: skip
FEW = [
    TRIPPED,
    service("pay", "held", verdict="held", said="held: latency P95 has too few requests"),
    service("mail", weight=25.0, step=3),
    idle("search", release="search-7", state="promoted", weight=100.0),
    idle("login"),
]
MANY = [
    TRIPPED,
    service("pay", "held", verdict="held", said="held: latency P95 has too few requests"),
    *(service(f"release-{number:02}", weight=25.0, step=3) for number in range(18)),
    *(idle(f"service-{number:03}") for number in range(180)),
]


STAFF = idle(
    "staff-first", weight=0.0, cohorts=[{"name": "staff", "weight": 50.0}], share="50% of staff"
)


@contextmanager
def proxy(*rows: dict[str, Any]) -> Iterator[FakeAdmin]:
    """Serve several services; the page of cart has a scene."""
    with FakeAdmin(healthy(), service="cart", rows=list(rows)) as running:
        yield running


def names(page: Page, part: str) -> list[str]:
    found: list[str] = page.run(
        "return [...document.querySelectorAll(arguments[0])].map((a) => a.textContent)",
        f"#{part} a",
    )
    return found


def test_a_service_with_a_cohort_on_the_canary_is_releasing_and_says_so(page: Page) -> None:
    with proxy(STAFF, idle("login")) as fake:
        page.driver.get(fake.url)
        page.says("releasing", "1")
        assert names(page, "releasing-tiles") == ["staff-first"]
        (tile,) = page.all(".tile-weight")
        assert tile.text == "50% of staff"


def test_what_needs_a_person_is_first_then_who_is_releasing_then_the_rest(page: Page) -> None:
    with proxy(*FEW) as fake:
        page.driver.get(fake.url)
        page.says("number", "5")
        assert names(page, "needing-tiles") == ["cart", "pay"]
        assert names(page, "releasing-tiles") == ["mail"]
        assert names(page, "quiet-list") == ["login", "search"]
        page.says("needing", "2")
        page.says("releasing", "3")
        cart, pay, mail = (one.text for one in page.all(".tile"))
        for words in ("cart-2.4", "Tripped, step 3 of 4", "0%", "tripped", "Error rate 2.36%"):
            assert words in cart
        assert "holds the step" in pay
        for words in ("Running, step 3 of 4", "25%", "no regression seen", " min"):
            assert words in mail.replace("\u00a0", " ")
        assert page.driver.title == "2 services need attention – canaryproxy services"
        page.says("status", "cart: tripped, pay: holds the step")
        fake.rows = FEW[3:]
        page.says("needing", "none")
        assert page.shown("nothing")
        page.says("status", "No service needs attention.")
        assert page.driver.title.startswith("All well")


def test_two_hundred_services_are_folded_and_can_be_found(page: Page) -> None:
    with proxy(*MANY) as fake:
        page.driver.get(fake.url)
        page.says("number", "200")
        page.says("quiet-title", "180 quiet services")
        assert not page.run("return document.getElementById('quiet').open")
        page.press("/")
        assert page.focused() == "find"
        page.press("service-17")
        page.until(lambda: len(names(page, "quiet-list")) == 10, "only those found are listed")
        assert page.run("return document.getElementById('quiet').open")
        assert not page.shown("needing-part")
        page.press("nonsense")
        page.says("unfound", "No service has “service-17nonsense”")
        page.run("document.getElementById('find').value = ''")
        page.press(Keys.BACKSPACE)
        page.until(lambda: page.shown("needing-part"), "all are shown again")
        page.until(
            lambda: not page.run("return document.getElementById('quiet').open"), "folded again"
        )
        page.of("quiet-title").click()
        page.until(lambda: len(names(page, "quiet-list")) == 180, "unfolded by hand")
        fake.rows = MANY[1:]
        page.says("number", "199")
        assert page.run("return document.getElementById('quiet').open"), "it stays as it was left"


def test_each_service_leads_to_its_page_and_back(page: Page) -> None:
    with proxy(*FEW) as fake:
        page.driver.get(fake.url)
        page.says("number", "5")
        page.all("#needing-tiles a")[0].send_keys(Keys.ENTER)
        page.says("service-name", "cart")
        page.says("state", "Running")
        assert page.driver.current_url == fake.page
        assert page.driver.title.startswith("cart: ")
        page.until(lambda: page.run("return document.getElementById('cursor').max > 100"), "past")
        loaded: list[str] = page.run(
            "return performance.getEntriesByType('resource').map((r) => new URL(r.name).pathname)"
        )
        assert "/v1/services/cart/series" in loaded
        assert not [path for path in loaded if not path.startswith(("/static/", "/v1/services/"))]
        failed = page.run(
            "return performance.getEntriesByType('resource').filter((r) => r.responseStatus >= 400)"
        )
        assert failed == []
        page.of("services").click()
        page.says("number", "5")
        assert page.driver.current_url == fake.url


def test_an_act_names_its_service_and_goes_there(page: Page) -> None:
    with proxy(*FEW) as fake:
        page.open(fake.page)
        page.of("do-pause").click()
        page.dialog()
        page.says("confirm-title", "Pause the release of cart?")
        page.run(
            "document.querySelector('#confirm-fields input[type=password]').value = arguments[0]",
            TOKEN,
        )
        page.of("confirm-do").click()
        page.says("outcome", "cart: Done: the release is paused")
        assert fake.received == [Received("POST", "/v1/services/cart/release/pause", None, {})]
        page.of("do-reload").click()
        page.dialog()
        page.says("confirm-title", "Reload the configuration of all services?")
        page.of("confirm-do").click()
        page.says("outcome", "Reloaded")
        assert fake.received[-1].path == "/v1/reload"


def test_a_service_that_a_reload_removes_while_its_page_is_open(page: Page) -> None:
    with proxy(*FEW) as fake:
        page.open(fake.page)
        page.of("do-trip").click()
        page.dialog()
        page.expected = "404"
        fake.remove()
        page.says("lost", "This proxy has no service cart any more.")
        page.says("live", "no such service")
        page.run(
            "document.querySelector('#confirm-fields input[type=password]').value = arguments[0]",
            TOKEN,
        )
        page.of("confirm-do").click()
        page.says("confirm-problem", "Nothing changed: no service 'cart'; there is pay")
        page.of("confirm-cancel").click()
        assert page.enabled() == set()
        fake.removed = False
        page.says("live", "live")
        page.until(lambda: "trip" in page.enabled(), "it goes on when the service is back")


def test_the_page_of_a_service_that_never_was(page: Page) -> None:
    with proxy(*FEW) as fake:
        page.expected = "404"
        fake.removed = True
        page.driver.get(fake.page)
        page.says("lost", "This proxy has no service cart.")
        page.says("release", "No such service")
        assert page.enabled() == set()


def test_markup_in_what_services_say_is_text(page: Page) -> None:
    mark = "<img src=x onerror='window.struck = 1'><b>bold</b>"
    rows = [
        service("cart", "held", release=mark, said=mark, problems=[mark]),
        idle("pay", release=mark),
    ]
    with proxy(*rows) as fake:
        fake.scene.document["release"] = mark
        page.driver.get(fake.url)
        page.says("number", "2")
        assert "<b>bold</b>" in page.text("needing-tiles")
        assert page.all("main img, main b") == []
        page.open(fake.page)
        page.says("release", mark)
        assert page.all("header b, header img") == []
        assert page.run("return window.struck ?? null") is None


def test_lost_is_said_and_the_figures_stay(page: Page) -> None:
    with proxy(*FEW) as fake:
        page.driver.get(fake.url)
        page.says("live", "live")
        fake.down = True
        page.expected = "503"
        page.says("lost", "No connection to the proxy. These figures are")
        assert len(page.all(".tile")) == 3
        fake.down = False
        page.says("live", "live")


ONE = [idle("shop")]
LONG = [
    service(LONGEST, "held", said="held: " + "a long cause, " * 20, release="r" * 128),
    idle("x" * 63),
]


@pytest.mark.parametrize(("label", "rows"), [("1", ONE), ("5", FEW), ("200", MANY), ("long", LONG)])
def test_nothing_that_axe_complains_about_and_nothing_wider_than_the_window(
    page: Page,
    screenshots: Path | None,
    label: str,
    rows: list[dict[str, Any]],
) -> None:
    with proxy(*rows) as fake:
        for width, height in ((1920, 1080), (1280, 900), (390, 844), (320, 844)):
            page.look("dark", width, height)
            page.driver.get(fake.url)
            page.says("number", str(len(rows)))
            assert page.run("return document.documentElement.scrollWidth") <= width
            for scheme in SCHEMES:
                page.look(scheme, width, height)
                assert page.violations(scheme) == []
                if screenshots is not None:
                    file = screenshots / f"services-{label}-{scheme}-{width}.png"
                    file.write_bytes(page.driver.get_screenshot_as_png())


def test_the_page_of_a_service_with_the_longest_name(page: Page, screenshots: Path | None) -> None:
    with FakeAdmin(healthy(), service=LONGEST, rows=LONG) as fake:
        for width in (1280, 320):
            page.look("dark", width, 900)
            page.open(fake.page)
            assert page.run("return document.documentElement.scrollWidth") <= width
            page.of("do-trip").click()
            page.dialog()
            page.says("confirm-title", f"Trip the circuit of {LONGEST}?")
            box = page.run(
                "const d = document.getElementById('confirm');return [d.scrollWidth, d.clientWidth]"
            )
            assert box[0] <= box[1]
            for scheme in SCHEMES:
                page.look(scheme, width, 900)
                assert page.violations(scheme) == []
                if screenshots is not None:
                    file = screenshots / f"service-{scheme}-{width}.png"
                    file.write_bytes(page.driver.get_screenshot_as_png())
            page.of("confirm-cancel").click()
