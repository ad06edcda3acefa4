"""Runs a module with timers of uvloop that last several times as long, and clocks that count.

Under callgrind everything takes fifty times as long, timers do not: what a server does each tenth of a
second would be a fifth of all it does. Timers are stretched so far that it happens between two counts. And
what a server does now and then by the clock, it would do for more of the requests the slower the machine is:
so clocks go on by the same step each time that they are looked at, some ten thousand requests a second.
Example: python -m bench.gate.slow_clock 2000 canaryproxy run -c config.yaml
"""

from __future__ import annotations

import asyncio
import itertools
import runpy
import sys
import time
from typing import Any

import uvloop


def stretch(factor: float) -> None:
    """Make ``call_later``, and with it ``asyncio.sleep``, wait ``factor`` times as long."""
    original = uvloop.Loop.call_later

    def call_later(
        loop: uvloop.Loop, delay: float, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        return original(loop, delay * factor, callback, *args, context=context)

    uvloop.Loop.call_later = call_later  # type: ignore[assignment, method-assign]


STEP = 30e-6
"""Seconds by which a clock goes on when it is looked at."""


def count() -> None:
    """Make ``time.time`` and ``time.monotonic`` go on by ``STEP`` with each look, and not by themselves."""
    for name in ("time", "monotonic"):
        setattr(time, name, itertools.count(getattr(time, name)(), STEP).__next__)


if __name__ == "__main__":
    stretch(float(sys.argv[1]))
    count()
    module = sys.argv[2]
    sys.argv[:] = sys.argv[2:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
