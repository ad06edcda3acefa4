"""The counters: a layout without overlaps over any buffer, sums that add up."""

from __future__ import annotations

from functools import partial
from multiprocessing import shared_memory

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from canaryproxy.config.grpc import GrpcStatus
from canaryproxy.measure import counters, histogram
from canaryproxy.measure.counters import Blind, Counters, Reason, Tally, codes, in_flight


def spans() -> dict[str, range]:
    """Return the cells of one variant by what they count, as the module's constants say."""
    found = {
        name: range(value, value + 1)
        for name, value in vars(counters).items()
        if name.isupper()
        and isinstance(value, int)
        and not name.startswith("_")
        and not name.endswith(("CELLS", "SIZE", "BYTES"))
    }
    for name in (
        "CONNECTIONS_OPENED",
        "CONNECTIONS_CLOSED",
        "CONNECTIONS_REFUSED",
        "REFUSED",
        "HANDSHAKES_FAILED",
        "MIRRORED",
        "DROPPED",
        "FAILED_COPY",
        "PROBES",
        "WITHHELD",
        "TOLERATED",
        "HTTP2_OPENED",
        "HTTP2_CLOSED",
        "HTTP2_RESETS",
        "HTTP2_FAILED",
        "FOLLOWED",
        "NOT_FOLLOWED",
    ):
        del found[name]  # the proxy's own
    for name in ("STABLE", "CANARY", "MOST_OUTCOMES"):  # numbers, not cells
        found.pop(name, None)
    found["OUTCOMES"] = range(counters.OUTCOMES, counters.OUTCOMES + 2 * counters.MOST_OUTCOMES)
    found["BLIND"] = range(counters.BLIND, counters.BLIND + len(Blind) * counters.MOST_OUTCOMES)
    found["POINTERS"] = range(counters.POINTERS, counters.POINTERS + 2 * counters.MOST_OUTCOMES)
    found["ERRORS"] = range(counters.ERRORS, counters.ERRORS + len(Reason))
    found["CODES"] = range(counters.CODES, counters.CODES + 1000)
    found["GRPC"] = range(counters.GRPC, counters.GRPC + len(GrpcStatus))
    for name in ("FIRST_BYTE", "DURATION"):
        start = vars(counters)[name]
        found[name] = range(start, start + histogram.CELLS)
    return found


def test_no_cell_counts_two_things() -> None:
    seen: dict[int, str] = {}
    for name, cells in spans().items():
        for cell in cells:
            assert cell not in seen, f"{name} and {seen.get(cell)}"
            assert cell < counters.VARIANT_CELLS, name
            seen[cell] = name


def test_reasons_are_numbered_without_gaps() -> None:
    assert [reason.value for reason in Reason] == list(range(len(Reason)))
    assert len({reason.label for reason in Reason}) == len(Reason)


def test_a_buffer_has_the_size_that_it_says() -> None:
    Counters(bytearray(counters.SIZE))
    made = Counters()
    assert len(made.stable) == len(made.canary) == counters.VARIANT_CELLS
    assert len(made.service) == counters.SERVICE_CELLS
    assert len(made.proxy) == counters.PROXY_CELLS
    assert [len(view) for view in made.exemplars] == [counters.EXEMPLAR_CELLS] * 2
    total = len(made.stable) + len(made.canary) + len(made.service) + sum(map(len, made.exemplars))
    assert total * 8 == counters.SIZE


def test_views_do_not_overlap() -> None:
    made = Counters()
    views = (made.stable, made.canary, made.service, made.proxy, *made.exemplars)
    for number, view in enumerate(views, 1):
        for cell in range(len(view)):
            assert view[cell] == 0
            view[cell] = number
    assert [set(view) for view in views] == [{1}, {2}, {3}, {4}, {5}, {6}]


def test_another_process_would_see_the_same_over_shared_memory() -> None:
    block = shared_memory.SharedMemory(create=True, size=counters.SIZE)
    try:
        writer, reader = Counters(block.buf), Counters(block.buf)
        writer.canary[counters.ROUTED] += 3
        writer.service[counters.PROBES] = 2**63
        assert reader.canary[counters.ROUTED] == 3
        assert reader.service[counters.PROBES] == 2**63
        for made in (writer, reader):
            for view in (made.stable, made.canary, made.service, made.proxy, *made.exemplars):
                view.release()
        del writer, reader, made, view
    finally:
        block.close()
        block.unlink()


@given(st.dictionaries(st.integers(100, 999), st.integers(1, 2**40), max_size=20))
def test_codes_are_those_that_occurred(counts: dict[int, int]) -> None:
    cells = Counters().stable
    for status, count in counts.items():
        cells[counters.CODES + status] = count
    assert dict(codes(cells)) == counts


def test_in_flight_is_a_difference() -> None:
    cells = Counters().canary
    cells[counters.ROUTED] = 2**40 + 5
    cells[counters.FINISHED] = 2**40
    assert in_flight(cells) == 5


@given(st.lists(st.floats(0, 1000), max_size=50))
def test_observations_are_all_there(values: list[float]) -> None:
    cells = Counters().stable
    tally = Tally(cells)
    for value in values:
        tally.finish(204, value, 2 * value)
    sums = 0
    for at, factor in ((counters.FIRST_BYTE, 1), (counters.DURATION, 2)):
        here = cells[at : at + histogram.CELLS]
        buckets = [0] * histogram.BUCKETS
        for value in values:
            buckets[histogram.bucket_index(factor * value)] += 1
        assert list(here[: histogram.BUCKETS]) == buckets
        assert here[histogram.SUM] == pytest.approx(factor * 1e6 * sum(values), abs=len(values) + 1)
        sums += here[histogram.SUM]
    assert cells[counters.CODES + 204] == cells[counters.FINISHED] == len(values)
    assert sum(cells) == 4 * len(values) + sums
    assert cells.tolist() == list(tally.values)


