"""The dashboard before a real proxy with real services: a canary breaks, and the page shows the trip."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium.webdriver.common.keys import Keys

from tests.browser.page import Page
from tests.ports import free_port
from tests.system.processes import Process, answers, until

TOKEN = "a-token-of-the-real-proxy"
USERS = 400


@contextmanager
def process(*arguments: str, port: int, folder: Path) -> Iterator[Process]:
    """Run a program until the block ends; yields when it listens."""
    started = Process(*arguments, folder=folder)
    try:
        until(lambda: answers(port) or started.child.poll() is not None, arguments[1])
        assert started.child.poll() is None, started.log.read_text()
        yield started
    finally:
        started.end()


@contextmanager
def users(port: int) -> Iterator[None]:
    """Let users with cookies ask for pages, a hundred a second at most, until the block ends."""
    over = threading.Event()

    def ask(first: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        number = first
        while not over.wait(0.02):
            number += 1
            connection.request("GET", "/", headers={"Cookie": f"canary_id=user-{number % USERS}"})
            connection.getresponse().read()
        connection.close()

    threads = [threading.Thread(target=ask, args=(200 * n,), daemon=True) for n in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def switch(port: int, fault: str) -> None:
    """Let a demo service have a fault."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("PUT", "/switch", body=fault)
    assert connection.getresponse().read().decode() == fault
    connection.close()


def config(listen: int, admin: int, stable: int, canary: int, folder: Path) -> Path:
    """Write the configuration of the proxy."""
    token = folder / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    path = folder / "proxy.yaml"
    path.write_text(
        json.dumps(
            {
                "listen": f"127.0.0.1:{listen}",
                "admin": {"listen": f"127.0.0.1:{admin}", "token_file": str(token)},
                "variants": {
                    "stable": {"endpoints": [f"http://127.0.0.1:{stable}"]},
                    "canary": {"endpoints": [f"http://127.0.0.1:{canary}"]},
                },
                "release": {
                    "id": "cart-2.4",
                    "steps": [
                        {"weight": 50, "bake": "1h"},
                        {"weight": 100},
                    ],
                },
                "judge": {"metrics": {"errors": {}}},
                "rescue": {"enabled": False},
                "state": str(folder / "state.json"),
            }
        )
    )
    return path


def test_a_release_breaks_trips_is_reset_drilled_and_aborted(
    page: Page, tmp_path: Path, screenshots: Path | None
) -> None:
    listen, admin, stable, canary = (free_port() for _ in range(4))
    service = "canaryproxy.demo.service"
    path = config(listen, admin, stable, canary, tmp_path)
    with (
        process("-m", service, "v1", str(stable), port=stable, folder=tmp_path),
        process("-m", service, "v2", str(canary), port=canary, folder=tmp_path),
        process("-m", "canaryproxy", "run", "-c", str(path), port=admin, folder=tmp_path),
        users(listen),
    ):
        page.driver.get(f"http://127.0.0.1:{admin}/")
        page.says("state", "Running, step 1 of 2")
        page.says("live", "live")
        page.says("weight", "50%")
        page.until(lambda: page.all("#evidence [data-kind=ok]"), "figures are compared")
        page.says("evidence", "errors")

        switch(canary, "errors")
        page.says("banner-title", "every user is on stable")
        assert page.driver.title.startswith("TRIPPED")
        page.says("banner-cause", "on stable")  # the judge or the guard rail, whichever was first
        page.says("alert", "Tripped: every user is on stable.")
        page.says("history", "tripped")
        page.says("weight", "0%")
        if screenshots is not None:
            (screenshots / "real-tripped.png").write_bytes(page.driver.get_screenshot_as_png())

        switch(canary, "none")
        page.press("x")
        page.dialog()
        page.says("confirm-says", "50% of users move from stable to the canary")
        page.press(TOKEN, Keys.ENTER)
        page.until(lambda: not page.shown("banner"), "the circuit is closed")
        page.says("weight", "50%")

        page.until(lambda: page.of("do-drill").is_enabled(), "a drill is allowed")
        page.until(lambda: not page.shown("confirm"), "the dialog is closed")
        page.press("d")
        page.dialog()
        page.of("confirm-do").click()
        page.says("outcome", "Drill done: ")
        page.says("outcome", "reached the canary")

        page.press("l")
        page.dialog()
        page.of("confirm-do").click()
        page.says("outcome", "Reloaded: no changes")

        page.press("a")
        page.dialog()
        page.of("confirm-do").click()
        page.says("outcome", "Done: the release is aborted")
        page.says("weight", "0%")
        if screenshots is not None:
            (screenshots / "real-aborted.png").write_bytes(page.driver.get_screenshot_as_png())
