"""A fork of the zygote is what an interpreter is that is started with the same arguments."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.processes import DEADLINE, until
from tests.zygote import Fork

SHOWS = """
import os, signal, sys
from pathlib import Path
for name, value in sorted({
    "argv": sys.argv,
    "orig_argv": sys.orig_argv,
    "cmdline": Path("/proc/self/cmdline").read_bytes().rstrip(b"\\0"),
    "path": sys.path[0],
    "name": __name__,
    "folder": os.getcwd(),
    **{name: os.environ[name] for name in os.environ.keys() - {"LINES", "COLUMNS"}},  # of readline in pytest
    "handlers": [signal.getsignal(one).__repr__().partition(" at ")[0] for one in signal.valid_signals()],
    "blocked": signal.pthread_sigmask(signal.SIG_BLOCK, ()),
    "descriptors": len(os.listdir("/proc/self/fd")),
    "group": os.getpgid(0),
    "input": os.readlink("/proc/self/fd/0"),
    "encodings": [(one.encoding, one.errors, one.line_buffering) for one in (sys.stdout, sys.stderr)],
    "flags": sys.flags,
}.items()):
    print(name, value)
print("said on stderr", file=sys.stderr)
sys.exit(3)
"""


def run(folder: Path, *arguments: str, fresh: bool = False) -> tuple[int, str]:
    """Run a program to its end; return its exit status and what it has written."""
    file = folder / "output"
    with file.open("wb") as output:
        if fresh:
            command = [sys.executable, *arguments]
            started: Fork | subprocess.Popen[bytes] = subprocess.Popen(
                command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        else:
            started = Fork(arguments, cwd=folder, output=output)
        return started.wait(DEADLINE), file.read_text()


@pytest.mark.parametrize("as_module", [False, True])
def test_fork_is_what_an_interpreter_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_module: bool
) -> None:
    (tmp_path / "shows.py").write_text(SHOWS)
    monkeypatch.setenv("TOLD", "now")
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")  # so that both say it in the same order
    program = ("-m", "shows") if as_module else (str(tmp_path / "shows.py"),)
    fresh = run(tmp_path, *program, "a", "-b", "ü", fresh=True)
    forked = run(tmp_path, *program, "a", "-b", "ü")
    assert forked[1].splitlines() == fresh[1].splitlines()
    assert forked[0] == fresh[0] == 3
    assert "TOLD now" in fresh[1]


def test_fork_has_an_exit_status_as_it_ends(tmp_path: Path) -> None:
    fails = tmp_path / "fails.py"
    fails.write_text("raise ValueError('of its own')")
    status, said = run(tmp_path, str(fails))
    assert status == 1
    assert said.endswith("ValueError: of its own\n")
    waits = tmp_path / "waits.py"
    waits.write_text("import signal\nprint('waits', flush=True)\nsignal.pause()")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        file = tmp_path / number.name
        with file.open("wb") as output:
            started = Fork([str(waits)], cwd=tmp_path, output=output)
        until(file.read_text, "its word")
        assert started.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            started.wait(0.01)
        os.kill(started.pid, number)
        assert started.wait(DEADLINE) == started.poll() == -number
        started.kill()  # has no effect any more


DRAWS = """
import sys
from random import Random
from canaryproxy.runtime import imports
imports.prepare()
import canaryproxy.cli.run, canaryproxy.cli.serve
from canaryproxy.tls.tickets import Secret

def text(value):
    if isinstance(value, Random):
        return str(value.random())
    return value.write() if isinstance(value, Secret) else repr(value)

print({
    f"{module.__name__}.{name}": text(value)
    for module in list(sys.modules.values()) if module.__name__.startswith("canaryproxy")
    for name, value in vars(module).items() if isinstance(value, (int, float, str, bytes, Random, Secret))
})
"""


def test_forks_share_nothing_that_interpreters_do_not(tmp_path: Path) -> None:
    """What two starts draw at random or read from the clock, two forks have of their own, too."""
    draws = tmp_path / "draws.py"
    draws.write_text(DRAWS)

    def of_two(*, fresh: bool) -> set[str]:
        one, other = (ast.literal_eval(run(tmp_path, str(draws), fresh=fresh)[1]) for _ in range(2))
        return {name for name in one if one[name] != other[name]}

    own = of_two(fresh=True)
    assert {"canaryproxy.tls.tickets.SECRET", "canaryproxy.runtime.health_checks._DRAW"} <= own
    assert own <= of_two(fresh=False)
