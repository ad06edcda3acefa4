"""Output of the demo: a live screen in a terminal, plain lines elsewhere, and the summary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

from rich import box
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from canaryproxy.config import text as words
from canaryproxy.demo.measured import Figures
from canaryproxy.demo.story import RAMP, STORY, Act
from canaryproxy.demo.users import Seen

_WIDTH = 78
_BAR = 28
_METRICS = ("errors", "latency", "throughput", "empty_search")


@dataclass(frozen=True, slots=True)
class Scene:
    """A release and its figures so far."""

    act: Act
    figures: Figures
    seen: Seen
    fault_age: float | None = None
    """Seconds since the fault began."""
    rolled_back_after: float | None = None
    """Seconds from the fault to the trip."""
    canary_requests: int | None = None
    """Requests to the canary since the fault began."""
    cause: str | None = None
    """The cause of the trip."""


def live(scene: Scene) -> RenderableType:
    """Return the screen for a moment of the demo; it always has the same number of lines."""
    acts = Text()
    reached = STORY.index(scene.act)
    for at, act in enumerate(STORY):
        mark, style = ("●", "green") if at < reached else ("○", "dim")
        if at == reached:
            mark, style = "▶", "bold"
        acts.append(f"{mark} {act.name}   ", style=style)
    return Panel(
        Group(
            acts,
            Text(),
            Text(scene.act.title, style="bold"),
            _track(scene),
            Text(),
            _variants(scene),
            Text(),
            _evidence(scene),
            Text(),
            _users(scene),
        ),
        title="canaryproxy demo",
        subtitle="Ctrl-C to quit",
        width=_WIDTH,
    )


def _track(scene: Scene) -> Text:
    weight = scene.figures.weight * 100
    text = Text()
    for step in RAMP:
        style = "dim"
        if weight and step < weight:
            style = "green"
        elif step == weight:
            style = "bold reverse"
        text.append(f" {words.weight(step)} ", style=style)
        text.append("─", style="dim")
    state = scene.figures.state
    style = {"tripped": "bold red", "promoted": "bold green"}.get(state, "bold")
    text.append(f" {state}", style=style)
    if scene.fault_age is not None and state != "tripped":
        text.append(f"   broken for {scene.fault_age:.1f} s", style="red")
    return text


def _variants(scene: Scene) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), width=_WIDTH - 6)
    table.add_column("this release", style="dim", width=22)
    table.add_column("stable", justify="right", width=14)
    table.add_column("canary", justify="right", width=14)
    both = scene.figures.variants
    table.add_row("requests", *(f"{v.requests:,}" for v in both))
    table.add_row("failed", *(_bad(v.failed, v.requests) for v in both))
    table.add_row("P50", *(words.latency(v.p50) for v in both))
    table.add_row("P95", *(words.latency(v.p95) for v in both))
    return table


def _evidence(scene: Scene) -> Table:
    """Show each metric's evidence as a share of its limit, on a logarithmic scale."""
    table = Table(box=None, padding=(0, 2, 0, 0), width=_WIDTH - 6)
    table.add_column("regression evidence", style="dim", width=22)
    table.add_column("", width=_BAR)
    table.add_column("", justify="right", width=14)
    for metric in _METRICS:
        value, limit = scene.figures.evidence.get(metric, (1.0, 1000.0))
        share = min(max(log(max(value, 1.0)) / log(limit), 0.0), 1.0)
        full = int(share * _BAR)
        style = "red" if share >= 1 else "yellow" if share > 0.5 else "green"
        bar = Text("━" * full, style=style) + Text("━" * (_BAR - full), style="dim")
        table.add_row(metric, bar, words.odds(log(max(value, 1e-3))))
    return table


def _users(scene: Scene) -> Text:
    seen = scene.seen
    text = Text("Users: ", style="bold")
    text.append(f"{seen.answered:,} responses", style="not bold")
    for count, name in ((seen.errors, "errors"), (seen.slow, "slow"), (seen.empty, "empty")):
        text.append(f", {count} {name}", style="not bold red" if count else "not bold green")
    return text


def dashboard(console: Console, port: int, token: str) -> None:
    """Print the address of the dashboard and the token for its buttons."""
    console.print(f"Dashboard: http://127.0.0.1:{port}/   admin token: {token}", soft_wrap=True)
    console.print("Press Ctrl-C to end the demo.")


def plain(scene: Scene) -> str:
    """Return a line about a finished release, for logs and pipes."""
    return f"{scene.act.title}: {_ending(scene)}"


def _ending(scene: Scene) -> str:
    if scene.rolled_back_after is not None:
        return (
            f"rolled back {scene.rolled_back_after:.1f} s after the fault,"
            f" {scene.canary_requests} canary requests; users saw {scene.seen.bad} bad responses"
        )
    return f"{scene.figures.state}; users saw {scene.seen.bad} bad responses"


def summary(console: Console, scenes: Sequence[Scene]) -> None:
    """Print the summary of all releases."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0), width=_WIDTH)
    table.add_column("release")
    table.add_column("result")
    for name in (
        "rolled back\nafter",
        "canary\nrequests",
        "errors\nseen",
        "slow\nresponses",
        "empty\nresults",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    for scene in scenes:
        state = scene.figures.state
        after = "" if scene.rolled_back_after is None else f"{scene.rolled_back_after:.1f} s"
        requests = scene.canary_requests
        if requests is None:
            requests = scene.figures.variants[1].requests
        table.add_row(
            scene.act.name,
            Text(state, style="green" if state == "promoted" else "red"),
            after,
            f"{requests:,}",
            *(str(n) for n in (scene.seen.errors, scene.seen.slow, scene.seen.empty)),
        )
    console.print(table)
    console.print("Times and requests are counted from the fault; the bake times are shortened.\n")
    for scene in scenes:
        console.print(
            Text(f"{scene.act.name}: ", style="bold") + Text(scene.act.meaning, style="not bold"),
            width=_WIDTH,
        )
        if scene.cause is not None:
            console.print(Text(f"  {scene.cause}", style="dim"), width=_WIDTH)
    answered = sum(scene.seen.answered for scene in scenes)
    sent = sum(scene.seen.sent for scene in scenes)
    moved = sum(scene.seen.back_and_forth for scene in scenes)
    console.print(
        f"\n{answered:,} of {sent:,} requests got a response; {moved} users were sent back and forth."
    )


def _bad(failed: int, requests: int) -> Text:
    text = f"{failed:,} ({words.percent(failed / requests)})" if failed else "0"
    return Text(text, style="red" if failed else "green")
