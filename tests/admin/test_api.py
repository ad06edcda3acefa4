"""The routes: what they ask of ``Control``, and what they answer."""

from __future__ import annotations

import json
import os
import pwd
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from canaryproxy.config.yaml_reader import MAX_BYTES
from canaryproxy.control.event_inbox import PostedEvent
from canaryproxy.release import circuit, rollout
from canaryproxy.release.rollout import Refused
from tests.admin.fake import CONFIG, TOKEN, Served, Unsaved, serve

RELEASE = "/v1/release"
ME = pwd.getpwuid(os.getuid()).pw_name
ANN = f"ann (user {ME})"
"""How the history shows who says to be ann, over the Unix socket."""


def problem(answer: Any, status: int) -> Any:
    """Return the problem, which must be one of that status."""
    assert answer.status == status, answer.body
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json
    assert document["type"] == "about:blank"
    assert document["status"] == status
    assert document["title"]
    assert document["detail"]
    return document


async def test_release_document_and_its_etag(served: Served) -> None:
    answer = await served.ask("GET", RELEASE)
    assert answer.status == 200
    assert answer.json == served.control.release_view().model_dump()
    assert answer.headers["etag"] == '"b3f2-1"'
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("name", "event"),
    [
        ("start", rollout.Start),
        ("pause", rollout.Pause),
        ("resume", rollout.Resume),
        ("promote", rollout.Promote),
        ("abort", rollout.Abort),
        ("reset", circuit.Reset),
    ],
)
async def test_an_operation_is_one_event(
    served: Served, name: str, event: Callable[[str], Any]
) -> None:
    for body, words in (
        (None, ME),
        ("", ME),
        ("{}", ME),
        ('{"by": "ann"}', ANN),
        ('{"by": "ann", "reason": "it is late"}', f"{ANN}: it is late"),
        (f'{{"by": "{ME}"}}', ME),
    ):
        before = served.control.etag
        answer = await served.ask("POST", f"/v1/release/{name}", body)
        assert answer.status == 200, answer.body
        assert served.control.acts.pop() == event(words)
        assert answer.headers["etag"] == f'"{served.control.etag}"' != f'"{before}"'
        assert answer.json["release"] == "r1"


async def test_over_tcp_a_name_is_what_the_client_says(served: Served) -> None:
    token = {"Authorization": f"Bearer {TOKEN}"}
    for body, words in (("{}", "operator"), ('{"by": "root", "reason": "no"}', "root: no")):
        await served.ask("POST", "/v1/release/pause", body, over="tcp", **token)
        assert served.control.acts.pop() == rollout.Pause(words)


@pytest.mark.parametrize("value", [0, 0.01, 5, 99.99, 100])
async def test_put_weight_sets_the_weight(served: Served, value: float) -> None:
    answer = await served.ask("PUT", "/v1/weight", json.dumps({"weight": value, "by": "ann"}))
    assert answer.json["weight"] == value
    assert served.control.acts == [rollout.SetWeight(value, ANN)]


async def test_accept_needs_a_metric_and_a_reason(served: Served) -> None:
    body = '{"metric": "errors  GET /old", "reason": "removed", "by": "ann"}'
    answer = await served.ask("POST", "/v1/release/accept", body)
    assert answer.status == 200, answer.body
    assert served.control.acts == [rollout.Accept("errors GET /old", f"{ANN}: removed")]
    for wrong in ('{"metric": "errors"}', '{"reason": "so"}', '{"metric": "", "reason": "so"}'):
        assert (await served.ask("POST", "/v1/release/accept", wrong)).status == 422
    assert (await served.ask("POST", "/v1/release/accept")).status == 415


