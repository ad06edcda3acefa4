from __future__ import annotations

import html
import json
import re
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canaryproxy import __version__, cli
from canaryproxy.config.model import EventName
from canaryproxy.notify import message
from canaryproxy.notify.message import Origin

TRIPPED = {
    "id": 17,
    "time": 1790000000.123,
    "what": "tripped",
    "cause": "errors: canary 12 of 40, stable 3 of 760",
    "figures": {"weight": 5.0},
}

EDGE = Origin("cart-2.4", "edge-1", "production")
HERE = Origin("r", "h")

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def test_links_name_the_record() -> None:
    links = ("https://canary.example.com/#event={id}", "https://wiki.example.com/canary")
    assert message.links_of({"id": 17}, links) == (
        "https://canary.example.com/#event=17",
        "https://wiki.example.com/canary",
    )


def test_a_json_message_is_the_record_and_its_origin() -> None:
    links = ("https://canary.example/",)
    assert json.loads(message.document(TRIPPED, EDGE, links)) == TRIPPED | {
        "environment": "production",
        "endpoints": [],
        "severity": "warning",
        "links": ["https://canary.example/"],
        "release": "cart-2.4",
        "host": "edge-1",
        "version": __version__,
    }


@pytest.mark.parametrize(
    ("what", "figures", "expected"),
    [
        ("tripped", {}, "warning"),
        ("tripped", {"drill": True}, "info"),
        ("gate", {"passed": False}, "warning"),
        ("gate", {"passed": True}, "info"),
        ("reload_failed", {}, "warning"),
        ("capacity", {}, "warning"),
        ("ejected", {"endpoints": ["http://a"]}, "warning"),
        ("readmitted", {}, "info"),
        ("shedding", {}, "warning"),
        ("shed", {}, "info"),
        ("merged", {}, "warning"),
        ("stopped", {}, "info"),
        ("promoted", {}, "info"),
    ],
)
def test_severity_says_who_must_look(what: str, figures: dict[str, Any], expected: str) -> None:
    assert message.severity({"what": what, "figures": figures}) == expected


def test_a_chat_gets_plain_words() -> None:
    assert json.loads(message.chat(TRIPPED, EDGE)) == {
        "text": ":rotating_light: cart-2.4 rolled back on edge-1 (production) at 5→0%: errors: canary 12 "
        "of 40, stable 3 of 760. Users are safe on stable. Fix the canary, then run canaryproxy reset or "
        "begin a new release. (2026-09-21 14:13:20 UTC)"
    }
    assert message.sentence(TRIPPED | {"what": "paused"}, Origin(None, "edge-1")).startswith(
        "The canary on edge-1 is paused"
    )


def test_a_service_is_named_in_every_text_and_in_the_json() -> None:
    origin = Origin("cart-2.4", "edge-1", "production", service="cart")
    for what in (*get_args(EventName), "unheard of"):
        said = message.sentence(TRIPPED | {"what": what}, origin)
        assert "edge-1 (service cart, production)" in said, what
    found = json.loads(message.document(TRIPPED, origin))
    assert found["service"] == "cart"
    assert "service" not in json.loads(message.document(TRIPPED, EDGE))
    assert Origin(None, "edge-1", service="cart").place == "edge-1 (service cart)"


def test_a_link_leads_to_the_page_of_the_service() -> None:
    links = ("https://canary.example.com/services/{service}/#event={id}",)
    (found,) = message.links_of({"id": 17}, links, "cart")
    assert found == "https://canary.example.com/services/cart/#event=17"
    assert message.links_of({"id": 17}, ("https://a/{service}",)) == ("https://a/{service}",)


def test_an_endpoint_is_a_field_and_in_the_text() -> None:
    ejected = {
        "what": "ejected",
        "cause": "canary endpoint http://a: outlier: 40 of 50 requests failed in 12 s, others 1 of 350",
        "figures": {"endpoints": ["http://a"], "endpoints_of": 8},
    }
    assert json.loads(message.document(ejected, EDGE))["endpoints"] == ["http://a"]
    assert json.loads(message.chat(ejected, EDGE))["text"] == (
        ":warning: 1 of 8 endpoints on edge-1 (production) gets no requests: canary endpoint http://a: "
        "outlier: 40 of 50 requests failed in 12 s, others 1 of 350. The others serve its share. Find out "
        "what is wrong with it; while it is the canary's, the step is held."
    )


