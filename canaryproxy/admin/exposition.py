"""The response to a scrape: Prometheus text or OpenMetrics, compressed if the client accepts that."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from typing import Final

from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry


def registry(collector: Collector) -> CollectorRegistry:
    """Return a registry of the collector and the standard metrics of the process and the platform."""
    found = CollectorRegistry(auto_describe=False)
    found.register(collector)
    ProcessCollector(registry=found)
    PlatformCollector(registry=found)
    return found


def scrape(
    source: CollectorRegistry, accept: str, accept_encoding: str
) -> tuple[bytes, dict[str, str]]:
    """Return the body and the headers of the response to a scrape with these request headers."""
    body, content_type = render(source, accept)
    headers = {"Content-Type": content_type, "Vary": "Accept, Accept-Encoding"}
    if _accepts_gzip(accept_encoding):
        body = gzip.compress(body, compresslevel=1, mtime=0)
        headers["Content-Encoding"] = "gzip"
    return body, headers


def render(source: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """Return the exposition and its Content-Type for an Accept header.

    OpenMetrics 1.0 if the header names it and prefers no text format to it; otherwise the text format, even
    if the header allows neither: a body helps more than a 406.
    """
    if not _prefers_openmetrics(accept):
        from prometheus_client.exposition import (  # noqa: PLC0415 - it imports several web servers
            CONTENT_TYPE_PLAIN_0_0_4,
            generate_latest,
        )

        return generate_latest(source), CONTENT_TYPE_PLAIN_0_0_4
    # All names are legacy names, which this escaping leaves alone in half the time.
    body: bytes = openmetrics.generate_latest(  # type: ignore[no-untyped-call]
        source, escaping=openmetrics.ALLOWUTF8
    )
    return body, openmetrics.CONTENT_TYPE_LATEST


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
