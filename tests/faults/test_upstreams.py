"""A canary, and one of two endpoints of stable, that do everything wrong, while users go on."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ports import free_port

from ..system.processes import Process, answers, proxy, until, upstream, variants
from .faulty import KINDS
from .users import Users

FAULTY = Path(__file__).with_name("faulty.py")
LIMITS = (
    "limits: {connect_timeout: 2s, first_byte_timeout: 4s, body_timeout: 4s}\nsplit: {weight: 50}\n"
)
LONGEST = 30.0
"""Seconds: all timeouts on the way one after the other, on a busy machine; half of the default ones."""

BEFORE_THE_ANSWER = (
    *("resets_at_once", "resets_after_request", "closes_after_request", "half_a_head"),
    *("no_http", "deaf", "a_byte_a_second", "never_accepts"),
)
"""Faults that come before anything of an answer is sent to a user: stable answers in its place."""
AMID_THE_ANSWER = ("resets_after_head", "half_a_body", "less_than_said")
"""The user has seen the head: all that is left is to break off, and to say so to the judge."""


@contextlib.contextmanager
def faulty(folder: Path, kind: str) -> Iterator[int]:
    port = free_port()
    process = Process(str(FAULTY), kind, str(port), folder=folder)
    try:
        if kind == "never_accepts":
            # Its queue of one is full from now on.
            until(lambda: b"%04X" % port in Path("/proc/net/tcp").read_bytes(), "the listener")
            with contextlib.ExitStack() as waiting:
                while answers(port):
                    sock = waiting.enter_context(socket.socket())
                    sock.setblocking(False)
                    sock.connect_ex(("127.0.0.1", port))
                yield port
        else:
            until(lambda: answers(port), "the upstream")
            yield port
    finally:
        process.end()


@pytest.mark.parametrize("kind", BEFORE_THE_ANSWER)
def test_a_canary_that_fails_before_its_answer_costs_no_user_one(tmp_path: Path, kind: str) -> None:
    with (
        upstream(tmp_path, "s") as (_, stable),
        faulty(tmp_path, kind) as canary,
        proxy(tmp_path, variants([stable], [canary]), LIMITS) as running,
    ):
        with Users(running.port) as users:
            until(lambda: running.metrics()["canaryproxy_rescued_total"] > 3, "rescues")
        users.agree(running)
        assert users.seen == {200: users.sent}
        assert users.bodies == {b"s": users.sent}
        assert users.longest < LONGEST


@pytest.mark.parametrize("kind", AMID_THE_ANSWER)
def test_a_canary_that_fails_amid_its_answer_is_never_taken_for_complete(
    tmp_path: Path, kind: str
) -> None:
    with (
        upstream(tmp_path, "s") as (_, stable),
        faulty(tmp_path, kind) as canary,
        proxy(tmp_path, variants([stable], [canary]), LIMITS) as running,
    ):
        with Users(running.port) as users:
            until(lambda: users.cut > 3, "answers that break off")
        users.agree(running)
        assert users.seen == {200: users.sent - users.cut}
        assert users.bodies == {b"s": users.seen[200]}  # and nobody got half of one
        assert users.longest < LONGEST


@pytest.mark.parametrize(
    ("kind", "clients", "pause", "enough"),
    # What comes while a connection is in use again cannot be told from its answer: so with pauses.
    [("more_than_said", 8, 0.005, 300), ("speaks_out_of_turn", 1, 0.2, 10)],
)
def test_what_nobody_asked_for_reaches_nobody(
    tmp_path: Path, kind: str, clients: int, pause: float, enough: int
) -> None:
    with (
        upstream(tmp_path, "s") as (_, stable),
        faulty(tmp_path, kind) as canary,
        proxy(tmp_path, variants([stable], [canary]), LIMITS) as running,
    ):
        with Users(running.port, clients, pause=pause) as users:
            until(lambda: users.bodies.total() > enough and len(users.bodies) == 2, "answers")
        users.agree(running)
        assert users.bodies.keys() <= {b"s", b"12345", b"ok"}
        assert users.seen == {200: users.sent}


def test_an_early_answer_to_an_upload_arrives(tmp_path: Path) -> None:
    with (
        upstream(tmp_path, "s") as (_, stable),
        faulty(tmp_path, "answers_first") as canary,
        proxy(tmp_path, variants([stable], [canary]), LIMITS) as running,
    ):
        with Users(running.port, body=bytes(300_000)) as users:
            until(lambda: users.seen[413] > 10 and users.seen[200] > 10, "answers of both")
        users.agree(running)
        assert users.seen.keys() <= {200, 413, 502}
        assert users.longest < LONGEST


@pytest.mark.parametrize("kind", ["resets_at_once", "closes_after_request", "never_accepts"])
def test_a_bad_endpoint_of_stable_is_passed_over_and_put_out(tmp_path: Path, kind: str) -> None:
    with (
        upstream(tmp_path, "s") as (_, good),
        faulty(tmp_path, kind) as bad,
        proxy(tmp_path, variants([good, bad]), LIMITS) as running,
    ):
        up = f'canaryproxy_endpoint_up{{endpoint="http://127.0.0.1:{bad}",variant="stable"}}'
        with Users(running.port) as users:
            until(lambda: running.metrics()[up] == 0, "an endpoint that is out")
        users.agree(running)
        assert users.seen == {200: users.sent}
        assert users.longest < LONGEST


def test_an_endpoint_of_stable_that_only_connects_costs_no_user_an_answer(tmp_path: Path) -> None:
    with (
        upstream(tmp_path, "s") as (_, good),
        faulty(tmp_path, "deaf") as bad,
        proxy(tmp_path, variants([good, bad]), LIMITS) as running,
    ):

        def failed() -> float:
            name = "canaryproxy_upstream_errors_total"
            return sum(value for key, value in running.metrics().items() if key.startswith(name))

        with Users(running.port) as users:
            until(lambda: failed() > 3, "failures")
        users.agree(running)
        assert users.seen == {200: users.sent}
        assert users.longest < LONGEST


def test_every_kind_is_tried() -> None:
    tried = {
        *BEFORE_THE_ANSWER,
        *AMID_THE_ANSWER,
        "more_than_said",
        "speaks_out_of_turn",
        "answers_first",
    }
    assert tried - {"never_accepts"} == KINDS.keys()
