"""Counts the instructions of a running server with valgrind's callgrind.

The count is that of user space, of all processes of the tree. It is nearly the same in each run and on each
machine, because valgrind counts what the program does and not how long it takes.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from bench.harness import cputime

HINT = "valgrind is not installed (Debian, Ubuntu: apt-get install valgrind)"
_SECONDS = 20
_TOTALS = "totals:"


class CallgrindError(Exception):
    """valgrind is missing, or did not do what it was asked for."""


def missing() -> str | None:
    """Return why instructions cannot be counted here, or None."""
    return None if shutil.which("valgrind") and shutil.which("vgdb") else HINT


def command(program: list[str], folder: Path) -> list[str]:
    """Return the command that runs a program under callgrind, not counting yet."""
    return [
        *("valgrind", "--tool=callgrind", "--instr-atstart=no", "--trace-children=yes"),
        *("-q", f"--callgrind-out-file={folder}/callgrind.%p", *program),
    ]


def totals(text: str) -> int:
    """Return the instructions from the text of a dump; ``CallgrindError`` if they are not in it."""
    for line in reversed(text.splitlines()):
        if line.startswith(_TOTALS):
            return int(line.removeprefix(_TOTALS).split()[0])
    raise CallgrindError("a dump of callgrind has no totals")


class Counter:
    """Counts in the processes that the tree of process ``pid`` has when this is made."""

    def __init__(self, pid: int, folder: Path) -> None:
        self._folder = folder
        self._pids = cputime.tree(pid)
        self._ask("instrumentation on")

    def start(self) -> None:
        """Count from here."""
        self._ask("zero")

    def stop(self) -> int:
        """Return the instructions since ``start``."""
        for old in self._folder.glob("callgrind.*"):
            old.unlink()
        self._ask("dump")
        dumps = [path.read_text() for path in self._folder.glob("callgrind.*.*")]
        if len(dumps) != len(self._pids):
            raise CallgrindError(f"{len(dumps)} dumps of {len(self._pids)} processes")
        return sum(totals(dump) for dump in dumps)

    def _ask(self, what: str) -> None:
        for pid in self._pids:
            try:
                subprocess.run(
                    ["vgdb", f"--pid={pid}", *what.split()],
                    check=True,
                    capture_output=True,
                    timeout=_SECONDS,
                )
            except (OSError, subprocess.SubprocessError) as error:
                raise CallgrindError(f"vgdb {what}: {error}") from error
