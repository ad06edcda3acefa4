"""Trace context on the wire, exemplars, and answers that name their variant."""

from __future__ import annotations

import re
from time import time

import pytest

from canaryproxy import config
from canaryproxy.measure import counters, histogram
from canaryproxy.measure.counters import DURATION, FIRST_BYTE, Exemplar, exemplar
from canaryproxy.measure.routing import CANARY, STABLE
from tests.ports import free_port

from .harness import ADDED, COOKIE, OK, VIA, Link, Proxy, Upstream, always, proxy, variants

HOST = b"Host: h\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST + COOKIE + b"\r\n"
CREATE = "trace: {create: true}\n"
TRACE = b"0af7651916cd43dd8448eb211c80319c"
PARENT = b"b7ad6b7169203331"
VALID = b"00-" + TRACE + b"-" + PARENT + b"-01"
MADE = re.compile(rb"\r\ntraceparent: 00-([0-9a-f]{32})-([0-9a-f]{16})-00\r\n")


def get(*lines: bytes) -> bytes:
    return b"GET / HTTP/1.1\r\n" + HOST + COOKIE + b"".join(lines) + b"\r\n"


async def exchange(running: Proxy, *requests: bytes) -> bytes:
    """Send requests on one connection, one after the other, and return all answers."""
    client = await running.connect()
    for count, request in enumerate(requests, 1):
        await client.send(request)
        await client.take(b"\r\n\r\n", count)
    return client.got


UNTOUCHED = {
    "valid": [b"traceparent: " + VALID + b"\r\n"],
    "with state": [
        b"traceparent: " + VALID + b"\r\n",
        b"tracestate: a=1,b=2\r\n",
        b"Accept: x\r\n",
        b"tracestate: c=3\r\n",
    ],
    "other spelling": [b"TraceParent:\t" + VALID + b" \r\n", b"TRACESTATE:a=1\r\n"],
    "unsampled": [b"traceparent: " + VALID[:-1] + b"0\r\n"],
    "other flags": [b"traceparent: " + VALID[:-2] + b"ff\r\n"],
    "later version": [b"traceparent: cc-" + VALID[3:] + b"\r\n"],
    "later version, longer": [b"traceparent: fe-" + VALID[3:] + b"-what-will-be\r\n"],
}
INVALID = {
    "empty": [b"traceparent:\r\n"],
    "none but a state": [b"tracestate: a=1\r\n"],
    "two": [b"traceparent: " + VALID + b"\r\n", b"Traceparent: " + VALID + b"\r\n"],
    "version ff": [b"traceparent: ff-" + VALID[3:] + b"\r\n"],
    "version 00, longer": [b"traceparent: " + VALID + b"-00\r\n"],
    "later version, glued": [b"traceparent: cc-" + VALID[3:] + b"0\r\n"],
    "capitals": [b"traceparent: " + VALID.upper() + b"\r\n"],
    "no digits": [b"traceparent: 00-" + b"g" * 32 + VALID[35:] + b"\r\n"],
    "no trace": [b"traceparent: 00-" + b"0" * 32 + VALID[35:] + b"\r\n"],
    "no parent": [b"traceparent: " + VALID[:36] + b"0" * 16 + b"-01\r\n"],
    "short": [b"traceparent: " + VALID[:-1] + b"\r\n"],
    "list": [b"traceparent: " + VALID + b", " + VALID + b"\r\n"],
    "underscores": [b"traceparent: " + VALID.replace(b"-", b"_") + b"\r\n"],
    "high bytes": [b"traceparent: \xff" + VALID[1:] + b"\r\n"],
    "with state": [b"tracestate: a=1\r\n", b"traceparent: x\r\n", b"TraceState: b=2\r\n"],
}


@pytest.mark.parametrize("more", ["", CREATE], ids=["passing on", "creating"])
@pytest.mark.parametrize("lines", UNTOUCHED.values(), ids=UNTOUCHED.keys())
async def test_a_valid_context_is_passed_on_byte_for_byte(lines: list[bytes], more: str) -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port, more=more)) as running,
    ):
        await exchange(running, get(*lines), get(*lines))
        assert upstream.got == (get(*lines)[:-2] + ADDED + VIA + b"\r\n") * 2


@pytest.mark.parametrize("lines", INVALID.values(), ids=INVALID.keys())
async def test_who_creates_nothing_changes_nothing(lines: list[bytes]) -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port)) as running,
    ):
        await exchange(running, get(*lines))
        assert upstream.got == get(*lines)[:-2] + ADDED + VIA + b"\r\n"


