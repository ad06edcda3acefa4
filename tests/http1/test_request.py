"""Request heads without sockets: a head that passes is strict, and h11 reads the same in it."""

from __future__ import annotations

import h11
from hypothesis import example, given, settings
from hypothesis import strategies as st

from canaryproxy.http1.errors import Refusal
from canaryproxy.http1.fields import find_head_end, tokens
from canaryproxy.http1.forwarding import Peer
from canaryproxy.http1.request import Request, RequestParser, check_partial

from .heads import fields, strict, values_of

PEER = Peer("192.0.2.1", b"http", False, b"local")
parser = RequestParser(b"Via: 1.1 us\r\n\r\n")


def parsed(head: bytes) -> Request | None:
    try:
        return parser.parse(head, PEER)
    except Refusal:
        return None


@settings(max_examples=600)
@given(
    fields, st.sampled_from([b"GET / HTTP/1.1", b"POST /a?b HTTP/1.0", b"PUT http://o/x HTTP/1.1"])
)
@example(b"Content-Length : 5\r\n", b"GET / HTTP/1.1")
@example(b" Content-Length: 5\r\n", b"GET / HTTP/1.1")
def test_requests_that_pass_are_strict_and_mean_the_same_to_h11(more: bytes, line: bytes) -> None:
    head = line + b"\r\nHost: h\r\n" + more + b"\r\n"
    end = find_head_end(head)
    request = parsed(head[:end])
    if request is None:
        return
    sent = strict(request.head)
    reader = h11.Connection(h11.SERVER)
    reader.receive_data(request.head)
    event = reader.next_event()
    assert isinstance(event, h11.Request)
    assert event.http_version == b"1.1"
    assert len(values_of(sent, b"host")) == 1
    lengths, codings = values_of(sent, b"content-length"), values_of(sent, b"transfer-encoding")
    if request.fields.chunked:
        assert codings == [b"chunked"]
        assert lengths == []
    else:
        assert codings == []
        assert len(lengths) <= 1
        assert int(lengths[0] if lengths else 0) == request.fields.length
    for name in (b"keep-alive", b"proxy-connection", b"proxy-authorization"):
        assert not values_of(sent, name)
    for value in values_of(sent, b"connection"):
        assert set(tokens(value)) <= {b"upgrade", b"te"}
    for value in values_of(sent, b"te"):
        assert value == b"trailers"
    assert values_of(sent, b"x-forwarded-for") == [b"192.0.2.1"]
    assert request.head.endswith(b"\r\nVia: 1.%d us\r\n\r\n" % (not request.http10))


@given(fields)
def test_check_partial_accepts_every_prefix_of_a_valid_head(more: bytes) -> None:
    head = b"GET / HTTP/1.1\r\nHost: h\r\n" + more + b"\r\n"
    head = head[: find_head_end(head)]
    if parsed(head) is not None:
        for end in range(len(head)):
            check_partial(head[:end])


@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"A", b"b", b"X-Y"]),
            st.from_regex(rb"[!-~]?([\t -~]*[!-~])?", fullmatch=True),
        ),
        max_size=8,
    )
)  # fmt: skip
def test_request_fields_are_forwarded_byte_for_byte(plain: list[tuple[bytes, bytes]]) -> None:
    block = b"".join(b"%b:%b\r\n" % field for field in plain)
    head = b"GET / HTTP/1.1\r\n" + block + b"Host: h\r\nKeep-Alive: 1\r\n\r\n"
    request = parsed(head)
    assert request is not None
    # Without the line that goes, in the order that came; only white space may be put in order.
    sent = strict(request.head)
    assert sent[: len(plain)] == [(name.lower(), value.strip(b" \t")) for name, value in plain]
    same = parsed(head.replace(b"Keep-Alive: 1\r\n", b""))
    assert same is not None
    assert same.head.startswith(b"GET / HTTP/1.1\r\n" + block + b"Host: h\r\n")
