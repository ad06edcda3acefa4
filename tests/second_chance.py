"""A second chance for tests that start real processes, and what the end of a run says of it.

A plugin of pytest. A busy machine can make a test of real processes fail, so such a test is run once more.
What needed that is listed at the end, with its failure, and more than a few of them fail the run: that many
are not chance.
Skipped tests are listed there too, by reason, so that a missing program is seen.
"""

from __future__ import annotations

import gc
import sys
from collections import Counter
from collections.abc import Generator
from pathlib import Path

import pytest

FOLDERS = frozenset({"system", "faults", "fleet", "browser", "deploy", "soak", "demo", "bench"})
"""The folders of ``tests`` whose tests start processes."""
ALLOWED = 3
"""So many tests may need a second run."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--notes", type=Path, metavar="FILE", help="append what was run again or skipped to a file"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.pluginmanager.hasplugin("rerunfailures"):
        return  # an environment from before it was needed: `make install` renews it
    for item in items:
        inside = item.path.relative_to(config.rootpath).parts
        if inside[0] == "tests" and inside[1] in FOLDERS:
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    _forget_what_failed(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    done = yield
    _forget_what_failed(item)
    return done


def _forget_what_failed(item: pytest.Item) -> None:
    """Collect what a failed first run left open, so that it fails no other test as a ``ResourceWarning``."""
    if getattr(item, "execution_count", 1) < 2:
        return
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        gc.collect()
    finally:
        sys.unraisablehook = hook


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run in the process that was started: workers of xdist send it their reports."""
    if len(_run_again(session.config)) > ALLOWED and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    for report in _reports(config, "rerun"):
        terminalreporter.section(f"first run of {report.nodeid}", "_")
        terminalreporter.line(report.longreprtext)
    notes = _notes(config)
    if notes:
        terminalreporter.section("run again or skipped")
        for note in notes:
            terminalreporter.line(note)
    file = config.option.notes
    if file is not None and not hasattr(config, "workerinput"):
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a") as appended:
            appended.writelines(f"{note}\n" for note in notes)


def _notes(config: pytest.Config) -> list[str]:
    again = _run_again(config)
    notes = [f"failed once, run again: {test}" for test in again]
    if len(again) > ALLOWED:
        notes.append(f"{len(again)} tests had to be run again; more than {ALLOWED} fail the run")
    skipped = Counter(
        report.longrepr[2].removeprefix("Skipped: ")
        for report in _reports(config, "skipped")
        if isinstance(report.longrepr, tuple)
    )
    notes += [f"skipped: {reason} ({count})" for reason, count in sorted(skipped.items())]
    return notes


def _run_again(config: pytest.Config) -> list[str]:
    return sorted({report.nodeid for report in _reports(config, "rerun")})


def _reports(config: pytest.Config, category: str) -> list[pytest.TestReport]:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    found = [] if reporter is None else reporter.stats.get(category, [])
    return [report for report in found if isinstance(report, pytest.TestReport)]
