"""A test of real processes that fails once is run again and named; one that fails twice is red."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

FAILS_AT_FIRST = """
from pathlib import Path
def test_{name}():
    mark = Path({folder!r}) / "{name}"
    was = mark.exists()
    mark.touch()
    assert was
"""


def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, *more: str) -> pytest.RunResult:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makefile(".ini", pytest="[pytest]\n")
    plugins = ("xdist.plugin", "rerunfailures", "tests.forks", "tests.second_chance")
    return pytester.runpytest_subprocess(*(f"-p{name}" for name in plugins), *more)


def write(pytester: pytest.Pytester, folder: str, name: str, text: str) -> None:
    file = pytester.path / "tests" / folder / f"test_{name}.py"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def fails_at_first(pytester: pytest.Pytester, folder: str, *names: str) -> None:
    for name in names:
        text = FAILS_AT_FIRST.format(name=name, folder=str(pytester.path))
        write(pytester, folder, name, text)


@pytest.mark.parametrize("workers", [(), ("-n", "2"), ("--forks", "2")])
def test_rerun_passes_is_named_and_is_green(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, workers: tuple[str, ...]
) -> None:
    fails_at_first(pytester, "system", "a", "b", "c")
    result = run(pytester, monkeypatch, *workers, "--notes", "build/notes.txt")
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=3)
    named = [f"failed once, run again: tests/system/test_{n}.py::test_{n}" for n in "abc"]
    result.stdout.fnmatch_lines(["*run again or skipped*", *named])
    first = [[f"*first run of tests/system/test_{n}.py::test_{n}*", "*assert was*"] for n in "abc"]
    for lines in first:
        result.stdout.fnmatch_lines(lines)
    assert (pytester.path / "build" / "notes.txt").read_text().splitlines() == named


@pytest.mark.parametrize("workers", [(), ("-n", "2"), ("--forks", "2")])
def test_more_reruns_than_allowed_fail_the_run(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, workers: tuple[str, ...]
) -> None:
    fails_at_first(pytester, "fleet", "a", "b", "c", "d")
    result = run(pytester, monkeypatch, *workers)
    result.assert_outcomes(passed=4)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["4 tests had to be run again; more than 3 fail the run"])


LEAVES_A_SOCKET = """
import socket
from pathlib import Path
def test_first():
    mark = Path({folder!r}) / "mark"
    was = mark.exists()
    mark.touch()
    opened = socket.socket()
    kept = [opened]
    kept.append(kept)
    assert was
    opened.close()
"""


def test_what_a_failed_run_left_open_fails_no_other_test(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(pytester, "fleet", "leaves", LEAVES_A_SOCKET.format(folder=str(pytester.path)))
    write(pytester, "http1", "next", "import gc\ndef test_next():\n    gc.collect()\n")
    result = run(pytester, monkeypatch, "-W", "error")
    result.assert_outcomes(passed=2)
    assert result.ret == pytest.ExitCode.OK


def test_failing_twice_is_a_failure(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(pytester, "system", "broken", "def test_it():\n    assert False\n")
    result = run(pytester, monkeypatch)
    result.assert_outcomes(failed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED


def test_a_test_without_processes_has_no_second_chance(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails_at_first(pytester, "http1", "a")
    result = run(pytester, monkeypatch)
    result.assert_outcomes(failed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED


@pytest.mark.parametrize("workers", [(), ("-n", "2"), ("--forks", "2")])
def test_skips_are_listed_by_reason(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, workers: tuple[str, ...]
) -> None:
    write(
        pytester,
        "deploy",
        "skips",
        "import pytest\n"
        "@pytest.mark.skipif(True, reason='kubectl is not installed')\n"
        "@pytest.mark.parametrize('n', [1, 2])\n"
        "def test_marked(n): ...\n"
        "def test_called(): pytest.skip('wrk is not installed')\n",
    )
    result = run(pytester, monkeypatch, *workers)
    result.stdout.fnmatch_lines(
        ["skipped: kubectl is not installed (2)", "skipped: wrk is not installed (1)"]
    )
