"""Outcomes on real sockets: bodies packed, chunked, long, cut off and missing; what is counted of them."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from functools import partial

import brotli
import pytest
from backports import zstd

from canaryproxy import config
from canaryproxy.measure import counters
from canaryproxy.measure.counters import Blind, OutcomeCounts

from .harness import Answer, Link, Proxy, Upstream, always, proxy, until, variants

GET = b"GET /search HTTP/1.1\r\nHost: h\r\nCookie: canary_id=u\r\n\r\n"
HEAD = GET.replace(b"GET", b"HEAD")
EMPTY = "no_results: {when: {json: {pointer: /page/results, is: empty}}, bad: true}"
SMALL = "small: {when: {body_under: 100}, bad: true}"
WORDS = "words: {when: {regex: 'no results'}, bad: true}"
LONG = json.dumps({"padding": "x" * 70 * 1024, "page": {"results": []}}).encode()

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "identity": bytes,
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstd.compress,
}


def sized(body: bytes, status: bytes = b"200 OK", coding: str = "") -> bytes:
    lines = b"Content-Length: %d\r\n" % len(body)
    if coding:
        lines += b"Content-Encoding: " + coding.encode() + b"\r\n"
    return b"HTTP/1.1 " + status + b"\r\n" + lines + b"\r\n" + body


def chunked(body: bytes, coding: str, size: int) -> bytes:
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Encoding: "
        + coding.encode()
        + b"\r\n\r\n"
        + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
        + b"0\r\n\r\n"
    )


def judged(*outcomes: str) -> str:
    return f"judge: {{outcomes: {{{', '.join(outcomes)}}}}}\n"


def seen(running: Proxy, slot: int = 0) -> OutcomeCounts:
    return counters.outcome(running.counters.stable, slot)


async def count(
    answer: bytes | Answer, *outcomes: str, request: bytes = GET
) -> list[OutcomeCounts]:
    """Return the counts of outcomes after one response."""
    script = always(answer) if isinstance(answer, bytes) else answer
    async with (
        Upstream(script).serving() as stable,
        proxy(variants(stable.port, more=judged(*outcomes))) as running,
    ):
        await running.ask(request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        await until(lambda: running.counters.stable[counters.FINISHED] == 1)
        for _ in range(100):  # as there is time
            running.datapath.tick()
        return [seen(running, slot) for slot in range(len(outcomes))]


def blind(**reasons: int) -> tuple[int, ...]:
    return tuple(reasons.get(reason.label, 0) for reason in Blind)


FOUND = OutcomeCounts(1, 1, 1, 1, blind())


@pytest.mark.parametrize("coding", PACKERS)
@pytest.mark.parametrize("size", [100, 5_000, 200_000])
async def test_a_pointer_behind_64_kib_is_followed(coding: str, size: int) -> None:
    packed = PACKERS[coding](LONG)
    assert await count(sized(packed, coding=coding), EMPTY) == [FOUND]
    assert await count(chunked(packed, coding, size), EMPTY) == [FOUND]


async def test_a_body_that_a_rule_reads_is_not_relayed_unread() -> None:
    """Longer than what one read takes, so that the proxy could let the rest go by (``network.relay``)."""
    body = json.dumps({"padding": "x" * 300 * 1024, "page": {"results": []}}).encode()
    assert await count(sized(body), EMPTY) == [FOUND]


async def test_a_misspelt_path_is_in_no_response() -> None:
    rule = "no_results: {when: {json: {pointer: /page/result, is: empty}}, bad: true}"
    assert await count(sized(LONG), rule) == [OutcomeCounts(1, 0, 1, 0, blind())]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (sized(LONG, coding="exi"), Blind.UNKNOWN_CODING),
        (sized(LONG, coding="gzip, br"), Blind.UNKNOWN_CODING),
        (sized(LONG, coding="br"), Blind.UNDECODABLE),
        (sized(gzip.compress(LONG)[:60], coding="gzip"), Blind.UNDECODABLE),
        (sized(b"<html>" + LONG), Blind.NOT_JSON),
        (sized(b""), Blind.NOT_JSON),
    ],
)
async def test_what_cannot_be_looked_into_is_counted(answer: bytes, reason: Blind) -> None:
    found = await count(answer, EMPTY)
    assert found == [OutcomeCounts(0, 0, 0, 0, blind(**{reason.label: 1}))]


@pytest.mark.parametrize("coding", ["zstd", "br", "gzip"])
async def test_a_bomb_is_counted_as_too_large(coding: str) -> None:
    bomb = PACKERS[coding](b" " * (50 << 20))
    found = await count(sized(bomb, coding=coding), EMPTY)
    assert found == [OutcomeCounts(0, 0, 0, 0, blind(**{Blind.TOO_LARGE.label: 1}))]


@pytest.mark.parametrize("coding", PACKERS)
async def test_a_response_that_breaks_off_is_incomplete(coding: str) -> None:
    packed = PACKERS[coding](json.dumps({"a": list(range(10_000))}).encode())
    answer = sized(packed, coding=coding)

    async def break_off(link: Link) -> None:
        await link.take(b"\r\n\r\n")
        await link.send(answer[:-100])
        link.close()

    found = await count(break_off, EMPTY, WORDS)
    assert [one.blind for one in found] == [blind(incomplete=1)] * 2
    assert [one.trials for one in found] == [0, 0]


async def test_responses_without_a_body_are_no_trials_of_rules_about_bodies() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n"
    none = [OutcomeCounts(0, 0, 0, 0, blind())] * 3
    status = "any: {when: {status: [2xx, 3xx]}}"
    one = [OutcomeCounts(1, 1, 0, 0, blind())]
    rules = (EMPTY, SMALL, WORDS, status)
    assert await count(head, *rules, request=HEAD) == none + one
    for answer in (b"304 Not Modified", b"204 No Content"):
        assert await count(b"HTTP/1.1 " + answer + b"\r\n\r\n", *rules) == none + one
    assert (await count(sized(b"short"), *rules))[1] == OutcomeCounts(1, 1, 0, 0, blind())


async def test_an_outcome_that_becomes_blind_shows_at_once() -> None:
    """The service turns to a coding that nobody knows in mid-release."""
    answers = [sized(LONG, coding="identity"), sized(LONG, coding="exi")]

    async def turn(link: Link) -> None:
        for number in range(10):
            await link.take(b"\r\n\r\n", number + 1)
            await link.send(answers[number >= 5])

    async with (
        Upstream(turn).serving() as stable,
        proxy(variants(stable.port, more=judged(EMPTY))) as running,
    ):
        client = await running.connect()
        for number in range(10):
            await client.send(GET)
            await client.take(b"\r\n\r\n" + LONG, number + 1)
            await until(partial(_matched, running, number + 1))
        assert seen(running) == OutcomeCounts(5, 5, 5, 5, blind(unknown_coding=5))


def _matched(running: Proxy, wanted: int) -> bool:
    running.datapath.tick()
    return seen(running).matched == wanted


async def test_bodies_are_not_changed_whatever_is_looked_into() -> None:
    body = zstd.compress(LONG * 20)
    async with (
        Upstream(always(sized(body, coding="zstd"))).serving() as stable,
        proxy(variants(stable.port, more=judged(EMPTY, WORDS))) as running,
    ):
        client = await running.connect()
        await client.send(GET.replace(b"\r\n\r\n", b"\r\nAccept-Encoding: zstd, br\r\n\r\n"))
        assert (await client.take(body)).endswith(body)
        assert b"\r\nAccept-Encoding: zstd, br\r\n" in stable.got
        assert b"\r\nContent-Encoding: zstd\r\n" in client.got


async def test_an_outcome_reads_headers_whose_values_differ_in_each_response() -> None:
    """They are among those that the responses of a service are not compared by."""
    rule = "session: {when: {header: {name: Set-Cookie, prefix: s=}}, bad: true}"

    async def answer(link: Link) -> None:
        for number in range(20):
            await link.take(b"\r\n\r\n", number + 1)
            cookie = b"s=%d" % number if number % 4 == 0 else b"t=%d" % number
            await link.send(b"HTTP/1.1 204 No Content\r\nSet-Cookie: " + cookie + b"\r\n\r\n")

    async with (
        Upstream(answer).serving() as stable,
        proxy(variants(stable.port, more=judged(rule))) as running,
    ):
        client = await running.connect()
        for number in range(20):
            await client.send(GET)
            await client.take(b"\r\n\r\n", number + 1)
        await until(lambda: running.counters.stable[counters.FINISHED] == 20)
        assert (seen(running).trials, seen(running).events) == (20, 5)


async def test_the_same_response_is_another_outcome_after_a_reload() -> None:
    async with Upstream(always(sized(b"x"))).serving() as stable:
        before = variants(stable.port, more=judged("it: {when: {status: 2xx}}"))
        async with proxy(before) as running:
            for status in ("2xx", "5xx", "2xx"):
                text = before.replace("2xx", status)
                running.reconfigure(config.parse(text, file="test.yaml"), {"it": 0})
                await running.ask(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            await until(lambda: running.counters.stable[counters.FINISHED] == 3)
            assert (seen(running).trials, seen(running).events) == (3, 2)
