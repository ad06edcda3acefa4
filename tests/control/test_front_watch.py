"""The front's split as its requests tell it: which one is in force, and which release is compared."""

from __future__ import annotations

from canaryproxy.control.front_watch import SILENT, FrontWatch
from canaryproxy.measure.followed import epoch_of, name_of, pack
from canaryproxy.measure.records import pack_first, template_of


def requests(release: str, limit: int, number: int = 1) -> list[int]:
    words: list[int] = []
    for position in range(number):
        words += [pack_first(position, 1, epoch_of(release, limit), 200, 0, 1), 0, 0]
    return words


def names(*releases: str) -> dict[int, str]:
    return {template_of(name_of(one)): one for one in releases}


def seen(watch: FrontWatch) -> tuple[str, int] | None:
    front = watch.front
    return None if front is None else (front.release, front.limit)


def test_nothing_is_known_before_a_request_follows() -> None:
    watch = FrontWatch()
    assert watch.take(0.0, [], {}) == []
    words = requests("r", 100)
    assert watch.take(1.0, words, {}) == words  # not announced: its epoch means nothing yet
    assert watch.front is None


def test_requests_are_returned_without_announcements() -> None:
    watch = FrontWatch()
    words = requests("r", 100, 3)
    found = watch.take(0.0, [*words[:3], *pack("r", 100), *words[3:]], names("r"))
    assert found == words
    assert seen(watch) == ("r", 100)
    assert watch.front is not None
    assert watch.front.epoch == epoch_of("r", 100)
    assert watch.front.weight == 1.0


def test_the_weight_in_force_is_that_of_most_requests() -> None:
    watch = FrontWatch()
    both = [*pack("r", 100), *pack("r", 500)]
    watch.take(0.0, [*both, *requests("r", 100, 5), *requests("r", 500, 2)], names("r"))
    assert seen(watch) == ("r", 100)
    watch.take(0.1, [*requests("r", 100, 1), *requests("r", 500, 9)], {})
    assert seen(watch) == ("r", 500)
    watch.take(0.2, [], {})
    assert seen(watch) == ("r", 500)  # silence changes nothing


def test_a_new_release_is_taken_up_at_once_and_an_older_one_after_a_minute() -> None:
    watch = FrontWatch()
    watch.take(0.0, [*pack("r-1", 100), *requests("r-1", 100, 9)], names("r-1"))
    watch.take(1.0, [*pack("r-2", 200), *requests("r-1", 100, 9), *requests("r-2", 200)], {})
    assert seen(watch) == ("", 200)
    watch.take(1.1, [], names("r-2"))
    assert seen(watch) == ("r-2", 200)
    for second in range(2, 10):  # two fronts: the newest release stays
        watch.take(second, [*requests("r-1", 100, 9), *requests("r-2", 200)], {})
        assert seen(watch) == ("r-2", 200)
    watch.take(9 + SILENT - 1, requests("r-1", 100), {})
    assert seen(watch) == ("r-2", 200)
    watch.take(9 + SILENT, requests("r-1", 100), {})
    assert seen(watch) == ("r-1", 100)


def test_an_epoch_that_means_two_splits_is_not_compared() -> None:
    limits = {epoch_of("r", limit): limit for limit in range(1, 600)}
    first = epoch_of("r", 700)
    other = limits[first]
    watch = FrontWatch()
    watch.take(0.0, [*pack("r", 700), *requests("r", 700)], names("r"))
    watch.take(0.1, [*pack("r", other), *requests("r", other)], {})
    assert seen(watch) == ("r", 700)
    watch.take(20.0, [*pack("r", other), *requests("r", other)], {})
    assert seen(watch) == ("r", other)


def test_a_restart_continues_with_the_release() -> None:
    watch = FrontWatch()
    watch.restore("r", 0.0)
    assert watch.front is not None
    assert watch.front.epoch == -1
    before = watch.front.key
    watch.take(1.0, [*pack("r", 300), *requests("r", 300)], {})
    assert seen(watch) == ("r", 300)
    assert watch.front.key == before


def test_the_name_of_a_long_release_fits_the_ring() -> None:
    long = "r" * 64
    assert len(name_of(long)) == 56
    assert name_of(long) != name_of("r" * 63)
    assert name_of("r" * 56) == b"r" * 56
