"""Rise and fall: what a row of checks makes of an endpoint."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from canaryproxy.measure.health import Health


def story(checks: str, rise: int = 2, fall: int = 3, *, down: bool = False) -> str:
    """Return the state after each check, as ``+`` and ``-``; so are the checks."""
    health = Health(rise, fall, down=down)
    found = ""
    for one in checks:
        health.observe("" if one == "+" else "status 503")
        found += "+" if health.up else "-"
        assert bool(health.cause) is not health.up
    return found


def test_the_first_check_decides() -> None:
    assert story("-") == "-"
    assert story("+--") == "+++"
    assert story("+", down=True) == "-", "one that was down rises"
    assert story("++", down=True) == "-+"


def test_it_falls_and_rises_by_checks_in_a_row() -> None:
    assert story("+--+---+-++") == "++++++----+"
    assert story("+-+-+-", rise=1, fall=1) == "+-+-+-"


def test_the_cause_is_that_of_the_last_failed_check() -> None:
    health = Health(2, 1)
    health.observe("status 503")
    health.observe("status 500")
    health.observe("")
    assert (health.up, health.cause) == (False, "check failed: status 500")


@given(st.text("+-", max_size=60), st.integers(1, 5), st.integers(1, 5))
def test_a_change_has_its_row_of_checks(checks: str, rise: int, fall: int) -> None:
    states = "+" + story(checks, rise, fall)
    for at in range(1, len(checks)):  # the first check decides by itself
        if states[at + 1] != states[at]:
            row = ("+" * rise) if states[at + 1] == "+" else "-" * fall
            assert checks[: at + 1].endswith(row)
        else:
            ends = ("-" * fall) if states[at] == "+" else "+" * rise
            assert not checks[: at + 1].endswith(ends)
