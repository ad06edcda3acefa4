"""Runs a command that dies with the demo: ``python -m canaryproxy.demo.child COMMAND...``.

The kernel is asked to end the child when its parent is gone, so that even a ``kill -9`` of the demo leaves
nothing behind (prctl(2), PR_SET_PDEATHSIG; it survives the exec).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask the kernel, then become the command."""
    parent = int(sys.argv[1])
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we asked
        sys.exit(1)
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main()