def test_links_follow_the_text_of_a_chat_and_survive_its_limit() -> None:
    links = ("https://canary.example/?a=1&b=2", "https://wiki.example/runbook")
    text = json.loads(message.chat(TRIPPED | {"cause": "x" * 5000}, HERE, links))["text"]
    assert text.endswith(
        " UTC) Next: https://canary.example/?a=1&amp;b=2 · https://wiki.example/runbook"
    )
    assert "x…" in text
    assert "… Users are safe on stable. " in text
    assert len(text) <= message.MAX_TEXT


def test_a_drill_is_not_an_alarm() -> None:
    drill = TRIPPED | {"cause": "a drill by ann", "figures": {"drill": True}}
    assert message.advice(drill) == ""
    assert message.sentence(drill, HERE) == "r rolled back on h for a drill: a drill by ann"


def test_a_cause_is_one_line() -> None:
    paused = TRIPPED | {"what": "paused"}
    text = message.sentence(paused | {"cause": " a\n\x1b[31mb\u202e"}, HERE)
    assert text.endswith(": a [31mb")
    assert message.sentence(paused | {"cause": None}, HERE).endswith(": no cause given")


def test_a_step_says_where_it_is() -> None:
    figures = {"step": 2, "steps": 5, "weight": 5.0, "baked": 0.0}
    step = {
        "what": "step",
        "cause": "no regression in 512 canary requests over 5 min",
        "figures": figures,
    }
    assert message.sentence(step, EDGE) == (
        "cart-2.4 on edge-1 (production) began its next step at 5% of users (step 2 of 5): "
        "no regression in 512 canary requests over 5 min"
    )


def test_a_gate_says_what_it_said() -> None:
    refused = {"what": "gate", "cause": "http://a/ responded 403", "figures": {"passed": False}}
    passed = {"what": "gate", "cause": "http://a/ responded 200", "figures": {"passed": True}}
    assert "A gate refused the next step of r on h" in message.sentence(refused, HERE)
    assert message.sentence(passed, HERE).startswith("The gates passed the next step of r")
    assert "canaryproxy abort" in message.advice(refused)
    assert not message.advice(passed)
    assert message.is_notable(refused)
    assert message.is_notable({"what": "gate"})
    assert not message.is_notable(passed)


_BY_ANN = {
    "aborting": ": its users go back to stable over a time",
    "weight": ": weight changed from by ann",
    "restored": " resumed, circuit reset by ann",
    "promoted": " was promoted by ann; every user is on it",
    "aborted": " was aborted by ann; every user is on stable",
    "drill": "Rollback drill of cart-2.4 on edge-1 (production) by ann",
}


@pytest.mark.parametrize(
    ("what", "cause", "words"),
    [
        ("weight", "5% to 10% by ann", "x on h: weight changed from 5% to 10% by ann"),
        ("restored", "by ann", "x on h resumed at 10% of users, circuit reset by ann"),
        (
            "restored",
            "no regression in 120 canary requests over 60 s",
            "x on h resumed at 10% of users, circuit closed: no regression in 120 canary requests "
            "over 60 s",
        ),
        ("promoted", "by ann", "x on h was promoted by ann; every user is on it"),
        (
            "promoted",
            "no regression in 120 canary requests over 60 s",
            "x on h was promoted; every user is on it: no regression in 120 canary requests over 60 s",
        ),
        (
            "aborted",
            "by ann: too slow",
            "x on h was aborted by ann; every user is on stable: too slow",
        ),
        (
            "drill",
            "by ann: no request reached the canary after the trip",
            "Rollback drill of x on h by ann: no request reached the canary after the trip",
        ),
        (
            "release",
            "cart-2.5 replaces cart-2.4",
            "Release changed on h: cart-2.5 replaces cart-2.4",
        ),
    ],
)
def test_a_sentence_names_who_did_it(what: str, cause: str, words: str) -> None:
    record = {"what": what, "cause": cause, "figures": {"weight": 10.0}}
    assert message.sentence(record, Origin("x", "h")) == words


