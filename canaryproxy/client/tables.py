"""The tables of ``canaryproxy endpoints``, ``routes`` and ``overview``, as lines of text. Pure."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from canaryproxy.client.text import (
    NONE,
    clean,
    count,
    duration,
    latency,
    mapping,
    moment,
    number,
    percent,
    weight,
)

_LONGEST = 80


def endpoint_lines(document: Mapping[str, Any], *, total: bool = False) -> list[str]:
    """Return the figures of each endpoint: of the last minute, or since the start."""
    rows = _objects(document.get("endpoints"))
    title = "since the start" if total else _span(row.get("recent") for row in rows)
    head = [title, "endpoint", "state", "requests", "failed", "", "2xx", "3xx", "4xx", "5xx",
            "no response"]  # fmt: skip
    if not total:
        head.append("P95")
    head.append("open")
    cells = [head]
    for row in rows:
        figures = mapping(row.get("total" if total else "recent"))
        codes, errors = mapping(figures.get("codes")), mapping(figures.get("errors"))
        line = [clean(row.get("variant"), 20), clean(row.get("url"), _LONGEST), _state(row)]
        line += _failures(figures)
        line += [count(codes.get(name, 0)) for name in ("2xx", "3xx", "4xx", "5xx")]
        line.append(count(sum(number(each) or 0 for each in errors.values())))
        if not total:
            line.append(latency(figures.get("p95")))
        line.append(count(row.get("in_flight")))
        cells.append(line)
    lines = _aligned(cells, left=3)
    for row in rows:
        reasons = _reasons(mapping(mapping(row.get("total" if total else "recent")).get("errors")))
        if reasons or row.get("up") is not True:
            last = clean(row.get("last_error"), 200)
            said = "; ".join(filter(None, (reasons, f"last: {last}" if last else "")))
            lines.append(f"{clean(row.get('url'), _LONGEST)}: {said or 'down'}")
    for found in (document.get("at_fault"), document.get("unresolved")):
        lines += [clean(words) for words in found] if isinstance(found, list) else []
    return lines


def route_lines(document: Mapping[str, Any]) -> list[str]:
    """Return the figures of each route, stable's and the canary's side by side."""
    rows = _objects(document.get("routes"))
    if not rows:
        return ["no route yet: requests of users that the split randomises are counted, by route"]
    sides = ("stable", "canary")
    head = [f"last {duration(number(document.get('seconds')) or 0.0)}", "verdict"]
    head += [
        f"{side} {what}".strip()
        for side in sides
        for what in ("requests", "failed", "", "5xx", "P95")
    ]
    head = [cell if cell not in sides else "" for cell in head]
    cells = [head]
    for row in rows:
        line = [clean(row.get("route"), _LONGEST), clean(row.get("level"), 20)]
        for side in sides:
            figures = mapping(row.get(side))
            line += _failures(figures)
            line.append(count(mapping(figures.get("codes")).get("5xx", 0)))
            line.append(latency(figures.get("p95")))
        cells.append(line)
    lines = _aligned(cells, left=2)
    share = number(document.get("share"))
    if share is not None and share < 1.0:
        lines.append(f"{percent(share)} of the requests are counted")
    return lines


def overview_lines(document: Mapping[str, Any]) -> list[str]:
    """Return a row for each service of each proxy of the overview, and why those that need a person do."""
    rows = _objects(document.get("overview"))
    now = number(document.get("time")) or 0.0
    services = any(row.get("service") is not None for row in rows)
    cells = [["proxy", *(["service"] if services else []), "environment", *_RELEASE]]
    for row in rows:
        service = [clean(row.get("service"), 60) or NONE] if services else []
        environment = clean(row.get("environment"), 40) or NONE
        cells.append([clean(row.get("name"), 40), *service, environment, *_release(row, now)])
    lines = _aligned(cells, left=len(cells[0]))
    for row in rows:
        said = [clean(row.get("fleet"), 200)] if row.get("fleet") else []
        name = clean(row.get("name"), 40)
        if row.get("service") is not None:
            name += f" {clean(row.get('service'), 60)}"
        if row.get("error") is not None:
            said.insert(0, clean(row.get("error"), 200))
            if row.get("address") != row.get("name"):
                name += f" ({clean(row.get('address'), 100)})"
        lines += [f"{name}: {one}" for one in said + _reasons_for_a_person(row)]
    missing = document.get("missing")
    lines += [clean(one, 400) for one in missing] if isinstance(missing, list) else []
    if all(row.get("address") is None for row in rows):
        lines.append("only this proxy: name others in admin.overview of its configuration")
    return lines


def service_lines(document: Mapping[str, Any], now: float | None = None) -> list[str]:
    """Return a row for each service of a proxy, and why those that need a person do.

    ``now``, in seconds since the epoch, says which times need their date; by default it is read.
    """
    rows = _objects(document.get("services"))
    now = time.time() if now is None else now
    cells = [["service", *_RELEASE]]
    cells += [[clean(row.get("name"), 60), *_release(row, now)] for row in rows]
    lines = _aligned(cells, left=len(cells[0]))
    problems = document.get("problems")
    lines += [clean(one, 400) for one in problems] if isinstance(problems, list) else []
    for row in rows:
        name = clean(row.get("name"), 60)
        lines += [f"{name}: {one}" for one in _reasons_for_a_person(row)]
    lines.append(f"{len(rows)} services: canaryproxy status --service NAME shows one of them")
    return lines


_RELEASE = ("release", "state", "step", "weight", "circuit", "verdict", "since")


def _release(row: Mapping[str, Any], now: float) -> list[str]:
    """Return the cells about a release, in the order of ``_RELEASE``."""
    lost = row.get("error") is not None
    unknown = lost or row.get("state") is None
    step, steps = number(row.get("step")), number(row.get("steps"))
    return [
        clean(row.get("release"), 60) or NONE,
        "unreachable" if lost else clean(row.get("state"), 20) or NONE,
        f"{step:g} of {steps:g}" if step and steps else NONE,
        NONE if unknown else _users(row),
        clean(row.get("circuit"), 20).replace("_", " ") or NONE,
        clean(row.get("verdict"), 20) or NONE,
        moment(row.get("reached" if lost else "since"), now),
    ]


def _users(row: Mapping[str, Any]) -> str:
    """Return who is on the canary: the weight, and with cohorts the words about all of them."""
    return clean(row.get("share"), 60) if row.get("cohorts") else weight(row.get("weight"))


def _reasons_for_a_person(row: Mapping[str, Any]) -> list[str]:
    """Return why a service needs a person, in words."""
    attention, found = row.get("attention"), row.get("problems")
    said = []
    if attention == "tripped" and row.get("cause"):
        said.append(f"tripped: {clean(row.get('cause'), 400)}")
    elif attention in ("tripped", "breach", "suspect", "held"):
        said.append(clean(row.get("said"), 400))
    said += [clean(one, 400) for one in found] if isinstance(found, list) else []
    if attention == "waiting":
        said.append("waits for an operator's resume")
    return said


def _state(row: Mapping[str, Any]) -> str:
    """``up``, ``starting``, ``down`` with its cause, or how many of the workers do not use it."""
    state, out = row.get("state"), row.get("out")
    if state in ("starting", "standby", "panic") or out:
        return f"{clean(state, 20)}: {clean(out, 100)}" if out else clean(state, 20)
    workers, ejected = number(row.get("workers")) or 0, number(row.get("ejected_by")) or 0
    if not ejected:
        return "up" if row.get("up") is True else "down"
    return "down" if ejected >= workers else f"down in {ejected:g} of {workers:g} workers"


def _failures(figures: Mapping[str, Any]) -> list[str]:
    requests, failed = number(figures.get("requests")), number(figures.get("failed"))
    rate = failed / requests if requests and failed is not None else None
    return [count(requests), count(failed), NONE if rate is None else percent(rate)]


def _reasons(errors: Mapping[str, Any]) -> str:
    """``2 reset, 1 connect timeout``."""
    return ", ".join(
        f"{count(number_of)} {clean(name, 40).replace('_', ' ')}"
        for name, number_of in errors.items()
    )


def _span(figures: Iterable[object]) -> str:
    """``last 1 min``: the longest of the stretches that are shown."""
    seconds = [number(mapping(one).get("seconds")) or 0.0 for one in figures]
    return f"last {duration(max(seconds, default=0.0))}"


def _aligned(rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """Return rows with columns of one width, the first ``left`` of them flush left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if at < left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _objects(value: object) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []
