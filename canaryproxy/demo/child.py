"""Run a command that ends with the demo: ``python -m canaryproxy.demo.child PARENT COMMAND...``.

The kernel kills the process when its parent dies, so that even ``kill -9`` of the demo leaves nothing behind
(prctl(2), PR_SET_PDEATHSIG, which survives execve(2)).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Set the signal for the death of the parent, then execute the command."""
    parent = int(sys.argv[1])
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the call
        sys.exit(1)
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main()
