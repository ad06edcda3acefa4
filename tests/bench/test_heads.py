"""What ``bench.heads`` reads, and what it says where instructions cannot be counted."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from bench import heads
from bench.gate import callgrind
from bench.services import EXIT_CANNOT_RUN
from canaryproxy.http1 import request, response

KINDS = [
    *(("request", names) for names in heads.REQUESTS),
    *(("response", names) for names in heads.RESPONSES),
]


@pytest.mark.parametrize(("kind", "names"), KINDS)
def test_heads_of_a_kind_that_is_known_are_not_parsed(
    monkeypatch: pytest.MonkeyPatch, kind: str, names: Sequence[str]
) -> None:
    reader = heads.Reader(kind, names)

    def parsed(*_: object) -> None:
        raise AssertionError("a head was parsed from scratch")

    monkeypatch.setattr(request.RequestParser, "parse_headers", parsed)
    monkeypatch.setattr(response.ResponseParser, "parse", parsed)
    reader.read()


def test_it_cannot_run_without_valgrind(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(callgrind, "missing", lambda: "no valgrind here")
    assert heads.main([]) == EXIT_CANNOT_RUN
    assert "no valgrind here" in capsys.readouterr().err
