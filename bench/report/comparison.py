"""The figures as Markdown for people and as plain values for JSON. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.harness.measure import DIRECT, Measured, Plan
from bench.harness.quietness import Quietness
from bench.loads import ANSWER_BYTES
from bench.report.goals import Goal
from bench.report.summary import UNSTEADY, Ratio, Row, Spread
from bench.report.text import counts, decimals, milliseconds
from bench.report.text import ratio as ratio_of

_NOISY = 0.05


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that one run found out."""

    command: str
    machine: Mapping[str, str]
    titles: Mapping[str, str]
    plan: Plan
    measured: Measured
    quietness: Quietness
    rows: Mapping[str, Row]
    ratios: Mapping[str, Ratio]
    goals: Sequence[Goal]


def markdown(report: Report) -> str:
    """Return the whole report."""
    parts = [
        *_heading(report),
        *_figures(report.rows),
        *_ratios(report),
        *_notes(report),
    ]
    return "\n".join(parts) + "\n"


def as_json(report: Report) -> dict[str, Any]:
    """Return the whole report as values that json can write; units are in the names."""
    plan = report.plan
    return {
        "command": report.command,
        "machine": dict(report.machine),
        "quietness": asdict(report.quietness),
        "load": {**asdict(plan.load), "answer_bytes": ANSWER_BYTES},
        "rounds": plan.rounds,
        "seconds": plan.seconds,
        "weight_percent": plan.weight,
        "cores": asdict(plan.cores),
        "upstream": report.measured.upstream,
        "missing": report.measured.missing,
        "peers": {
            name: {
                "title": report.titles.get(name, name),
                "version": report.measured.versions.get(name),
                "canary_share": report.measured.canary_shares.get(name),
                "limited_by": row.limited_by,
                **asdict(row),
                "samples": [
                    {
                        **asdict(sample),
                        "requests_per_second": sample.requests_per_second,
                        "cpu_us": sample.cpu_us,
                    }
                    for sample in report.measured.samples[name]
                ],
            }
            for name, row in report.rows.items()
        },
        "ratios_ours_to_peer": {name: asdict(ratio) for name, ratio in report.ratios.items()},
        "goals": [asdict(goal) for goal in report.goals],
    }


def _heading(report: Report) -> list[str]:
    plan, machine = report.plan, report.machine
    load = plan.load
    return [
        f"Command: `{report.command}`",
        "",
        f"Machine: {machine['cpu']}, {machine['cores']} cores, {machine['kernel']} (TCP {machine['tcp']}), "
        f"{machine['python']}; {report.quietness}. "
        f"Proxy on core {plan.cores.proxy}; wrk and upstream on core {plan.cores.load}.",
        "",
        f"Load `{load.name}`: {load.description}; GET, {load.connections} kept-alive connections, "
        f"closed model; answers of {ANSWER_BYTES} bytes from {report.measured.upstream}; "
        f"wrk {report.measured.versions['wrk']}; {plan.weight:g} % of users on the canary. "
        f"Interleaved rounds: {plan.rounds}, of {plan.seconds} s: median (lowest–highest).",
        "",
    ]


def _figures(rows: Mapping[str, Row]) -> list[str]:
    lines = [
        "| proxy | requests/s | CPU µs/request | requests/s per core | p50 ms | p99 ms | p99.9 ms "
        "| errors | proxy core busy | load core busy | limited by |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        cells = [
            name,
            counts(row.requests_per_second),
            decimals(row.cpu_us, 1),
            counts(row.requests_per_core_second),
            milliseconds(row.p50_us),
            milliseconds(row.p99_us),
            milliseconds(row.p999_us),
            f"**{row.errors:,}**" if row.errors else "0",
            f"{row.proxy_core_busy.median:.0%}",
            f"{row.load_core_busy.median:.0%}",
            row.limited_by,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _ratios(report: Report) -> list[str]:
    if not report.ratios:
        return ["No ratios: ours or the peers were not measured.", ""]
    goals = {goal.peer: goal for goal in report.goals}
    lines = [
        "| ours ÷ peer | requests/s per core | requests/s | p99 | goal (per core) |",
        "|---|---|---|---|---|",
    ]
    for name, ratio in report.ratios.items():
        goal = goals.get(name)
        per_core = ratio.requests_per_core_second
        met = "" if goal is None else f"≥ {goal.factor:g}: {_verdict(per_core, goal)}"
        lines.append(
            f"| {name} | {ratio_of(per_core)} | {ratio_of(ratio.requests_per_second)} "
            f"| {decimals(ratio.p99, 2)} | {met} |"
        )
    return [*lines, ""]


def _verdict(per_core: Spread, goal: Goal) -> str:
    if not per_core.is_steady:
        return "not shown"
    return "met" if per_core.median >= goal.factor else "**not met**"


def _notes(report: Report) -> list[str]:
    rows, measured = report.rows, report.measured
    lines = [
        "- CPU µs/request: CPU time of the proxy with all its threads and workers, as the scheduler "
        "counts it, divided by answers. Requests/s per core is 1,000,000 divided by it: what one core "
        "would answer, however quick the load side is.",
    ]
    held_back = [name for name, row in rows.items() if name != DIRECT and "load" in row.limited_by]
    if held_back:
        lines.append(
            "- The core of wrk and upstream was full with "
            f"{', '.join(held_back)}: their requests/s are a lower bound; "
            "compare requests/s per core."
        )
    noisy = [
        f"{name} {row.others_on_proxy_core.high:.0%}"
        for name, row in rows.items()
        if row.others_on_proxy_core is not None and row.others_on_proxy_core.high > _NOISY
    ]
    if noisy:
        lines.append(
            "- Noise: something else ran on the proxy's core for up to this share of a round: "
            f"{', '.join(noisy)}. Repeat on a quiet machine before you quote the figures."
        )
    if report.plan.cores.shared:
        lines.append(
            "- Only one core is usable: requests/s and latency mean little, CPU µs still do."
        )
    if not all(one.requests_per_core_second.is_steady for one in report.ratios.values()):
        lines.append(
            f"- Ratios whose interval is wider than {UNSTEADY:.0%} of their median are not published."
        )
    failed = [f"{name} ({row.errors:,})" for name, row in rows.items() if row.errors]
    if failed:
        lines.append(
            f"- **Errors or answers of status 400 and up, not comparable: {', '.join(failed)}.**"
        )
    shares = ", ".join(f"{name} {share:.1%}" for name, share in measured.canary_shares.items())
    if shares:
        lines.append(f"- Checked before: answers, stickiness, and users on the canary: {shares}.")
    for name in rows:
        if name in measured.versions:
            lines.append(f"- {name}: {report.titles[name]}; version {measured.versions[name]}.")
    lines.extend(f"- **Missing: {name}**: {reason}" for name, reason in measured.missing.items())
    return lines
