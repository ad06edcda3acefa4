"""The tables of ``docs/acts.md``, every act in every state; ``python -m tests.docs.acts_table`` writes it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from canaryproxy.config.text import weight
from canaryproxy.judging.verdict import Assessment
from canaryproxy.release import acts, circuit, rollout, transitions
from canaryproxy.release.acts import Event, Here, Operation, Preview
from canaryproxy.release.circuit import Circuit, CircuitSettings
from canaryproxy.release.rollout import Plan, Rollout, State, Step

PAGE = Path(__file__).parents[2] / "docs" / "acts.md"
PLAN = Plan((Step(5, 300, 500), Step(50, 300), Step(100)))
SETTINGS = CircuitSettings(cooldown=60.0)
NOW = 1_000_000.0
SEEN = Assessment("ok", (), 1336, 1400, True, False, None, None, users=120)
USERS = 2400
HIGHER, LOWER = 30.0, 2.0
"""Weights to set."""


def events() -> dict[str, tuple[Operation, Event | None]]:
    """Return what operators can do, by what they type."""
    return {
        "start": ("start", rollout.Start("ann")),
        "pause": ("pause", rollout.Pause("ann")),
        "resume": ("resume", rollout.Resume("ann")),
        f"weight {HIGHER:g}": ("weight", rollout.SetWeight(HIGHER, "ann")),
        f"weight {LOWER:g}": ("weight", rollout.SetWeight(LOWER, "ann")),
        "promote": ("promote", rollout.Promote("ann")),
        "abort": ("abort", rollout.Abort("ann")),
        "abort --now": ("abort", rollout.Abort("ann", now=True)),
        "accept client_errors": ("accept", rollout.Accept("client_errors", "ann")),
        "trip": ("trip", circuit.Trip("manually by ann")),
        "reset": ("reset", circuit.Reset("ann")),
        "drill": ("drill", None),
    }


def _after(*taken: transitions.Event, plan: Plan = PLAN, here: Rollout = Rollout()) -> Here:  # noqa: B008
    """Return the release after some events, 240 seconds ago."""
    broken = Circuit()
    settings = SETTINGS if plan.reversible else replace(SETTINGS, cooldown=None)
    for event in taken:
        change = transitions.step(broken, here, event, NOW - 240.0, plan, settings)
        broken, here = change.circuit, change.rollout
    release = "cart-2.4" if plan.steps else None
    return Here(release, broken, here, plan, settings, here.weight, NOW, SEEN, USERS)


def states() -> dict[str, Here]:
    """Return the states of a release, as the page names them."""
    start, trip = rollout.Start(), circuit.Trip("error rate 2.36% on canary vs 0.15% on stable")
    running = _after(start)
    ramp = replace(PLAN, ramp_down=3600.0)
    manual = replace(PLAN, promote="manual")
    irreversible = replace(PLAN, reversible=False)
    tripped = _after(start, trip)
    probing = transitions.step(
        replace(tripped.circuit, left=0.0),
        tripped.rollout,
        circuit.Tick(),
        NOW - 60.0,
        PLAN,
        SETTINGS,
    )
    probe = replace(tripped, circuit=probing.circuit, rollout=probing.rollout)
    return {
        "No release, 5% of users on the canary": _after(plan=Plan(()), here=Rollout(weight=5.0)),
        "Running, step 1 of 3": running,
        "Ready for the next step (`promote: manual`)": replace(
            running, plan=manual, rollout=replace(running.rollout, ready=True)
        ),
        "Paused at 5%": _after(start, rollout.Pause()),
        "Tripped at 5%": tripped,
        "Probing after a cool-down": replace(probe, weight=probe.rollout.weight),
        "Promoted": _after(start, rollout.Promote()),
        "Running at 5%, `ramp_down: {over: 1h}`": _after(start, plan=ramp),
        "Aborting, `ramp_down: {over: 1h}`": _after(start, rollout.Abort(), plan=ramp),
        "Aborted": _after(start, rollout.Abort()),
        "Running at 5%, `reversible: false`": _after(start, plan=irreversible),
        "Paused by a regression, `reversible: false`": _after(
            start, rollout.Breach("error rate 9%"), plan=irreversible
        ),
    }


def previews(here: Here) -> Iterator[tuple[str, Event | None, Preview]]:
    """Yield what is typed, its event and its preview, for every act in a state."""
    for typed, (operation, event) in events().items():
        yield typed, event, acts.preview(operation, event, here)


def _row(typed: str, found: Preview) -> str:
    if found.refusal is not None:
        status = "0" if found.already else "1"
        said = f"nothing to do: {_state(found.becomes)} already" if found.already else found.refusal
        return f"| `{typed}` | – | {said} | – | – | {status} |"
    asks = "asks" if found.asks else "no"
    first, *more = found.says
    said = f"{found.title}: {'. '.join((first, *(one[:1].upper() + one[1:] for one in more)))}."
    moved = f"{weight(found.before)} to {weight(found.after)}"
    return f"| `{typed}` | {asks} | {said} | {moved} | {_state(found.becomes)} | 0 |"


def _state(state: State) -> str:
    return state.value


HEAD = """\
# Every act in every state

What an operator can do, and what it does to users. Commands, dashboard and API go by one function
(`release/acts.py`). It takes the act in the release's own state machines without keeping the result.
`GET /v1/acts` returns it for the release as it is now, `?dry_run=true` on a change for that change.

An act that gives the canary users, or takes a protection away, *asks*: a command in a terminal (unless
`--yes` is given), the dashboard by a warning. An act towards stable (`trip`, `abort`, `pause`, a lower
weight) does not ask, and never loses a race: whatever has changed since you looked, such as a step that
passed, it is done; with `release.reversible: false` it asks. Any other act is refused then (412), and
nothing changes.

"Nothing to do" means that what the act is for is in force: the command says so and exits with 0, the API
responds with 409. `start` and `reset` both begin with a new judge, so no evidence from before counts.

The rows are those of a release `cart-2.4` with the steps 5%, 50% and 100%; 2,400 users were seen in the last
minutes. *exit* is the exit status of the command. This page is generated: `python -m tests.docs.acts_table`.
"""


def page() -> str:
    """Return the page."""
    parts = [HEAD]
    for name, here in states().items():
        parts.append(
            f"\n## {name}\n\n| act | asks | what it says | users on the canary | becomes | exit |\n|"
        )
        parts.append("---|" * 6 + "\n")
        parts.extend(f"{_row(typed, found)}\n" for typed, _, found in previews(here))
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