@pytest.mark.parametrize("lines", INVALID.values(), ids=INVALID.keys())
async def test_an_invalid_context_is_replaced_and_its_state_dropped(lines: list[bytes]) -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port, more=CREATE)) as running,
    ):
        await exchange(running, get(b"A: b\r\n", *lines, b"C: d\r\n"))
        made = MADE.findall(upstream.got)
        assert len(made) == 1
        assert MADE.sub(b"\r\n", upstream.got) == (
            get(b"A: b\r\n", b"C: d\r\n")[:-2] + ADDED + VIA + b"\r\n"
        )


@pytest.mark.parametrize(
    "request_",
    [
        GET,
        b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n" + COOKIE + b"\r\n",
        b"GET http://h/ HTTP/1.1\r\n" + HOST + COOKIE + b"\r\n",
        b"PROPFIND / HTTP/1.1\r\n" + HOST + COOKIE + b"\r\n",
        get(b"traceparent: " + VALID + b"\r\n", b"Connection: traceparent\r\n"),
    ],
    ids=["plain", "HTTP/1.0", "absolute form", "rare method", "named by Connection"],
)
async def test_equal_requests_get_traces_of_their_own(request_: bytes) -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port, more=CREATE)) as running,
    ):
        await exchange(running, *[request_] * 5)
        heads = upstream.got.split(b"\r\n\r\n")[:-1]
        assert len(heads) == 5
        made = [MADE.findall(head + b"\r\n\r\n") for head in heads]
        assert all(len(found) == 1 for found in made)
        assert all(head.lower().count(b"traceparent") == 1 for head in heads)
        assert len({found[0][0] for found in made}) == 5
        assert len({found[0][1] for found in made}) == 5
        assert not any(int(part, 16) == 0 for found in made for part in found[0])


async def test_a_rescued_request_keeps_its_trace() -> None:
    async with (
        Upstream(always(OK)).serving() as stable,
        Upstream(always(b"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n")).serving() as canary,
        proxy(variants(stable.port, canary.port, CREATE + "split: {weight: 100}\n")) as running,
    ):
        await exchange(running, GET)
        assert MADE.findall(stable.got) == MADE.findall(canary.got) != []


async def test_creation_begins_and_ends_with_the_configuration() -> None:
    async with Upstream(always(OK)).serving() as upstream:
        off = variants(upstream.port)
        async with proxy(off) as running:
            for text, count in ((off, 0), (off + CREATE, 1), (off, 1)):
                running.reconfigure(config.parse(text, file="test.yaml"))
                await exchange(running, GET)
                assert len(MADE.findall(upstream.got)) == count


# Exemplars


def found(running: Proxy, variant: int, offset: int) -> list[tuple[int, Exemplar]]:
    """Return the exemplars of a histogram, with their buckets."""
    cells = running.counters.exemplars[variant]
    each = ((at, exemplar(cells, offset, at)) for at in range(histogram.BUCKETS))
    return [(at, one) for at, one in each if one is not None]


@pytest.mark.parametrize("answer", [OK, b"HTTP/1.1 500 X\r\nContent-Length: 1\r\n\r\nx", b"x" * 99])
@pytest.mark.parametrize("variant", [STABLE, CANARY])
async def test_a_sampled_trace_lies_beside_the_bucket_that_counts_it(
    answer: bytes, variant: int
) -> None:
    async with (
        Upstream(always(answer)).serving() as stable,
        Upstream(always(answer)).serving() as canary,
        proxy(
            variants(
                stable.port,
                canary.port,
                f"split: {{weight: {100 * variant}}}\nrescue: {{enabled: false}}\n"
                "limits: {first_byte_timeout: 100ms}",
            )
        ) as running,
    ):
        await exchange(running, get(b"traceparent: " + VALID + b"\r\n"))
        cells = running.counters.variants[variant]
        for offset in (FIRST_BYTE, DURATION):
            ((bucket, one),) = found(running, variant, offset)
            assert one.trace_id == TRACE.decode()
            assert abs(one.time - time()) < 60
            assert histogram.bucket_index(one.seconds) == bucket
            assert cells[offset + bucket] == 1
            assert not found(running, 1 - variant, offset)


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [b"traceparent: " + VALID[:-1] + b"0\r\n"],
        [b"traceparent: " + VALID[:-2] + b"fe\r\n"],
        *INVALID.values(),
    ],
)
@pytest.mark.parametrize("more", ["", CREATE], ids=["passing on", "creating"])
async def test_what_is_not_sampled_or_not_valid_is_no_exemplar(
    lines: list[bytes], more: str
) -> None:
    async with (
        Upstream(always(OK)).serving() as upstream,
        proxy(variants(upstream.port, more=more)) as running,
    ):
        await exchange(running, get(*lines))
        assert running.counters.stable[counters.FINISHED] == 1
        assert not any(running.counters.exemplars[STABLE])


