"""What connections of HTTP/2 have to write waits until all that was received is acted on."""

from __future__ import annotations

from canaryproxy.proxy.outbox import Outbox


def test_writes_wait_for_the_end_and_come_in_their_order() -> None:
    outbox, written = Outbox(), list[str]()
    assert outbox.begin()
    outbox.put_off(lambda: written.append("upstream"))
    outbox.put_off(lambda: written.append("client"))
    assert written == []
    outbox.end()
    assert written == ["upstream", "client"]


def test_only_the_first_who_begins_ends_it() -> None:
    outbox = Outbox()
    assert outbox.begin()
    assert not outbox.begin()  # what one connection received makes another act
    assert outbox.collects
    outbox.end()
    assert not outbox.collects
    assert outbox.begin()


def test_what_a_write_writes_itself_does_not_wait() -> None:
    outbox, collected = Outbox(), list[bool]()
    outbox.begin()
    outbox.put_off(lambda: collected.append(outbox.collects))
    outbox.end()
    assert collected == [False]
    outbox.end()
    assert collected == [False]  # once
