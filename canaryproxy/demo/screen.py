"""What the demo shows: a live screen in a terminal, plain lines elsewhere, and the summary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from canaryproxy.demo.measured import Figures
from canaryproxy.demo.story import STORY, Phase
from canaryproxy.demo.users import Seen


@dataclass(frozen=True, slots=True)
class Scene:
    """One phase with its figures so far."""

    phase: Phase
    figures: Figures
    seen: Seen


def live(scene: Scene, elapsed: float, total: float) -> RenderableType:
    """Return the screen for a moment of the demo; the same lines at any time, so nothing jumps."""
    steps = Text()
    reached = STORY.index(scene.phase) if scene.phase in STORY else 0
    for at, phase in enumerate(STORY):
        mark, style = ("●", "green") if at < reached else ("○", "dim")
        if at == reached:
            mark, style = "▶", "bold"
        steps.append(f"{mark} {phase.name}  ", style=style)
    done = int(30 * min(elapsed / total, 1.0))
    bar = Text("━" * done, style="green") + Text("━" * (30 - done), style="dim")
    return Panel(
        Group(
            steps,
            bar,
            Text(),
            Text(scene.phase.title, style="bold"),
            Text(),
            _variants(scene),
            Text(),
            _users(scene),
        ),
        title="canaryproxy demo",
        subtitle="Ctrl-C ends it",
        width=78,
    )


def _variants(scene: Scene) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), width=72)
    table.add_column("since this phase began", style="dim", width=24)
    table.add_column("stable", justify="right", width=14)
    table.add_column("canary", justify="right", width=14)
    stable, canary = scene.figures.variants
    total = stable.requests + canary.requests
    both = (stable, canary)
    table.add_row("requests", *(f"{v.requests:,}" for v in both))
    table.add_row("share", *(_percent(v.requests, total) for v in both))
    table.add_row("failed", *(_bad(v.failed, v.requests) for v in both))
    table.add_row("P50", *(_time(v.p50) for v in both))
    table.add_row("P95", *(_time(v.p95) for v in both))
    table.add_row("weight", "", f"{scene.figures.weight:.0%} of users")
    return table


def _users(scene: Scene) -> Text:
    seen = scene.seen
    text = Text("Users: ", style="bold")
    text.append(f"{seen.answered:,} answers, ", style="not bold")
    text.append(
        f"{seen.errors:,} errors seen", style="not bold red" if seen.errors else "not bold green"
    )
    text.append(f", {scene.figures.rescued:,} rescued by stable", style="not bold")
    text.append(
        f", {seen.moved} changed version", style="not bold red" if seen.moved else "not bold"
    )
    return text


def plain(scene: Scene) -> str:
    """Return one line for a finished phase, for logs and pipes."""
    stable, canary = scene.figures.variants
    return (
        f"{scene.phase.title}: stable {stable.requests} requests, {stable.failed} failed;"
        f" canary {canary.requests} requests, {canary.failed} failed, {scene.figures.rescued} rescued;"
        f" users saw {scene.seen.errors} errors"
    )


def summary(console: Console, scenes: Sequence[Scene], users: Seen) -> None:
    """Print what happened."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0), width=78)
    table.add_column("the canary is")
    for name in (
        "stable\nrequests",
        "canary\nrequests",
        "canary\nfailed",
        "answered\nby stable",
        "errors\nseen",
        "stable\nP95",
        "canary\nP95",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    for scene in scenes:
        stable, canary = scene.figures.variants
        errors = Text(str(scene.seen.errors), style="red" if scene.seen.errors else "green")
        table.add_row(
            scene.phase.name,
            f"{stable.requests:,}",
            f"{canary.requests:,}",
            str(canary.failed),
            str(scene.figures.rescued),
            errors,
            _time(stable.p95),
            _time(canary.p95),
        )
    console.print(table)
    for scene in scenes:
        console.print(
            Text(f"{scene.phase.name}: ", style="bold")
            + Text(scene.phase.meaning, style="not bold")
        )
    console.print(
        f"\n{users.answered:,} of {users.sent:,} requests were answered;"
        f" {users.moved} users changed version on the way."
    )


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "–"


def _bad(failed: int, requests: int) -> Text:
    text = f"{failed:,} ({_percent(failed, requests)})" if failed else "0"
    return Text(text, style="red" if failed else "green")


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{seconds * 1000:.0f} ms" if seconds >= 0.01 else f"{seconds * 1000:.1f} ms"