async def test_trip_and_drill_and_events(served: Served) -> None:
    await served.ask("POST", "/v1/release/trip", '{"cause": "complaints", "by": "ann"}')
    await served.ask("POST", "/v1/release/trip")
    assert [one.cause for one in served.control.acts] == [
        f"manually by {ANN}: complaints",
        f"manually by {ME}",
    ]
    drill = await served.ask("POST", "/v1/release/drill", '{"by": "ann"}')
    assert drill.json == {
        "drill": {
            "seconds_to_last_request": 0.01,
            "weight": 5.0,
            "requests_after": 0,
            "seconds_to_last_connection": None,
            "connections": 0,
            "connections_left": 0,
            "in_flight": 0,
        },
        "release": served.control.release_view().model_dump(),
    }
    assert served.control.acts[-1] == ANN
    for body, count, by_user in (
        ('{"variant": "canary", "count": 3}', 3, 0),
        ('{"variant": "stable"}', 1, 0),
        ('[{"variant": "canary", "count": 2}, {"variant": "stable", "count": 5}]', 7, 0),
        ('{"key": "ann"}', 1, 1),
        ('[{"key": "ann", "variant": "canary", "count": 2}, {"variant": "stable"}]', 3, 2),
    ):
        served.control.counted = 0
        answer = await served.ask("POST", "/v1/events", body)
        assert (answer.status, answer.json) == (202, {"accepted": count, "by_user": by_user})
        assert served.control.counted == count
    assert served.control.posted[-2] == PostedEvent(2, "canary", "ann")


async def test_history_and_series(served: Served) -> None:
    for number in range(1, 151):
        served.control.record(f"r{number}")

    async def ids(query: str) -> list[int]:
        document = (await served.ask("GET", f"/v1/history{query}")).json
        assert document["history_id"] == 150
        return [record["id"] for record in document["records"]]

    assert await ids("") == list(range(51, 151))
    assert await ids("?limit=2") == [149, 150]
    assert await ids("?after=148") == [149, 150]
    assert await ids("?after=0&limit=3") == [1, 2, 3]
    assert await ids("?after=150") == []
    points = await served.ask("GET", "/v1/series?since=1.5")
    assert [point["t"] for point in points.json["points"]] == [2.0, 3.0]
    assert len((await served.ask("GET", "/v1/series")).json["points"]) == 3


async def test_endpoints_and_routes(served: Served) -> None:
    _, canary = (await served.ask("GET", "/v1/endpoints")).json["endpoints"]
    assert (canary["up"], canary["ejected_by"], canary["workers"]) == (False, 1, 1)
    assert canary["recent"]["codes"] == {"2xx": 2, "5xx": 48}
    assert canary["recent"]["errors"] == {"reset": 2}
    assert canary["recent"]["p95"] is None
    (route,) = (await served.ask("GET", "/v1/routes")).json["routes"]
    assert (route["route"], route["stable"]["failed"], route["canary"]["requests"]) == (
        "GET /cart/*",
        1,
        0,
    )


@pytest.mark.parametrize(
    "target",
    [
        "/v1/history?limit=0",
        "/v1/history?limit=1001",
        "/v1/history?limit=-1",
        "/v1/history?limit=1&limit=2",
        "/v1/history?limit=%D9%A1",
        "/v1/history?limit=1_0",
        "/v1/history?limit=",
        "/v1/history?after=x",
        "/v1/history?after=" + "9" * 17,
        "/v1/history?nothing=1",
        "/v1/series?since=nan",
        "/v1/series?since=inf",
        "/v1/series?since=1e999",
        "/v1/series?since=soon",
        "/v1/release?x=1",
        "/v1/endpoints?variant=canary",
        "/v1/routes?limit=1",
        "/v1/stream?after=1",
    ],
)
async def test_a_bad_query_is_refused_and_named(served: Served, target: str) -> None:
    found = problem(await served.ask("GET", target), 422)
    assert found["errors"][0]["path"] in found["detail"]


