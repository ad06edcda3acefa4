"""Upstream failures in words."""

from __future__ import annotations

import errno

import pytest

from canaryproxy.measure.counters import Reason
from canaryproxy.measure.failures import WORDS, describe, errno_text


def test_every_reason_has_words_of_its_own() -> None:
    assert set(WORDS) == set(Reason)
    assert len(set(WORDS.values())) == len(Reason)


def test_detail_follows_in_brackets() -> None:
    refused = describe(Reason.CONNECT_REFUSED, errno_text(errno.ECONNREFUSED))
    assert refused == f"connection refused (ECONNREFUSED, errno {errno.ECONNREFUSED})"
    assert describe(Reason.NO_ENDPOINT) == "no endpoint is up"


@pytest.mark.parametrize("number", [None, 0, -2, 99999])
def test_what_is_no_errno_has_no_text(number: int | None) -> None:
    assert errno_text(number) == ""
