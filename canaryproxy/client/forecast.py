"""The forecast of ``canaryproxy plan`` as a table."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from canaryproxy.config.text import NONE, count, duration, percent, weight
from canaryproxy.release.forecast import Forecast


def print_forecast(found: Forecast, error_rate: float) -> None:
    """Print a forecast as a table and its warnings."""
    console = Console()
    console.print(
        f"Stable fails {percent(error_rate)} of its requests. "
        "When would a worse canary be rolled back?\n"
    )
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in (
        "weight",
        "step\nlasts",
        "canary\nrequests",
        "canary\nfails",
        "requests\nto rollback",
        "time\nto rollback",
        "users with\nan error",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    notes: set[str] = set()
    for step in found.steps:
        lasts = "no end" if step.lasts is None else duration(step.lasts)
        first = (weight(step.weight), lasts, count(step.requests))
        if step.weight >= 100.0 and not step.bake:
            first = (weight(step.weight), NONE, NONE)
        if step.cohort is not None:
            share = f"{weight(step.weight)} of {step.cohort}"
            table.add_row(share, *(NONE,) * 6)
        elif not step.catches:
            table.add_row(*first, NONE, NONE, NONE, NONE)
            nobody = "every user is on the canary" if step.weight else "no user is on the canary"
            notes.add(f"{NONE}  {nobody}: nothing to compare")
        for catch in step.catches:
            rate = percent(catch.canary_rate)
            if catch.requests is None or catch.seconds is None:
                table.add_row(*first, rate, "never", NONE, NONE)
                notes.add(
                    "never  too few users are on the canary to prove that, however often they ask"
                )
            else:
                late = "" if catch.in_time else "*"
                when = f"{duration(catch.seconds)}{late}{'†' if catch.rail else ''}"
                table.add_row(*first, rate, count(catch.requests), when, count(catch.hurt))
                notes |= set() if catch.in_time else {"*  the step may be over by then"}
                notes |= {"†  by the guard rail (judge.guard_rails)"} if catch.rail else set()
            first = ("", "", "")
    console.print(table)
    console.print("About half of such canaries take less; one in twenty takes twice as much.")
    for note in sorted(notes):
        console.print(note, soft_wrap=True)
    for warning in found.warnings:
        console.print(f"warning: {warning}", soft_wrap=True)
