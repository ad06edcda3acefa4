"""Figures of the proxy from two scrapes of its ``/metrics``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from canaryproxy.measure.histogram import BOUNDS, quantile
from canaryproxy.measure.routing import VARIANTS

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@dataclass(frozen=True, slots=True)
class VariantFigures:
    """One variant between two scrapes."""

    requests: int
    failed: int
    """Responses with status 500 and above."""
    p50: float | None
    """Median time to first byte in seconds; ``None`` without requests."""
    p95: float | None


@dataclass(frozen=True, slots=True)
class Figures:
    """The proxy between two scrapes."""

    variants: tuple[VariantFigures, VariantFigures]
    rescued: int
    weight: float
    """Fraction of users on the canary, 0..1."""
    state: str
    """State of the release, such as ``running``, ``promoted`` or ``tripped``."""
    evidence: dict[str, tuple[float, float]]
    """Evidence (e-value) and the limit at which the circuit opens, by metric."""


async def scrape(socket: Path) -> Series:
    """Return the samples of ``/metrics`` on the admin socket."""
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket))) as session,
        session.get("http://admin/metrics", headers={"Accept": "text/plain"}) as response,
    ):
        text = await response.text()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def release_of(series: Series) -> str | None:
    """Return the release id, or ``None`` without a release."""
    for name, labels in series:
        if name == "canaryproxy_release_info":
            return dict(labels)["release"]
    return None


def between(before: Series, after: Series) -> Figures:
    """Return the figures between two scrapes."""

    def grown(name: str, *labels: tuple[str, str]) -> int:
        key = (name, tuple(sorted(labels)))
        return int(after.get(key, 0) - before.get(key, 0))

    def variant(name: str) -> VariantFigures:
        codes = {
            dict(labels)["code"]: int(value - before.get((metric, labels), 0))
            for (metric, labels), value in after.items()
            if metric == "canaryproxy_requests_total" and ("variant", name) in labels
        }
        bounds = [*(f"{bound:g}" for bound in BOUNDS), "+Inf"]
        cumulative = [
            grown("canaryproxy_first_byte_seconds_bucket", ("variant", name), ("le", bound))
            for bound in bounds
        ]
        counts = [high - low for low, high in zip([0, *cumulative], cumulative, strict=False)]
        return VariantFigures(
            sum(codes.values()),
            sum(count for code, count in codes.items() if code >= "500"),
            quantile(counts, 0.5),
            quantile(counts, 0.95),
        )

    return Figures(
        (variant(VARIANTS[0]), variant(VARIANTS[1])),
        grown("canaryproxy_rescued_total"),
        after.get(("canaryproxy_weight_ratio", ()), 0.0),
        next(
            (
                dict(labels)["state"]
                for (name, labels), value in after.items()
                if name == "canaryproxy_release_state" and value
            ),
            "idle",
        ),
        {
            dict(labels)["metric"]: (value, after[("canaryproxy_evidence_limit", labels)])
            for (name, labels), value in after.items()
            if name == "canaryproxy_evidence"
        },
    )
