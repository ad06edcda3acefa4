"""The idle connections of an endpoint: a stack, whatever comes and goes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.proxy.idle_links import IdleLinks
from canaryproxy.proxy.interfaces import UpstreamLink


def link(idle_since: float) -> UpstreamLink:
    made = UpstreamLink()
    made.idle_since = idle_since
    return made


_STEPS = st.lists(st.sampled_from(["put", "put", "take", "sweep"]) | st.integers(0, 5), max_size=40)


@given(_STEPS)
def test_the_link_that_was_put_last_is_taken_first_and_the_first_is_the_oldest(
    steps: list[str | int],
) -> None:
    idle, expected = IdleLinks(), list[UpstreamLink]()
    for now, step in enumerate(steps):
        if step == "put":
            made = link(now)
            idle.put(made)
            expected.append(made)
        elif step == "take":
            assert idle.take() is (expected.pop() if expected else None)
        elif step == "sweep":
            old = expected[0] if expected and expected[0].idle_since < now - 5 else None
            assert idle.take_older(now - 5) is old
            expected = [one for one in expected if one is not old]
        else:
            lost = expected[int(step)] if int(step) < len(expected) else link(now)
            idle.remove(lost)
            expected = [one for one in expected if one is not lost]
        assert list(idle) == expected
        assert len(idle) == len(expected)
