"""Runs a module with timers of uvloop that last several times as long.

Under callgrind everything takes fifty times as long, timers do not: what a server does each tenth of a
second would be a fifth of all it does. Stretched timers put that right again.
Example: python -m bench.slow_clock 20 canaryproxy run -c config.yaml
"""

from __future__ import annotations

import asyncio
import runpy
import sys
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


if __name__ == "__main__":
    stretch(float(sys.argv[1]))
    module = sys.argv[2]
    sys.argv[:] = sys.argv[2:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
