"""The response to a scrape: Prometheus text or OpenMetrics, compressed if the client accepts that."""

from __future__ import annotations

import asyncio
import gzip
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import Final

from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry

from canaryproxy.admin.collector import CounterCollector

_SLICE: Final = 0.005
"""Seconds of work between two moments in which a scrape lets others run."""


class Registry(CollectorRegistry):
    """A collector of ours, and the standard metrics of the process and the platform."""

    def __init__(self, collector: CounterCollector) -> None:
        super().__init__(auto_describe=False)
        self._ours = collector
        self._standard = (ProcessCollector(registry=None), PlatformCollector(registry=None))
        for each in (collector, *self._standard):
            self.register(each)

    def steps(self) -> Iterator[Metric | None]:
        """Yield what ``CounterCollector.steps`` does, then the standard metrics."""
        yield from self._ours.steps()
        for collector in self._standard:
            yield from collector.collect()


def registry(collector: CounterCollector) -> Registry:
    """Return a registry of the collector and the standard metrics of the process and the platform."""
    return Registry(collector)


async def scrape(
    source: CollectorRegistry, accept: str, accept_encoding: str
) -> tuple[bytes, dict[str, str]]:
    """Return the body and the headers of the response to a scrape with these request headers.

    Lets others run in between: a scrape of hundreds of services takes a good part of a second.
    """
    write = _format(accept)
    parts = []
    before = ""
    until = perf_counter() + _SLICE
    for metric in source.steps() if isinstance(source, Registry) else source.collect():
        if metric is not None:
            written = write.family(metric)
            parts.append(_without_head(written) if metric.name == before else written)
            before = metric.name
        if perf_counter() >= until:
            await asyncio.sleep(0)
            until = perf_counter() + _SLICE
    body = b"".join((*parts, write.end))
    headers = {"Content-Type": write.content_type, "Vary": "Accept, Accept-Encoding"}
    if _accepts_gzip(accept_encoding):
        loop = asyncio.get_running_loop()
        body = await loop.run_in_executor(None, _compressed, body)
        headers["Content-Encoding"] = "gzip"
    return body, headers


def _without_head(written: bytes) -> bytes:
    """Return the samples of a further piece of a metric without their HELP and TYPE."""
    return written.split(b"\n", 2)[2]


def _compressed(body: bytes) -> bytes:
    return gzip.compress(body, compresslevel=1, mtime=0)


def render(source: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """Return the exposition and its Content-Type for an Accept header.

    OpenMetrics 1.0 if the header names it and prefers no text format to it; otherwise the text format, even
    if the header allows neither: a body helps more than a 406.
    """
    write = _format(accept)
    return b"".join((*map(write.family, source.collect()), write.end)), write.content_type


@dataclass(frozen=True, slots=True)
class _Format:
    family: Callable[[Metric], bytes]
    """Writes a metric."""
    end: bytes
    content_type: str


class _One(Collector):
    """A collector of a single metric, as the writers of ``prometheus_client`` want it."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterable[Metric]:
        return (self._metric,)


_EOF: Final = b"# EOF\n"


def _format(accept: str) -> _Format:
    if _prefers_openmetrics(accept):
        return _Format(_openmetrics, _EOF, openmetrics.CONTENT_TYPE_LATEST)
    from prometheus_client.exposition import (  # noqa: PLC0415 - it imports several web servers
        CONTENT_TYPE_PLAIN_0_0_4,
        generate_latest,
    )

    return _Format(lambda metric: generate_latest(_One(metric)), b"", CONTENT_TYPE_PLAIN_0_0_4)


def _openmetrics(metric: Metric) -> bytes:
    # All names are legacy names, which this escaping leaves alone in half the time.
    body: bytes = openmetrics.generate_latest(  # type: ignore[no-untyped-call]
        _One(metric), escaping=openmetrics.ALLOWUTF8
    )
    return body.removesuffix(_EOF)


_QUALITY: Final = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?")


def _preferences(header: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """Yield name, parameters and quality of each item of an Accept header (RFC 9110 §12.4.2)."""
    for item in header.lower().split(","):
        name, *parameters = [part.strip() for part in item.split(";")]
        pairs = {
            key.strip(): value.strip().strip('"')
            for key, _, value in (parameter.partition("=") for parameter in parameters)
        }
        quality = pairs.pop("q", "1")
        yield name, pairs, float(quality) if _QUALITY.fullmatch(quality) else 0.0


def _prefers_openmetrics(accept: str) -> bool:
    best = text = 0.0
    for name, parameters, quality in _preferences(accept):
        version = parameters.get("version")
        if name == "application/openmetrics-text" and version in (None, "1.0.0"):
            best = max(best, quality)
        elif name == "text/plain" and version in (None, "0.0.4"):
            text = max(text, quality)
    return best > 0.0 and best >= text


def _accepts_gzip(accept_encoding: str) -> bool:
    qualities = {name: quality for name, _, quality in _preferences(accept_encoding)}
    found = qualities.get("gzip", qualities.get("*", 0.0))
    return found > 0.0 and found >= qualities.get("identity", 0.0)
