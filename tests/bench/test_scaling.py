"""What ``bench.scaling`` says of what it found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from bench import scaling
from bench.gate import callgrind
from bench.gate.steady import Steady
from bench.harness import scenarios
from bench.harness.process import StartError
from bench.peers.ours import Ours
from bench.services import EXIT_CANNOT_RUN, Bench, built


def test_it_cannot_run_without_valgrind(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(callgrind, "missing", lambda: "no valgrind here")
    assert scaling.main([]) == EXIT_CANNOT_RUN
    assert "no valgrind here" in capsys.readouterr().err


def test_what_is_measured_is_what_was_asked_for_or_the_quickest_there_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        scenarios,
        "BUILDS",
        {
            name: replace(one, build=tmp_path / name) if one.compiled else one
            for name, one in scenarios.BUILDS.items()
        },
    )
    assert scenarios.build(None) == scenarios.build("plain") == scenarios.PURE
    with pytest.raises(StartError, match="make checked"):
        scenarios.build("checked")
    (tmp_path / "checked").mkdir()
    (tmp_path / "checked" / ".done").touch()
    assert scenarios.build(None) == scenarios.build("checked") != scenarios.PURE
    assert built("plain") == scenarios.PURE
    assert built(None) == scenarios.build("checked")
    assert capsys.readouterr().out == "measured: plain Python\nmeasured: checked\n"


def test_the_dearest_is_compared_with_one_user_one_endpoint_and_no_rules(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def count(
        _bench: Bench, _name: str, peer: Ours, _requests: int, *clients: Callable[[int], Steady]
    ) -> tuple[float, ...]:
        cost = 1000.0 + peer.endpoints + peer.rules
        return tuple(cost + 50.0 * number for number in range(len(clients)))

    monkeypatch.setattr(scaling, "_count", count)
    assert scaling._compare(cast(Bench, Path()), scenarios.PURE, 1) == pytest.approx(
        1064 / 1001 - 1
    )
    said = capsys.readouterr().out
    assert "one endpoint, no match rules: 1,001 instructions" in said
    assert "a new user with each request: 1,051: +5.0%" in said
    assert "64 endpoints of each variant: 1,064: +6.3%" in said
    assert "20 match rules: 1,021: +2.0%" in said