async def test_a_rescued_request_is_an_exemplar_of_the_canary_once() -> None:
    async with (
        Upstream(always(OK)).serving() as stable,
        Upstream(always(b"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n")).serving() as canary,
        proxy(variants(stable.port, canary.port, "split: {weight: 100}\n")) as running,
    ):
        await exchange(running, get(b"traceparent: " + VALID + b"\r\n"))
        assert len(found(running, CANARY, DURATION)) == 1
        assert not any(running.counters.exemplars[STABLE])


# Answers that name their variant

NAMED = 'split: {{weight: {weight}, variant_header: "X-Variant"}}\n'


def names(answer: bytes) -> list[bytes]:
    """Return what the first head of an answer says about the variant."""
    head = answer.partition(b"\r\n\r\n")[0]
    return re.findall(rb"\r\n(?i:x-variant):[ \t]*([^\r\n]*)", head)


BODIES = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "own": b"HTTP/1.1 200 OK\r\nx-variant: v7\r\nX-Variant:v8\r\nContent-Length: 2\r\n\r\nok",
    "alike": b"HTTP/1.1 200 OK\r\nX_Variant: v7\r\nContent-Length: 2\r\n\r\nok",
    "hop by hop": b"HTTP/1.1 200 OK\r\nConnection: x-variant\r\nX-Variant: 7\r\nContent-Length: 0\r\n\r\n",
    "error": b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("answer", BODIES.values(), ids=BODIES.keys())
@pytest.mark.parametrize("weight", [0, 100])
@pytest.mark.parametrize("cookie", [COOKIE, b""], ids=["known", "new"])
async def test_an_answer_names_its_variant(answer: bytes, weight: int, cookie: bytes) -> None:
    more = NAMED.format(weight=weight)
    async with (
        Upstream(always(answer)).serving() as stable,
        Upstream(always(answer)).serving() as canary,
        proxy(variants(stable.port, canary.port, more)) as running,
    ):
        request = b"GET / HTTP/1.1\r\n" + HOST + cookie + b"\r\n"
        got = await exchange(running, request)
        assert names(got) == [b"canary" if weight else b"stable"]
        assert b"v7" not in got or b"X_Variant: v7" in got
        got = await running.ask(b"GET / HTTP/1.0\r\n" + cookie + b"\r\n")
        assert names(got) == [b"canary" if weight else b"stable"]


async def test_a_rescued_answer_names_who_answered() -> None:
    async with (
        Upstream(always(OK)).serving() as stable,
        Upstream(always(b"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n")).serving() as canary,
        proxy(variants(stable.port, canary.port, NAMED.format(weight=100))) as running,
    ):
        assert names(await exchange(running, GET)) == [b"stable"]


async def test_an_error_in_place_of_an_answer_names_who_failed() -> None:
    more = NAMED.format(weight=100) + "rescue: {enabled: false}\n"
    async with proxy(variants(free_port(), free_port(), more)) as running:
        got = await exchange(running, GET)
        assert got.startswith(b"HTTP/1.1 502 ")
        assert names(got) == [b"canary"]
        running.weight(0)
        assert names(await exchange(running, GET)) == [b"stable"]


async def test_a_refusal_names_none() -> None:
    async with proxy(variants(free_port(), more=NAMED.format(weight=0))) as running:
        assert names(await running.ask(b"GET / HTTP/1.1\r\n\r\n")) == []


async def test_a_tunnel_names_its_variant() -> None:
    async def switch(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(
            b"HTTP/1.1 101 X\r\nUpgrade: w\r\nConnection: Upgrade\r\nX-Variant: 7\r\n\r\n"
        )

    async with (
        Upstream(switch).serving() as upstream,
        proxy(variants(upstream.port, more=NAMED.format(weight=0))) as running,
    ):
        request = get(b"Upgrade: w\r\n", b"Connection: Upgrade\r\n")
        assert names(await exchange(running, request)) == [b"stable"]


async def test_the_name_begins_and_ends_with_the_configuration() -> None:
    async with Upstream(always(BODIES["own"])).serving() as upstream:
        off = variants(upstream.port)
        on = variants(upstream.port, more=NAMED.format(weight=0))
        async with proxy(off) as running:
            for text, expected in ((off, [b"v7", b"v8"]), (on, [b"stable"]), (off, [b"v7", b"v8"])):
                running.reconfigure(config.parse(text, file="test.yaml"))
                assert names(await exchange(running, GET)) == expected
