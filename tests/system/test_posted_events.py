"""A shop posts orders by user: a canary that loses them is rolled back, one large customer is no cause."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

from .worlds import Answer, Request, Version, World, among, people, play, world

EVENTS = "metrics: {business: {outcome: events}}"
_EVERY = 0.5


class Shop:
    """Requests become orders by chance; they are posted as the shop's backend would, without the variant."""

    def __init__(self) -> None:
        self._luck = Random(2)
        self._orders: list[str] = []
        self.posted = 0

    def version(self, share: Callable[[str], float]) -> Version:
        """Return a version where this share of a user's requests is an order."""

        def answer(request: Request) -> Answer:
            if self._luck.random() < share(request.user):
                self._orders.append(request.user)
            return Answer()

        return answer

    @asynccontextmanager
    async def posting(self, seen: World) -> AsyncIterator[None]:
        """Post the orders meanwhile."""
        task = asyncio.create_task(self._post(seen))
        try:
            yield
            assert not task.done(), task.exception()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _post(self, seen: World) -> None:
        while True:
            await asyncio.sleep(_EVERY)
            orders, self._orders = self._orders[:1000], self._orders[1000:]
            if not orders:
                continue
            events = [{"key": user} for user in orders]
            reply = await asyncio.to_thread(seen.proxy.ask, "POST", "/v1/events", events)
            assert json.loads(reply) == {"accepted": len(orders), "by_user": len(orders)}
            self.posted += len(orders)


def test_a_canary_that_loses_forty_percent_of_the_orders_of_each_user_trips(tmp_path: Path) -> None:
    shop = Shop()

    async def story() -> None:
        async with (
            world(
                tmp_path,
                weight=50,
                stable=shop.version(lambda _user: 0.12),
                canary=shop.version(lambda _user: 0.072),
                choose=among([f"shopper-{number}" for number in range(3000)]),
                rate=250,
                judge=EVENTS,
            ) as seen,
            shop.posting(seen),
        ):
            cause = await seen.tripped(180)
            assert cause.startswith("conversion rate ")
            assert " intervals of " in cause

    play(story())
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert written
    assert not any(b"shopper-" in text for text in written)


def test_a_customer_with_a_third_of_all_orders_trips_nothing(tmp_path: Path) -> None:
    """The customer is on stable, so that the canary has the fewer orders."""
    users = people(300, 300, 50)
    whale = users[-1]
    shop = Shop()
    both = shop.version(lambda user: 0.9 if user == whale else 0.2)

    async def story() -> None:
        async with (
            world(
                tmp_path,
                weight=50,
                stable=both,
                canary=both,
                choose=among([*users, *[whale] * 66]),
                rate=120,
                judge=EVENTS,
            ) as seen,
            shop.posting(seen),
        ):

            def business(view: dict[str, object]) -> bool:
                metrics = view["metrics"]
                assert isinstance(metrics, list)
                found = [one for one in metrics if one["metric"] == "business"]
                return bool(found) and found[0]["canary"]["trials"] >= 400

            view = await seen.until(business, "intervals of the canary", 180)
            assert view["circuit"]["state"] == "closed", seen.told(view)
            assert shop.posted > 500

    play(story())
