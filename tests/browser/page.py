"""The dashboard in a browser, as a test drives it."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from typing import Any, TypeVar

from selenium import webdriver
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

DEADLINE = 60.0
AXE = files("axe_core_python") / "axe.min.js"
SCHEMES: dict[str, dict[str, list[str]]] = {
    "dark": {},
    "light": {"runOnly": ["color-contrast", "link-in-text-block"]},
}
"""The colour schemes, with options of axe-core: these rules are about colours, the only difference."""

_SUMMARY = """
const words = (id) => document.getElementById(id)?.textContent.trim() ?? "nothing";
const dialogs = [...document.querySelectorAll("dialog[open]")].map((d) =>
  `${d.id} is open${d.getAttribute("aria-busy") === "true" ? " and waits" : ""}`);
const focus = document.activeElement;
return [
  `state ${words("state")}`, `figures ${words("live")}`, ...(dialogs.length ? dialogs : ["no dialog"]),
  `title ${words("confirm-title")}`, `says ${words("confirm-says")}`, `problem ${words("confirm-problem")}`,
  `outcome ${words("outcome")}`, `focus on ${focus?.outerHTML.slice(0, 80)}`,
].join("; ");
"""

T = TypeVar("T")


class Page:
    """One tab."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver
        self.expected: str | None = None
        """What the console may complain about."""

    def look(self, scheme: str, width: int, height: int, motion: str = "no-preference") -> None:
        """Set the colour scheme, the size of the window in px, and whether things may move."""
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": motion},
        ]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def open(self, url: str) -> None:
        """Load the dashboard and wait until it shows a release and its past."""
        self.driver.get(url)
        self.until(
            lambda: self.run(
                "return document.body.dataset.state !== 'unknown'"
                " && document.getElementById('cursor').max > 100"
            ),
            "the release is shown",
        )

    def leave(self) -> None:
        """Forget what the page has stored, and close its connections."""
        if self.driver.current_url.startswith("http"):
            self.run("sessionStorage.clear(); localStorage.clear()")
        self.driver.get("data:,")
        self._log()

    def run(self, script: str, *arguments: Any) -> Any:
        """Run a script in the page."""
        return self.driver.execute_script(script, *arguments)

    def module(self, name: str, expression: str) -> Any:
        """Evaluate an expression over a module of the page, which it calls ``m``."""
        return self.driver.execute_async_script(
            f"const done = arguments[0];"
            f'import("/static/{name}").then((m) => done({expression}), (e) => done(String(e)))'
        )

    def until(self, condition: Callable[[], T], what: str) -> T:
        """Wait until a condition holds, and return what it gave."""
        try:
            return WebDriverWait(self.driver, DEADLINE, poll_frequency=0.05).until(
                lambda _driver: condition()
            )
        except TimeoutException:
            raise AssertionError(
                f"not within {DEADLINE:g} s: {what}; the page shows: {self.summary()}"
            ) from None

    def summary(self) -> str:
        """Return in one line what somebody who looks at the page would want to know of it."""
        found: str = self.run(_SUMMARY)
        return found.replace("\u00a0", " ")

    def of(self, identifier: str) -> WebElement:
        """Return an element by its id."""
        return self.driver.find_element("id", identifier)

    def all(self, selector: str) -> list[WebElement]:
        """Return elements by CSS selector."""
        return self.driver.find_elements("css selector", selector)

    def text(self, identifier: str) -> str:
        """Return all text of an element, shown or not, with plain spaces."""
        found: str = self.run(
            "return document.getElementById(arguments[0]).textContent", identifier
        )
        return found.replace("\u00a0", " ")

    def says(self, identifier: str, words: str) -> None:
        """Wait until an element has these words."""
        seen = ""

        def has() -> bool:
            nonlocal seen
            seen = self.text(identifier)
            return words in seen

        try:
            self.until(has, f"{identifier} says {words!r}")
        except AssertionError as error:
            raise AssertionError(f"{error}; it says {seen!r}") from None

    def shown(self, identifier: str) -> bool:
        """Whether an element can be seen."""
        return self.of(identifier).is_displayed()

    def press(self, *keys: str) -> None:
        """Type where the focus is."""
        ActionChains(self.driver).send_keys(*keys).perform()

    def chord(self, modifier: str, key: str) -> None:
        """Type a key while another is held."""
        ActionChains(self.driver).key_down(modifier).send_keys(key).key_up(modifier).perform()

    def focused(self) -> str:
        """Return the id of what has the focus."""
        found: str = self.run("return document.activeElement.id")
        return found

    def tab_to(self, identifier: str) -> None:
        """Press Tab until an element has the focus."""
        for _ in range(60):
            if self.focused() == identifier:
                return
            self.press(Keys.TAB)
        raise AssertionError(f"{identifier} cannot be reached by Tab")

    def enabled(self) -> set[str]:
        """Return the actions that can be pressed."""
        buttons = self.all("#buttons button")
        return {b.get_dom_attribute("id").removeprefix("do-") for b in buttons if b.is_enabled()}

    def dialog(self) -> None:
        """Wait until the dialog has asked the proxy and can be answered."""
        self.until(
            lambda: self.run(
                "const d = document.getElementById('confirm');"
                "return d.open && d.getAttribute('aria-busy') === 'false'"
            ),
            "the dialog can be answered",
        )

    def complaints(self) -> list[str]:
        """Return what the console and the content security policy complain about.

        Answers of 400 and more are what some tests provoke; that resources are there is tested apart.
        """
        logged = [
            entry["message"]
            for entry in self._log()
            if entry["source"] != "network"
            and entry["level"] in ("SEVERE", "WARNING")
            and (self.expected is None or self.expected not in entry["message"])
        ]
        return logged + list(self.run("return window.violations ?? []"))

    def _log(self) -> list[dict[str, Any]]:
        driver: Any = self.driver  # get_log has no types
        entries: list[dict[str, Any]] = driver.get_log("browser")
        return entries

    def violations(self, scheme: str) -> list[str]:
        """Return what axe-core finds in a colour scheme that the page has, each with the element."""
        if not self.run("return 'axe' in window"):
            self.run(AXE.read_text())
        found = self.driver.execute_async_script(
            "axe.run(document, arguments[0]).then((found) => arguments[1](found.violations))",
            {"resultTypes": ["violations"], **SCHEMES[scheme]},
        )
        return [
            f"{one['id']}: {one['help']}: {node['html'][:160]} {node.get('failureSummary')}"
            for one in found
            for node in one["nodes"]
        ]

    def wait_a_frame(self) -> None:
        """Wait until the browser has drawn twice."""
        self.driver.execute_async_script(
            "requestAnimationFrame(() => requestAnimationFrame(arguments[0]))"
        )

    def age(self) -> float:
        """Return the seconds that the page says its figures are old."""
        words = self.text("live").split()
        assert words[1:] == ["s", "old"], words
        return float(words[0])
