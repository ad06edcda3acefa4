"""The soak: processes, faults, and what has to hold at the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import astuple, dataclass, field
from pathlib import Path
from statistics import linear_regression, median

import uvloop

from tests.ports import free_port

from ..system.processes import Process, Proxy, answers, until
from .clients import Crowd, Ledger

SERVICE = Path(__file__).with_name("service.py")
WARM_UP = 60.0
"""Seconds whose growth of memory is not looked at: users are met, windows and arenas fill, the sooner the
quicker the machine is."""
MOST = 120 << 20
"""Bytes that the proxy may have resident at any time."""
LIMITS = (
    "limits: {first_byte_timeout: 2s, body_timeout: 5s, connect_timeout: 1s, endpoint_idle_timeout: %ds,"
    " idle_timeout: 10s, shed_after: 5s}"
)
ENDPOINTS = (
    "slow_start: 1s, outliers: {pause: 1s}, health:"
    " {path: /up, interval: 100ms, timeout: 1s, rise: 1, fall: 2}"
)
"""What takes endpoints out and back, all of it on."""
MIB = 1 << 20


def open_files(process: Process) -> int:
    """Return how many file descriptors a process has open."""
    return len(os.listdir(f"/proc/{process.pid}/fd"))  # noqa: PTH208 - no objects, it is asked often


@dataclass(frozen=True)
class Held:
    """What an idle proxy holds."""

    requests: int
    connections: int
    tasks: int
    files: int

    @classmethod
    def by(cls, proxy: Proxy) -> Held:
        """Ask the proxy."""
        scraped = proxy.metrics()
        requests = [v for k, v in scraped.items() if k.startswith("canaryproxy_inflight_requests")]
        connections = scraped["canaryproxy_open_connections"]
        tasks = scraped["canaryproxy_tasks"]
        return cls(int(sum(requests)), int(connections), int(tasks), open_files(proxy))

    @classmethod
    def by_itself(cls, proxy: Proxy) -> Held:
        """Ask the proxy when the last look's connection, which is a task, has had the time to go."""
        time.sleep(0.5)
        return cls.by(proxy)

    def __le__(self, other: Held) -> bool:
        return all(
            mine <= theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)
        )


@dataclass
class Sample:
    at: float
    """Seconds since the beginning."""
    resident: int
    """Bytes."""
    files: int


