"""The units for systemd: its own tools read them, and every path and flag in them is one that there is."""

from __future__ import annotations

import configparser
import ctypes
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from canaryproxy import config
from canaryproxy.cli import command_named
from tests.ports import free_port

from .processes import upstream, variants
from .test_hot_restart import ask, drained, handed_over
from .test_systemd import unit

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "config" / "systemd"
PREFIX = "/opt/canaryproxy/bin/"
"""Where the units expect the program."""
ALLOWED_EXPOSURE = 2.0
"""systemd's own figure, from 0 (nothing) to 10; without any setting it is 9.6."""
ANALYZE = shutil.which("systemd-analyze")

needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="needs systemd-analyze")


def settings(name: str, section: str) -> dict[str, str]:
    """Return every setting of a section; of one that is given several times, the last."""
    parser = configparser.RawConfigParser(strict=False, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string((UNITS / name).read_text())
    return dict(parser[section])


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units with a program that exists here: what they name is checked by itself."""
    program = Path(sys.executable).with_name("canaryproxy")
    assert program.exists()
    for file in UNITS.iterdir():
        text = file.read_text().replace(f"{PREFIX}canaryproxy", str(program))
        (tmp_path / file.name).write_text(text)
    return tmp_path


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    assert ANALYZE is not None
    return subprocess.run(
        [ANALYZE, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60
    )


@needs_systemd
def test_systemd_finds_nothing_wrong(installed: Path) -> None:
    units = [installed / f"canaryproxy.{kind}" for kind in ("service", "socket")]
    done = analyze("verify", "--man=no", *units)
    assert [line for line in done.stderr.splitlines() if "canaryproxy" in line] == []
    assert done.returncode == 0, done.stderr


@needs_systemd
def test_little_is_exposed(installed: Path) -> None:
    threshold = f"--threshold={ALLOWED_EXPOSURE * 10:.0f}"
    unit = installed / "canaryproxy.service"
    done = analyze("security", "--offline=true", "--no-pager", threshold, unit)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "Overall exposure level for canaryproxy.service" in done.stdout


def test_what_the_units_run_is_there() -> None:
    service = settings("canaryproxy.service", "Service")
    for key in ("ExecStartPre", "ExecStart"):
        program, command, *rest = shlex.split(service[key])
        assert program == f"{PREFIX}canaryproxy"
        options = {one for param in command_named(command).params for one in param.opts}
        assert {one for one in rest if one.startswith("-")} <= options
        assert rest[rest.index("-c") + 1] == "/etc/canaryproxy/canaryproxy.yaml"
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"


def test_the_configuration_fits_the_units() -> None:
    service = settings("canaryproxy.service", "Service")
    text = (UNITS / "canaryproxy.yaml").read_text()
    found = config.parse(text, file="canaryproxy.yaml")
    streams = [
        line.partition("=")[2]
        for line in (UNITS / "canaryproxy.socket").read_text().splitlines()
        if line.startswith("ListenStream=")
    ]
    assert streams == [str(listener.address) for listener in found.listen]
    assert str(found.state).startswith(f"/var/lib/{service['StateDirectory']}/")
    assert str(found.admin.socket).startswith(f"/run/{service['RuntimeDirectory']}/")
    assert float(service["TimeoutStopSec"].removesuffix("s")) > found.limits.drain_timeout
    assert yaml.safe_load(text)["listen"] == streams
    assert settings("notify-reload.conf", "Service")["Type"] == "notify-reload"


def _can_refuse() -> bool:
    get_mdwe = 66
    return bool(ctypes.CDLL(None).prctl(get_mdwe, 0, 0, 0, 0) >= 0)


@pytest.mark.skipif(not _can_refuse(), reason="needs Linux 6.3")
@pytest.mark.parametrize("workers", [1, 2])
def test_it_needs_no_memory_that_is_written_and_executed(tmp_path: Path, workers: int) -> None:
    """``MemoryDenyWriteExecute=yes`` is true: it serves, steers, reloads, and hands over without."""
    with upstream(tmp_path, "stable") as (_, v1):
        text = (
            f"listen: 127.0.0.1:{free_port()}\nworkers: {workers}\nstate: {tmp_path}/state.json\n"
            f"{variants([v1], [v1])}\nsplit: {{weight: 5}}\n"
        )
        with unit(tmp_path, text, environment={"REFUSE_WRITABLE_CODE": "1"}) as running:
            running.kill(signal.SIGHUP)
            running.kill(signal.SIGUSR2)
            handed_over(running, running.pid)
            drained(running, running.pid)
            assert ask(running)["weight"] == 5
            assert "Traceback" not in running.log.read_text()
