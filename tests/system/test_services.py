"""Several services in one proxy, as real processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from .reloads import AT_A_TIME, CHANGED, KEPT, Outcome, reload_under_load, versions


def has_routed(service: str, scrape: dict[str, float]) -> bool:
    """Whether a scrape says that a service has finished a request."""
    return any(
        f'service="{service}"' in series and value > 0
        for series, value in scrape.items()
        if series.startswith("canaryproxy_requests_total")
    )


def scrapes_lost_nothing(found: Outcome, services: tuple[str, ...]) -> bool:
    """Whether no scrape lacks what one before it had of services that no reload removes.

    The last one has all of ``KEPT``.
    """
    seen: set[str] = set()
    for scrape in found.scrapes:
        now = {name for name in services if has_routed(name, scrape)}
        if not seen <= now:
            return False
        seen = now
    return seen >= set(KEPT)


@pytest.mark.parametrize("workers", [1, 2])
def test_reloads_that_add_change_and_remove_services_fail_no_request(
    tmp_path: Path, workers: int
) -> None:
    found = reload_under_load(tmp_path, reloads=12, workers=workers, clients=2)
    assert found.failures == []
    assert found.sent > 0
    assert scrapes_lost_nothing(found, KEPT)
    if workers > 1:  # with one, the control plane maps slots in the same process
        here = len((*KEPT, CHANGED)) + AT_A_TIME
        # The process part, the services of now, and those that still have something in flight.
        assert max(found.mapped[2:]) <= 1 + here + AT_A_TIME


def test_reloads_that_add_and_remove_a_version_beside_the_canary_fail_no_request(
    tmp_path: Path,
) -> None:
    found = reload_under_load(tmp_path, reloads=8, workers=2, clients=2, text_of=versions)
    assert found.failures == []
    assert found.sent > 0
    assert scrapes_lost_nothing(
        found, (*KEPT, *(f"{name}.{of}" for name in KEPT for of in ("v3", "v4")))
    )
