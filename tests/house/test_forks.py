"""``--forks``: the same tests as without it, each once, in processes that share nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.processes import until

ROOT = Path(__file__).parents[2]
SHARED = """
import os, sys
import pytest

@pytest.fixture(scope="session")
def shared():
    yield os.getpid()
    print("session over", file=sys.__stderr__)
"""
ONE = """
import json, os
import pytest

@pytest.fixture(scope="module")
def of_file():
    made.append(1)
    return len(made)

made = []

@pytest.mark.parametrize("n", range(3))
def test_it(n, shared, of_file, tmp_path, worker_id, testrun_uid):
    print("printed by", __name__, n)
    assert shared == os.getpid()
    assert of_file == 1
    note = [os.getpid(), str(tmp_path), worker_id, testrun_uid]
    with open({notes!r}, "a") as notes:
        notes.write(json.dumps(note) + "\\n")
    assert n != {fails}
"""


def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, *more: str) -> pytest.RunResult:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    return pytester.runpytest_subprocess("-pxdist.plugin", "-ptests.forks", *more)


def test_each_test_runs_once_and_all_of_a_file_in_one_process(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = pytester.path / "notes"
    pytester.makeconftest(SHARED)
    for name in "abcd":
        fails = 1 if name == "c" else -1
        text = ONE.replace("{notes!r}", repr(str(notes))).replace("{fails}", str(fails))
        pytester.makepyfile(**{f"test_{name}": text})
    result = run(pytester, monkeypatch, "--forks", "2")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=11, failed=1)
    assert "printed by test_c 1" in result.stdout.str()
    assert "printed by test_c 0" not in result.stdout.str()
    lines = [json.loads(line) for line in notes.read_text().splitlines()]
    pids, folders, workers, runs = (set(column) for column in zip(*lines, strict=True))
    assert len(lines) == len(folders) == 12
    assert len(pids) == len(workers) <= 2
    assert workers <= {"gw0", "gw1"}
    assert len(runs) == 1
    assert os.getpid() not in pids
    assert result.stderr.str().count("session over") == len(pids)


def test_a_process_that_dies_fails_the_run(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(
        test_a="import os\ndef test_dies(): os._exit(0)\ndef test_after(): ...",
        test_b="import os\ndef test_dies(): os.kill(os.getpid(), 9)",
        test_c="def test_c(): ...",
    )
    result = run(pytester, monkeypatch, "--forks", "3")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(failed=2, passed=1)
    said = result.stdout.str()
    assert "the process that ran the test has ended with status 0" in said
    assert "the process that ran the test has ended with status -9" in said
    result.stdout.fnmatch_lines_random(
        ["FAILED test_a.py::test_dies*", "FAILED test_b.py::test_dies*"]
    )


def test_a_test_that_hangs_fails_the_run_and_the_others_go_on(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(
        test_a="import time\ndef test_hangs(): time.sleep(1000)\ndef test_after(): ...",
        test_b="def test_b(): ...",
    )
    result = run(pytester, monkeypatch, "--forks", "2", "--fork-timeout", "1")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines_random(["FAILED test_a.py::test_hangs*"])
    assert "the process that ran the test has ended with status -9" in result.stdout.str()


FAILS_AFTER = """
import time
from pathlib import Path
def test_fails():
    while not Path("begun").exists(): time.sleep(0.01)
    assert False
def test_after(): ...
"""
WAITS = """
import time
from pathlib import Path
import pytest
def note(text):
    with Path("ended").open("a") as file:
        file.write(text + " ")
@pytest.fixture
def held():
    yield
    note("fixture")
def test_long(held):
    try:
        Path("begun").touch()
        time.sleep(600)
    finally:
        note("test")
"""


def test_the_first_failure_ends_the_run_if_that_is_wanted(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(test_a=FAILS_AFTER, test_b=WAITS)
    result = run(pytester, monkeypatch, "--forks", "2", "-x")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*stopping after 1 failures*"])
    assert (pytester.path / "ended").read_text() == "test fixture "


def test_processes_end_with_the_one_that_started_them(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(test_b=WAITS)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    command = [sys.executable, "-m", "pytest", "-ptests.forks", "--forks", "1"]
    with subprocess.Popen(command, cwd=pytester.path, stdout=subprocess.DEVNULL) as running:
        until((pytester.path / "begun").exists)
        running.kill()
    ended = pytester.path / "ended"
    until(lambda: ended.exists() and ended.read_text() == "test fixture ")


def test_what_cannot_be_collected_fails_the_run(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(test_a="import nothing_of_that_name", test_b="def test_b(): ...")
    result = run(pytester, monkeypatch, "--forks", "2")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.assert_outcomes(errors=1)