@given(st.lists(st.integers(0, 2**64 - 1), max_size=5))
def test_a_cell_is_read_as_it_is_now(values: list[int]) -> None:
    cells = Counters().service
    read = counters.reader(cells[counters.PROBES : counters.PROBES + 1])
    if read is None:
        pytest.skip("not built")
    for value in values:
        cells[counters.PROBES] = value
        assert read() == value


_CELLS = st.lists(st.integers(0, counters.VARIANT_CELLS - 1), max_size=5).map(tuple)


@given(_CELLS, _CELLS)
def test_cells_that_grow_together_grow_by_one_each(
    with_an_end: tuple[int, ...], alone: tuple[int, ...]
) -> None:
    both, apart = Tally(Counters().stable), Tally(Counters().stable)
    both.finish(200, 0.1, 0.2, with_an_end)
    both.add_each(alone)
    both.route()
    apart.finish(200, 0.1, 0.2)
    for at in (*with_an_end, *alone, counters.ROUTED):
        apart.add(at)
    assert both.cells == apart.cells
    assert list(both.values) == list(apart.values) == both.cells.tolist()


_COUNTED = st.tuples(st.integers(0, counters.VARIANT_CELLS - 1), st.integers(0, 2**40))


@given(st.lists(_COUNTED, max_size=30), st.lists(_COUNTED, max_size=30))
def test_whoever_counts_goes_on_where_the_one_before_ended(
    first: list[tuple[int, int]], second: list[tuple[int, int]]
) -> None:
    cells = Counters().canary
    expected = [0] * counters.VARIANT_CELLS
    for counted in (first, second):
        tally = Tally(cells)
        for at, count in counted:
            tally.add(at, count)
            expected[at] += count
            assert cells[at] == tally.values[at] == expected[at]
    assert cells.tolist() == expected


_HALF = st.integers(0, 2**64 - 1)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([counters.FIRST_BYTE, counters.DURATION]),
            st.floats(0, 1000),
            st.tuples(_HALF, _HALF),
            st.integers(0, 2**33),
            st.sampled_from([0.0, 0.05, 0.2]),
        ),
        max_size=20,
    )
)
@example([(counters.DURATION, 1.0, (1, 1), 5, 0.0), (counters.DURATION, 1.0, (2, 2), 6, 0.05)])
@example([(counters.DURATION, 1.0, (1, 1), 5, 0.0), (counters.DURATION, 1.0, (2, 2), 3, 0.2)])
def test_each_bucket_has_its_last_exemplar_but_for_those_of_the_same_moment(
    kept: list[tuple[int, float, tuple[int, int], int, float]],
) -> None:
    made, now = Counters(), 0.0
    writer = counters.ExemplarWriter(made.exemplars[1])
    expected: dict[tuple[int, int], tuple[tuple[int, int], float, int]] = {}
    at: dict[tuple[int, int], float] = {}
    for offset, seconds, trace, time, later in kept:
        now += later
        text, bucket = b"%016x%016x" % trace, histogram.bucket_index(seconds)
        writer.keep(offset, bucket, seconds, text, now, partial(float, time))
        where = offset, bucket
        if where not in at or now >= at[where] + counters.EXEMPLAR_EVERY:
            expected[where], at[where] = (trace, seconds, time), now
    for offset in (counters.FIRST_BYTE, counters.DURATION):
        for bucket in range(histogram.BUCKETS):
            found = counters.exemplar(made.exemplars[1], offset, bucket)
            if (offset, bucket) not in expected:
                assert found is None
                continue
            trace, seconds, time = expected[offset, bucket]
            assert found is not None
            assert found.trace_id == f"{trace[0]:016x}{trace[1]:016x}"
            assert len(found.trace_id) == 32
            assert found.seconds == pytest.approx(seconds, abs=1.1e-6)
            assert histogram.bucket_index(found.seconds) == bucket
            assert found.time == time
    assert not any(made.exemplars[0])
    assert not any(made.stable)
    assert not any(made.canary)
    assert not any(made.proxy)


def test_an_exemplar_that_is_being_written_is_not_read() -> None:
    cells = Counters().exemplars[0]
    bucket, trace = histogram.bucket_index(0.1), b"%016x%016x" % (1, 2)
    counters.ExemplarWriter(cells).keep(counters.DURATION, bucket, 0.1, trace, 0.0, lambda: 3.0)
    assert counters.exemplar(cells, counters.DURATION, bucket) is not None
    (sequence,) = [at for at, value in enumerate(cells) if value == 2 and cells[at + 1] == 1]
    cells[sequence] += 1
    assert counters.exemplar(cells, counters.DURATION, bucket) is None


@given(st.lists(st.lists(st.integers(0, 1000), min_size=20, max_size=20), min_size=1, max_size=4))
def test_totals_are_sums_of_what_each_worker_counted(rows: list[list[int]]) -> None:
    workers = [Counters() for _ in rows]
    totals = counters.Totals(workers)
    for worker, row in zip(workers, rows, strict=True):
        for at, count in enumerate(row):
            worker.canary[at] += count
            worker.proxy[at] += 2 * count
        worker.service[counters.PROBES] += 3
    sums = [sum(column) for column in zip(*rows, strict=True)]
    assert list(totals.canary[:20]) == sums
    assert [totals.canary[at] for at in range(20)] == sums
    assert list(totals.proxy[5:20]) == [2 * count for count in sums[5:]]
    assert totals.service[counters.PROBES] == 3 * len(rows)
    assert totals.variants[1] is totals.canary
    assert len(totals.stable) == counters.VARIANT_CELLS
