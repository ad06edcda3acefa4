"""The status of a release as rich renderables, for ``status`` and ``status --watch``.

Every line fits the width of the terminal, so the height of the live screen is known. Texts from the network
become ``Text``, never markup, and pass ``words.clean``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.segment import Segment
from rich.style import StyleType
from rich.text import Text

from canaryproxy.client import text as words
from canaryproxy.client.advice import next_action
from canaryproxy.client.text import clean, mapping, number
from canaryproxy.config.text import WARMING_UP

EVENTS = 5
"""Records of the history of one look."""
MOST_EVENTS = 40
"""Records on a live screen, as far as it is high enough."""
NARROWEST = 60
"""Columns; a narrower terminal cuts the lines."""
_WIDE = 140
"""Columns from which a metric's counts stand beside it."""
_LABEL = 10
"""Columns of the labels."""

_STATES = {
    "running": "bold black on green",
    "probing": "bold black on yellow",
    "paused": "bold black on yellow",
    "tripped": "bold white on red",
    "promoted": "bold black on green",
    "aborting": "bold black on yellow",
    "aborted": "bold black on white",
}
_STANDINGS = {
    "breach": ("breach", "red"),
    "suspect": ("suspect", "yellow"),
    "worse": ("worse", "yellow"),
    "accepted": ("accepted", ""),
    "unknown": ("no data", "dim"),
    "ok": ("ok", "green"),
    "proven": ("proven", "green"),
}
"""By where a metric stands: its word and its style."""
_VERDICTS = {"breach": "bold red", "suspect": "yellow", "held": "yellow", "unknown": "dim"}
_MATTER = ("breach", "suspect", "worse", "accepted")
"""Standings that an operator acts on, the worst first."""
_HEADLINES = ("errors", "latency", "business")
"""Metrics that are always shown, if they are judged."""
_RECORDS = {
    "tripped": "red",
    "suspect": "yellow",
    "capacity": "yellow",
    "shedding": "yellow",
    "accepted": "yellow",
    "reload_failed": "yellow",
    "upgrade_failed": "yellow",
    "merged": "yellow",
    "promoted": "green",
    "recovered": "green",
    "cleared": "green",
}
_ASCII = str.maketrans(
    {"━": "=", "─": "-", "┃": "|", "┊": ":", "╋": "+", "┼": "+", "▶": ">", "✓": "*", "×": "x",
     "–": "-", "…": "~", "·": "-", "⁶": "6", "\ufffd": "?", "→": ">"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class View:
    """The release document, its newest records (oldest first), and the state of the connection."""

    document: Mapping[str, Any]
    records: Iterable[Mapping[str, Any]] = ()
    now: float = 0.0
    """Seconds since the epoch; dates and ages refer to it."""
    lost: str | None = None
    """Why the connection is lost, if it is; the figures are then the last ones received."""
    service: str | None = None
    """Name of the service, of a proxy with several."""


def has_unicode(encoding: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Tell whether a terminal shows more than ASCII.

    Python changes the locale C to C.UTF-8 (PEP 538, PEP 540), so the user's own setting counts too.
    """
    if not encoding.lower().replace("-", "").startswith("utf"):
        return False
    locale = environment.get("LC_ALL") or environment.get("LC_CTYPE")
    if locale in (None, "", "C.UTF-8") and not environment.get("LC_ALL"):
        locale = environment.get("LANG")
    return locale not in ("C", "POSIX")


class Ascii:
    """A renderable in ASCII characters only."""

    def __init__(self, inner: RenderableType) -> None:
        self._inner = inner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render with one ASCII character for each symbol."""
        for text, style, control in console.render(self._inner, options):
            yield Segment(text if control else text.translate(_ASCII), style, control)


def screen(
    view: View, width: int, height: int | None = None, *, every_metric: bool = False
) -> Group:
    """Return the status for a terminal of that size.

    With ``height`` records and metrics are dropped and long texts cut to fit. Metrics of which there is
    nothing to tell share one line, unless ``every_metric`` is wanted.
    """
    document, width = view.document, max(width, NARROWEST)
    live = height is not None
    head = [
        *_head(view, width),
        *_verdict(document, width, 2 if live else None),
        *_notices(view, width, 2 if live else None),
    ]
    progress = _progress(view, width, 1 if live else None)
    variants = _variants(document, width)
    metrics = _metrics(document, width, details=not live, every=every_metric)
    records = _records(view, width, 1 if live else None)
    blocks = [head + progress, variants, metrics, records]
    if height is not None:
        blocks = _fit(blocks, height)
    lines: list[Text] = []
    for block in blocks:
        if lines and block:
            lines.append(Text())
        lines.extend(block)
    for line in lines:
        line.no_wrap = True
        line.truncate(width, overflow="ellipsis")
    if view.lost is not None:
        first = len(_lost(view, width))
        lines[first:] = [Text(line.plain, style="dim", no_wrap=True) for line in lines[first:]]
    return Group(*lines)


def _fit(blocks: list[list[Text]], height: int) -> list[list[Text]]:
    """Drop old records, then metrics, then the last blocks."""

    def over() -> int:
        shown = [block for block in blocks if block]
        return sum(map(len, shown)) + len(shown) - 1 - height

    head, variants, metrics, records = blocks
    blocks = [head, variants, metrics, records]
    if (more := over()) > 0 and records:
        kept = max(len(records) - more, 2)
        records[1 : len(records) - kept + 1] = []
    if (more := over()) > 0 and len(metrics) > 3:
        left = max(len(metrics) - 1 - more, 2)
        hidden = len(metrics) - left
        metrics[left:] = [Text(f" … and {hidden} more: canaryproxy status", style="dim")]
    while over() > 0 and len(blocks) > 1:
        blocks.pop()
    if over() > 0:
        blocks[0] = blocks[0][:height]
    return blocks


# The parts


def _head(view: View, width: int) -> list[Text]:
    document = view.document
    state = clean(document.get("state"), 20) or "unknown"
    line = Text(" ")
    if view.service is not None:
        line.append(f"{clean(view.service, 60)}  ", "bold")
    line.append(words.name(document), "bold")
    line.append("  ")
    line.append(f" {state.upper()} ", _STATES.get(state, "bold reverse"))
    line.append(f"  {words.users_of(document)} on the canary")
    age = number(document.get("since"))
    time = number(document.get("time")) or view.now
    since = f"for {words.duration(time - age)}" if age else ""  # 0: no release has begun
    where = [clean(document.get(one), 60) for one in ("environment", "host")]
    said = "  ".join(one for one in ("/".join(filter(None, where)), since) if one)
    line.append(said.rjust(width - line.cell_len - 1) if said else "", "dim")
    return [*_lost(view, width), line]


def _verdict(document: Mapping[str, Any], width: int, most: int | None) -> list[Text]:
    verdict = mapping(document.get("verdict"))
    if not verdict:
        return []
    style = _VERDICTS.get(str(verdict.get("kind")), "green")
    return _labelled(" verdict", clean(verdict.get("said")), width, most, "dim", style)


def _lost(view: View, width: int) -> list[Text]:
    if view.lost is None:
        return []
    age = view.now - (number(view.document.get("time")) or view.now)
    text = f" connection lost, reconnecting ({clean(view.lost, 60)}); figures are {words.duration(age)} old "
    return [Text(text.ljust(width), style="black on yellow")]


def _notices(view: View, width: int, most: int | None) -> list[Text]:
    document = view.document
    lines: list[Text] = []
    unsaved = document.get("unsaved")
    if unsaved:
        lines += _labelled(
            " NOT SAVED ", clean(unsaved), width, most, "bold white on red", "bold red"
        )
    config = mapping(document.get("config"))
    if config.get("error"):
        lines += _labelled(
            " configuration ",
            f"invalid, the previous one stays in force: {clean(config['error'])}",
            width,
            most,
            "yellow",
            "yellow",
        )
    restart = config.get("restart_needed")
    if isinstance(restart, list) and restart:
        named = ", ".join(clean(one, 60) for one in restart)
        lines += _labelled(
            " configuration ",
            f"restart needed to apply {named} (canaryproxy upgrade)",
            width,
            most,
            "yellow",
            "yellow",
        )
    return [*lines, *_fleet(mapping(document.get("fleet")), width, most)]


def _fleet(fleet: Mapping[str, Any], width: int, most: int | None) -> list[Text]:
    """Describe the fleet, if this is a replica of one."""
    if not fleet:
        return []
    name = clean(fleet.get("group"), 40)
    if fleet.get("connected") is not True:
        error = clean(fleet.get("error"), 200)
        said = f"{name}: no connection to Redis ({error}); this replica keeps its weight and can still trip"
        return _labelled(" FLEET ", said, width, most, "bold white on red", "bold red")
    leads = (
        "this replica leads"
        if fleet.get("leads") is True
        else f"{clean(fleet.get('leader'), 60)} leads"
    )
    lines = _labelled(
        " fleet",
        f"{name}: {words.count(fleet.get('replicas'))} replicas, {leads}; traffic and percentiles are of this"
        " replica",
        width,
        most,
        "dim",
        "",
    )
    if fleet.get("conflict"):
        lines += _labelled(" fleet", clean(fleet["conflict"]), width, most, "yellow", "yellow")
    return lines


def _progress(view: View, width: int, most: int | None) -> list[Text]:
    """Describe the position in the plan, what the next step waits for, and the circuit."""
    document = view.document
    lines: list[Text] = []
    steps = [one for one in _list(document.get("steps")) if isinstance(one, Mapping)]
    if steps:
        lines.append(_track(document, steps, width))
        if words.step_of(document):
            lines.append(_bake(document, steps))
    breach = document.get("breach")
    if breach:
        said = f"{clean(breach)}; users stay on the canary (release.reversible: false)"
        lines += _labelled(" breach", said, width, most, "bold red", "bold red")
    hold = document.get("hold")
    holds = [clean(one) for one in _list(document.get("holds"))]
    if document.get("ready") is True:
        lines += _labelled(" next step", "ready", width, most, "bold green", "")
    elif hold and document.get("state") == "running":
        said = clean(hold)
        # Not held by anything wrong:
        waits = said[:1].isdigit() or said.startswith(("bake time ", "learning ", WARMING_UP))
        waits = waits and all(one.startswith(WARMING_UP) for one in holds)
        if said in clean(mapping(document.get("verdict")).get("said")):
            said = "held: see the verdict"
        else:
            said = f"waiting: {said}" if waits else f"held ({said})"
        lines += _labelled(" next step", said, width, most, "dim", "")
    elif hold and not breach and document.get("state") != "tripped":  # its circuit has the cause
        lines += _labelled(" note", clean(hold), width, most, "dim", "")
    if most is None:  # the line above names the first ones
        for more in holds[2:]:
            lines += _labelled("", more, width, most, "", "")
    accepted = ", ".join(clean(one, 100) for one in _list(document.get("accepted")))
    if accepted:
        said = f"{accepted} (neither holds nor trips in this release)"
        lines += _labelled(" accepted", said, width, most, "dim", "yellow")
    gate = mapping(document.get("gate"))
    if gate:
        style = {"refused": "yellow", "passed": "green"}.get(str(gate.get("state")), "")
        cause = clean(gate.get("cause"))
        said = clean(gate.get("state"), 20) + (f": {cause}" if cause else "")
        lines += _labelled(" gate", said, width, most, "dim", style)
    lines += _circuit(view, width, None if most is None else 2)
    action = _of_service(next_action(document), view.service)
    if action:
        lines += _labelled(" to do", action, width, most, "dim", "bold")
    return lines


def _of_service(text: str, service: str | None) -> str:
    """Return a text whose commands name the service."""
    if service is None:
        return text
    return _COMMAND.sub(rf"\g<0> --service {clean(service, 60)}", text)


_COMMAND = re.compile(r"canaryproxy (?:start|resume|weight N|abort|accept|trip|reset)\b")


def _track(document: Mapping[str, Any], steps: Sequence[Mapping[str, Any]], width: int) -> Text:
    """Show the steps in a row; if they do not fit, those around the current one."""
    here = int(number(document.get("step")) or 0) - 1
    state = document.get("state")
    marks: list[tuple[str, StyleType]] = []
    for at, step in enumerate(steps):
        name = words.step_share(step)
        if state == "promoted" or (at < here and state not in ("aborting", "aborted")):
            marks.append((f"✓ {name}", "green"))
        elif at == here and state in ("running", "paused", "probing", "tripped"):
            style = {"running": "bold green", "tripped": "bold red"}.get(str(state), "bold yellow")
            marks.append((f"▶ {name}", style))
        else:
            marks.append((name, "dim"))
    first, last = max(min(here, len(marks) - 1), 0), max(min(here, len(marks) - 1), 0)

    def length(start: int, end: int) -> int:
        return 14 + sum(len(mark) + 4 for mark, _ in marks[start : end + 1])

    while True:  # add one on each side while they fit
        before = (first, last)
        if last + 1 < len(marks) and length(first, last + 1) <= width:
            last += 1
        if first > 0 and length(first - 1, last) <= width:
            first -= 1
        if before == (first, last):
            break
    line = Text()
    line.append(" steps     ", "dim")
    if first > 0:
        line.append("… ", "dim")
    for at in range(first, last + 1):
        if at > first:
            line.append(" ── ", "green" if marks[at][1] == "green" else "dim")
        line.append(*marks[at])
    if last + 1 < len(marks):
        line.append(" …", "dim")
    return line


def _bake(document: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]) -> Text:
    here = int(number(document.get("step")) or 0)
    step = steps[here - 1] if 1 <= here <= len(steps) else {}
    bake, least = number(step.get("bake")) or 0.0, number(step.get("min_requests")) or 0.0
    baked, requests = number(document.get("baked")) or 0.0, number(document.get("requests")) or 0.0
    line = Text()
    line.append(" baked     ", "dim")
    line.append(
        f"{words.duration(baked)} of {words.duration(bake)}", "" if baked < bake else "green"
    )
    line.append("  ·  ", "dim")
    line.append(_enough(requests, least, "requests"), "" if requests < least else "green")
    users = number(step.get("min_users")) if (number(step.get("weight")) or 0.0) < 100 else None
    if users:
        seen = number(document.get("users")) or 0.0
        line.append("  ·  ", "dim")
        line.append(_enough(seen, users, "users"), "" if seen < users else "green")
    promote = clean(document.get("promote"), 20)
    line.append(f"  ·  promote: {promote}", "dim")
    return line


def _enough(seen: float, wanted: float, of: str) -> str:
    """Return ``7 of 10 users``, or ``25 users (10 needed)``."""
    if seen < wanted:
        return f"{words.count(seen)} of {words.count(wanted)} {of}"
    return f"{words.count(seen)} {of}" + (f" ({words.count(wanted)} needed)" if wanted else "")


def _circuit(view: View, width: int, most: int | None) -> list[Text]:
    circuit = mapping(view.document.get("circuit"))
    state = clean(circuit.get("state"), 20).replace("_", " ")
    cause = clean(circuit.get("cause"))
    trips = number(circuit.get("trips")) or 0
    said = state or words.NONE
    if state != "closed":
        since = number(circuit.get("since"))
        time = number(view.document.get("time")) or view.now
        said += "" if since is None else f" for {words.duration(time - since)}"
        left = number(circuit.get("cooldown_left"))
        said += "" if left is None else f", next probe in {words.duration(left)}"
    said += f" ({trips:.0f} trip{'' if trips == 1 else 's'})" if trips else ""
    said += f": {cause}" if cause and state != "closed" else ""
    style = {"closed": "green", "half open": "yellow"}.get(state, "bold red")
    lines = _labelled(" circuit", said, width, most, "dim", style)
    front = mapping(view.document.get("front"))
    if front:
        said = f"release {clean(front.get('release')) or 'without id'} at {front.get('weight'):g}%"
        lines += _labelled(" front", f"{said}; its users are compared here", width, most, "dim", "")
    if compared := clean(view.document.get("compared")):
        lines += _labelled(" compared", compared, width, most, "dim", "")
    quiet = view.document.get("quiet")
    if quiet and not view.document.get("hold"):
        lines += _labelled(" note", f"nothing to compare: {clean(quiet)}", width, most, "dim", "")
    for one in (*_list(view.document.get("at_fault")), *_list(view.document.get("unresolved"))):
        lines += _labelled(" endpoints", clean(one), width, most, "bold red", "red")
    lines += _shed(view.document, width, most)
    capacity = mapping(view.document.get("capacity"))
    over = _list(capacity.get("over"))
    for one in _list(capacity.get("said")):
        style = "yellow" if one in over else ""
        lines += _labelled(" capacity", clean(one), width, most, "dim", style)
    notice = view.document.get("notice")
    if notice:
        lines += _labelled(" note", clean(notice), width, most, "dim", "yellow")
    return lines


def _shed(document: Mapping[str, Any], width: int, most: int | None) -> list[Text]:
    """Say how many requests found a variant over its measured limit."""
    lines: list[Text] = []
    both = mapping(document.get("variants"))
    fleet = mapping(mapping(document.get("fleet")).get("shed"))
    for side in ("stable", "canary"):
        here, everywhere = (
            number(mapping(both.get(side)).get("shed")) or 0,
            number(fleet.get(side)) or 0,
        )
        if not here and not everywhere:
            continue
        said = f"{words.count(max(here, everywhere))} requests found {side} over its measured limit"
        if everywhere > here:
            said += f" at all replicas, {words.count(here)} here"
        lines += _labelled(" shed", f"{said} since the start", width, most, "dim", "yellow")
    return lines


def _leaving(document: Mapping[str, Any], width: int) -> list[Text]:
    """Say how many tunnels and streams the users who moved have left behind."""
    lines: list[Text] = []
    fleet = mapping(mapping(document.get("fleet")).get("leaving"))
    for side in ("stable", "canary"):
        variant = mapping(mapping(document.get("variants")).get(side))
        long_lived = mapping(variant.get("long_lived"))
        leaving = number(long_lived.get("leaving")) or 0
        if leaving > 0:
            said = f"{words.long_lived(leaving)} on {side} whose users have moved"
            until, now = number(long_lived.get("until")), number(document.get("time"))
            if until is not None and now is not None:
                left = until - now
                said += (
                    f": the last one is closed within {words.duration(left)}"
                    if left > 0
                    else ": overdue"
                )
            lines += _labelled(" leaving", said, width, 1, "dim", "yellow")
        everywhere = number(fleet.get(side)) or 0
        if everywhere > leaving:
            said = f"{words.long_lived(everywhere)} on {side} at all replicas, {words.count(leaving)} here"
            lines += _labelled(" leaving", said, width, 1, "dim", "yellow")
    return lines


_COLUMNS = (("req/s", 9), ("errors", 9), ("p50", 9), ("p95", 9), ("p99", 9), ("in flight", 11))


def _variants(document: Mapping[str, Any], width: int) -> list[Text]:
    head = Text(" last 10 s", style="dim")
    for title, wide in _COLUMNS:
        head.append(title.rjust(wide), "dim")
    both = mapping(document.get("variants"))
    long_lived = [_long_lived(mapping(both.get(side))) for side in ("stable", "canary")]
    if any(long_lived):
        head.append("  long-lived", "dim")
    head.append("  endpoints", "dim")
    lines = [head]
    usual = 0.0
    for side, many in zip(("stable", "canary"), long_lived, strict=True):
        variant = both.get(side)
        line = Text(f" {side:<9}")
        if not isinstance(variant, Mapping):
            line.append("  not configured", "dim")
            lines.append(line)
            continue
        errors = number(variant.get("error_rate")) or 0.0
        worse = side == "canary" and errors > usual
        usual = errors
        cells = (
            (words.rate(variant.get("rate")), ""),
            (words.percent(variant.get("error_rate")), "red" if worse else ""),
            (words.latency(variant.get("p50")), ""),
            (words.latency(variant.get("p95")), ""),
            (words.latency(variant.get("p99")), ""),
            (words.count(variant.get("in_flight")), ""),
        )
        for (text, style), (_, wide) in zip(cells, _COLUMNS, strict=True):
            line.append(text.rjust(wide), style)
        if any(long_lived):
            line.append(words.count(many).rjust(12))
        endpoints = [one for one in _list(variant.get("endpoints")) if isinstance(one, Mapping)]
        bad = [_unusable(one) for one in endpoints if one.get("usable") is not True]
        if not bad:
            line.append(f"  {len(endpoints)} usable", "dim")
            lines.append(line)
            continue
        line.append(f"  {len(endpoints) - len(bad)} of {len(endpoints)}", "bold red")
        lines.append(line)
        lines += _labelled("", f"not usable: {', '.join(bad)}", width, 1, "", "red")
        if any(one.get("state") == "panic" for one in endpoints):
            said = "panic: no endpoint is up, so requests are tried on all of them all the same"
            lines += _labelled("", said, width, 1, "", "red")
    return lines + _leaving(document, width)


def _long_lived(variant: Mapping[str, Any]) -> int:
    """Return how many tunnels and streams a variant has."""
    found = mapping(variant.get("long_lived"))
    return int(sum(number(found.get(name)) or 0 for name in ("tunnels", "streams")))


def _unusable(endpoint: Mapping[str, Any]) -> str:
    """Return the address of an endpoint that is not usable, with the cause if the control plane has one."""
    url, out = clean(endpoint.get("url"), 200), endpoint.get("out")
    return f"{url} ({clean(out, 100)})" if out else url


def _metrics(document: Mapping[str, Any], width: int, *, details: bool, every: bool) -> list[Text]:
    """Show the evidence of each metric that matters; ``details`` add users and the placebo."""
    found = [one for one in _list(document.get("metrics")) if isinstance(one, Mapping)]
    if not found:
        return []
    metrics = found if every else _that_matter(found)
    names = [clean(one.get("metric"), 40) for one in metrics]
    name_width = min(max(*map(len, names), 8) if len(names) > 1 else max(len(names[0]), 8), 16)
    bar = min(max(width - name_width - 56 - (22 if width >= 100 else 0), 10), 40)
    head = Text(f" {'metric':<{name_width}} {'evidence':<{bar}}{'':>14}", style="dim")
    watched = max(number(one.get("watched")) or 0.0 for one in found)
    within = f", this step ({words.duration(int(watched))})" if watched >= 1 else ""
    head.append(f"  {'level':<8}  canary's rate{within}", "dim")
    lines = [head]
    for name, one in zip(names, metrics, strict=True):
        lines += _metric(f"{name[:name_width]:<{name_width}}", one, width, bar, details=details)
    lines += _others([one for one in found if one not in metrics], width)
    placebo = clean(mapping(document.get("placebo")).get("said"))
    if details and placebo:
        lines.append(Text(f" placebo: {placebo}", style="dim"))
    return lines


def _that_matter(metrics: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return what trips, holds or is accepted, the worst first, and the headlines.

    A metric without a headline joins them when it is on half its way to a hold.
    """

    def rises(one: Mapping[str, Any]) -> bool:
        hold = number(one.get("hold_limit"))
        return hold is not None and (number(one.get("log_evidence")) or 0.0) >= hold / 2

    matter = [one for standing in _MATTER for one in metrics if one.get("standing") == standing]
    heads = [one for one in metrics if one.get("metric") in _HEADLINES or rises(one)]
    return [*matter, *(one for one in heads if one not in matter)] or list(metrics[:1])


def _others(metrics: Sequence[Mapping[str, Any]], width: int) -> list[Text]:
    """Name the metrics that are not shown, in one line for each way they stand."""
    by_word: dict[str, list[str]] = {}
    for one in metrics:
        word = _STANDINGS.get(str(one.get("standing")), ("ok", ""))[0]
        by_word.setdefault(word, []).append(clean(one.get("metric"), 40))
    lines: list[Text] = []
    for word, names in by_word.items():
        more = "1 metric" if len(names) == 1 else f"{len(names)} metrics"
        said = f"{more} (--all): {', '.join(names)}"  # the names may not fit
        lines += _labelled(f" {word}", said, width, 1, "dim", "dim")
    return lines


def _metric(
    name: str, one: Mapping[str, Any], width: int, bar: int, *, details: bool
) -> list[Text]:
    standing = str(one.get("standing"))
    word, style = _STANDINGS.get(standing, (clean(standing, 8), ""))
    known = standing != "unknown"
    line = Text(f" {name} ")
    line.append_text(_bar(one, bar, style if known else ""))
    beyond = one.get("log_evidence") is None and one.get("level") == "breach"
    line.append((words.BEYOND if beyond else words.odds(one.get("log_evidence"))).rjust(14))
    line.append(f"  {word:<8}", style)
    said = words.timing(one.get("timing"))
    if one.get("level") in ("breach", "suspect"):
        said = clean(one.get("reason"))  # with the figures of its own time
    elif not said:
        said = words.interval(one.get("interval"))
        rates = _rates(one)
        if "stable's rate" not in said and rates:
            said = rates
        if width >= 100 and "stable's rate" in said:
            said = f"canary {words.noun(one.get('metric'))} {said}"
    route = clean(one.get("route"), 60)
    on_route = route and one.get("level") == "ok"
    line.append(f"  on {route}" if on_route else f"  {said}", "" if known else "dim")
    counts = f"  ·  {clean(one.get('known'))}"
    beside = width >= _WIDE and bool(one.get("known")) and line.cell_len + len(counts) <= width
    if beside:
        line.append(counts, "dim")
    if details and not beside and mapping(one.get("users")):
        return [line, Text(f"   {clean(one.get('known'))}", style="dim")]
    return [line]


def _rates(metric: Mapping[str, Any]) -> str:
    """``canary 0%, stable 0.3%``; empty where either has no trial."""
    sides = [mapping(metric.get(side)) for side in ("canary", "stable")]
    trials, events = ([number(side.get(name)) for side in sides] for name in ("trials", "events"))
    if not all(trials):
        return ""
    canary, stable = (
        words.percent((had or 0.0) / of) for had, of in zip(events, trials, strict=True) if of
    )
    return f"canary {canary}, stable {stable}"


def _bar(metric: Mapping[str, Any], wide: int, style: str) -> Text:
    """Show the evidence as a share of the trip limit, logarithmic, with a tick at the hold limit."""
    log, limit = number(metric.get("log_evidence")), number(metric.get("limit"))
    hold = number(metric.get("hold_limit"))
    top = limit or (hold or 1.0) * 1.5  # without a trip limit the metric only pauses the release
    if log is None:  # too large for a float, or unknown
        log = top if metric.get("level") == "breach" else 0.0
    cells = wide - 1
    full = int(min(max(log / top, 0.0), 1.0) * cells)
    tick = None if hold is None or hold >= top else min(int(hold / top * cells), cells - 1)
    bar = Text()
    for at in range(cells):
        if at < full:
            bar.append("╋" if at == tick else "━", style)
        else:
            bar.append("┼" if at == tick else "─", "yellow" if at == tick else "dim")
    bar.append("┃" if limit is not None else "┊", "red" if limit is not None else "dim")
    return bar


def _records(view: View, width: int, most: int | None) -> list[Text]:
    records = [one for one in view.records if not words.repeats(one)]
    records = records[-(EVENTS if most is None else MOST_EVENTS) :]
    if not records:
        return []
    lines = [Text(" history", style="dim")]
    for record in records:
        what = clean(record.get("what"), 20)
        at = words.moment(record.get("time"), view.now)
        name = f" {at}  {what:<11}"
        style = _RECORDS.get(what, "")
        lines += _labelled(name, clean(record.get("cause")), width, most, style, "")
    return lines


# Helpers


def _labelled(
    label: str, text: str, width: int, most: int | None, label_style: StyleType, style: StyleType
) -> list[Text]:
    """Return a label with a text beside it, in at most ``most`` lines."""
    label = label.ljust(_LABEL) + " "
    wrapped = _wrap(text, max(width - len(label), 20))
    if most is not None and len(wrapped) > most:
        rest = text[sum(len(line) for line in wrapped[: most - 1]) :].lstrip()
        wrapped = [*wrapped[: most - 1], rest]
    lines = []
    for at, part in enumerate(wrapped or [""]):
        line = Text(label if at == 0 else " " * len(label), style=label_style if at == 0 else "")
        lines.append(Text.assemble(line, (part.strip(), style)))
    return lines


def _wrap(text: str, width: int) -> list[str]:
    console = Console(width=width, file=None, force_terminal=False, color_system=None)
    return [line.plain for line in Text(text).wrap(console, width)]


def _list(value: object) -> Iterable[Any]:
    return value if isinstance(value, list) else ()
