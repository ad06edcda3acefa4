"""Reloads that add, change and remove services while others carry requests: none of these may fail.

    python -m tests.system.reloads --reloads 1000

A gate runs a few (``test_services``). What is printed at the end: reloads, requests, failures, the memory of
the workers and the slots that they have mapped.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from .processes import Proxy, proxy, until, upstream

KEPT = ("kept-0", "kept-1")
"""Services that no reload touches."""
CHANGED = "changed"
"""A service that each reload changes."""
PASSING = 7
"""Services that come and go."""
AT_A_TIME = 4
"""So many of them are there at a time."""


def services(number: int, ports: tuple[int, int]) -> str:
    """Return the services of a configuration by the number of reloads before it."""
    stable, canary = (f"http://127.0.0.1:{port}" for port in ports)
    found: dict[str, dict[str, object]] = {
        name: {"hosts": [f"{name}.test"], "variants": {"stable": {"endpoints": [stable]}}}
        for name in (*KEPT, CHANGED)
    }
    found[CHANGED]["variants"] = {"stable": {"endpoints": [(stable, canary)[number % 2]]}}
    for at in range(AT_A_TIME):
        name = f"passing-{(number + at) % PASSING}"
        found[name] = {
            "hosts": [f"{name}.test"],
            "variants": {"stable": {"endpoints": [stable]}, "canary": {"endpoints": [canary]}},
        }
    return "services: " + json.dumps(found)


def versions(number: int, ports: tuple[int, int]) -> str:
    """Return the same services, each with versions beside its canary: ``changed`` gains or loses one.

    Most users belong to a version, so that one that comes or goes moves requests.
    """
    stable, canary = ({"endpoints": [f"http://127.0.0.1:{port}"]} for port in ports)
    found = {}
    for name in (*KEPT, CHANGED):
        others = {"v3": {**canary, "share": 40, "weight": 50}}
        if name != CHANGED or number % 2:
            others["v4"] = {**canary, "share": 40, "weight": 50}
        sides = {"stable": stable, "canary": canary, "others": others}
        found[name] = {"hosts": [f"{name}.test"], "variants": sides}
    return "services: " + json.dumps(found)


@dataclass
class Load:
    """Requests to the services that stay, one after another on connections that are kept."""

    port: int
    sent: int = 0
    failures: list[str] = field(default_factory=list)
    _stopping: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Send until ``stop``; each request to another service, on the same connection."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        hosts = [f"{name}.test" for name in (*KEPT, CHANGED)]
        while not self._stopping.is_set():
            host = hosts[self.sent % len(hosts)]
            try:
                connection.request("GET", "/", headers={"Host": host})
                response = connection.getresponse()
                response.read()
                if response.status != 200:
                    self.failures.append(f"{host}: {response.status}")
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(f"{host}: {error!r}")
                connection.close()
            self.sent += 1
            time.sleep(0.002)
        connection.close()

    def stop(self) -> None:
        self._stopping.set()


@contextlib.contextmanager
def under_load(port: int, clients: int) -> Iterator[list[Load]]:
    """Send requests over so many connections until the block ends."""
    loads = [Load(port) for _ in range(clients)]
    threads = [threading.Thread(target=one.run) for one in loads]
    for thread in threads:
        thread.start()
    try:
        yield loads
    finally:
        for one in loads:
            one.stop()
        for thread in threads:
            thread.join()


@contextlib.contextmanager
def scraped(running: Proxy) -> Iterator[list[dict[str, float]]]:
    """Scrape ``/metrics`` again and again until the block ends; yield what was found, as it comes."""
    found: list[dict[str, float]] = []
    stopping = threading.Event()

    def scrape() -> None:
        while not stopping.is_set():
            found.append(running.metrics())

    with ThreadPoolExecutor(1) as pool:
        scraping = pool.submit(scrape)
        try:
            yield found
        finally:
            stopping.set()
        scraping.result()  # raises what a scrape has raised


@dataclass(frozen=True)
class Outcome:
    """What came of the reloads."""

    reloads: int
    sent: int
    failures: list[str]
    mapped: list[int]
    """Slots of shared memory that each process has mapped."""
    memory: list[int]
    """Resident bytes of each process."""
    scrapes: list[dict[str, float]]
    """Every scrape while the configurations changed."""


def processes(running: Proxy) -> list[int]:
    """Return the process and its children."""
    pid = running.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return [pid, *map(int, children)]


def mapped(pid: int) -> int:
    """Return how many parts of the shared memory a process has mapped."""
    return Path(f"/proc/{pid}/maps").read_text(encoding="ascii").count("memfd:canaryproxy")


def resident(pid: int) -> int:
    """Return the resident bytes of a process."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    return 0


def reload_under_load(
    folder: Path,
    reloads: int,
    workers: int,
    clients: int,
    text_of: Callable[[int, tuple[int, int]], str] = services,
) -> Outcome:
    """Run a proxy, reload it so many times while clients send, and say what came of it.

    ``text_of`` returns the services by the number of reloads before them and the ports of two upstreams.
    """
    with (
        upstream(folder, "first") as (_, first),
        upstream(folder, "second") as (_, second),
        proxy(
            folder,
            text_of(0, (first, second)),
            f"workers: {workers}\nstate: {folder}/state.json\n",
            fresh=True,
        ) as running,
    ):
        path = folder / "proxy.yaml"
        before, text = path.read_text(), text_of(0, (first, second))
        with under_load(running.port, clients) as loads, scraped(running) as scrapes:
            until(lambda: all(one.sent for one in loads), "requests")
            for number in range(1, reloads + 1):
                path.write_text(before.replace(text, text_of(number, (first, second))))
                running.ask("POST", "/v1/reload")
            at = [one.sent for one in loads]
            until(
                lambda: all(one.sent > was + 10 for one, was in zip(loads, at, strict=True)),
                "more requests",
            )
            last = running.metrics()
            pids = processes(running)
            outcome = [mapped(pid) for pid in pids], [resident(pid) for pid in pids]
    sent = sum(one.sent for one in loads)
    failures = [failure for one in loads for failure in one.failures]
    return Outcome(reloads, sent, failures, *outcome, [*scrapes, last])


def main() -> None:
    """Reload many times and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reloads", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--clients", type=int, default=4)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        found = reload_under_load(Path(folder), wanted.reloads, wanted.workers, wanted.clients)
    print(f"{found.reloads} reloads, {found.sent} requests, {len(found.failures)} failed")
    for failure in found.failures[:10]:
        print(f"  {failure}")
    print(f"mapped parts of shared memory by process: {found.mapped}")
    print(f"resident MiB by process: {[round(one / 2**20, 1) for one in found.memory]}")


if __name__ == "__main__":
    main()