@pytest.mark.parametrize("what", get_args(EventName))
def test_every_event_has_its_sentence(what: str) -> None:
    record = {"what": what, "cause": "by ann", "figures": {}}
    text = message.sentence(record, EDGE)
    assert text.endswith(_BY_ANN.get(what, ": by ann")), text
    assert text.count("by ann") == 1
    assert "edge-1 (production)" in text
    assert f", {what}:" not in text  # what an unknown one would say


def test_what_is_notable_is_an_event() -> None:
    assert set(get_args(EventName)) >= message.NOTABLE
    assert message._WARNINGS <= message.NOTABLE
    assert set(get_args(EventName)) >= set(message._ADVICE) >= message._WARNINGS


def test_commands_in_the_advice_exist() -> None:
    texts = " ".join((*message._ADVICE.values(), message._REFUSED_ADVICE))
    named = set(re.findall(r"canaryproxy (\w+)", texts))
    assert {"resume", "abort", "reset", "accept", "check", "trip"} == named
    assert named <= set(cli.COMMANDS)


@pytest.mark.parametrize("time", [None, "now", True, -1.0, 1e300, float("nan"), float("inf")])
def test_a_time_that_is_none_is_left_out(time: object) -> None:
    text = json.loads(message.chat(TRIPPED | {"time": time, "what": "started"}, HERE))["text"]
    assert text.endswith(": errors: canary 12 of 40, stable 3 of 760")


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "id": json_values,
            "time": json_values,
            "what": st.text(),
            "cause": json_values,
            "figures": json_values,
        },
    ),
    st.none() | st.from_regex(r"[A-Za-z0-9._:-]{1,64}", fullmatch=True),
)
def test_any_record_can_be_told(record: dict[str, Any], release: str | None) -> None:
    def refuse(_: str) -> None:
        raise AssertionError("not JSON (RFC 8259)")

    for form in (message.document, message.chat):
        json.loads(form(record, Origin(release, "host")), parse_constant=refuse)
    message.is_notable(record)


@given(st.text(st.sampled_from("<>&@!#|[]()* aä€\u200b…") | st.characters()), st.integers(1, 80))
def test_a_chat_shows_text_as_it_is(text: str, limit: int) -> None:
    escaped = message.escaped(text, limit)
    assert len(escaped) <= limit
    assert not re.search("[<>]", escaped)
    assert re.fullmatch(r"(?:[^&]|&(?:amp|lt|gt);)*", escaped, re.DOTALL)
    seen = html.unescape(escaped)
    for active in (r"@[^\s\u200b]", r"<[^\s\u200b]", r"\]\("):
        assert not re.search(active, seen.removesuffix("…"))
    plain = seen.replace("\u200b", "")
    meant = text.replace("\u200b", "")
    assert plain == meant or (plain.endswith("…") and meant.startswith(plain[:-1]))


@pytest.mark.parametrize(
    "cause",
    [
        "<!channel> look",
        "<@U012AB3CD>",
        "<https://evil.example|the dashboard>",
        "@everyone and @all",
        "[the dashboard](https://evil.example)",
    ],
)
def test_a_cause_calls_nobody(cause: str) -> None:
    text = json.loads(message.chat(TRIPPED | {"cause": cause}, HERE))["text"]
    seen = html.unescape(text)
    assert not re.search(r"[<>]", text)
    assert not re.search(r"@\w|<[!@]|\]\(", seen)
    assert cause in seen.replace("\u200b", "")


@given(st.text())
def test_any_text_becomes_one_printable_line(text: str) -> None:
    line = message.one_line(text)
    assert line.isprintable()
    assert line == line.strip()


def test_a_long_cause_is_cut() -> None:
    text = json.loads(message.chat(TRIPPED | {"cause": "&" * 5000}, HERE))["text"]
    assert len(text) <= message.MAX_TEXT
    assert "&amp;… Users are safe" in text


def test_a_breach_of_an_irreversible_release_pages_and_says_what_to_do() -> None:
    record = {"what": "breached", "cause": "error rate 9%", "figures": {"weight": 25.0}}
    assert message.severity(record) == "critical"
    assert message.is_notable(record)
    words = message.sentence(record, HERE)
    assert words.startswith(":rotating_light: r on h is worse than stable at 25% of users")
    assert "canaryproxy resume" in message.advice(record)
