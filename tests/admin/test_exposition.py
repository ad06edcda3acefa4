"""Which format a scrape gets, and whether it is compressed."""

from __future__ import annotations

import gzip

import pytest

from canaryproxy.admin.exposition import registry, scrape
from tests.admin.test_collector import OPENMETRICS, TEXT, collector, exposition

PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;"
    "escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", TEXT),
        ("*/*", TEXT),
        ("text/html,application/xhtml+xml,*/*;q=0.8", TEXT),
        (PROMETHEUS_2, OPENMETRICS),
        (PROMETHEUS_3, OPENMETRICS),
        ("Application/OpenMetrics-Text", OPENMETRICS),
        ('application/openmetrics-text; version="1.0.0"', OPENMETRICS),
        ("application/openmetrics-text;version=1.0.0;q=0.2, text/plain;q=0.9", TEXT),
        ("application/openmetrics-text;version=1.0.0;q=0", TEXT),
        ("application/openmetrics-text;version=9.9", TEXT),
        ("application/openmetrics-text;version=x.y;q=z,,;=;", TEXT),
        ("application/json", TEXT),
    ],
)
def test_format_by_accept(accept: str, expected: str) -> None:
    text, content_type = exposition(accept)
    assert content_type == f"{expected}; charset=utf-8"
    assert text.endswith("# EOF\n") is (expected == OPENMETRICS)


@pytest.mark.parametrize(
    ("accepted", "compressed"),
    [
        ("", False),
        ("gzip", True),
        ("deflate, GZIP;q=0.5", True),
        ("*", True),
        ("*;q=0", False),
        ("gzip;q=0, *", False),
        ("br, identity", False),
        ("identity;q=0.9, gzip;q=0.5", False),
        ("gzip;q=nan", False),
    ],
)
async def test_a_scrape_is_compressed_only_if_the_client_accepts_it(
    accepted: str, compressed: bool
) -> None:
    source = registry(collector())
    body, fields = await scrape(source, TEXT, accepted)
    assert ("Content-Encoding" in fields) is compressed
    assert fields["Vary"] == "Accept, Accept-Encoding"
    text = (gzip.decompress(body) if compressed else body).decode()
    assert "canaryproxy_rescued_total 2.0" in text
    assert fields["Content-Type"].startswith("text/plain")
