"""gRPC by its documents: content types, deadlines, statuses, error responses, messages, health checks."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.config.grpc import ERRORS, GrpcStatus
from canaryproxy.http1.grpc import (
    HTTP_STATUS,
    SERVING,
    SERVING_NAMES,
    MessageReader,
    counted_as,
    grpc_error,
    health_request,
    is_grpc,
    is_grpc_head,
    of_http,
    percent_encoded,
    serving_status,
    status_in,
    status_lines,
    status_of,
    timeout_of,
    timeout_text,
    with_timeout,
)
from canaryproxy.http1.response import ResponseParser
from canaryproxy.judging.metrics import unpacked
from canaryproxy.measure.counters import CODES, GRPC

GRPC_TYPES = [b"application/grpc", b"application/grpc+proto", b"Application/gRPC;charset=utf-8"]
OTHER_TYPES = [b"application/grpc-web", b"application/grpc-web+proto", b"application/json", b""]


@pytest.mark.parametrize("value", GRPC_TYPES)
def test_content_types_of_grpc(value: bytes) -> None:
    assert is_grpc(value)
    assert is_grpc_head(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Type: %b\r\n\r\n" % value)


@pytest.mark.parametrize("value", OTHER_TYPES)
def test_content_types_that_are_not_grpc(value: bytes) -> None:
    assert not is_grpc(value)
    assert not is_grpc_head(b"POST / HTTP/1.1\r\nContent-Type: %b\r\n\r\n" % value)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(b"1H", 3600), (b"2M", 120), (b"10S", 10), (b"250m", 0.25), (b"5u", 5e-6), (b"7n", 7e-9),
     (b"99999999H", 99999999 * 3600)],
)  # fmt: skip
def test_timeouts_in_all_units(text: bytes, seconds: float) -> None:
    assert timeout_of(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", [None, b"", b"1", b"S", b"1s", b"-1S", b"1.5S", b"123456789S", b" 1S", b"1S ", b"1SS"]
)
def test_a_malformed_timeout_is_none(text: bytes | None) -> None:
    assert timeout_of(text) is None


@given(st.floats(0.0, 1e12))
def test_a_timeout_is_written_as_it_is_read_and_is_never_longer(seconds: float) -> None:
    text = timeout_text(seconds)
    read = timeout_of(text)
    assert read is not None
    longest = (10**8 - 1) * 3600.0
    assert read <= max(seconds, 1e-9) * (1 + 1e-12)
    assert read >= min(seconds, longest) * (1 - 1e-3) - 1e-9


def test_the_timeout_of_a_head_is_replaced() -> None:
    head = b"POST /a HTTP/1.1\r\nGrpc-Timeout: 1S\r\nx: grpc-timeout: 5S\r\n\r\n"
    expected = b"POST /a HTTP/1.1\r\ngrpc-timeout: 50000000n\r\nx: grpc-timeout: 5S\r\n\r\n"
    assert with_timeout(head, 0.05) == expected


def test_statuses_are_those_of_the_document() -> None:
    assert [one.value for one in GrpcStatus] == list(range(17))
    assert HTTP_STATUS.keys() == set(GrpcStatus)
    assert set(ERRORS) < set(GrpcStatus.__members__)
    assert GRPC + GrpcStatus.OK == CODES + 1000  # no cell of a status of HTTP is one of gRPC


@pytest.mark.parametrize(
    ("status", "expected"),
    [(400, "INTERNAL"), (401, "UNAUTHENTICATED"), (403, "PERMISSION_DENIED"),
     (404, "UNIMPLEMENTED"), (429, "UNAVAILABLE"), (502, "UNAVAILABLE"), (503, "UNAVAILABLE"),
     (504, "UNAVAILABLE"), (200, "UNKNOWN"), (408, "UNKNOWN"), (500, "UNKNOWN")],
)  # fmt: skip
def test_statuses_of_http_are_mapped_as_clients_do(status: int, expected: str) -> None:
    assert of_http(status).name == expected


@pytest.mark.parametrize(
    ("trailers", "expected"),
    [
        (b"grpc-status: 0\r\n", GrpcStatus.OK),
        (b"x: 1\r\nGrpc-Status:14\r\ngrpc-message: no\r\n", GrpcStatus.UNAVAILABLE),
        (b"grpc-status: 17\r\n", GrpcStatus.UNKNOWN),
        (b"grpc-status: 1234567890\r\n", GrpcStatus.UNKNOWN),
        (b"grpc-status: -1\r\n", None),
        (b"grpc-status: \r\n", None),
        (b"x-grpc-status: 0\r\n", None),
        (b"x: grpc-status: 0\r\n", None),
        (b"", None),
    ],
)
def test_the_status_in_trailers(trailers: bytes, expected: GrpcStatus | None) -> None:
    assert status_in(trailers) == expected


def test_the_status_in_a_head() -> None:
    assert status_of([(b"a", b"b"), (b"GRPC-Status", b"13")]) is GrpcStatus.INTERNAL
    assert status_of([(b"grpc-status", b"x"), (b"a", b"0")]) is None


@given(st.text())
def test_a_message_is_percent_encoded(text: str) -> None:
    encoded = percent_encoded(text)
    assert all(0x20 <= byte <= 0x7E for byte in encoded)
    assert unquote(encoded.decode()) == text


@given(st.sampled_from(GrpcStatus), st.text())
def test_the_lines_of_a_status_say_it(status: GrpcStatus, message: str) -> None:
    lines = status_lines(status, message)
    assert status_in(lines) is status
    assert lines.count(b"\r\n") == 2


def test_an_error_is_a_response_that_is_nothing_but_a_status() -> None:
    head = grpc_error(
        GrpcStatus.UNAVAILABLE,
        "100% busy",
        b"Date: now\r\n",
        close=True,
        label="shed",
        extra=b"A: b\r\n",
    )
    response = ResponseParser().parse(head)
    assert (response.status, response.length, response.keep_alive) == (200, 0, False)
    assert status_of(response.fields) is GrpcStatus.UNAVAILABLE
    fields = dict(response.fields)
    assert fields[b"grpc-message"].startswith(b"100%25 busy (request ID ")
    assert (fields[b"X-Canaryproxy-Reason"], fields[b"A"]) == (b"shed", b"b")


@given(st.sampled_from(GrpcStatus))
def test_a_response_is_counted_as_the_status_of_http_that_it_stands_for(status: GrpcStatus) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\n\r\n"
    response = ResponseParser().parse(head)
    counted = counted_as(response, status)
    record, plain = unpacked(counted.word, 0, 0), unpacked(response.word, 0, 0)
    assert counted.status == record.status == HTTP_STATUS[status]
    assert record == plain._replace(status=record.status)
    assert (counted is response) == (status == GrpcStatus.OK)


def message(content: bytes) -> bytes:
    return b"\0" + len(content).to_bytes(4, "big") + content


@given(st.lists(st.binary(max_size=9), max_size=6), st.data())
def test_messages_are_counted_however_they_are_cut(
    messages: list[bytes], data: st.DataObject
) -> None:
    whole = b"".join(map(message, messages))
    reader, at = MessageReader(), 0
    ends = {sum(5 + len(one) for one in messages[:count]) for count in range(len(messages) + 1)}
    while at < len(whole):
        step = data.draw(st.integers(1, len(whole) - at))
        expected = next(end for end in sorted(ends) if end >= at)
        if data.draw(st.booleans()):
            found = reader.feed_record(whole[at : at + step])
            if expected == at:
                assert found == 0  # and nothing was read
                continue
            assert found == (expected - at if expected <= at + step else -1)
        else:
            reader.feed(whole[at : at + step])
        at += step
        assert reader.at_boundary == (at in ends)
        assert reader.begun == sum(end < at for end in ends)


def test_a_health_check_asks_for_a_service() -> None:
    assert health_request("") == b"\0\0\0\0\0"
    assert health_request("shop.Cart") == b"\0\0\0\0\x0b\x0a\x09shop.Cart"
    assert health_request("s" * 200)[5:] == b"\x0a\xc8\x01" + b"s" * 200


@pytest.mark.parametrize(
    ("content", "name"), [(b"", "UNKNOWN"), (b"\x08\x01", "SERVING"), (b"\x08\x02", "NOT_SERVING")]
)
def test_a_health_check_reads_the_answer(content: bytes, name: str) -> None:
    assert SERVING_NAMES[serving_status(message(content))] == name
    assert SERVING_NAMES[SERVING] == "SERVING"


@pytest.mark.parametrize(
    "data",
    [b"", b"\0\0\0\0\2\x08", b"\1\0\0\0\2\x08\1", b"\0\0\0\0\2\x08\4", b"\0\0\0\0\3\x08\1\0"],
)
def test_an_answer_that_is_no_health_check_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="not"):
        serving_status(data)
