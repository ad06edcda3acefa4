"""The pages before a real proxy: two tabs and a scrape while a reload adds and removes services."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.remote.webelement import WebElement

from tests.browser.page import Page
from tests.ports import free_port
from tests.system.processes import proxy, upstream
from tests.system.reloads import scraped

pytestmark = pytest.mark.slow


def section(ports: tuple[int, int], *names: str) -> str:
    """Return services with a release each; cart begins with a cohort, and has a version beside its canary."""
    stable, canary = ({"endpoints": [f"http://127.0.0.1:{port}"]} for port in ports)
    found: dict[str, dict[str, Any]] = {
        name: {
            "hosts": [f"{name}.test"],
            "variants": {"stable": stable, "canary": canary},
            "release": {"id": f"{name}-1", "steps": [{"weight": 5, "bake": "1h"}, {"weight": 100}]},
        }
        for name in names
    }
    cart = found["cart"]
    cart["variants"] |= {"others": {"v3": {**canary, "share": 20, "weight": 50}}}
    cart["split"] = {"cohorts": {"staff": {"header": {"name": "X-Staff", "present": True}}}}
    cart["release"]["steps"].insert(0, {"cohort": "staff", "weight": 50, "bake": "1h"})
    return "services: " + json.dumps(found)


def tile(page: Page, name: str) -> WebElement:
    (found,) = [one for one in page.all("#releasing-tiles li") if name in one.text.split()]
    return found


def names(page: Page) -> list[str]:
    found: list[str] = page.run(
        "return [...document.querySelectorAll('#releasing-tiles a')].map((a) => a.textContent)"
    )
    return found


def test_two_tabs_and_a_scrape_see_a_reload_that_adds_and_removes_services(
    page: Page, tmp_path: Path, screenshots: Path | None
) -> None:
    admin = free_port()
    root = f"http://127.0.0.1:{admin}/"
    with (
        upstream(tmp_path, "stable") as (_, stable),
        upstream(tmp_path, "canary") as (_, canary),
        proxy(
            tmp_path,
            section((stable, canary), "cart", "pay"),
            f"state: {tmp_path}/state.json\njudge: {{baseline: 0s}}",
            admin,
        ) as running,
        scraped(running) as scrapes,
    ):
        page.driver.get(root)
        page.until(lambda: names(page) == ["cart", "pay", "cart.v3"], "all are releasing")
        page.until(lambda: "50% of staff" in tile(page, "cart").text, "who has the canary of cart")
        (name,) = tile(page, "cart").find_elements("css selector", ".tile-name")
        assert name.size["height"] < 40, "on one line"
        if screenshots is not None:
            (screenshots / "real-services.png").write_bytes(page.driver.get_screenshot_as_png())
        first = page.driver.current_window_handle
        page.driver.switch_to.new_window("tab")
        try:
            page.driver.get(f"{root}services/cart.v3/")
            page.says("service-name", "cart.v3")
            page.says("weight", "50%")
            page.driver.get(f"{root}services/cart/")
            page.says("service-name", "cart")
            page.says("weight", "50% of staff")
            page.says("figures", "Users on the canary, apart from 50% of staff")
            page.says("live", "live")
            path = tmp_path / "proxy.yaml"
            before, after = (section((stable, canary), "cart", name) for name in ("pay", "mail"))
            seen = len(scrapes)
            path.write_text(path.read_text().replace(before, after))
            running.ask("POST", "/v1/reload")
            page.until(lambda: len(scrapes) > seen + 2, "scrapes after the reload")
            page.says("live", "live")
            page.says("weight", "50% of staff")
            page.driver.switch_to.window(first)
            page.until(lambda: names(page) == ["cart", "mail", "cart.v3"], "the services of now")
            page.says("live", "live")
            page.driver.switch_to.new_window("tab")
            page.driver.get(f"{root}services/pay/")
            page.says("lost", "This proxy has no service pay.")
        finally:
            page.expected = "404"
            for window in page.driver.window_handles:
                if window != first:
                    page.driver.switch_to.window(window)
                    page.driver.close()
            page.driver.switch_to.window(first)
    label = 'service="{}"'.format
    last = [one for one in scrapes[-1] if label("mail") in one]
    assert last
    assert not [one for one in scrapes[-1] if label("pay") in one]
    for scrape in scrapes:  # each has one of them, and what stays
        found = {
            name for name in ("cart", "pay", "mail") if any(label(name) in it for it in scrape)
        }
        assert found in ({"cart", "pay"}, {"cart", "mail"})
