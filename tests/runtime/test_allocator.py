"""Garbage collection holds up the event loop for a short time only, and garbage is still collected."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import asyncio, gc, weakref
from canaryproxy.runtime import allocator

class Cycle:
    def __init__(self):
        self.me = self

seen = []
gc.callbacks.append(lambda phase, info: seen.append(info["generation"]) if phase == "stop" else None)

async def main():
    allocator.settle()
    allocator.collect_briefly(asyncio.get_running_loop(), every=3600.0)
    seen.clear()
    live = [[] for _ in range(200_000)]
    print(max(seen), min(seen), seen.count(0) > seen.count(1) > 20)

    old = Cycle()
    gc.collect(1)  # it is among the old ones now
    found = weakref.ref(old)
    del old
    young = weakref.ref(Cycle())
    more = [[] for _ in range(10_000)]
    print(found() is not None, young() is None)

    allocator.collect_briefly(asyncio.get_running_loop(), every=0.001)
    while found() is not None:
        await asyncio.sleep(0.001)
    seen.clear()
    while 2 not in seen:  # again and again
        await asyncio.sleep(0.001)
    print("all", len(live), len(more))

asyncio.run(asyncio.wait_for(main(), 60))
"""


def test_old_objects_are_looked_through_by_the_clock_only() -> None:
    """In a process of its own: what it sets is for all of one."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=90, check=False
    )
    assert done.stderr == ""
    assert done.stdout.split("\n") == ["1 0 True", "True True", "all 200000 10000", ""]
