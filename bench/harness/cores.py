"""Which cores are used for what, and how busy they are."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_IDLE_FIELDS = (3, 4)  # idle and iowait, of: user nice system idle iowait irq softirq steal


@dataclass(frozen=True, slots=True)
class Cores:
    """The core of the proxy under test, and the core shared by load generator and upstream."""

    proxy: int
    load: int

    @property
    def shared(self) -> bool:
        """Whether there is only one core for everything, which makes requests/s meaningless."""
        return self.proxy == self.load


def choose() -> Cores:
    """Return the last usable core for the proxy and the first one for load and upstream."""
    usable = sorted(os.sched_getaffinity(0))
    return Cores(proxy=usable[-1], load=usable[0])


@dataclass(frozen=True, slots=True)
class CoreTime:
    """Time of one core since boot, in clock ticks (os.sysconf SC_CLK_TCK a second)."""

    busy: int
    idle: int


def busy_share(before: CoreTime, after: CoreTime) -> float:
    """Return the share of time, 0..1, in which the core was not idle (stolen time is busy)."""
    busy = after.busy - before.busy
    total = busy + after.idle - before.idle
    return busy / total if total else 0.0


def read(core: int, stat: str | None = None) -> CoreTime:
    """Read the kernel's times of one core; ``stat`` is the text of /proc/stat, for tests."""
    text = Path("/proc/stat").read_text() if stat is None else stat
    for line in text.splitlines():
        name, *fields = line.split()
        if name == f"cpu{core}":
            ticks = [int(field) for field in fields[:8]]  # the rest is part of user and nice
            idle = sum(ticks[i] for i in _IDLE_FIELDS)
            return CoreTime(busy=sum(ticks) - idle, idle=idle)
    raise ValueError(f"/proc/stat knows no core {core}")