DEEP = "[" * 30_000 + "]" * 30_000


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("", 400),
        ("{", 400),
        ("{'weight': 5}", 400),
        ('{"weight": 5} {}', 400),
        ('{"weight": 5, "weight": 6}', 400),
        ('{"weight": NaN}', 400),
        ('{"weight": Infinity}', 400),
        ('{"weight": -Infinity}', 400),
        ('{"weight": 1e999}', 400),
        ('{"weight": ' + "9" * 5000 + "}", 400),
        (DEEP, 400),
        ('{"weight": 5, "x": ' + DEEP[:60_000] + "}", 400),
        (b'{"weight": 5, "by": "\xff"}', 400),
        (b'\xef\xbb\xbf{"weight": 5}', 400),
        ("{'weight': 5}".encode("utf-16"), 400),
        ("null", 422),
        ("5", 422),
        ('"weight"', 422),
        ("[]", 422),
        ("{}", 422),
        ('{"weight": null}', 422),
        ('{"weight": "5"}', 422),
        ('{"weight": true}', 422),
        ('{"weight": [5]}', 422),
        ('{"weight": -0.01}', 422),
        ('{"weight": 100.01}', 422),
        ('{"weight": 5.001}', 422),
        ('{"weight": ' + "9" * 400 + "}", 400),
        ('{"weight": 5, "extra": 1}', 422),
        ('{"weight": 5, "by": ""}', 422),
        ('{"weight": 5, "by": null}', 422),
        ('{"weight": 5, "by": 7}', 422),
        ('{"weight": 5, "by": "a\\nb"}', 422),
        ('{"weight": 5, "by": "\\u0000"}', 422),
        ('{"weight": 5, "by": "ann\\r\\nEvil: 1"}', 422),
        ('{"weight": 5, "reason": "well\\n2026-01-01 INFO promoted"}', 422),
        ('{"weight": 5, "reason": "\\u009b2J"}', 422),
        ('{"weight": 5, "by": "\\ud800"}', 422),
        ('{"weight": 5, "by": "' + "x" * 101 + '"}', 422),
        ('{"WEIGHT": 5}', 422),
    ],
)
async def test_bodies_are_read_strictly(served: Served, body: str | bytes, status: int) -> None:
    found = problem(await served.ask("PUT", "/v1/weight", body), status)
    assert len(found["detail"]) < 400
    assert served.control.acts == []


@pytest.mark.parametrize(
    "body",
    [
        '{"variant": "beta"}',
        '{"variant": "canary", "count": 0}',
        '{"variant": "canary", "count": 1.0}',
        '{"variant": "canary", "count": true}',
        '{"variant": "canary", "count": 1000001}',
        '{"count": 1}',
        '{"key": ""}',
        '{"key": "a\\u0000b"}',
        '{"key": "\\ud800"}',
        '{"key": 7}',
        '{"key": "%s"}' % ("secret" * 700),
        '[{"key": "ann"}, {"count": 2}]',
        "[]",
        "[1]",
        '[{"variant": "canary"}, {"variant": "beta"}]',
        "[" + ",".join(['{"variant": "canary"}'] * 1001) + "]",
    ],
)
async def test_bad_events_count_nothing(served: Served, body: str) -> None:
    found = problem(await served.ask("POST", "/v1/events", body), 422)
    assert found["errors"]
    assert all("list[" not in error["path"] for error in found["errors"])
    assert "secret" not in str(found)
    assert served.control.counted == 0


async def test_a_body_over_its_limit_is_refused(served: Served) -> None:
    small = '{"weight": 5}'
    for size, status in ((64 * 1024, 200), (64 * 1024 + 1, 413)):
        answer = await served.ask("PUT", "/v1/weight", small + " " * (size - len(small)))
        assert answer.status == status
    text = CONFIG + "#" * 200_000
    answer = await served.ask("PUT", "/v1/config", text, Content_Type="application/yaml")
    assert answer.status == 200
    text = CONFIG + "#" * MAX_BYTES
    answer = await served.ask("PUT", "/v1/config", text, Content_Type="application/yaml")
    problem(answer, 413)


async def test_chunked_bodies_are_bounded_too(served: Served) -> None:
    head = (
        b"PUT /v1/weight HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    )
    good = await served.raw(head + b'd\r\n{"weight": 7}\r\n0\r\n\r\n', "unix")
    assert [answer.status for answer in good] == [200]
    assert served.control.weight == 7.0
    chunk = b"4000\r\n" + b" " * 0x4000 + b"\r\n"
    problem((await served.raw(head + chunk * 5, "unix"))[-1], 413)
    problem((await served.raw(head + b"zz\r\n", "unix"))[-1], 400)
    assert served.control.weight == 7.0


@pytest.mark.parametrize(
    ("method", "target", "allow"),
    [
        ("DELETE", "/v1/release", {"GET", "HEAD"}),
        ("POST", "/v1/weight", {"PUT"}),
        ("GET", "/v1/weight", {"PUT"}),
        ("GET", "/v1/release/abort", {"POST"}),
        ("HEAD", "/v1/release/abort", {"POST"}),
        ("PATCH", "/v1/config", {"GET", "HEAD", "PUT"}),
        ("OPTIONS", "/v1/config", {"GET", "HEAD", "PUT"}),
        ("HEAD", "/v1/stream", {"GET"}),
        ("POST", "/metrics", {"GET", "HEAD"}),
    ],
)
async def test_an_unsupported_method_lists_those_allowed(
    served: Served, method: str, target: str, allow: set[str]
) -> None:
    answer = await served.ask(method, target)
    assert answer.status == 405
    assert set(answer.headers["allow"].split(",")) == allow
    if method != "HEAD":
        problem(answer, 405)


@pytest.mark.parametrize(
    "target",
    ["/v1", "/v1/", "/v1/release/", "//v1/release", "/v2/release", "/v1/release/x", "/%00"],
)
async def test_an_unknown_path_is_not_found(served: Served, target: str) -> None:
    problem(await served.ask("GET", target), 404)


async def test_a_long_path_is_not_repeated(served: Served) -> None:
    found = problem(await served.ask("GET", "/" + "x" * 7000), 404)
    assert len(found["detail"]) < 300


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Refused("the circuit is open"), 409),
        (Unsaved("no space left; it holds, but a restart would not know of it"), 507),
    ],
)
async def test_refusals_say_why(served: Served, error: Exception, status: int) -> None:
    served.control.refusal = served.proxy.refusal = error
    for target in ("/v1/release/promote", "/v1/release/trip", "/v1/release/drill", "/v1/reload"):
        found = problem(await served.ask("POST", target), status)
        assert found["detail"] == str(error)
    found = problem(await served.ask("POST", "/v1/events", '{"variant": "canary"}'), status)
    assert found["detail"] == str(error)


