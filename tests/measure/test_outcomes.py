"""Outcomes: what the rules see, with bodies packed, cut, broken and hostile."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import brotli
import pytest
from backports import zstd

from canaryproxy import config
from canaryproxy.measure.conditions import RequestView
from canaryproxy.measure.counters import Blind
from canaryproxy.measure.outcomes import FURTHEST, INSPECTED, BodyReader, OutcomeRules
from canaryproxy.measure.routing import Headers

BASE = 'variants: {stable: {endpoints: ["http://a:1"]}}\n'


@dataclass(frozen=True)
class Answer:
    """A response, as far as rules see it, and its body."""

    status: int
    headers: Headers
    body: bytes
    whole: bool = True
    piece: int = 16_384

    @property
    def size(self) -> int:
        return len(self.body)


def rules(text: str) -> OutcomeRules:
    made = config.parse(f"{BASE}judge: {{outcomes: {{it: {text}}}}}", file="f")
    return OutcomeRules(made.judge.outcomes)


def answer(
    body: bytes = b"", status: int = 200, *, whole: bool = True, piece: int = 16_384, **headers: str
) -> Answer:
    fields = [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()]
    return Answer(status, fields, body, whole, piece)


def read(made: OutcomeRules, seen: Answer) -> BodyReader | None:
    """Let the rules read the body of a response, in pieces."""
    reader = made.reader(range(len(made.rules)), seen.status, seen.headers)
    if reader is None:
        return None
    for at in range(0, seen.size, seen.piece):
        if reader.add(seen.body[at : at + seen.piece]):
            while reader.read():
                pass
    reader.close(whole=seen.whole)
    while reader.read():
        pass
    assert reader.done
    return reader


def held(text: str, seen: Answer) -> bool | Blind | None:
    made = rules(text)
    return made.held(0, seen.status, seen.headers, seen.size, read(made, seen))


def present(text: str, seen: Answer) -> bool | None:
    """Whether there is something at the pointer."""
    reader = read(rules(text), seen)
    return None if reader is None else reader.present.get(0)


@pytest.mark.parametrize(
    ("when", "seen", "expected"),
    [
        ("{status: 2xx}", answer(status=204), True),
        ("{header: {name: X-Cache, equals: HIT}}", answer(x_cache="MISS"), False),
        ("{status: 2xx}", answer(status=304), False),
        ("{status: [404, 5xx]}", answer(status=503), True),
        ("{header: {name: X-Cache, equals: HIT}}", answer(x_cache="HIT"), True),
        ("{header: {name: X-Cache, present: false}}", answer(), True),
        ("{body_under: 10}", answer(b"short"), True),
        ("{body_under: 5}", answer(b"short"), False),
        ('{regex: "no results"}', answer(b"<p>Sorry, no results</p>"), True),
        ('{regex: "no results"}', answer(b"<p>12 results</p>"), False),
        ("{json: {pointer: /results, is: empty}}", answer(b'{"results": []}'), True),
        ("{json: {pointer: /results, is: empty}}", answer(b'{"results": [1]}'), False),
        ("{json: {pointer: /results, is: empty}}", answer(b'{"results": null}'), False),
        ("{json: {pointer: /results, is: missing}}", answer(b'{"x": 1}'), True),
        ("{json: {pointer: /a/1/b~1c, equals: 5}}", answer(b'{"a": [0, {"b/c": 5}]}'), True),
        ("{json: {pointer: /a, equals: 1}}", answer(b'{"a": true}'), False),
        ("{json: {pointer: /a, is: zero}}", answer(b'{"a": 0}'), True),
        ("{json: {pointer: /a, is: zero}}", answer(b'{"a": false}'), False),
        ('{json: {pointer: "", is: empty}}', answer(b"[]"), True),
        ("{json: {pointer: /results, is: empty}}", answer(b"<html>"), Blind.NOT_JSON),
        ("{status: 200, json: {pointer: /a, is: null}}", answer(b'{"a": null}', 500), False),
    ],
)
def test_a_condition_holds_for_the_responses_that_it_names(
    when: str, seen: Answer, expected: bool | Blind
) -> None:
    assert held(f"{{when: {when}}}", seen) is expected


EMPTY = "{when: {json: {pointer: /results, is: empty}}}"
BODY = json.dumps({"results": [], "padding": "x" * 1000}).encode()


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzip.compress(BODY)),
        ("GZIP", gzip.compress(BODY)),
        ("deflate", zlib.compress(BODY)),
        ("deflate", zlib.compress(BODY)[2:-4]),
        ("br", brotli.compress(BODY)),
        ("zstd", zstd.compress(BODY)),
        ("identity", BODY),
    ],
    ids=["gzip", "upper case", "deflate", "deflate without a header", "br", "zstd", "identity"],
)
def test_packed_bodies_are_unpacked(coding: str, body: bytes) -> None:
    assert held(EMPTY, answer(body, content_encoding=coding)) is True


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_what_cannot_be_unpacked_cannot_be_evaluated(coding: str) -> None:
    assert held(EMPTY, answer(b"\x07garbage" * 10, content_encoding=coding)) == Blind.UNDECODABLE


@pytest.mark.parametrize("coding", ["gzip, gzip", "compress"])
def test_other_codings_are_not_known(coding: str) -> None:
    packed = gzip.compress(BODY)
    assert held(EMPTY, answer(packed, content_encoding=coding)) == Blind.UNKNOWN_CODING
    regex = '{when: {regex: "results"}}'
    assert held(regex, answer(packed, content_encoding=coding)) == Blind.UNKNOWN_CODING


def test_several_fields_are_one_list_of_codings() -> None:
    twice = Answer(200, [(b"Content-Encoding", b"gzip"), (b"content-encoding", b"br")], BODY)
    assert held(EMPTY, twice) == Blind.UNKNOWN_CODING


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "br": partial(brotli.compress, quality=5),
    "zstd": zstd.compress,
}


@pytest.mark.parametrize("coding", PACKERS)
def test_a_bomb_is_unpacked_up_to_a_limit(coding: str) -> None:
    bomb = PACKERS[coding](bytes(50 << 20) + BODY)
    assert held(EMPTY, answer(bomb, content_encoding=coding)) == Blind.NOT_JSON
    blanks = PACKERS[coding](b" " * (50 << 20) + BODY)
    assert held(EMPTY, answer(blanks, content_encoding=coding)) == Blind.TOO_LARGE
    assert held('{when: {regex: "x"}}', answer(bomb, content_encoding=coding)) is False


def test_members_of_a_gzip_file_follow_one_another() -> None:
    two = gzip.compress(b"first") + gzip.compress(b"second")
    assert held('{when: {regex: "firstsecond"}}', answer(two, content_encoding="gzip")) is True


@pytest.mark.parametrize("coding", ["", *PACKERS])
@pytest.mark.parametrize("piece", [1000, 100_000])
def test_a_pointer_is_followed_beyond_the_beginning(coding: str, piece: int) -> None:
    for size in (70_000, 1_000_000, FURTHEST - 1000):
        body = json.dumps({"padding": "x" * size, "results": []}).encode()
        if coding:
            body = PACKERS[coding](body)
        seen = answer(body, piece=piece, content_encoding=coding or "identity")
        assert held(EMPTY, seen) is True


def test_a_pointer_is_not_followed_for_ever() -> None:
    body = json.dumps({"padding": "x" * FURTHEST, "results": []}).encode()
    assert held(EMPTY, answer(body)) == Blind.TOO_LARGE


def test_a_reader_stops_when_the_pointer_is_resolved() -> None:
    made = rules(EMPTY)
    reader = made.reader([0], 200, [])
    assert reader is not None
    assert reader.add(b'{"results": [], "x": "' + b"x" * INSPECTED)
    assert not reader.read()
    assert reader.done
    assert not reader.add(b"more")
    assert reader.pending == 0
    assert reader.held(0) is True


def test_a_regular_expression_sees_the_beginning() -> None:
    long = b"results" + b"x" * INSPECTED + b"y"
    assert held('{when: {regex: "results"}}', answer(long)) is True
    assert held('{when: {regex: "y"}}', answer(long)) is False


def test_a_response_that_broke_off_was_not_seen_as_a_whole() -> None:
    assert held(EMPTY, answer(BODY[:-1], whole=False)) is True  # it came before
    cut = answer(b'{"a": 1', whole=False)
    assert held(EMPTY, cut) == Blind.INCOMPLETE
    assert held('{when: {regex: "y"}}', cut) == Blind.INCOMPLETE
    assert held('{when: {regex: "a"}}', cut) is True
    packed = gzip.compress(BODY)
    for whole, reason in ((False, Blind.INCOMPLETE), (True, Blind.UNDECODABLE)):
        seen = answer(packed[:20], whole=whole, content_encoding="gzip")
        assert held(EMPTY, seen) == reason


def test_nested_json_is_no_trouble() -> None:
    assert held(EMPTY, answer(b"[" * 60_000)) is False  # a list has no results
    assert held(EMPTY, answer(b'{"a": ' + b"[" * 60_000)) == Blind.NOT_JSON


def test_whether_there_is_something_at_the_pointer() -> None:
    assert present(EMPTY, answer(b'{"results": [1]}')) is True
    assert present(EMPTY, answer(b'{"result": [1]}')) is False
    assert present(EMPTY, answer(b"<html>")) is None
    assert present(EMPTY, answer(b'{"a": ', whole=False)) is None


def test_a_value_that_healthy_responses_lack_is_not_missed() -> None:
    rule = "{when: {json: {pointer: /error, is: present}}}"
    assert present(rule, answer(b"{}")) is None
    assert held(rule, answer(b"{}")) is False


def test_conditions_on_the_head_and_the_size_come_first() -> None:
    html = answer(b"<html>", 500)
    rule = "{when: {status: 2xx, json: {pointer: /a, is: null}}}"
    assert rules(rule).reader([0], 500, []) is None
    assert held(rule, html) is False
    rule = "{when: {header: {name: X, equals: a}, json: {pointer: /a, is: null}}}"
    assert held(rule, html) is False
    rule = "{when: {body_under: 2, json: {pointer: /a, is: null}}}"
    assert held(rule, html) is False


ABOUT_BODIES = [
    EMPTY,
    "{when: {body_under: 100}}",
    '{when: {regex: "x"}}',
    "{when: {status: 2xx, body_under: 5}}",
]


@pytest.mark.parametrize("rule", ABOUT_BODIES)
def test_responses_without_a_body_are_no_trials_of_rules_about_bodies(rule: str) -> None:
    for status in (204, 304):
        assert held(rule, answer(status=status)) is None
    made = rules(rule)
    assert made.watching(RequestView("HEAD", "/", (), lambda _: None)) == ()
    assert made.watching(RequestView("GET", "/", (), lambda _: None)) == (0,)
    assert rules("{when: {status: 2xx}}").watching(
        RequestView("HEAD", "/", (), lambda _: None)
    ) == (0,)


def test_rules_watch_the_requests_that_match() -> None:
    made = rules("{match: {method: POST, path: {prefix: /signup}}, when: {status: 2xx}}")

    def view(method: str, path: str) -> RequestView:
        return RequestView(method, path, (), lambda _: None)

    assert made.watching(view("POST", "/signup/now")) == (0,)
    assert made.watching(view("GET", "/signup")) == ()
    assert made.watching(view("POST", "/login")) == ()
    assert not made.rules[0].needs_body
    assert rules(EMPTY).rules[0].needs_body
