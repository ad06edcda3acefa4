"""The next action on the screen: right for each state, and short enough for every terminal."""

from __future__ import annotations

import re
from typing import Any

import pytest
from rich.console import Console

from canaryproxy.cli import COMMANDS
from canaryproxy.client.advice import next_action
from canaryproxy.client.screen import EVENTS, View, screen
from canaryproxy.release.rollout import State
from tests.cli.fake import document

DRILL = {"state": "open", "drill": True}


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"state": "paused"}, "canaryproxy resume"),
        ({"state": "tripped"}, "canaryproxy reset or canaryproxy abort"),
        ({"state": "tripped", "circuit": DRILL}, "nothing: the drill"),
        ({"state": "probing"}, "nothing: it recovers by itself"),
        ({"state": "promoted"}, "trip is the way back"),
        ({"state": "promoted", "reversible": False}, "the next release needs a new id"),
        ({"state": "aborted"}, "canaryproxy start"),
        ({"state": "idle", "release": None}, "canaryproxy weight N"),
        ({"state": "running"}, "nothing: the next step begins by itself"),
        ({"state": "running", "ready": True}, "canaryproxy resume begins the next step"),
        ({"state": "running", "holds": ["looks worse: 4 of 41"]}, "look at what holds the step"),
        ({"state": "running", "holds": ["warming up: 5 s of 30 s"]}, "begins by itself"),
        ({"state": "running", "level": "suspect"}, "canaryproxy trip sends all users to stable"),
        ({"state": "running", "unsaved": "No space left"}, "make the state file writable"),
        ({"state": "running", "config": {"error": "c.yaml:1:1"}}, "canaryproxy check -c FILE"),
    ],
)
def test_the_next_action_fits_the_state_and_one_line(changed: dict[str, Any], says: str) -> None:
    found = next_action(document(**changed))
    assert says in found
    assert len(found) <= 68
    assert set(re.findall(r"canaryproxy (\w+)", found)) <= set(COMMANDS)
    for height in (24, None):
        assert f" to do     {found}" in shown(80, height, **changed)


def test_every_state_has_one() -> None:
    for state in State:
        assert next_action(document(state=state.value, release=None)), state


def test_a_live_screen_uses_its_width_and_its_height() -> None:
    counted = [{**one, "known": "3 of 40 users"} for one in document()["metrics"]]
    assert "·  3 of 40 users" in shown(160, 50, metrics=counted)
    assert "3 of 40 users" not in shown(80, 24, metrics=counted)
    assert shown(160, 50).count("cause ") > shown(80, 24).count("cause ") >= 2
    assert len(shown(160, 30).splitlines()) == 30
    assert shown(160, None).count("cause ") == EVENTS


def shown(width: int, height: int | None, **changed: Any) -> str:
    records = [{"id": at, "time": 5.0, "what": "step", "cause": f"cause {at}"} for at in range(60)]
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(screen(View(document(**changed), records, 9.0), width, height))
    return captured.get()
