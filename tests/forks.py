"""Runs the tests in forks of the process that has collected them: ``--forks N``. A plugin of pytest.

What pytest-xdist starts are processes that import and collect all tests anew, at ten seconds of processor
time each. A fork has what its parent has. The files are begun in the order in which they were collected, each
by the fork that is free first, which runs all tests of it.
"""

from __future__ import annotations

import ctypes
import gc
import os
import selectors
import signal
import struct
import sys
import time
import traceback
import uuid
import warnings
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import pytest

_CLAIM = struct.Struct("=H")
_PR_SET_PDEATHSIG = 1
_LAST_WORDS = 20.0
"""Seconds for a process whose test is interrupted."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--forks",
        type=int,
        default=0,
        metavar="N",
        help="run the tests in N processes, file by file",
    )
    # Before it is over, pytest's `faulthandler_timeout` has printed where the test is.
    parser.addoption(
        "--fork-timeout",
        type=float,
        default=600.0,
        metavar="SECONDS",
        help="end a process whose test says nothing for so long",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    options = session.config.option
    if not options.forks or options.collectonly or session.testsfailed:
        return None
    _run(session, options.forks)
    return True


def _run(session: pytest.Session, count: int) -> None:
    files = _by_file(session.items)
    claims = _claims(len(files))
    run = uuid.uuid4().hex
    session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        reporter.showfspath = False  # results of several files come by turns
    gc.collect()
    gc.freeze()
    sys.stdout.flush()
    sys.stderr.flush()
    with selectors.DefaultSelector() as selector:
        forks: list[_Fork] = []
        told = False
        try:
            for number in range(min(count, len(files))):
                forks.append(_fork(session, files, claims, f"gw{number}", run))
                selector.register(forks[-1].results, selectors.EVENT_READ, forks[-1])
            while selector.get_map():
                for key, _ in selector.select(timeout=1.0):
                    one: _Fork = key.data
                    if not one.hear(session.config):
                        selector.unregister(one.results)
                    if session.shouldfail:
                        raise session.Failed(session.shouldfail)
                    if session.shouldstop:
                        raise session.Interrupted(session.shouldstop)
                for one in forks:
                    one.end_if_silent(session.config.option.fork_timeout)
        except KeyboardInterrupt:
            told = True  # a terminal sends it to all of its processes
            raise
        finally:
            os.close(claims)
            for one in forks:
                one.interrupt(told)
            for one in forks:
                one.end()
    done = sum(one.done for one in forks)
    if done != len(session.items) and not session.testsfailed:
        raise session.Failed(f"{done} of {len(session.items)} tests have run")


def _by_file(items: list[pytest.Item]) -> list[list[pytest.Item]]:
    found: dict[str, list[pytest.Item]] = {}
    for item in items:
        found.setdefault(item.nodeid.partition("::")[0], []).append(item)
    return list(found.values())


def _claims(count: int) -> int:
    """Return a pipe from which each reader takes the number of another file."""
    read, write = os.pipe()
    os.set_blocking(write, False)  # fails rather than waits, if they should not fit
    assert os.write(write, b"".join(map(_CLAIM.pack, range(count)))) == count * _CLAIM.size
    os.close(write)
    return read


@dataclass
class _Fork:
    """A process that runs tests, from the side of its parent."""

    pid: int
    results: Connection
    running: tuple[str, tuple[str, int | None, str]] | None = None
    heard: float = 0.0
    done: int = 0

    def hear(self, config: pytest.Config) -> bool:
        """Pass on what it says; returns false once it has ended."""
        self.heard = time.monotonic()
        try:
            kind, data = self.results.recv()
        except (EOFError, OSError):  # of a message, too, if it was killed
            _, status = os.waitpid(self.pid, 0)
            self.pid = 0
            if status or self.running:
                self._died(config, os.waitstatus_to_exitcode(status))
            return False
        if kind == "report":
            report = config.hook.pytest_report_from_serializable(config=config, data=data)
            config.hook.pytest_runtest_logreport(report=report)
        elif kind == "start":
            self.running = data
        elif kind == "finish":
            self.running = None
            self.done += 1
        return True

    def _died(self, config: pytest.Config, status: int) -> None:
        nodeid, location = self.running or ("tests", ("tests", None, "tests"))
        text = f"the process that ran the test has ended with status {status}"
        report = pytest.TestReport(nodeid, location, {}, "failed", text, "call")
        config.hook.pytest_runtest_logreport(report=report)

    def end_if_silent(self, seconds: float) -> None:
        """Kill it if its test has not said anything for so long: the run goes on, and fails at its end."""
        if self.pid and self.running and time.monotonic() - self.heard > seconds:
            os.kill(self.pid, signal.SIGKILL)

    def interrupt(self, told: bool) -> None:
        """Let it end what its test has started, unless it has been ``told`` so."""
        self.results.close()
        if self.pid and not told:
            os.kill(self.pid, signal.SIGINT)

    def end(self) -> None:
        """Wait a while for its end, and make it end."""
        until = time.monotonic() + _LAST_WORDS
        while self.pid and time.monotonic() < until:
            if os.waitpid(self.pid, os.WNOHANG) != (0, 0):
                self.pid = 0
            time.sleep(0.01)
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


def _fork(
    session: pytest.Session, files: list[list[pytest.Item]], claims: int, name: str, run: str
) -> _Fork:
    heard, said = Pipe(duplex=False)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # a thread of rerunfailures only listens
        pid = os.fork()
    if pid:
        said.close()
        return _Fork(pid, heard)
    status = 1
    try:
        heard.close()
        _become_a_fork(session.config, name, run)
        speaker = _Speaker(session.config, said)
        session.config.pluginmanager.register(speaker)
        try:
            _run_files(session, files, claims, speaker)
        finally:
            session._setupstate.teardown_exact(None)
        status = 0
    except KeyboardInterrupt:
        pass
    except BaseException:  # noqa: BLE001 - it is said, and the process ends
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(status)


def _become_a_fork(config: pytest.Config, name: str, run: str) -> None:
    """Have an output and a place for files of its own, and end with the parent."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
    capture = config.pluginmanager.get_plugin("capturemanager")
    if capture is not None:
        capture.stop_global_capturing()
        capture.start_global_capturing()
        capture.suspend_global_capture()
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        config.pluginmanager.unregister(reporter)
    factory: Any = config._tmp_path_factory  # type: ignore[attr-defined]
    factory._basetemp = factory.getbasetemp() / name
    factory._basetemp.mkdir(mode=0o700)
    os.environ["PYTEST_XDIST_WORKER"] = name
    config.workerinput = {"workerid": name, "testrunuid": run}  # type: ignore[attr-defined]


class _Speaker:
    """Says what becomes of the tests to the parent."""

    def __init__(self, config: pytest.Config, results: Connection) -> None:
        self._config = config
        self._results = results

    def pytest_runtest_logstart(self, nodeid: str, location: tuple[str, int | None, str]) -> None:
        self.say("start", (nodeid, location))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        self.say("report", data)

    def say(self, kind: str, data: Any) -> None:
        self._results.send((kind, data))


def _run_files(
    session: pytest.Session, files: list[list[pytest.Item]], claims: int, speaker: _Speaker
) -> None:
    """Run one file after the other, until all are taken."""
    while claim := os.read(claims, _CLAIM.size):
        items = files[_CLAIM.unpack(claim)[0]]
        # After the last test of a file the session goes on, and with it what belongs to it.
        for item, following in zip(items, [*items[1:], session], strict=True):
            session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            speaker.say("finish", None)
            if session.shouldfail or session.shouldstop:
                return  # the parent has heard the same, and says so
