"""How quiet the machine was while something was measured on it."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from pathlib import Path

_STAT = Path("/proc/stat")
_IDLE, _IOWAIT, _STEAL, _FIELDS = 3, 4, 7, 8


@dataclass(frozen=True, slots=True)
class Quietness:
    """What else the machine did during a run.

    load_before, load_after: average number of runnable tasks over a minute.
    others: share of all cores' time in which processes ran that are not of the benchmark.
    stolen: share of it that the host of a virtual machine gave to others.
    """

    load_before: float
    load_after: float
    others: float
    stolen: float

    def __str__(self) -> str:
        return (
            f"load average {self.load_before:.2f} before and {self.load_after:.2f} after, "
            f"{self.others:.1%} of the cores' time for other processes, {self.stolen:.1%} stolen"
        )


class Watch:
    """Watches from when it is made; the benchmark's processes are children that ``quietness`` finds ended."""

    def __init__(self) -> None:
        self._load = os.getloadavg()[0]
        self._ticks = ticks(_STAT.read_text())
        self._own = _own_seconds()

    def quietness(self) -> Quietness:
        """Return what the machine did since then."""
        now = ticks(_STAT.read_text())
        passed = [after - before for before, after in zip(self._ticks, now, strict=True)]
        own = (_own_seconds() - self._own) * os.sysconf("SC_CLK_TCK")
        return of_ticks(passed, own, self._load, os.getloadavg()[0])


def ticks(stat: str) -> list[int]:
    """Return the ticks of all cores from the text of /proc/stat: user, nice, system, idle, … (proc(5))."""
    return [int(one) for one in stat.splitlines()[0].split()[1 : _FIELDS + 1]]


def of_ticks(passed: list[int], own: float, before: float, after: float) -> Quietness:
    """Return the quietness of a time in which so many ticks passed, ``own`` of them in the benchmark."""
    everything = max(1, sum(passed))
    busy = everything - passed[_IDLE] - passed[_IOWAIT] - passed[_STEAL]
    return Quietness(
        load_before=before,
        load_after=after,
        others=max(0.0, busy - own) / everything,
        stolen=passed[_STEAL] / everything,
    )


def _own_seconds() -> float:
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)
