"""Which long-lived exchanges are told to leave, and when; times are arguments."""

from __future__ import annotations

from canaryproxy.config import Circuit
from canaryproxy.measure.counters import Counters, Tally
from canaryproxy.measure.routing import CANARY, RouteTable
from canaryproxy.proxy.interfaces import LongLived
from canaryproxy.proxy.long_lived import LongLivedExchanges

ON = RouteTable(weight=100.0, salt=b"s")
OFF = RouteTable(weight=100.0, salt=b"s", circuit_open=True)


class Exchange(LongLived):
    """Ends as soon as it is told to."""

    def __init__(self, everyone: LongLivedExchanges, key: bytes) -> None:
        self._everyone, self.variant, self.routing = everyone, CANARY, ON.route(key)
        everyone.add(self)

    def leave(self) -> None:
        self._everyone.remove(self)

    def leave_now(self) -> None:
        raise AssertionError("it has left")


def tripped(after: str, spread: str, count: int) -> tuple[LongLivedExchanges, list[Exchange]]:
    """Return exchanges whose users have moved at 0.0 s."""
    stable, canary = Counters().variants
    everyone = LongLivedExchanges((Tally(stable), Tally(canary)))
    everyone.configure(Circuit.model_validate({"close_after": after, "spread": spread}))
    made = [Exchange(everyone, b"user %d" % at) for at in range(count)]
    everyone.look(ON, 0.0)
    assert everyone.look(OFF, 0.0)
    return everyone, made


def left(made: list[Exchange]) -> int:
    return sum(not one.leaving for one in made)


def test_without_a_spread_all_leave_when_close_after_is_over_and_not_before() -> None:
    everyone, made = tripped("5s", "0s", 10)
    assert everyone.close_due(4.99)
    assert left(made) == 0
    assert not everyone.close_due(5.0)
    assert left(made) == 10


def test_after_a_stall_the_rest_is_not_made_up_in_one_pass() -> None:
    everyone, made = tripped("5s", "30s", 3000)
    for passes in range(300):  # up to 5.98 s
        everyone.close_due(passes * 0.02)
    before = left(made)
    everyone.close_due(8.98)
    assert before in {98, 99}
    assert left(made) - before <= 51  # half a second of the spread, not three
    assert not everyone.close_due(35.0)
    assert left(made) == 3000


def test_settings_that_change_meanwhile_apply_from_the_next_change_of_the_split_on() -> None:
    everyone, made = tripped("5s", "30s", 300)
    for passes in range(800):  # up to 15.98 s
        everyone.close_due(passes * 0.02)
    assert left(made) == 110
    everyone.configure(Circuit.model_validate({"close_after": "0s", "spread": "1s"}))
    everyone.look(OFF, 16.05)
    everyone.close_due(16.05)
    assert left(made) == 111
    everyone.look(ON, 16.1)
    everyone.look(OFF, 16.2)
    assert not everyone.close_due(17.1)
    assert left(made) == 300
