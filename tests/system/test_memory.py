"""Memory that a body needed serves the next one."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

ROUNDS = 200
PROGRAM = f"""
import resource
from canaryproxy.runtime import allocator

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

allocator.keep_freed()

def round():
    held = [b"x" * 256_000 for _ in range(8)]

round()
before = faults()
for _ in range({ROUNDS}):
    round()
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators need not be told")
def test_the_pages_of_freed_pieces_are_not_asked_of_the_kernel_again() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True)
    assert int(done.stdout) < ROUNDS  # a piece has 63 pages
