"""The outcome of the full benchmark as Markdown for people and as plain values for JSON. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from bench.harness.measure import DIRECT, MORE, Sample
from bench.loads import ANSWER_BYTES
from bench.report import goals
from bench.report.outcome import OURS, REPEATED, Closed, Idle, OpenModel, Outcome
from bench.report.summary import CONFIDENCE, SATURATED, UNSTEADY, Row
from bench.report.text import counts, decimals, milliseconds, table
from bench.report.text import ratio as ratio_of

_MEBIBYTE = 1024 * 1024
_SUMMED_UP = ("requests_per_second", "cpu_us", "p50_us", "p99_us")


def markdown(outcome: Outcome) -> str:
    """Return the whole page."""
    parts = [*_heading(outcome), *_targets(outcome)]
    for closed in outcome.closed.values():
        parts += _closed(closed)
    for run in outcome.open_model.values():
        parts += _open_model(run)
    if outcome.idle is not None:
        parts += _idle(outcome.idle)
    parts += _how(outcome)
    return "\n".join(parts) + "\n"


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Return everything as values that json can write; units are in the names."""
    return {
        **{
            name: getattr(outcome, name)
            for name in (
                *("command", "commit", "began", "took_seconds", "machine", "rounds", "seconds"),
                *("weight", "proxy_core", "load_core", "titles", "versions", "notes"),
            )
        },
        "targets": [asdict(verdict) for verdict in goals.verdicts(outcome)],
        "failures": outcome.failures(),
        "quietness": None if outcome.quietness is None else asdict(outcome.quietness),
        "canary_shares_before_and_after": outcome.shares,
        "closed": {name: _closed_json(closed) for name, closed in outcome.closed.items()},
        "open_model": {
            name: {
                "load": asdict(run.load),
                "rates": run.rates,
                "capped": sorted(run.capped),
                "missing": run.missing,
                "proxied": _samples_json(run.proxied),
                "direct": _samples_json(run.direct),
            }
            for name, run in outcome.open_model.items()
        },
        "idle": None if outcome.idle is None else asdict(outcome.idle),
    }


def summary_json(outcome: Outcome) -> dict[str, Any]:
    """Return targets, versions and the medians of each row: what ``as_json`` holds, without the samples."""
    everything = as_json(outcome)
    kept = (
        *("command", "commit", "began", "machine", "rounds", "seconds", "weight", "versions"),
        *("targets", "failures", "notes", "quietness"),
    )
    return {name: everything[name] for name in kept} | {
        "medians": {
            load: {
                name: {
                    figure: round(spread["median"], 3)
                    for figure in _SUMMED_UP
                    if (spread := row[figure]) is not None
                }
                for name, row in closed["rows"].items()
            }
            for load, closed in everything["closed"].items()
        }
    }


def _closed_json(closed: Closed) -> dict[str, Any]:
    return {
        "load": asdict(closed.load),
        "upstream": closed.upstream,
        "missing": closed.missing,
        "rows": {
            name: {**asdict(row), "limited_by": row.limited_by}
            for name, row in closed.rows().items()
        },
        "ratios": {
            name: {**asdict(ratio), "published": ratio.requests_per_core_second.is_steady}
            for name in closed.samples
            if (ratio := closed.ratio(name)) is not None
        },
        "samples": _samples_json(closed.samples),
    }


def _samples_json(samples: Mapping[str, list[Sample]]) -> dict[str, list[dict[str, Any]]]:
    return {
        name: [
            {**asdict(one), "requests_per_second": one.requests_per_second, "cpu_us": one.cpu_us}
            for one in of
        ]
        for name, of in samples.items()
    }


def _heading(outcome: Outcome) -> Iterator[str]:
    machine = outcome.machine
    yield "# Results of `make bench`"
    yield ""
    yield (
        f"{outcome.began}, commit {outcome.commit}, in {outcome.took_seconds / 60:.0f} minutes: "
        f"`{outcome.command}`."
    )
    yield ""
    yield (
        f"Machine: {machine['cpu']}, {machine['cores']} cores, {machine['memory']}, {machine['kernel']} "
        f"(TCP {machine['tcp']}), {machine['python']}; {outcome.quietness or 'how quiet is not known'}."
    )
    yield ""
    yield (
        f"The proxy has core {outcome.proxy_core} (one worker, one thread), the load generator and the "
        f"upstreams share core {outcome.load_core}; the same for everybody. {outcome.weight:g} % of users "
        f"are on the canary. Interleaved rounds: {outcome.rounds}, of {outcome.seconds:g} s, and {MORE} "
        "times as many for those that a target compares closely: median (lowest–highest)."
    )
    yield ""
    if outcome.rounds < REPEATED:
        yield f"**Fewer than {REPEATED} rounds: a try, not figures to quote.**"
        yield ""
    failures = outcome.failures()
    if failures:
        yield f"**Failed rows: {'; '.join(failures)}.**"
        yield ""
    for note in outcome.notes:
        yield f"**{note}**"
        yield ""
    names = [name for name in outcome.versions if name not in outcome.titles]
    yield from table(
        ("name", "what", "version"),
        [
            *(
                (name, title, outcome.versions.get(name, "–"))
                for name, title in outcome.titles.items()
            ),
            *((name, "", outcome.versions[name]) for name in names),
        ],
    )


