"""The replay buffer gives back what came, and says when it no longer can."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.proxy.replay import ReplayBuffer


@given(st.lists(st.binary(max_size=40)), st.integers(0, 100))
def test_the_content_is_what_was_added(parts: list[bytes], limit: int) -> None:
    buffer = ReplayBuffer(limit)
    for part in parts:
        buffer.add(part)
    body = b"".join(parts)
    assert buffer.content() == body
    assert buffer.size == len(body)
    assert buffer.whole
    assert buffer.overflows == (len(body) > limit)


def test_a_dropped_body_is_not_whole_and_takes_no_memory() -> None:
    buffer = ReplayBuffer(4)
    buffer.add(b"12345")
    buffer.drop()
    assert not buffer.whole
    assert buffer.content() == b""
    assert buffer.size == 5  # bytes that came: the client was heard
