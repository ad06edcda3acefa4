"""What the demo shows while it runs: a live screen in a terminal, a line for each release elsewhere.

The screen is 23 lines high and 78 wide at any moment, for a terminal of 80x24, so nothing jumps. Green is
well, red is what hurts, yellow is suspicion; the rest has the terminal's own colours, dark or light.
"""

from __future__ import annotations

from math import log

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from canaryproxy.demo.measured import VariantFigures
from canaryproxy.demo.scene import Scene, milliseconds
from canaryproxy.demo.story import RAMP, STORY

WIDTH = 78
_BAR = 28
_LABEL = 24
_METRICS = ("errors", "latency", "throughput", "empty_search")
_SMALLEST_LIMIT = 10.0


def live(scene: Scene) -> RenderableType:
    """Return the screen for a moment of the demo."""
    return Panel(
        Group(
            _acts(scene),
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
        subtitle="Ctrl-C ends it",
        width=WIDTH,
    )


def _acts(scene: Scene) -> Text:
    acts = Text(no_wrap=True)
    reached = STORY.index(scene.act)
    for at, act in enumerate(STORY):
        mark, style = ("●", "green") if at < reached else ("○", "dim")
        if at == reached:
            mark, style = "▶", "bold"
        acts.append(f"{mark} {act.name}   ", style=style)
    return acts


def _track(scene: Scene) -> Text:
    weight = scene.figures.weight * 100
    text = Text(no_wrap=True)
    for step in RAMP:
        style = "dim"
        if weight and step < weight:
            style = "green"
        elif step == weight:
            style = "bold reverse"
        text.append(f" {step:g} % ", style=style)
        text.append("─", style="dim")
    state = scene.figures.state
    style = {"tripped": "bold red", "promoted": "bold green"}.get(state, "bold")
    text.append(f" {state}", style=style)
    if scene.rolled_back_after is not None:
        text.append(f"   {scene.rolled_back_after:.1f} s after the fault")
    elif scene.fault_age is not None:
        text.append(f"   broken for {scene.fault_age:.1f} s", style="red")
    return text


def _variants(scene: Scene) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), width=WIDTH - 6)
    table.add_column("the proxy's /metrics", style="dim", width=_LABEL)
    table.add_column("stable", justify="right", width=20)
    table.add_column("canary", justify="right", width=20)
    figures, seen = scene.figures, scene.seen
    both = figures.variants
    canary_users = f", {_percent(seen.on_canary, seen.heard)} of users"
    table.add_row("weight", f"{1 - figures.weight:.0%}", f"{figures.weight:.0%}{canary_users}")
    table.add_row("requests", *(f"{v.requests:,}" for v in both))
    table.add_row("2xx / 4xx / 5xx", *(_classes(v) for v in both))
    table.add_row("no answer at all", *(_bad(sum(v.upstream_errors.values())) for v in both))
    table.add_row("P50 / P95", *(f"{milliseconds(v.p50)} / {milliseconds(v.p95)}" for v in both))
    rescued = Text(f"{figures.rescued:,}", style="bold green" if figures.rescued else "")
    table.add_row("rescued by stable", "", rescued)
    return table


def _classes(variant: VariantFigures) -> Text:
    counts = variant.classes
    text = Text(f"{counts['2xx']:,} / {counts['4xx']:,} / ")
    return text.append_text(_bad(counts["5xx"]))


def _evidence(scene: Scene) -> Table:
    """Show each metric's evidence as a bar towards its limit, on a logarithmic scale."""
    table = Table(box=None, padding=(0, 2, 0, 0), width=WIDTH - 6)
    table.add_column("evidence against canary", style="dim", width=_LABEL)
    table.add_column("", width=_BAR)
    table.add_column("", justify="right", width=12)
    for metric in _METRICS:
        value, limit = scene.figures.evidence.get(metric, (1.0, 1000.0))
        share = log(max(value, 1.0)) / log(max(limit, _SMALLEST_LIMIT))
        share = min(max(share, 0.0), 1.0)
        full = int(share * _BAR)
        style = "red" if share >= 1 else "yellow" if share > 0.5 else "green"
        bar = Text("━" * full, style=style) + Text("━" * (_BAR - full), style="dim")
        table.add_row(metric, bar, f"{min(value, 1e12):,.3g} : 1")
    return table


def _users(scene: Scene) -> Text:
    seen = scene.seen
    text = Text(no_wrap=True)
    text.append("What users saw: ", style="bold")
    text.append(f"{seen.answered:,} answers")
    for count, name in ((seen.errors, "errors"), (seen.slow, "slow"), (seen.empty, "empty")):
        text.append(", ").append(f"{count} {name}", style="bold red" if count else "green")
    text.append("\nUsers: ", style="bold")
    text.append(f"{seen.to_canary:,} moved to the canary, {seen.taken_back:,} taken back, ")
    text.append(
        f"{seen.back_and_forth} sent back and forth",
        style="bold red" if seen.back_and_forth else "green",
    )
    return text


def plain(scene: Scene) -> str:
    """Return one line for a finished act, for logs and pipes."""
    return f"{scene.act.title}: {_ending(scene)}"


def _ending(scene: Scene) -> str:
    users = f"users saw {scene.seen.hurt} bad answers"
    if scene.figures.rescued:
        users = f"{scene.figures.rescued} rescued, {users}"
    if scene.rolled_back_after is not None:
        return (
            f"rolled back {scene.rolled_back_after:.1f} s after the fault,"
            f" {scene.canary_requests} canary requests; {users}"
        )
    return f"{scene.figures.state}; {users}"


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "–"


def _bad(count: int) -> Text:
    return Text(f"{count:,}", style="bold red" if count else "green")