def _targets(outcome: Outcome) -> Iterator[str]:
    verdicts = [one for one in goals.verdicts(outcome) if one.found != goals.NOT_MEASURED]
    if not verdicts:
        return
    words = {True: "yes", False: "**no**", None: "not shown"}
    yield "## Targets"
    yield ""
    yield from table(
        ("wanted", "found", "met"),
        [(one.wanted, one.found, words[one.met]) for one in verdicts],
    )


def _closed(closed: Closed) -> Iterator[str]:
    rows = closed.rows()
    yield f"## {closed.load.name}"
    yield ""
    yield f"{_sentence(closed.load.description)} Behind: {closed.upstream}."
    yield ""
    yield from table(
        (
            *("", "requests/s", "CPU µs/request", f"{closed.reference} ÷ it, per core"),
            *("p50 ms", "p99 ms", "errors", "load core: generator + upstream", "limited by"),
        ),
        [_row(name, row, closed) for name, row in rows.items()],
    )
    if closed.load.path == "/1m":
        rates = [
            f"{name} {row.bytes_per_second.median / _MEBIBYTE:,.0f} MiB/s"
            for name, row in rows.items()
        ]
        yield f"Throughput: {', '.join(rates)}."
        yield ""
    yield from _missing(closed.missing)


def _row(name: str, row: Row, closed: Closed) -> tuple[str, ...]:
    ratio = closed.ratio(name)
    saturated = name != DIRECT and row.load_core_busy.median >= SATURATED
    return (
        name,
        counts(row.requests_per_second) + (" ¹" if saturated else ""),
        decimals(row.cpu_us, 1),
        ratio_of(ratio.requests_per_core_second) if ratio else "–",
        milliseconds(row.p50_us),
        milliseconds(row.p99_us),
        f"**{row.errors:,}: failed**" if row.errors else "0",
        f"{row.generator_share.median:.0%} + {row.upstream_share.median:.0%}",
        row.limited_by,
    )


def _open_model(run: OpenModel) -> Iterator[str]:
    yield f"## {run.load.name}"
    yield ""
    yield (
        f"{_sentence(run.load.description)} Latency counts from the time at which a request was due. Added: "
        "more than direct at the same rate in slices that take turns with the proxy's, in µs."
    )
    yield ""
    rows = []
    for name, samples in run.proxied.items():
        if not samples:
            continue
        errors = run.errors(name)
        busy = max(sample.load_core_busy for sample in samples)
        rows.append(
            (
                name,
                f"{run.rates[name]:,.0f}" + (" ²" if name in run.capped else ""),
                decimals(run.added(name, lambda s: s.wrk.p50_us), 0),
                decimals(run.added(name, lambda s: s.wrk.p99_us), 0),
                decimals(run.added(name, lambda s: s.wrk.p999_us), 0),
                f"**{errors:,}: failed**" if errors else "0",
                f"{busy:.0%}" + (" ¹" if busy >= SATURATED else ""),
            )
        )
    yield from table(
        (
            *("", "requests/s", "added p50", "added p99", "added p99.9", "errors"),
            "load core busy at most",
        ),
        rows,
    )
    yield from _missing(run.missing)


def _idle(idle: Idle) -> Iterator[str]:
    yield "## idle"
    yield ""
    yield (
        f"{_sentence(idle.load.description)} {idle.wanted:,} idle connections; each round starts a new "
        "process."
    )
    yield ""
    rows = []
    for name, samples in idle.samples.items():
        if not samples:
            continue
        errors = idle.errors(name)
        rows.append(
            (
                name,
                decimals(idle.memory(name), 1),
                decimals(idle.slowdown(name), 2),
                decimals(idle.cpu_growth(name), 2),
                f"**{errors:,}: failed**" if errors else "0",
            )
        )
    yield from table(
        (
            *("", "KiB per idle connection", "requests/s alone ÷ beside"),
            *("CPU per request beside ÷ alone", "errors"),
        ),
        rows,
    )
    yield from _missing(idle.missing)


def _missing(missing: Mapping[str, str]) -> Iterator[str]:
    for name, reason in missing.items():
        yield f"- {name}: {reason}"
    if missing:
        yield ""


def _how(outcome: Outcome) -> Iterator[str]:
    yield "## How to read this"
    yield ""
    yield (
        "- CPU µs/request: CPU time of the proxy with all its threads and workers, as the kernel's scheduler "
        "counts it, divided by answers. *Per core* compares its inverse, round by round: what one core would "
        "answer, however quick the load side is. Above 1, ours needs less. Beside a ratio stands the "
        f"interval that contains its true median with a confidence of {CONFIDENCE:.1%}: of up to eight "
        "rounds from the least to the greatest, of more without the outermost ones. If it is wider than "
        f"{UNSTEADY:.0%} of the median, the ratio is not published: the machine was not quiet enough for it."
    )
    yield (
        "- ¹ The core of load generator and upstreams was full: requests/s and latency are bounded by it, "
        "CPU per request is the figure to compare."
    )
    if any(run.capped for run in outcome.open_model.values()):
        yield "- ² Half of its capacity is more than the generator sends; measured at the generator's most."
    yield f"- Small answers have a body of {ANSWER_BYTES} bytes. Closed model unless an open one is named."
    yield f"- {DIRECT}: no proxy; generator and upstream alone on their core."
    shares = ", ".join(
        f"{name} {before:.1%} and {after:.1%}" for name, (before, after) in outcome.shares.items()
    )
    if shares:
        yield (
            "- Checked with 500 users before and after: answers, stickiness, and the share on the canary: "
            f"{shares}."
        )
    if OURS in outcome.titles:
        yield "- All samples are in the JSON file beside this page."


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
