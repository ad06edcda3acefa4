"""Becomes another program, pinned to one core; the kernel ends it when its starter ends.

Run by path, not as a module, so that it starts quickly and needs nothing installed:
python -I -S bench/harness/launch.py CORE COMMAND...
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_EXIT_NOT_STARTED = 127


def main() -> None:
    """Set up this process, then replace it."""
    core, *command = sys.argv[1:]
    os.sched_setaffinity(0, {int(core)})
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", flush=True)
        sys.exit(_EXIT_NOT_STARTED)


if __name__ == "__main__":
    main()
