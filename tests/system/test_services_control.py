"""Several services, as real processes: what happens to one release or process changes no other release."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.ports import free_port

from .processes import Proxy, proxy, until, upstream
from .test_hot_restart import end_all
from .test_workers import pids

RELEASE = {"id": "r1", "steps": [{"weight": 20, "bake": "1h"}, {"weight": 100}]}


class Services:
    """A proxy of the services ``cart`` and ``shop``."""

    def __init__(self, folder: Path, stable: int, canary: int) -> None:
        self._folder = folder
        self._ports = (stable, canary)
        self.running: Proxy

    def section(self, *names: str, **sections: Any) -> str:
        """Return the section ``services``."""
        sides = zip(("stable", "canary"), self._ports, strict=True)
        endpoints = {side: {"endpoints": [f"http://127.0.0.1:{port}"]} for side, port in sides}
        return "services: " + json.dumps(
            {name: {"hosts": [f"{name}.test"], "variants": endpoints, **sections} for name in names}
        )

    def rewrite(self, section: str) -> None:
        """Put other services into the file, and reload."""
        file = self._folder / "proxy.yaml"
        lines = file.read_text().splitlines()
        file.write_text(
            "\n".join(section if line.startswith("services:") else line for line in lines)
        )
        self.running.ask("POST", "/v1/reload", {})

    def view(self, name: str) -> dict[str, Any]:
        """Return the release of a service; empty while no control plane answers."""
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError, AssertionError):
            found: dict[str, Any] = json.loads(
                self.running.ask("GET", f"/v1/services/{name}/release")
            )
            return found
        return {}

    def places(self) -> dict[str, tuple[Any, Any]]:
        """Return circuit and weight of both services."""
        found = {name: self.view(name) for name in ("cart", "shop")}
        return {
            name: (one["circuit"]["state"], one["weight"]) if one else (None, None)
            for name, one in found.items()
        }

    def get(self, name: str) -> int:
        """Send a request to a service; return the status."""
        connection = http.client.HTTPConnection("127.0.0.1", self.running.port, timeout=30)
        try:
            connection.request("GET", "/", headers={"Host": f"{name}.test"})
            answer = connection.getresponse()
            answer.read()
            return answer.status
        finally:
            connection.close()


@contextlib.contextmanager
def services(folder: Path, more: str = "", **sections: Any) -> Iterator[Services]:
    with upstream(folder, "stable") as (_, stable), upstream(folder, "canary") as (_, canary):
        made = Services(folder, stable, canary)
        try:
            with proxy(
                folder,
                made.section("cart", "shop", **sections),
                f"state: {folder}/state.json\njudge: {{baseline: 0s}}\n{more}",
            ) as made.running:
                yield made
        finally:
            end_all(folder / "proxy.yaml")


def test_a_trip_stays_with_its_service_whatever_process_is_replaced(tmp_path: Path) -> None:
    wanted = {"cart": ("open", 0.0), "shop": ("closed", 20.0)}
    with services(tmp_path, "workers: 2", release=RELEASE) as made:
        running = made.running
        until(
            lambda: made.places() == {"cart": ("closed", 20.0), "shop": ("closed", 20.0)},
            "both releases",
        )
        running.ask("POST", "/v1/services/cart/release/trip", {"cause": "a test"})
        assert made.places() == wanted

        control = made.view("shop")["pid"]
        os.kill(control, signal.SIGKILL)
        until(lambda: made.view("shop").get("pid", control) != control, "another control process")
        assert made.places() == wanted

        before = pids(running)
        os.kill(next(pid for pid in before if pid != made.view("shop")["pid"]), signal.SIGKILL)
        until(lambda: len(pids(running)) == len(before) and pids(running) != before, "a worker")
        until(lambda: made.get("cart") == made.get("shop") == 200, "responses")
        assert made.places() == wanted

        old = made.view("shop")["main_pid"]
        os.kill(old, signal.SIGUSR2)
        until(lambda: made.view("shop").get("main_pid", old) != old, "another proxy")
        assert made.places() == wanted
        assert made.get("cart") == made.get("shop") == 200


def test_a_full_disk_of_one_service_holds_only_that_service(tmp_path: Path) -> None:
    with services(tmp_path, split={"weight": 5}) as made:
        until(
            lambda: made.places() == {"cart": ("closed", 5.0), "shop": ("closed", 5.0)}, "weights"
        )
        file = tmp_path / "services" / "cart.json"
        file.unlink(missing_ok=True)
        (file / "in the way").mkdir(parents=True)
        said = made.running.ask("PUT", "/v1/services/cart/weight", {"weight": 30}, allow=507)
        assert "the weight will not rise until the state file can be written" in said
        made.running.ask("PUT", "/v1/services/shop/weight", {"weight": 30})
        assert made.places() == {"cart": ("closed", 5.0), "shop": ("closed", 30.0)}
        (file / "in the way").rmdir()
        file.rmdir()
        until(lambda: made.places()["cart"] == ("closed", 30.0), "the weight, once it is saved")


def test_a_service_is_removed_while_its_release_is_under_way_and_comes_back(tmp_path: Path) -> None:
    with services(tmp_path, release=RELEASE) as made:
        both = {"cart": ("closed", 20.0), "shop": ("closed", 20.0)}
        until(lambda: made.places() == both, "both releases")
        made.rewrite(made.section("shop", release=RELEASE))
        assert made.places() == {"cart": (None, None), "shop": ("closed", 20.0)}
        assert made.get("cart") == 421
        assert made.get("shop") == 200
        made.rewrite(made.section("cart", "shop", release=RELEASE))
        until(lambda: made.places() == both, "the release where it was")
        assert made.get("cart") == 200
        history = json.loads(made.running.ask("GET", "/v1/services/cart/history"))
        assert "has been removed from the configuration" in json.dumps(history)


def test_two_proxies_never_keep_the_services_of_one_folder(tmp_path: Path) -> None:
    with services(tmp_path, release=RELEASE) as made:
        text = (tmp_path / "proxy.yaml").read_text()
        other = tmp_path / "other.yaml"
        for old, new in (
            (str(made.running.port), str(free_port())),
            ("admin.sock", "other.sock"),
            ("/state.json", "/other.json"),
        ):
            text = text.replace(old, new)
        other.write_text(text)
        done = subprocess.run(
            [sys.executable, "-m", "canaryproxy", "run", "-c", str(other)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        said = (
            f"already in use: folder of state files {tmp_path}/services (by pid {made.running.pid})"
        )
        assert said in done.stderr
        assert made.get("cart") == 200


def test_a_reload_with_one_invalid_service_leaves_all_as_they_are(tmp_path: Path) -> None:
    with services(tmp_path, release=RELEASE) as made:
        both = {"cart": ("closed", 20.0), "shop": ("closed", 20.0)}
        until(lambda: made.places() == both, "both releases")
        file = tmp_path / "proxy.yaml"
        valid = file.read_text()
        broken = made.section("cart", "shop", "mail", release=RELEASE).replace(
            "mail.test", "mail:80"
        )
        file.write_text(valid.replace(made.section("cart", "shop", release=RELEASE), broken))
        made.running.kill(signal.SIGHUP)

        def problems() -> list[str]:
            found: list[str] = json.loads(made.running.ask("GET", "/v1/services"))["problems"]
            return found

        (said,) = until(problems, "the problem")
        assert "services.mail.hosts" in said
        assert "the previous one stays in force" in said
        assert made.places() == both
        assert [made.get(name) for name in ("cart", "shop", "mail")] == [200, 200, 421]
        made.running.ask("POST", "/v1/services/shop/release/pause", {})
        file.write_text(valid)
        made.running.kill(signal.SIGHUP)
        until(lambda: not problems(), "no problem")
        assert made.view("shop")["state"] == "paused"
        assert made.places() == both


def test_a_renamed_service_starts_over_unless_its_state_is_copied(tmp_path: Path) -> None:
    with services(tmp_path, release=RELEASE) as made:
        both = {"cart": ("closed", 20.0), "shop": ("closed", 20.0)}
        until(lambda: made.places() == both, "both releases")
        for name in both:
            made.running.ask("POST", f"/v1/services/{name}/release/trip", {"cause": "a test"})
        folder = tmp_path / "services"
        (folder / "store.json").write_bytes((folder / "shop.json").read_bytes())
        made.rewrite(made.section("basket", "store", release=RELEASE))
        until(
            lambda: made.view("basket").get("weight") == 20.0,
            "the release of basket from its start",
        )
        assert made.view("store")["circuit"]["state"] == "open"
        assert made.view("store")["weight"] == 0.0
        assert [made.get(name) for name in ("basket", "store", "cart", "shop")] == [
            200,
            200,
            421,
            421,
        ]
