"""Figures and tables as Markdown. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from bench.report.summary import Spread


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table and an empty one."""
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"{len(row)} cells under {len(header)} headings: {row}")
    return [
        f"| {' | '.join(header)} |",
        f"|{'---|' * len(header)}",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]


def counts(value: Spread | None) -> str:
    """Return whole numbers: median (lowest–highest)."""
    if value is None:
        return "–"
    return f"{value.median:,.0f} ({value.low:,.0f}–{value.high:,.0f})"


def decimals(value: Spread | None, digits: int) -> str:
    """Return numbers with so many digits after the point: median (lowest–highest)."""
    if value is None:
        return "–"
    return f"{value.median:.{digits}f} ({value.low:.{digits}f}–{value.high:.{digits}f})"


def ratio(value: Spread) -> str:
    """Return a ratio: median (interval), or that the rounds do not agree on one."""
    interval = f"{value.surely_from:.2f}–{value.surely_to:.2f}"
    if value.is_steady:
        return f"{value.median:.2f} ({interval})"
    return f"not published: {interval}"


def milliseconds(value: Spread) -> str:
    """Return microseconds as milliseconds: median (lowest–highest)."""
    return f"{value.median / 1000:.2f} ({value.low / 1000:.2f}–{value.high / 1000:.2f})"
