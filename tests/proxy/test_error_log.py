"""Lines about failed and refused requests: from the request id to variant, endpoint and cause."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from canaryproxy.measure.counters import Reason
from canaryproxy.measure.routing import CANARY, STABLE
from canaryproxy.proxy import error_log
from canaryproxy.proxy.error_log import ErrorLog
from canaryproxy.runtime.logs import JsonLines, TextLines


@pytest.fixture(autouse=True)
def _all_levels(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.INFO):
        yield


def fail(log: ErrorLog, now: float, request_id: bytes = b"4f", *, broke_off: bool = False) -> None:
    log.failed(
        now,
        request_id,
        200 if broke_off else 502,
        CANARY,
        "127.0.0.1:9002",
        Reason.CONNECT_REFUSED,
        "ECONNREFUSED, errno 111",
        rescue=False,
        broke_off=broke_off,
    )


def test_failed_request_leads_to_variant_endpoint_and_cause(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fail(ErrorLog(), 1.0)
    (record,) = caplog.records
    assert record.getMessage() == (
        "request 4f got 502: canary endpoint 127.0.0.1:9002:"
        " connection refused (ECONNREFUSED, errno 111)"
    )
    made = json.loads(JsonLines().format(record))
    assert made["event"] == "request_failed"
    assert {
        name: made[name] for name in ("request_id", "status", "variant", "endpoint", "reason")
    } == {
        "request_id": "4f",
        "status": 502,
        "variant": "canary",
        "endpoint": "127.0.0.1:9002",
        "reason": "connect_refused",
    }


def test_failed_request_names_its_service(caplog: pytest.LogCaptureFixture) -> None:
    ErrorLog().failed(
        1.0, b"4f", 502, CANARY, "", Reason.NO_ENDPOINT, "", rescue=False, broke_off=False,
        service="cart",
    )  # fmt: skip
    (record,) = caplog.records
    assert json.loads(JsonLines().format(record))["service"] == "cart"
    assert " WARNING service=cart request 4f got 502" in TextLines().format(record)


def test_failed_response_that_broke_off_says_so(caplog: pytest.LogCaptureFixture) -> None:
    fail(ErrorLog(), 1.0, b"", broke_off=True)
    assert caplog.records[0].getMessage() == (
        "request without id saw its response (status 200) break off: canary endpoint 127.0.0.1:9002:"
        " connection refused (ECONNREFUSED, errno 111)"
    )


def test_failed_without_endpoint_names_the_variant(caplog: pytest.LogCaptureFixture) -> None:
    ErrorLog().failed(
        1.0, b"4f", 503, STABLE, "", Reason.NO_ENDPOINT, "", rescue=True, broke_off=False
    )
    assert caplog.records[0].getMessage() == (
        "request 4f got 503: stable (rescue of a canary request): no endpoint is up"
    )


def test_flood_is_cut_and_counted_and_does_not_crowd_out_the_other_kind(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = ErrorLog()
    for _ in range(1000):
        fail(log, 1.0)
    assert len(caplog.records) == error_log.FAILED_BURST
    log.refused(1.0, b"4f", 400, "malformed request line", "192.0.2.1")
    assert caplog.records[-1].getMessage() == (
        "request 4f from 192.0.2.1 refused with 400: malformed request line"
    )
    fail(log, 2.0)
    assert len(caplog.records) == error_log.FAILED_BURST + 1
    fail(log, 1.0 + 1 / error_log.FAILED_PER_SECOND)
    assert caplog.records[-1].getMessage().endswith("; 981 more such lines not written")


def test_request_id_of_a_client_cannot_forge_a_line(caplog: pytest.LogCaptureFixture) -> None:
    evil = "x\r\n2026-01-01T00:00:00.000Z INFO promoted\x1b[2J\x85\u009b".encode("latin-1")
    fail(ErrorLog(), 1.0, evil, broke_off=True)
    line = TextLines().format(caplog.records[0])
    assert line.isprintable()
    assert json.loads(JsonLines().format(caplog.records[0]))["request_id"] == evil.decode("latin-1")
