"""Posted business events: whose they are, and that of a key nothing is kept but its position."""

from __future__ import annotations

import pytest

from canaryproxy.control.event_inbox import EventInbox, PostedEvent
from canaryproxy.judging.metrics import unpack
from canaryproxy.measure.records import POSTED
from canaryproxy.measure.routing import CANARY, STABLE, VARIANTS, RouteTable, position_of
from canaryproxy.proxy.signing import Signer
from canaryproxy.release.rollout import Refused

TABLE = RouteTable(weight=50.0, salt=b"r1")
USERS = [f"user-{number}" for number in range(40)]


def side_of(key: str) -> int:
    return TABLE.variant_of(key.encode())


def of(side: int) -> str:
    return next(key for key in USERS if side_of(key) == side)


def test_an_event_with_a_key_is_a_record_at_the_position_of_its_user() -> None:
    inbox = EventInbox()
    posted = [PostedEvent(key=key) for key in USERS]
    assert inbox.post(posted, TABLE, signed=False) == len(USERS)
    found = list(unpack(inbox.take()))
    assert [one.position for one in found] == [position_of(b"r1", key.encode()) for key in USERS]
    assert [one.variant for one in found] == [side_of(key) for key in USERS]
    assert {(one.flags, one.epoch) for one in found} == {(POSTED, TABLE.epoch)}
    assert inbox.take() == []
    assert inbox.counts == {"stable": 0, "canary": 0}


def test_events_without_a_key_are_counted_by_variant() -> None:
    inbox = EventInbox()
    posted = [PostedEvent(3, "canary"), PostedEvent(2, "stable"), PostedEvent(1, "canary")]
    assert inbox.post(posted, TABLE, signed=False) == 0
    assert (inbox.counts, inbox.take()) == ({"stable": 2, "canary": 4}, [])


@pytest.mark.parametrize("side", [STABLE, CANARY])
def test_a_variant_that_contradicts_the_key_refuses_the_whole_post(side: int) -> None:
    inbox, key = EventInbox(), of(side)
    fits, contradicts = VARIANTS[side], VARIANTS[1 - side]
    assert inbox.post([PostedEvent(1, fits, key)], TABLE, signed=False) == 1  # type: ignore[arg-type]
    inbox.take()
    posted = [
        PostedEvent(5, "stable"),
        PostedEvent(key=key),
        PostedEvent(1, contradicts, key),  # type: ignore[arg-type]
    ]
    with pytest.raises(Refused) as refused:
        inbox.post(posted, TABLE, signed=False)
    said = str(refused.value)
    assert said.startswith(f"event 3: the split has the user of this key on {fits} now")
    assert "leave variant out" in said
    assert key not in said
    assert (inbox.counts, inbox.take()) == ({"stable": 0, "canary": 0}, [])


def test_users_who_cannot_enter_the_canary_are_not_compared() -> None:
    table = RouteTable(weight=50.0, salt=b"r1", new_sessions_only=True)
    tagged = f"fresh.{table.tag.decode()}"
    inbox = EventInbox()
    posted = [PostedEvent(4, key="of an earlier release"), PostedEvent(2, key=tagged)]
    assert inbox.post(posted, table, signed=False) == 2
    assert [one.position for one in unpack(inbox.take())] == [position_of(b"r1", tagged.encode())]


def test_the_key_of_a_signed_cookie_comes_with_its_signature() -> None:
    signed = Signer((b"k" * 32,), b"canary_id").sign(b"user-1").decode()
    inbox = EventInbox()
    assert inbox.post([PostedEvent(key=signed)], TABLE, signed=True) == 1
    assert [one.position for one in unpack(inbox.take())] == [position_of(b"r1", b"user-1")]
    for wrong in ("user-1", "user-1.short"):
        with pytest.raises(Refused, match="event 1: key is not a signed cookie"):
            inbox.post([PostedEvent(key=wrong)], TABLE, signed=True)


def test_a_key_is_not_in_what_python_shows_of_an_event() -> None:
    assert "user-1" not in repr(PostedEvent(key="user-1"))


def test_a_flood_without_a_reader_is_bounded() -> None:
    inbox = EventInbox()
    posted = [PostedEvent(key=key) for key in USERS] * 25
    for _ in range(40):
        inbox.post(posted, TABLE, signed=False)
    assert len(inbox.take()) <= 3 * 4000
