"""Memory of a process with its children, as the kernel counts it."""

from __future__ import annotations

from pathlib import Path

from bench.harness import cputime

_FIELD = "VmRSS:"


def of_tree(pid: int) -> int:
    """Return the resident bytes of ``pid`` and its living descendants (shared pages count for each)."""
    total = 0
    for member in cputime.tree(pid):
        try:
            total += resident(Path(f"/proc/{member}/status").read_text())
        except OSError:
            continue  # it has ended meanwhile
    return total


def resident(status: str) -> int:
    """Return the resident bytes from the text of /proc/PID/status; 0 for a kernel thread or zombie."""
    for line in status.splitlines():
        if line.startswith(_FIELD):
            return int(line.removeprefix(_FIELD).split()[0]) * 1024
    return 0