async def test_a_mistake_of_ours_tells_nothing_of_the_inside(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    served.control.refusal = ZeroDivisionError("inside")
    found = problem(await served.ask("POST", "/v1/release/promote"), 500)
    assert "inside" not in found["detail"]
    assert "ZeroDivisionError: inside" in caplog.text
    served.control.refusal = OSError("inside")
    assert problem(await served.ask("POST", "/v1/release/promote"), 500)


# ETags


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        ('"b3f2-1"', 200),
        ('"other", "b3f2-1"', 200),
        ('"other","b3f2-1" ,', 200),
        ("*", 200),
        (' "b3f2-1" ', 200),
        ('"b3f2-2"', 412),
        ('W/"b3f2-1"', 412),
        ('"other"', 412),
        ('"B3F2-1"', 412),
        ('""', 412),
        ("b3f2-1", 400),
        ('"b3f2-1', 400),
        ('"b3f2-1" "other"', 400),
        ('"b3f2-1", *', 400),
        ("", 400),
        ("**", 400),
        ('w/"b3f2-1"', 400),
    ],
)
async def test_a_change_whose_condition_fails_does_nothing(
    served: Served, condition: str, status: int
) -> None:
    """A condition that is not understood must not be lost: nothing is done."""
    for method, target, body in (
        ("PUT", "/v1/weight", '{"weight": 7}'),
        ("POST", "/v1/release/promote", None),
        ("POST", "/v1/release/reset", None),
        ("POST", "/v1/release/drill", None),
        ("POST", "/v1/events", '{"variant": "canary"}'),
    ):
        served.control.revision = 1
        served.control.weight = 5.0
        served.control.acts.clear()
        served.control.counted = 0
        answer = await served.ask(method, target, body, If_Match=condition)
        good = 202 if target == "/v1/events" else 200
        assert answer.status == (good if status == 200 else status), (target, answer.body)
        assert bool(served.control.acts or served.control.counted) == (status == 200)
        if status == 412:
            problem(answer, 412)
            assert answer.headers["etag"] == '"b3f2-1"'


@pytest.mark.parametrize(
    ("method", "target", "body"),
    [
        ("POST", "/v1/release/abort", None),
        ("POST", "/v1/release/trip", None),
        ("POST", "/v1/release/pause", None),
        ("PUT", "/v1/weight", '{"weight": 4.99}'),
    ],
)
async def test_an_act_towards_stable_never_loses_a_race(
    served: Served, method: str, target: str, body: str | None
) -> None:
    answer = await served.ask(method, target, body, If_Match='"of-long-ago"')
    assert answer.status == 200, answer.body
    assert len(served.control.acts) == 1