@dataclass
class Report:
    """What a soak found."""

    seconds: float
    ledger: Ledger
    counted: dict[str, float]
    samples: list[Sample]
    faults: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        ledger = self.ledger
        lines = [
            f"{self.seconds:.0f} s, {ledger.sent:,} requests; faults: "
            + ", ".join(f"{count} {name}" for name, count in sorted(self.faults.items())),
            f"sent {ledger.sent:,} = answered {ledger.answered.total():,} {dict(ledger.answered)}"
            f" + refused {ledger.refused.total():,} + cut {ledger.cut:,} + left {ledger.left:,}",
            "counted " + ", ".join(f"{name} {value:,.0f}" for name, value in self.counted.items()),
            f"resident memory after warm-up: {self.growth / MIB:+.1f} MiB"
            if self.seconds > WARM_UP
            else "growth of memory is not judged: the whole time is warm-up",
            "resident MiB by the tenth: "
            + " ".join(f"{self._resident(tenth) / MIB:.1f}" for tenth in range(10)),
        ]
        return "\n".join([*lines, *(f"PROBLEM: {problem}" for problem in self.problems)])

    def _resident(self, tenth: int) -> float:
        step = max(1, len(self.samples) // 10)
        return median(s.resident for s in self.samples[tenth * step : (tenth + 1) * step])

    @property
    def growth(self) -> float:
        """Bytes, by least squares over what was resident after warm-up; 0 without a time after it."""
        late = [sample for sample in self.samples if sample.at > WARM_UP]
        if len(late) < 2:
            return 0.0
        slope, _ = linear_regression([s.at for s in late], [s.resident for s in late])
        return slope * (late[-1].at - late[0].at)


class Soak:
    """``folder`` is for files."""

    def __init__(self, folder: Path, seconds: float, seed: int = 1) -> None:
        self._folder = folder
        self._seconds = seconds
        self._random = random.Random(seed)
        self._ports = [free_port() for _ in range(3)]
        self._names = ["stable", "stable", "canary"]
        self._services: list[Process | None] = [None, None, None]
        self._faults: dict[str, int] = {}
        self._due: list[str] = []
        self._samples: list[Sample] = []

    def run(self) -> Report:
        """Return what was found; ``problems`` is empty if all is well."""
        with contextlib.ExitStack() as stack:
            for at in range(3):
                self._start(at)
            stack.callback(self._end_services)
            proxy = stack.enter_context(self._proxy())
            proxy.ask("PUT", "/v1/weight", {"weight": 30})  # so all that it keeps open is open
            before = Held.by(proxy)
            crowd = uvloop.run(self._load(proxy))
            return self._judge(proxy, crowd.ledger, crowd.told, before)

    @contextlib.contextmanager
    def _proxy(self) -> Iterator[Proxy]:
        proxy = Proxy(self._folder, self._variants(), self._more(2), fresh=True)
        try:
            until(lambda: answers(proxy.port) and proxy.socket.exists(), "the proxy")
            yield proxy
        finally:
            proxy.end()

    def _variants(self) -> str:
        stable, other, canary = (f'"http://127.0.0.1:{port}"' for port in self._ports)
        return (
            f"variants: {{stable: {{endpoints: [{stable}, {other}], {ENDPOINTS}}},"
            f" canary: {{endpoints: [{canary}], {ENDPOINTS}}}}}"
        )

    def _more(self, idle: int) -> str:
        # Without a budget, as each request that may be repeated has to be answered.
        more = "split: {weight: 30}\ncircuit: {close_after: 50ms, spread: 150ms}\n"
        more += "rescue: {budget: false, assets: {path: {prefix: /assets}}}\n"
        return f"state: {self._folder}/state.json\n{more}" + LIMITS % idle

    def _start(self, at: int) -> None:
        port = self._ports[at]
        process = Process(str(SERVICE), self._names[at], str(port), folder=self._folder)
        until(lambda: answers(port), "a service")
        self._services[at] = process

    def _end_services(self) -> None:
        for service in self._services:
            if service is not None:
                service.end()

    async def _load(self, proxy: Proxy) -> Crowd:
        crowd = Crowd(proxy.port, self._random.randrange(1 << 30))
        running = asyncio.create_task(crowd.run())
        watching = asyncio.create_task(self._watch(proxy, crowd.over))
        end = time.monotonic() + self._seconds
        while time.monotonic() < end and not running.done():
            await asyncio.sleep(self._random.uniform(0.3, 1.2))
            if not running.done():
                await asyncio.to_thread(self._fault, proxy, crowd)
        crowd.over.set()
        await asyncio.gather(running, watching)
        return crowd

    async def _watch(self, proxy: Proxy, over: asyncio.Event) -> None:
        began = time.monotonic()
        while not over.is_set():
            await asyncio.sleep(0.25)
            at = time.monotonic() - began
            self._samples.append(Sample(at, proxy.memory("VmRSS"), open_files(proxy)))

    def _fault(self, proxy: Proxy, crowd: Crowd) -> None:
        if not self._due:  # each in its turn: also a short soak has all of them
            self._due = ["kill", "kill", "stop", "weight", "reload", "trip"]
            self._random.shuffle(self._due)
        name = self._due.pop()
        self._faults[name] = self._faults.get(name, 0) + 1
        if name == "kill":
            at = self._random.choice((1, 2))
            service = self._services[at]
            assert service is not None
            service.end()
            time.sleep(0.2)
            self._start(at)
        elif name == "stop":
            service = self._services[2]
            assert service is not None
            service.kill(signal.SIGSTOP)
            time.sleep(0.3)
            service.kill(signal.SIGCONT)
        elif name == "weight":
            weight = self._random.choice((0, 5, 30, 60, 100))
            proxy.ask("POST", "/v1/release/reset", allow=409)  # the judge may have tripped
            proxy.ask("PUT", "/v1/weight", {"weight": weight}, allow=409)
        elif name == "reload":
            path = self._folder / "proxy.yaml"
            lines = path.read_text().splitlines()
            lines[-1] = LIMITS % self._random.choice((1, 2, 3))
            beside = path.with_suffix(".new")
            beside.write_text("\n".join(lines) + "\n")
            beside.replace(path)
            proxy.kill(signal.SIGHUP)
        else:
            until(
                lambda: self._is_followed(proxy, crowd), "a tunnel or stream that follows its user"
            )

    def _is_followed(self, proxy: Proxy, crowd: Crowd) -> bool:
        """Trip and reset; return whether a client was told to follow: at some moments none is there."""
        told = crowd.told
        proxy.ask("POST", "/v1/release/reset", allow=409)  # the judge may have tripped
        proxy.ask("PUT", "/v1/weight", {"weight": 60}, allow=409)
        time.sleep(0.3)  # so that some are on the canary
        proxy.ask("POST", "/v1/release/trip", {"cause": "soak"}, allow=409)
        time.sleep(0.3)  # so that they follow
        proxy.ask("POST", "/v1/release/reset", allow=409)
        return crowd.told > told

    def _judge(self, proxy: Proxy, ledger: Ledger, told: int, before: Held) -> Report:
        problems = []
        try:
            until(lambda: Held.by_itself(proxy) <= before)
        except AssertionError:
            problems.append(f"at the end {Held.by(proxy)}, at the beginning {before}")
        scraped = proxy.metrics()
        counted = {
            name: sum(v for k, v in scraped.items() if k.startswith(f"canaryproxy_{name}_total"))
            for name in ("requests", "client_closed", "refused")
        }
        report = Report(self._seconds, ledger, counted, self._samples, dict(self._faults), problems)
        gauges = (
            "canaryproxy_open_tunnels",
            "canaryproxy_open_streams",
            "canaryproxy_leaving_connections",
        )
        if kept := {k: v for k, v in scraped.items() if k.startswith(gauges) and v}:
            problems.append(f"not zero at the end: {kept}")
        if not told:
            problems.append("no tunnel or stream has followed its user")
        if ledger.sent != ledger.ended:
            problems.append(f"{ledger.sent - ledger.ended} requests of the clients have no end")
        if ledger.lost:  # an endpoint of stable is never touched
            problems.append(f"{ledger.lost} requests that may be repeated were not answered")
        if sum(counted.values()) != ledger.sent:
            problems.append(f"{sum(counted.values()):.0f} counted of {ledger.sent} sent")
        if counted["refused"] != ledger.refused.total():
            problems.append(f"{counted['refused']:.0f} refused, {ledger.refused} seen")
        if set(ledger.answered) - {101, 200, 404, 500, 502, 503, 504} or set(ledger.refused) - {
            400
        }:
            problems.append(f"answers that nobody should get: {ledger.answered} {ledger.refused}")
        helped = ("canaryproxy_rescued_total", "canaryproxy_asset_lookups_total")
        rescued = sum(v for k, v in scraped.items() if k.startswith(helped))
        astray = (
            ledger.left + ledger.cut + rescued
        )  # a rescued one is counted as what it was saved from
        for status, seen in ledger.answered.items():
            found = sum(
                v for k, v in scraped.items() if f'code="{status}"' in k and "requests" in k
            )
            if not seen - rescued <= found <= seen + astray:
                problems.append(f"{seen} answers {status} seen, {found:.0f} counted")
        most = max(s.resident for s in self._samples)
        if most > MOST:
            problems.append(f"{most / MIB:.1f} MiB resident")
        allowed = max(4 * MIB, 0.05 * most)
        if report.growth > allowed:
            problems.append(
                f"resident memory grew by more than {allowed / MIB:.1f} MiB after warm-up"
            )
        if proxy.child.poll() is not None:
            problems.append(f"the proxy ended: {proxy.log.read_text()[-2000:]}")
        if "Traceback" in proxy.log.read_text():
            problems.append(f"the proxy logged an error: {proxy.log}")
        return report
