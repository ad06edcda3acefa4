"""CPU time of a process with its children and threads, as the kernel counts it."""

from __future__ import annotations

from pathlib import Path

_PROC = Path("/proc")


def of_tree(pid: int) -> int:
    """Return the nanoseconds that ``pid`` and its living descendants have spent on a CPU.

    The sum over all threads of the first field of schedstat: the scheduler's own clock, user and
    kernel time together. A thread or child that has ended is not in it, so the difference of two
    readings is right for servers with a fixed set of threads and workers, as all peers here are.
    """
    return sum(_of_process(member) for member in tree(pid))


def tree(pid: int) -> list[int]:
    """Return ``pid`` and its living descendants."""
    children: dict[int, list[int]] = {}
    for folder in _PROC.iterdir():
        if folder.name.isdigit():
            parent = _parent(folder)
            if parent is not None:
                children.setdefault(parent, []).append(int(folder.name))
    found = [pid]
    for member in found:
        found.extend(children.get(member, ()))
    return found


def _parent(folder: Path) -> int | None:
    try:
        # The name in parentheses may hold anything; the fields after it are plain.
        return int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def _of_process(pid: int) -> int:
    total = 0
    try:
        for thread in (_PROC / str(pid) / "task").iterdir():
            total += int((thread / "schedstat").read_text().split()[0])
    except OSError:
        return total
    return total
