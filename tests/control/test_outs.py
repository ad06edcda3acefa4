"""What the control plane takes out of service reaches the workers, survives restarts, and keeps its cause."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.control.outs import Outs
from canaryproxy.measure.endpoint_cells import identity
from canaryproxy.measure.routing import CANARY, STABLE
from canaryproxy.measure.shared_memory import CHECK, OUTLIER, OutCell

A, B = "http://a:1", "http://b:1"


def test_reasons_of_one_endpoint_add_up_and_are_taken_back_one_by_one() -> None:
    cell = OutCell()
    outs = Outs(cell)
    outs.put(CHECK, STABLE, {A: "check failed: status 503"})
    outs.put(OUTLIER, STABLE, {A: "it fails", B: "it fails"})
    assert cell.read() == {(STABLE, identity(A)): CHECK | OUTLIER, (STABLE, identity(B)): OUTLIER}
    assert outs.cause(STABLE, A) == "check failed: status 503; it fails"
    assert not outs.cause(CANARY, A)
    outs.put(CHECK, STABLE, {})
    assert cell.read() == {(STABLE, identity(A)): OUTLIER, (STABLE, identity(B)): OUTLIER}
    outs.put(OUTLIER, STABLE, {})
    assert cell.read() == {}


def test_a_new_control_plane_keeps_what_was_out_until_it_decides() -> None:
    memory = bytearray(OutCell.SIZE)
    Outs(OutCell(memory)).put(CHECK, STABLE, {A: "status 503"})
    cell = OutCell(memory)
    outs = Outs(cell)
    assert outs.was_out(CHECK, STABLE, A)
    assert not outs.was_out(OUTLIER, STABLE, A)
    outs.put(OUTLIER, STABLE, {B: "it fails"})
    outs.put(CHECK, CANARY, {})
    assert cell.read() == {(STABLE, identity(A)): CHECK, (STABLE, identity(B)): OUTLIER}
    outs.put(CHECK, STABLE, {})
    assert cell.read() == {(STABLE, identity(B)): OUTLIER}


def test_nothing_new_is_not_published() -> None:
    cell = OutCell()
    outs = Outs(cell)
    outs.put(CHECK, STABLE, {A: "status 503"})
    sequence = cell.sequence[0]
    outs.put(CHECK, STABLE, {A: "status 503"})
    assert cell.sequence[0] == sequence


@given(
    st.dictionaries(
        st.tuples(st.integers(0, 1), st.integers(2, 2**64 - 1)), st.integers(1, 3), max_size=50
    )
)
def test_what_is_published_is_read(outs: dict[tuple[int, int], int]) -> None:
    memory = bytearray(OutCell.SIZE)
    assert OutCell(memory).read() is None
    OutCell(memory).publish(outs)
    assert OutCell(memory).read() == outs
