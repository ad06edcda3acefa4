"""Generated conversations, shrunk by hypothesis where they differ; ``tests.fuzz.http2`` has more of them."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.http2 import BAD, KINDS, PLAIN, Step, converse, run

plain = st.sampled_from(PLAIN)
bad = st.sampled_from(BAD)
fields = st.lists(plain, max_size=4) | st.lists(plain | bad, max_size=4)
numbers = st.sampled_from([1, 3, 5, 7, 9])
contents = st.sampled_from([b"", b"a", b"abc", b"abc" * 100])
kinds = st.tuples(st.sampled_from(KINDS), st.integers(0, 255))
steps = st.one_of(
    st.tuples(st.just("head"), numbers, fields, st.booleans()), st.tuples(st.just("data"), numbers,
    contents, st.booleans()), st.tuples(st.just("padded"), numbers, contents, st.booleans()),
    st.tuples(st.just("trailers"), numbers, st.lists(plain | bad, max_size=2), st.just(True)),
    st.tuples(st.just("reset"), numbers, st.integers(0, 14), st.none()), st.tuples(st.just("window"),
    st.just(0) | numbers, st.integers(1, 2**31 - 1), st.none()), st.tuples(st.just("ping"), st.just(0),
    st.none(), st.none()), st.tuples(st.just("respond"), numbers, st.booleans(), st.none()),
    st.tuples(st.just("settings"), st.integers(1, 7), st.integers(0, 2**32 - 1), st.none()),
    st.tuples(st.just("any"), numbers, kinds, st.binary(max_size=9)),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(steps, min_size=1, max_size=10))
def test_we_forward_what_h2_forwards(conversation: list[Step]) -> None:
    assert converse(conversation) is None


def test_conversations_that_get_far_are_forwarded_alike() -> None:
    seen = run(400, "gate")
    assert seen["cases"] == 400
    assert seen["head"] > 2 * seen["cases"]
    assert seen["data"] > 100
    assert 20 < seen["error"] < 200
