"""``plan`` and ``check`` say what the state file knows of capacity."""

from __future__ import annotations

import json
from pathlib import Path
from time import time
from typing import Any

import pytest
from click.testing import CliRunner

from canaryproxy.cli.check import check
from canaryproxy.cli.offline import plan
from canaryproxy.control.state_file import StateFile
from canaryproxy.measure.routing import STABLE
from canaryproxy.release import forecast
from canaryproxy.release.capacity import Carried, Load

PLAN = ["--rps", "780", "--error-rate", "0.01", "--users", "5000"]


@pytest.fixture(autouse=True)
def _one_forecast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work out the same forecast once: what is said of capacity does not depend on it."""
    monkeypatch.setattr(forecast, "forecast", _forecast)


_work_out = forecast.forecast
_known: dict[str, Any] = {}


def _forecast(*arguments: Any, **named: Any) -> Any:
    asked = repr((arguments, named))
    if asked not in _known:
        _known[asked] = _work_out(*arguments, **named)
    return _known[asked]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    carried = Carried()
    carried.take(STABLE, Load(time() - 7261, 420.0, 9, 2, 0.04))
    StateFile(tmp_path / "s.json").save({"release": None, "capacity": carried.to_dict()})
    path = tmp_path / "c.yaml"
    path.write_text(
        "variants:\n"
        '  stable: {endpoints: ["http://127.0.0.1:1", "http://127.0.0.1:2"]}\n'
        '  canary: {endpoints: ["http://127.0.0.1:3"]}\n'
        f"state: {tmp_path}/s.json\n"
        "release: {id: r1, steps: [{weight: 5, bake: 5m}, {weight: 100}]}\n"
    )
    return path


def test_plan_compares_the_traffic_that_it_is_given(path: Path) -> None:
    said = CliRunner().invoke(plan, ["-c", str(path), *PLAN]).output
    assert (
        "warning: stable has carried at most 420/s with 2 endpoints (2 h 1 min ago);"
        " a trip then would bring it 780/s\n"
    ) in said
    assert "capacity: the step to 5% would bring the canary 39/s with 1 endpoint" in said
    found = json.loads(CliRunner().invoke(plan, ["-c", str(path), *PLAN, "--json"]).output)
    assert len(found["capacity"]["over"]) == 1


def test_check_compares_the_most_that_stable_had(path: Path) -> None:
    warning = (
        "warning: release.steps: the step to 100% would bring the canary 420/s with 1 endpoint;"
        " a stable endpoint has carried at most 210/s"
    )
    assert warning in CliRunner().invoke(check, ["-c", str(path)]).output
    path.write_text(path.read_text().replace("id: r1", "id: r1, capacity: off"))
    assert warning not in CliRunner().invoke(check, ["-c", str(path)]).output


@pytest.mark.parametrize("state", [None, "{", '{"format": "canaryproxy-state", "version": 1}'])
def test_without_a_state_file_nothing_is_said(path: Path, state: str | None) -> None:
    file = path.with_name("s.json")
    file.unlink()
    if state is not None:
        file.write_text(state)
    result = CliRunner().invoke(plan, ["-c", str(path), *PLAN])
    assert result.exit_code == 0
    assert "carried" not in result.output
    assert "carried" not in CliRunner().invoke(check, ["-c", str(path)]).output