@pytest.mark.parametrize(
    ("method", "target", "body", "asks"),
    [
        ("POST", "/v1/release/abort", None, False),
        ("POST", "/v1/release/promote", None, True),
        ("POST", "/v1/release/trip", '{"cause": "x"}', False),
        ("POST", "/v1/release/accept", '{"metric": "errors", "reason": "x"}', True),
        ("PUT", "/v1/weight", '{"weight": 4}', False),
        ("PUT", "/v1/weight", '{"weight": 6}', True),
        ("POST", "/v1/release/drill", None, True),
    ],
)
async def test_a_dry_run_tells_and_does_nothing(
    served: Served, method: str, target: str, body: str | None, asks: bool
) -> None:
    answer = await served.ask(method, f"{target}?dry_run=true", body)
    assert (answer.status, answer.json["asks"], served.control.acts) == (200, asks, [])
    assert (answer.json["before"], answer.json["refusal"]) == (5.0, None)
    problem(await served.ask(method, f"{target}?dry_run=1", body), 422)


async def test_if_match_on_several_lines_and_if_none_match_on_a_change(served: Served) -> None:
    head = "POST /v1/release/promote HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    for lines, status in (
        ('If-Match: "a"\r\nIf-Match: "b"\r\n', 412),
        ('If-Match: "a"\r\nIf-Match: "b3f2-1"\r\n', 200),
        ('If-None-Match: "b3f2-2"\r\n', 412),
        ("If-None-Match: *\r\n", 412),
        ('If-None-Match: "other"\r\n', 200),
    ):
        (answer,) = await served.raw(f"{head}{lines}\r\n".encode(), "unix")
        assert answer.status == status, lines
    assert len(served.control.acts) == 2


@pytest.mark.parametrize(
    "target",
    [
        "/v1/release",
        "/v1/config",
        "/v1/history",
        "/v1/series",
        "/v1/endpoints",
        "/v1/routes",
        "/v1/openapi.json",
    ],
)
async def test_what_the_client_has_is_not_sent_again(served: Served, target: str) -> None:
    first = await served.ask("GET", target)
    etag = first.headers["etag"]
    for known, status in (
        (etag, 304),
        (f"W/{etag}", 304),
        (f'"other", {etag}', 304),
        ("*", 304),
        ('"other"', 200),
    ):
        for method in ("GET", "HEAD"):
            answer = await served.ask(method, target, If_None_Match=known)
            assert answer.status == status, known
            assert answer.headers["etag"] == etag
            if status == 304:
                assert answer.body == b""
    problem(await served.ask("GET", target, If_None_Match="other"), 400)


# The configuration


async def test_the_configuration_can_be_read_tried_and_replaced(served: Served) -> None:
    shown = await served.ask("GET", "/v1/config")
    assert shown.json["text"] == CONFIG
    changed = CONFIG + "limits: {idle_timeout: 60s}\n"
    put = {"Content_Type": "application/yaml"}
    target = "/v1/config"
    tried = await served.ask("PUT", f"{target}?dry_run=true", changed, **put)
    assert tried.json == {"changed": ["limits.idle_timeout"], "restart_needed": []}
    assert served.control.acts == []
    problem(await served.ask("PUT", target, changed, If_Match='"other"', **put), 412)
    assert served.control.acts == []
    done = await served.ask("PUT", target, changed, If_Match=shown.headers["etag"], **put)
    assert done.status == 200
    assert served.proxy.text == changed
    again = await served.ask("GET", target)
    assert done.headers["etag"] == again.headers["etag"] != shown.headers["etag"]
    assert served.control.acts[-1] == f"put by {ME}"
    await served.ask("PUT", f"{target}?by=ann&reason=more%20patience", changed, **put)
    assert served.control.acts[-1] == f"put by {ANN}: more patience"
    for bad in ("by=", "by=a%0Ab", f"by={'a' * 101}", f"reason={'a' * 501}", "by=a&by=b"):
        problem(await served.ask("PUT", f"{target}?{bad}", changed, **put), 422)
    stale = await served.ask("PUT", target, CONFIG, If_Match=shown.headers["etag"], **put)
    problem(stale, 412)
    assert stale.headers["etag"] == again.headers["etag"]
    problem(await served.ask("POST", "/v1/reload", If_Match='"other"'), 412)
    reloaded = await served.ask("POST", "/v1/reload", If_Match=again.headers["etag"])
    assert reloaded.json == {"changed": [], "restart_needed": []}
    await served.ask("POST", "/v1/reload", '{"by": "ann", "reason": "lunch"}')
    assert served.control.acts[-2:] == [f"reload by {ME}", f"reload by {ANN}: lunch"]


