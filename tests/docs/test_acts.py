"""``docs/acts.md`` is current, and a running proxy does in each state what it says."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.admin.real import Proxy, proxy
from tests.docs import acts_table
from tests.docs.acts_table import states

PATHS = {"weight": ("PUT", "/v1/weight")}
BODIES: dict[str, dict[str, Any]] = {"accept": {"metric": "client_errors", "reason": "x"}}
TOWARDS: dict[str, tuple[str, ...]] = {
    "No release, 5% of users on the canary": (),
    "Running, step 1 of 3": (),
    "Paused at 5%": ("pause",),
    "Tripped at 5%": ("trip",),
    "Probing after a cool-down": ("trip",),
    "Promoted": ("promote",),
    "Running at 5%, `ramp_down: {over: 1h}`": (),
    "Aborting, `ramp_down: {over: 1h}`": ("abort",),
    "Aborted": ("abort",),
    "Running at 5%, `reversible: false`": (),
}
"""The acts that lead to a state of the page. Others need traffic: ``tests/release/test_acts.py``."""
STATES: dict[str, dict[str, Any]] = {
    "Tripped at 5%": {"state": "tripped"},
    "Probing after a cool-down": {"state": "probing", "weight": 1.0},
    "Aborting, `ramp_down: {over: 1h}`": {"state": "aborting"},
}
"""What to wait for."""


def test_the_page_is_current() -> None:
    assert acts_table.PAGE.read_text() == acts_table.page(), "python -m tests.docs.acts_table"


def test_every_state_that_acts_lead_to_is_tried() -> None:
    assert set(states()) - set(TOWARDS) == {
        "Ready for the next step (`promote: manual`)",
        "Paused by a regression, `reversible: false`",
    }


async def into(real: Proxy, name: str, number: int) -> None:
    """Bring a release of its own into a state."""
    text: str = (await real.ask("GET", "/v1/config")).json["text"]
    begin, end = text.index("split:"), text.index("judge:")
    release = (
        f"release:\n  id: r{number}\n"
        "  steps: [{weight: 5, bake: 5m, min_requests: 500}, {weight: 50, bake: 5m}, {weight: 100}]\n"
    )
    if "reversible: false" in name:
        release += "  reversible: false\n"
    if "ramp_down" in name:
        release += "  ramp_down: {over: 1h}\n"
    split = "split: {sticky: {header: X-User-Id}, weight: 5}\n"
    if name.startswith("No release"):
        # a release in between, so that the weight is the configuration's again
        await put(real, text[:begin] + split + release + text[end:])
        release = ""
    cooldown = "cooldown: 1s, " if name.startswith("Probing") else ""
    judge = text[end:].replace("cooldown: 1s, ", "").replace("{baseline", f"{{{cooldown}baseline")
    await put(real, text[:begin] + split + release + judge)
    await real.wait_for(weight=5.0)
    for act in TOWARDS[name]:
        assert (await real.ask("POST", f"/v1/release/{act}")).status == 200
    if name in STATES:
        await real.wait_for(**STATES[name])
    async with asyncio.timeout(60):
        while not (await real.release())["metrics"]:  # noqa: ASYNC110  # until the judge's next tick
            await asyncio.sleep(0.01)


async def put(real: Proxy, text: str) -> None:
    answer = await real.ask("PUT", "/v1/config", text, Content_Type="application/yaml")
    assert answer.status == 200, answer.body


@pytest.mark.slow
@pytest.mark.parametrize("name", TOWARDS)
async def test_a_running_proxy_previews_and_does_what_the_page_says(
    tmp_path: Path, name: str
) -> None:
    here = states()[name]
    async with proxy(tmp_path) as real:
        for number, (typed, _, said) in enumerate(acts_table.previews(here)):
            operation, _, value = typed.partition(" ")
            value = "true" if value == "--now" else value
            await into(real, name, number)
            names = {"weight": "weight", "accept": "metric", "abort": "now"}
            query = f"?{names[operation]}={value}" if value else ""
            listed = (await real.ask("GET", f"/v1/acts{query}")).json["acts"]
            (preview,) = [one for one in listed if one["act"] == operation]
            for key in ("asks", "already", "before", "after"):
                assert preview[key] == getattr(said, key), (typed, key, preview)
            assert preview["becomes"] == said.becomes.value, typed
            assert (preview["refusal"] is None) == (said.refusal is None), (typed, preview)
            method, path = PATHS.get(operation, ("POST", f"/v1/release/{operation}"))
            body = BODIES.get(operation) or ({names[operation]: json.loads(value)} if value else {})
            dry = await real.ask(method, f"{path}?dry_run=true", json.dumps(body))
            for key in ("act", "asks", "already", "before", "after", "becomes", "refusal"):
                assert dry.json[key] == preview[key], (typed, key, dry.json)
            done = await real.ask(method, path, json.dumps(body))
            assert done.status == (200 if said.refusal is None else 409), (typed, done.body)
            after = await real.release()
            expected = (said.after, said.becomes.value)
            if said.becomes.value == "aborting":  # it has only begun
                expected = (here.weight, "aborting")
            assert (after["weight"], after["state"]) == expected, (typed, after)
