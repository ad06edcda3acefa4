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
    console.print(f"Stable's error rate is {percent(error_rate)}. If the canary's is higher:\n")
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in (
        "weight",
        "lasts",
        "canary\nrequests",
        "error\nrate",
        "requests\nto detect",
        "time\nto detect",
        "users\naffected",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    notes: set[str] = set()
    for step in found.steps:
        lasts = "no end" if step.lasts is None else duration(step.lasts)
        first = (weight(step.weight), lasts, count(step.requests))
        if not step.catches:
            table.add_row(*first, NONE, NONE, NONE, NONE)
            notes.add(f"{NONE}  no stable traffic to compare with")
        for catch in step.catches:
            rate = percent(catch.canary_rate)
            if catch.requests is None or catch.seconds is None:
                table.add_row(*first, rate, "never", NONE, NONE)
            else:
                late = "" if catch.in_time else "*"
                when = f"{duration(catch.seconds)}{late}{'†' if catch.rail else ''}"
                table.add_row(*first, rate, count(catch.requests), when, count(catch.hurt))
                notes |= set() if catch.in_time else {"*  after the end of the step"}
                notes |= {"†  by the guard rail, which counts requests"} if catch.rail else set()
            first = ("", "", "")
    console.print(table)
    for note in sorted(notes):
        console.print(note, soft_wrap=True)
    for warning in found.warnings:
        console.print(f"warning: {warning}", soft_wrap=True)