async def test_every_mistake_of_a_configuration_is_named(served: Served) -> None:
    text = "variants: {stable: {endpoints: [http://127.0.0.1:9]}}\nworker: 1\nlimits: 3\n"
    answer = await served.ask("PUT", "/v1/config", text, Content_Type="application/yaml")
    found = problem(answer, 422)
    places = [(one["path"], one["line"], one["column"]) for one in found["errors"]]
    assert places == [("worker", 2, 1), ("limits", 3, 9)]
    assert all(one["message"] for one in found["errors"])
    assert "canaryproxy.yaml:2:1" in found["detail"]


async def test_a_file_that_cannot_be_read(served: Served) -> None:
    served.proxy.refusal = PermissionError(13, "Permission denied", "/etc/canaryproxy.yaml")
    found = problem(await served.ask("POST", "/v1/reload"), 409)
    assert "/etc/canaryproxy.yaml" in found["detail"]


async def test_secrets_of_the_configuration_need_the_token(served: Served) -> None:
    bearer = f"Bearer {TOKEN}"
    hidden = await served.ask("GET", "/v1/config", over="tcp")
    assert hidden.json["text"] is None
    assert hidden.headers["vary"] == "Authorization"
    wrong = await served.ask("GET", "/v1/config", over="tcp", Authorization="Bearer wrong")
    assert wrong.json["text"] is None
    shown = await served.ask("GET", "/v1/config", over="tcp", Authorization=bearer)
    assert shown.json["text"] == CONFIG
    assert shown.headers["etag"] != hidden.headers["etag"]


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ("Application/JSON;charset=UTF-8", 200),
        ("application/json; charset=latin-1", 415),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("application/jsonp", 415),
        ("text/json", 415),
        ("application/yaml", 415),
        ("", 415),
        ("json", 415),
        ("application/json, text/plain", 415),
    ],
)
async def test_a_change_needs_the_media_type_of_json(
    served: Served, content_type: str, status: int
) -> None:
    answer = await served.ask(
        "PUT", "/v1/weight", '{"weight": 7}', over="tcp", Content_Type=content_type,
        Authorization=f"Bearer {TOKEN}",
    )  # fmt: skip
    assert answer.status == status
    assert served.control.weight == (7.0 if status == 200 else 5.0)
    if status == 415:
        problem(answer, 415)
        assert answer.headers["accept"] == "application/json"


async def test_what_curl_sends_with_d_is_taken_over_the_unix_socket(served: Served) -> None:
    curl = "application/x-www-form-urlencoded"
    answer = await served.ask("PUT", "/v1/weight", '{"weight": 7}', Content_Type=curl)
    assert (answer.status, served.control.weight) == (200, 7.0)
    for other in ("text/plain", "multipart/form-data; boundary=x", f"{curl}; charset=utf-8"):
        problem(await served.ask("PUT", "/v1/weight", '{"weight": 8}', Content_Type=other), 415)
    assert served.control.weight == 7.0


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate", "gzip, identity", "x"])
async def test_no_compressed_bodies(served: Served, coding: str) -> None:
    answer = await served.ask("PUT", "/v1/weight", '{"weight": 7}', Content_Encoding=coding)
    assert answer.status in (400, 415)
    assert served.control.weight == 5.0


async def test_only_the_expectation_of_100_continue_is_met(served: Served) -> None:
    answer = await served.ask("PUT", "/v1/weight", '{"weight": 7}', Expect="100-continue")
    assert answer.json["weight"] == 7.0
    problem(await served.ask("GET", "/v1/release", Expect="miracles"), 417)


# What was there before


async def test_probes_answer_on_both_addresses_while_draining(served: Served) -> None:
    for over in ("unix", "tcp"):
        assert (await served.ask("GET", "/livez", over=over)).status == 200
        served.proxy.ready = True
        assert (await served.ask("GET", "/readyz", over=over)).status == 200
        served.proxy.ready = False
        assert (await served.ask("GET", "/readyz", over=over)).status == 503
        assert (await served.ask("GET", "/livez", over=over)).status == 200


async def test_numbers_that_json_does_not_have_are_null(tmp_path: Path) -> None:
    async with serve(tmp_path) as served:
        served.control.record("tripped")
        served.control.records[0]["figures"] = {"log": float("inf"), "all": [float("nan"), 1]}
        answer = await served.ask("GET", "/v1/history")
        assert answer.json["records"][0]["figures"] == {"log": None, "all": [None, 1]}
