"""Outcomes: what the rules see, with bodies packed, cut, broken and hostile."""

from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import dataclass

import brotli
import pytest

from canaryproxy import config
from canaryproxy.measure.outcomes import INSPECTED, OutcomeRules, decode
from canaryproxy.measure.routing import Headers, RequestView

BASE = 'variants: {stable: {endpoints: ["http://a:1"]}}\n'


@dataclass(frozen=True)
class Answer:
    """What rules see of an answer."""

    status: int
    headers: Headers
    size: int
    prefix: bytes


def rules(text: str) -> OutcomeRules:
    made = config.parse(f"{BASE}judge: {{outcomes: {{it: {text}}}}}", file="f")
    return OutcomeRules(made.judge.outcomes)


def answer(body: bytes = b"", status: int = 200, **headers: str) -> Answer:
    fields = [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()]
    return Answer(status, fields, len(body), body[:INSPECTED])


def held(text: str, seen: Answer) -> bool | None:
    made = rules(text)
    return made.held(0, seen, made.body_of(seen))


@pytest.mark.parametrize(
    ("when", "seen", "expected"),
    [
        ("{status: 2xx}", answer(status=204), True),
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
        ("{json: {pointer: /results, is: empty}}", answer(b"<html>"), None),
        ("{status: 200, json: {pointer: /a, is: null}}", answer(b'{"a": null}', 500), False),
    ],
)
def test_a_condition_holds_for_the_responses_that_it_names(
    when: str, seen: Answer, expected: bool | None
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
        ("identity", BODY),
    ],
    ids=["gzip", "upper case", "deflate", "deflate without a header", "br", "identity"],
)
def test_packed_bodies_are_unpacked(coding: str, body: bytes) -> None:
    assert held(EMPTY, answer(body, content_encoding=coding)) is True


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "gzip, gzip"])
def test_what_cannot_be_unpacked_cannot_be_told(coding: str) -> None:
    assert held(EMPTY, answer(b"\x00garbage", content_encoding=coding)) is None


@pytest.mark.parametrize(
    ("coding", "bomb"),
    [
        ("gzip", gzip.compress(bytes(200 << 20))),
        ("br", brotli.compress(bytes(50 << 20), quality=5)),
    ],
    ids=["gzip", "br"],
)
def test_a_bomb_unpacks_to_no_more_than_is_looked_at(coding: str, bomb: bytes) -> None:
    text, whole = decode(answer(bomb, content_encoding=coding))
    assert len(text) <= INSPECTED
    assert not whole
    assert held(EMPTY, answer(bomb, content_encoding=coding)) is None


def test_a_brotli_without_a_limit_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    class Before12:
        def process(self, _data: bytes, /) -> bytes:
            raise AssertionError("would unpack all of it")

    monkeypatch.setattr(brotli, "Decompressor", Before12)
    assert held(EMPTY, answer(brotli.compress(BODY), content_encoding="br")) is None


def test_a_second_member_of_a_gzip_file_is_not_overlooked() -> None:
    two = gzip.compress(b"first") + gzip.compress(b"second")
    assert held('{when: {regex: "first"}}', answer(two, content_encoding="gzip")) is True
    assert held('{when: {regex: "second"}}', answer(two, content_encoding="gzip")) is None


def test_a_body_longer_than_what_is_looked_at() -> None:
    long = b'{"results": [], "x": "' + b"x" * INSPECTED + b'"}'
    assert held(EMPTY, answer(long)) is None
    assert held('{when: {regex: "results"}}', answer(long)) is True
    assert held('{when: {regex: "y"}}', answer(long)) is False


def test_nested_json_is_no_trouble() -> None:
    assert held(EMPTY, answer(b"[" * 60_000)) is None


def test_rules_watch_the_requests_that_match() -> None:
    made = rules("{match: {method: POST, path: {prefix: /signup}}, when: {status: 2xx}}")

    def view(method: str, path: str) -> RequestView:
        return RequestView(method, path, (), lambda _: None)

    assert made.watching(view("POST", "/signup/now")) == (0,)
    assert made.watching(view("GET", "/signup")) == ()
    assert made.watching(view("POST", "/login")) == ()
    assert not made.rules[0].needs_body
    assert rules(EMPTY).rules[0].needs_body
