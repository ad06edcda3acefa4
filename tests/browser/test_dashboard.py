"""The dashboard in a real browser, looking at a fake proxy."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from canaryproxy.admin import dashboard
from tests.browser.fake import TOKEN, FakeAdmin, Problem, Received
from tests.browser.page import SCHEMES, Page
from tests.browser.scenes import (
    SCENES,
    TRIP_CAUSE,
    healthy,
    held,
    idle,
    no_canary,
    suspect,
    tripped,
)

pytestmark = pytest.mark.slow

Serve = Callable[[Any], FakeAdmin]

STATIC = Path(dashboard.__file__).with_name("static")


@pytest.mark.parametrize("name", SCENES)
def test_loads_without_complaint_and_from_here_only(page: Page, serve: Serve, name: str) -> None:
    fake = serve(SCENES[name]())
    page.open(fake.url)
    assert page.text("release") == (fake.scene.document["release"] or "No release")
    assert page.text("live") == "live"
    loaded: list[str] = page.run(
        "return performance.getEntriesByType('resource').map((r) => r.name)"
    )
    assert loaded
    assert [url for url in loaded if not url.startswith(fake.url)] == []
    failed = page.run(
        "return performance.getEntriesByType('resource').filter((r) => r.responseStatus >= 400)"
    )
    assert failed == []
    document = fake.scene.document
    can = {*document["allowed"], "reload"}
    if document["level"] == "ok" and not document["holds"]:
        can.discard("accept")
    assert page.enabled() == can


def test_a_trip_cannot_be_missed(page: Page, serve: Serve) -> None:
    fake = serve(healthy())
    page.open(fake.url)
    assert not page.shown("banner")
    assert page.text("alert") == ""
    fake.trip()
    page.says("banner-title", "every user is on stable")
    assert page.shown("banner")
    page.says("banner-cause", TRIP_CAUSE)
    page.says("banner-next", "Reset sends the same users back to the canary")
    page.says("banner-next", "Abort ends the release")
    page.says("banner-next", "stays open until you reset it")
    assert page.of("alert").get_dom_attribute("role") == "alert"
    page.says("alert", f"Tripped: every user is on stable. {TRIP_CAUSE}")
    page.says("weight", "0%")
    page.says("state", "Tripped, step 3 of 5")
    assert page.driver.title.startswith("TRIPPED")
    assert "tripped" in str(page.of("favicon").get_dom_attribute("href"))
    page.says("history", TRIP_CAUSE)
    assert page.enabled() == {"reset", "abort", "reload"}
    page.until(lambda: page.all(".mark-tripped"), "the trip is marked in the plots")


def test_long_lived_connections_are_counted_down_while_they_leave(page: Page, serve: Serve) -> None:
    fake = serve(tripped())
    canary = fake.scene.document["variants"]["canary"]
    canary["long_lived"] = {"tunnels": 1200, "streams": 53, "leaving": 0, "until": None}
    page.open(fake.url)
    page.says("variants", "Tunnels and streams01,253")
    assert "whose users have moved" not in page.text("variants")

    def leaving(count: int, seconds: float) -> None:
        canary["long_lived"]["leaving"] = count
        canary["long_lived"]["until"] = fake.scene.document["time"] + seconds
        fake.update()

    leaving(1253, 90.0)
    page.says(
        "variants",
        "1,253 tunnels and streams on canary whose users have moved: the last one is closed",
    )
    page.says("variants", "within 1 min ")
    page.says("banner-next", "1,253 tunnels and streams on canary whose users have moved")
    leaving(1, -1.0)
    page.says("variants", "1 tunnel or stream on canary whose users have moved: overdue.")
    leaving(0, 0.0)
    page.until(lambda: "have moved" not in page.text("variants"), "the note goes")


def test_other_changes_are_said_quietly(page: Page, serve: Serve) -> None:
    fake = serve(healthy())
    page.open(fake.url)
    assert page.text("status") == ""
    metrics = fake.scene.document["metrics"]
    metrics[1]["level"] = "suspect"
    fake.update(step=4, weight=50.0, level="suspect", metrics=metrics)
    page.says("status", "Running, step 4 of 5, 50% of users on the canary, judge: suspect")
    assert page.of("status").get_dom_attribute("role") == "status"
    assert page.text("alert") == ""


def test_cool_down_and_probe_are_told(page: Page, serve: Serve) -> None:
    fake = serve(tripped())
    page.open(fake.url)
    fake.update(circuit=fake.scene.document["circuit"] | {"cooldown_left": 90.0})
    page.says("banner-next", "a probe with a few users begins in 1 min 30 s")
    fake.update(circuit=fake.scene.document["circuit"] | {"state": "half_open"}, state="probing")
    page.says("circuit", "half open")
    page.until(lambda: not page.shown("banner"), "the banner goes")


def test_abort_with_the_keyboard_only(page: Page, serve: Serve) -> None:
    fake = serve(healthy())
    page.open(fake.url)
    page.tab_to("do-abort")
    page.press(Keys.ENTER)
    page.dialog()
    page.says("confirm-says", "25% of users move from the canary to stable")
    page.says("confirm-says", "Then every user is on stable.")
    page.says("confirm-says", "That is about 1,234 users, by those seen in the last minutes.")
    assert fake.received == []
    page.until(lambda: page.run("return document.activeElement.type") == "password", "focus")
    page.press(TOKEN)
    page.chord(Keys.SHIFT, Keys.TAB)
    page.press("ann", Keys.ENTER)
    page.says("outcome", "Done: the release is aborted")
    assert fake.received == [
        Received("POST", "/v1/release/abort", None, {"by": "ann"}),
    ]
    page.says("state", "Aborted")
    assert page.focused() == "outcome", "the button is no more; the focus is not lost"
    assert TOKEN not in page.run("return document.documentElement.outerHTML")


def test_escape_changes_nothing_and_gives_the_focus_back(page: Page, serve: Serve) -> None:
    fake = serve(healthy())
    page.open(fake.url)
    page.tab_to("do-promote")
    page.press(Keys.SPACE)
    page.dialog()
    page.says("confirm-says", "75% of users move from stable to the canary")
    page.press(Keys.ESCAPE)
    page.until(lambda: not page.shown("confirm"), "the dialog is closed")
    assert page.focused() == "do-promote"
    assert fake.received == []


def test_what_the_operator_saw_is_what_is_sent(page: Page, serve: Serve) -> None:
    """Somebody else is quicker: nothing is done, and the dialog tells what it would mean now."""
    fake = serve(healthy())
    page.open(fake.url)
    page.press("m")
    page.dialog()
    old = fake.etag
    fake.update(weight=50.0, step=4)
    page.press(TOKEN, Keys.ENTER)
    page.says(
        "confirm-problem", "Nothing changed: someone else, or a completed step, made a change"
    )
    page.says("confirm-says", "50% of users move from stable to the canary")
    assert fake.scene.document["state"] == "running"
    page.dialog()
    page.of("confirm-do").click()
    page.says("outcome", "Done")
    assert [one.if_match for one in fake.received] == [old, fake.etag]


def test_an_act_towards_stable_is_done_although_a_step_has_passed(page: Page, serve: Serve) -> None:
    fake = serve(healthy())
    page.open(fake.url)
    page.press("a")
    page.dialog()
    assert "do-careful" not in (page.of("confirm-do").get_attribute("class") or "")
    fake.update(weight=50.0, step=4)
    page.press(TOKEN, Keys.ENTER)
    page.says("outcome", "Done: the release is aborted")
    assert [one.if_match for one in fake.received] == [None]


def test_what_is_not_possible_any_more_cannot_be_sent(page: Page, serve: Serve) -> None:
    fake = serve(healthy())
    page.open(fake.url)
    page.press("m")
    page.dialog()
    fake.trip()
    page.press(TOKEN, Keys.ENTER)
    page.says("confirm-problem", "Promote is not possible now: the release is tripped.")
    page.dialog()
    assert not page.of("confirm-do").is_enabled()


def test_token_is_asked_once_and_a_wrong_one_explained(page: Page, serve: Serve) -> None:
    fake = serve(healthy())
    page.open(fake.url)
    page.press("p")
    page.dialog()
    page.press("wrong", Keys.ENTER)
    page.says("confirm-problem", "Wrong admin token. Nothing changed.")
    page.dialog()
    page.until(lambda: page.run("return document.activeElement.type") == "password", "focus")
    page.press(TOKEN, Keys.ENTER)
    page.says("outcome", "paused")
    page.until(lambda: page.of("do-abort").is_enabled(), "abort is allowed")
    page.press("a")
    page.dialog()
    assert page.all("#confirm input[type=password]") == []
    page.driver.refresh()
    page.until(lambda: page.text("live") == "live", "live again")
    page.press("a")
    page.dialog()
    assert page.all("#confirm input[type=password]") == [], "kept until the tab is closed"


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (Problem(403, "Forbidden", "cross-site"), "Nothing changed: cross-site"),
        (Problem(409, "Conflict", "the circuit is open"), "the circuit is open"),
        (Problem(421, "Misdirected", "not this host"), "admin.hosts"),
        (Problem(422, "Invalid", "weight: too much"), "weight: too much"),
        (Problem(503, "Busy", "128 connections"), "responded 503. 128 connections"),
        (Problem(507, "Full", "done, but not saved"), "cannot write its state file. done, but"),
    ],
)
def test_problems_are_shown_in_words(
    page: Page, serve: Serve, problem: Problem, words: str
) -> None:
    fake = serve(healthy())
    fake.problems.extend([problem, problem])  # a browser tries 421 again
    page.open(fake.url)
    page.press("a")
    page.dialog()
    page.press(TOKEN, Keys.ENTER)
    page.says("confirm-problem", words)
    assert page.of("confirm-problem").get_dom_attribute("role") == "alert"
    assert page.shown("confirm")


def test_no_answer_to_a_change_is_not_taken_for_a_no(page: Page, serve: Serve) -> None:
    fake = serve(healthy())
    page.open(fake.url)
    page.press("a")
    page.dialog()
    fake.hang_up = True
    page.press(TOKEN, Keys.ENTER)
    page.says("confirm-problem", "The change may or may not have been made")


def test_weight_is_checked_while_it_is_typed(page: Page, serve: Serve) -> None:
    fake = serve(healthy())
    page.open(fake.url)
    page.press("w")
    page.dialog()
    for typed in ("101", "-1", "5.001", "", "e"):
        page.chord(Keys.CONTROL, "a")
        page.press(Keys.DELETE, typed)
        page.says("confirm-says", "Type a weight from 0 to 100 percent")
        assert not page.of("confirm-do").is_enabled(), typed
    page.chord(Keys.CONTROL, "a")
    page.press(Keys.DELETE, "30.25")
    page.says("confirm-says", "5.25% of users move from stable to the canary")
    page.says("confirm-says", "25% → 30.25%")
    page.run("document.querySelector('#confirm input[type=password]').focus()")
    page.press(TOKEN, Keys.ENTER)
    page.says("weight", "30.25%")
    (sent,) = fake.received
    assert (sent.method, sent.path, sent.body) == ("PUT", "/v1/weight", {"weight": 30.25})


def test_a_wanted_difference_is_accepted_where_it_holds_with_a_reason(
    page: Page, serve: Serve
) -> None:
    scene = held()
    fake = serve(scene)
    page.open(fake.url)
    offered = [b for b in page.all("#evidence .accept") if b.is_displayed()]
    assert [b.get_dom_attribute("aria-label") for b in offered] == [
        "Accept errors on GET /checkout…"
    ]
    page.says("evidence", "accepted by ann: the login is required now")
    offered[0].click()
    page.dialog()
    page.says("confirm-says", "errors GET /checkout neither holds the release nor opens")
    page.says("confirm-says", "Accepted before: client_errors, errors GET /old.")
    assert not page.of("confirm-do").is_enabled(), "there is no reason yet"
    page.press("the old carts are gone")
    page.all("#confirm-fields input[type=password]")[0].send_keys(TOKEN)
    assert fake.received == []
    page.press(Keys.ENTER)
    page.says("outcome", "Done: errors GET /checkout is accepted")
    (sent,) = fake.received
    assert (sent.method, sent.path) == ("POST", "/v1/release/accept")
    assert sent.body == {"metric": "errors GET /checkout", "reason": "the old carts are gone"}
    page.says("progress", "errors GET /checkout by operator: the old carts are gone")
    page.until(lambda: page.of("do-accept").is_enabled(), "an outcome that is blind can be, too")
    fake.update(holds=[], metrics=[], level="ok")
    page.until(lambda: not page.of("do-accept").is_enabled(), "there is nothing to accept")


def test_drill_trip_and_reload_say_what_came_of_them(page: Page, serve: Serve) -> None:
    fake = serve(healthy())
    page.open(fake.url)
    page.press("l")
    page.dialog()
    page.press(TOKEN, Keys.ENTER)
    page.says("outcome", "changed limits.idle_timeout; restart needed for listen")
    assert fake.received[0].if_match == '"c1"', "that of the configuration"
    page.press("d")
    page.dialog()
    page.says("confirm-says", "come back once 40 tunnels and streams have left.")
    page.of("confirm-do").click()
    page.says("outcome", "13 ms after the trip (2 requests in total)")
    page.says("outcome", "the last of 40 tunnels and streams left it after 31.2 s.")
    page.press("t")
    page.dialog()
    page.of("confirm-do").click()
    page.says("banner-title", "every user is on stable")
    page.until(lambda: not page.shown("confirm"), "the dialog is closed")
    page.press("x")
    page.dialog()
    page.says("confirm-says", "25% of users move from stable to the canary")
    page.says("confirm-says", "It tripped because: by operator")


def test_lost_connection_is_never_shown_as_live(page: Page, serve: Serve) -> None:
    fake = serve(healthy())
    page.open(fake.url)
    assert not page.shown("lost")
    fake.cut()
    page.says("lost", "Connection lost. These figures are")
    assert page.shown("lost")
    page.until(lambda: page.age() >= 2, "the age is shown and grows")
    assert page.driver.title.startswith("(old)")
    assert "stale" in str(page.of("main").find_element("xpath", "..").get_dom_attribute("class"))
    fake.record("paused", "by bob", weight=25.0)
    fake.down = False
    page.until(lambda: page.text("live") == "live", "live again")
    assert not page.shown("lost")
    page.says("history", "by bob")
    assert not page.driver.title.startswith("(old)")


def test_silence_on_an_open_connection_is_not_live_either(page: Page, serve: Serve) -> None:
    fake = serve(healthy())
    page.open(fake.url)
    fake.silent = True
    page.says("lost", "Connection lost. These figures are")
    fake.silent = False
    page.until(lambda: page.text("live") == "live", "live again")


def test_another_history_replaces_the_one_before(page: Page, serve: Serve) -> None:
    """A proxy that began anew numbers its records from 1 again."""
    fake = serve(healthy())
    page.open(fake.url)
    page.says("history", "cart-2.4 replaces cart-2.3")
    fresh = idle()
    fresh.record(fresh.document["time"], "release", "cart-3.0 starts")
    fake.show(fresh)
    page.says("history", "cart-3.0 starts")
    page.until(lambda: "cart-2.4" not in page.text("history"), "the old one is gone")


HOSTILE = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'


def test_hostile_text_is_only_text(page: Page, serve: Serve) -> None:
    fake = serve(tripped())
    document = fake.scene.document
    document.update(release=HOSTILE, hold=HOSTILE, unsaved=HOSTILE, quiet=HOSTILE, version=HOSTILE)
    document["circuit"]["cause"] = HOSTILE
    document["config"].update(error=HOSTILE, restart_needed=[HOSTILE], file=HOSTILE)
    document["gate"] = {"state": "refused", "cause": HOSTILE}
    for metric in document["metrics"]:
        metric.update(metric=HOSTILE + metric["metric"], reason=HOSTILE, level="suspect")
    for side in ("stable", "canary"):
        document["variants"][side]["endpoints"][0]["url"] = HOSTILE
    fake.scene.record(document["time"], HOSTILE, HOSTILE, **{HOSTILE: HOSTILE})
    page.open(fake.url)
    for place in (
        "release", "banner-cause", "problem-list", "history", "variants", "evidence", "endpoint-table",
    ):  # fmt: skip
        page.says(place, HOSTILE)
    page.press("x")
    page.dialog()
    page.says("confirm-says", HOSTILE)
    fake.problems.append(Problem(409, HOSTILE, HOSTILE))
    page.press(TOKEN, Keys.ENTER)
    page.says("confirm-problem", HOSTILE)
    page.wait_a_frame()
    assert page.all("img, body script") == []
    assert page.run("return window.hacked") is None


@pytest.mark.parametrize("name", SCENES)
def test_nothing_that_axe_complains_about(
    page: Page, serve: Serve, screenshots: Path | None, name: str
) -> None:
    """``CANARYPROXY_SCREENSHOTS`` names a folder for what it looks like."""
    fake = serve(SCENES[name]())
    page.open(fake.url)
    for scheme in SCHEMES:
        page.look(scheme, 1280, 900)
        assert page.violations(scheme) == []
        if screenshots is None:
            continue
        for width, height in ((1280, 900), (390, 844)):
            page.look(scheme, width, height)
            page.wait_a_frame()
            file = screenshots / f"{name}-{scheme}-{width}.png"
            file.write_bytes(page.driver.get_screenshot_as_png())


def test_nothing_that_axe_complains_about_in_dialogs_and_when_lost(
    page: Page, serve: Serve
) -> None:
    def violations() -> list[str]:
        found = []
        for scheme in SCHEMES:
            page.look(scheme, 390, 844)
            found += page.violations(scheme)
        return found

    page.look("dark", 390, 844)
    fake = serve(healthy())
    page.open(fake.url)
    page.run("document.getElementById('table-details').open = true")
    page.press("?")
    assert page.shown("help")
    assert violations() == []
    page.press(Keys.ESCAPE)
    page.until(lambda: not page.shown("help"), "the help is closed")
    page.press("w")
    page.dialog()
    assert violations() == []
    page.press(Keys.ESCAPE)
    fake.cut()
    page.says("lost", "Connection lost")
    assert violations() == []


def test_the_light_scheme_changes_colours_only() -> None:
    """So what axe-core finds beside colours in one scheme is the same in the other."""
    sheets = {path.name: path.read_text() for path in STATIC.glob("*.css")}
    media = r"@media \(prefers-color-scheme: light\) \{(.*?)\n\}"
    (light,) = re.findall(media, sheets["theme.css"], re.DOTALL)
    (changed,) = re.findall(r"\s*:root \{(.*)\}\s*", light, re.DOTALL)
    names = re.findall(
        r"^ +([\w-]+): (?:#[0-9a-f]{6}|rgb\([\d ./]+\)|light);$", changed, re.MULTILINE
    )
    assert len(names) == len(changed.strip().splitlines())
    pages = [
        path.read_text() for path in STATIC.iterdir() if path.suffix in {".css", ".html", ".js"}
    ]
    assert "".join(pages).count("prefers-color-scheme") == 1


@pytest.mark.parametrize("width", [320, 390, 768, 1280, 1920])
@pytest.mark.parametrize("name", ["suspect", "tripped"])
def test_nothing_is_wider_than_the_window(page: Page, serve: Serve, name: str, width: int) -> None:
    page.look("dark", width, 844)
    fake = serve(SCENES[name]())
    page.open(fake.url)
    too_wide = page.run(
        "return [...document.querySelectorAll('body *')]"
        ".filter((e) => e.getBoundingClientRect().right > innerWidth + 1"
        "   && !e.closest('.scroll, .unseen, .skip, thead'))"
        ".map((e) => e.outerHTML.slice(0, 80))"
    )
    assert too_wide == []
    assert page.run("return document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("width", [390, 1280])
def test_long_plans_and_names_have_room(page: Page, serve: Serve, width: int) -> None:
    page.look("dark", width, 844)
    scene = healthy()
    step = scene.document["steps"][0]
    scene.document["steps"] = [step | {"weight": 5.25 * n} for n in range(1, 20)]
    scene.document["release"] = "a-name-without-end-" * 12
    fake = serve(scene)
    page.open(fake.url)
    cut = page.run(
        "return [...document.querySelectorAll('.step-weight, h1')]"
        ".filter((e) => e.scrollWidth > e.parentElement.clientWidth + 1).length"
    )
    assert cut == 0
    assert page.run("return document.documentElement.scrollWidth <= innerWidth")


def test_cursor_by_keyboard_tells_values(page: Page, serve: Serve) -> None:
    fake = serve(healthy())
    page.open(fake.url)
    cursor = page.of("cursor")
    assert cursor.get_dom_attribute("aria-valuetext") == "newest"
    page.press("c")
    assert page.focused() == "cursor"
    page.press(Keys.HOME)
    words = str(page.of("cursor").get_dom_attribute("aria-valuetext")).replace("\u00a0", " ")
    assert "weight 5.0%" in words
    assert "Error rate, stable" in words
    assert "P95 to first byte, canary" in words
    assert page.text("cursor-time") != ""
    page.press("1", Keys.END)
    page.until(lambda: page.text("cursor-time") == "", "the newest again")


def test_ranges_quantiles_and_table(page: Page, serve: Serve) -> None:
    fake = serve(healthy())
    page.open(fake.url)
    assert len(page.all(".plot .mark-step")) == 3, "one step in five minutes, in three plots"
    page.press("2")
    page.until(lambda: len(page.all(".plot .mark-step")) == 6, "two in half an hour")
    assert [b.text for b in page.all("#ranges [aria-pressed=true]")] == ["30 min"]
    for figure in page.all("svg[role=img]"):
        label = str(figure.get_dom_attribute("aria-label"))
        assert "over 30" in label
        assert "now " in label
    page.all("#quantiles button")[2].click()
    page.says("figures", "P99 to first byte")
    page.all("#table-details summary")[0].click()
    page.until(lambda: len(page.all("#figures-table tbody tr")) > 10, "rows")
    assert "P99 to first byte, canary" in page.text("figures-table")


def test_mouse_over_a_plot_moves_the_cursor_of_all(page: Page, serve: Serve) -> None:
    fake = serve(healthy())
    page.open(fake.url)

    def hairs() -> list[tuple[str | None, str | None]]:
        """Move the mouse, as the page may have been drawn anew under it, and read all hairs."""
        plot = page.all(".plot")[1]
        mouse = ActionChains(page.driver).move_to_element(plot)
        mouse.move_by_offset(1, 0).perform()
        return [
            (hair.get_dom_attribute("visibility"), hair.get_dom_attribute("x1"))
            for hair in page.all(".hair")
        ]

    def together() -> bool:
        shown = set(hairs())
        return len(shown) == 1 and shown.pop()[0] == "visible" and page.text("cursor-time") != ""

    page.until(together, "one cursor in all plots, and its time")


def test_history_is_filtered(page: Page, serve: Serve) -> None:
    fake = serve(tripped())
    page.open(fake.url)
    rows = "#history tbody tr"
    everything = len(page.all(rows))
    told = [one["what"] for one in fake.scene.records if one["what"] not in ("stopped", "restored")]
    assert everything == len(told) < len(fake.scene.records), "a trip is one line"
    assert page.all(f"{rows}:first-child .what")[0].text == "tripped", "the newest first"
    moment = page.all(f"{rows}:first-child time")[0]
    assert str(moment.get_dom_attribute("title")).endswith(" UTC")
    page.run(
        "const s = document.getElementById('history-kind'); s.value = 'drills and configuration';"
        "s.dispatchEvent(new Event('input'))"
    )
    assert [cell.text for cell in page.all(f"{rows} .what")] == ["reload", "drill"]
    page.press("/")
    page.press("13 ms")
    page.until(lambda: len(page.all(rows)) == 1, "one is left")
    assert page.text("history-count").startswith(f"1 of {everything}")


def test_long_history_is_shown_in_parts(page: Page, serve: Serve) -> None:
    scene = healthy()
    for number in range(120):
        scene.record(scene.document["time"], "weight", f"change {number}", weight=5.0)
    fake = serve(scene)
    page.open(fake.url)
    page.until(lambda: len(page.all("#history tbody tr")) == 50, "a first part")
    page.of("history-more").click()
    page.until(lambda: len(page.all("#history tbody tr")) == 100, "a second")


def test_evidence_in_words(page: Page, serve: Serve) -> None:
    scene = healthy()
    scene.document["metrics"][0]["log_evidence"] = None
    scene.document["metrics"][0]["level"] = "breach"
    scene.document["metrics"][4]["worse"] = True
    fake = serve(scene)
    page.open(fake.url)
    page.says("evidence", "canary P95 48 ms (44 to 53), stable 46 ms (45 to 47)")
    page.says("evidence", "at most 4.2× stable's rate")
    page.says("evidence", "at least 0.55× stable's rate")
    page.says("evidence", "safety proven")
    page.says("evidence", "pauses only")
    page.says("evidence-window", "this step, 3 min 12 s")
    page.says("evidence-verdict", "The judge reports a regression in errors.")
    levels = [level.text for level in page.all("#evidence .level")]
    assert levels == [
        "regression",
        "looks worse",
        "safety proven",
        "safety proven",
        "no regression seen",
    ]
    page.says("evidence", "looks worse")
    meters = page.all("#evidence [role=meter]")
    assert [meter.get_dom_attribute("aria-valuetext") for meter in meters][2] == (
        "2.5:1; holds at 100:1, trips at 5,000:1"
    )
    fills = page.all("#evidence .bar-fill")
    assert fills[0].size["width"] > fills[2].size["width"] * 5, "more than a number holds is full"


def test_what_is_known_by_user_what_holds_and_what_is_accepted(page: Page, serve: Serve) -> None:
    fake = serve(held())
    page.open(fake.url)
    page.says("level", "holds the step")
    assert "errors on GET /checkout" in page.all("#evidence article")[0].text
    page.says(
        "evidence", "canary 1 of 7 users, 4 of 41 requests = 9.76% · stable 9 of 4,410 = 0.20%"
    )
    page.says("evidence", "looks worse")
    page.says("evidence", "accepted")
    page.says(
        "evidence-notes", "0 of 20 virtual canaries would have tripped; evidence at most 12:1."
    )
    page.says("evidence-notes", "31 routes compared one by one")
    page.says("progress", "7 of 10")
    page.says("progress", "Held: looks worse: error rate on GET /checkout")
    page.says("progress", "Held: outcome empty_search is blind")
    page.says("progress", "Accepted, neither holds nor trips: client_errors by ann: the login is")
    page.says("progress", "Accepted, neither holds nor trips: errors GET /old")
    shown = [meter for meter in page.all("#evidence [role=meter]") if meter.is_displayed()]
    assert len(shown) == 5, "metrics with nothing to tell take one line"
    fake.update(holds=[], hold="7 of 10 users")
    page.says("progress", "Waiting before the next step: 7 of 10 users")


def test_endpoints_and_routes_are_tables(page: Page, serve: Serve) -> None:
    scene = suspect()
    page.open(serve(scene).url)
    bad = scene.document["variants"]["canary"]["endpoints"][1]["url"]
    page.says("endpoint-table", "Endpoints, last 1 min 4 s")
    page.says("route-table", "50.0% of the requests are counted")
    heads = page.run(
        "return [...document.querySelectorAll('#route-table th[scope=col]')].map((each) => each.textContent)"
    )
    assert heads == [
        *("Route", "Judge", "stable requests", "stable failed", "stable P95"),
        *("canary requests", "canary failed", "canary P95"),
    ]

    def row(table: str, name: str) -> list[str]:
        rows: list[list[str]] = page.run(
            f"return [...document.querySelectorAll('#{table} tbody tr')]"
            ".map((row) => [...row.cells].map((cell) => cell.textContent))"
        )
        (found,) = [cells for cells in rows if name in cells]
        return found

    assert row("endpoint-table", bad)[2:9] == [
        "down in 1 of 4 workers", "1,234", "34 (2.76%)", "1,200", "0", "0", "30",
    ]  # fmt: skip
    assert row("endpoint-table", bad)[9:11] == ["4", "48\u00a0ms"]
    assert row("route-table", "POST /checkout")[1:] == [
        "suspect", "940", "3 (0.32%)", "40\u00a0ms", "940", "3 (0.32%)", "–",
    ]  # fmt: skip


def test_problems_are_listed(page: Page, serve: Serve) -> None:
    fake = serve(healthy())
    page.open(fake.url)
    assert not page.shown("problems")
    document = fake.scene.document
    document["variants"]["canary"]["endpoints"][0]["usable"] = False
    fake.update(
        unsaved="no space left",
        at_fault=["1 of 2 canary endpoints fails: http://bad (48 of 50 requests failed)"],
        quiet="the canary has no traffic",
        config=document["config"] | {"error": "line 3: no", "restart_needed": ["listen"]},
    )
    for words in (
        "a restart would lose recent changes: no space left",
        "is invalid, and the previous configuration stays in force: line 3: no",
        "needs a restart: listen",
        "1 of 2 endpoints of canary is down",
        "1 of 2 canary endpoints fails: http://bad (48 of 50 requests failed)",
        "Nothing to compare: the canary has no traffic",
    ):
        page.says("problem-list", words)
    page.says("variants", "down")


def test_a_replica_says_how_its_fleet_is(page: Page, serve: Serve) -> None:
    fake = serve(healthy())
    page.open(fake.url)
    assert not page.shown("fleet-fact")
    fleet = {"connected": True, "leads": True, "replicas": 5, "error": None, "conflict": None}
    fake.update(fleet=fleet)
    page.says("fleet", "5 replicas, this one leads")
    assert not page.shown("problems")
    fake.update(fleet=fleet | {"leads": False, "conflict": "its users are on stable"})
    page.says("problem-list", "differs from the fleet's: its users are on stable")
    fake.update(fleet=fleet | {"connected": False, "leads": False, "error": "Redis is gone"})
    page.says("fleet", "Redis unreachable")
    page.says("problem-list", "no step begins: Redis is gone")


def test_steps_say_what_they_wait_for(page: Page, serve: Serve) -> None:
    scene = healthy()
    fake = serve(scene)
    page.open(fake.url)
    assert [step.get_dom_attribute("aria-current") for step in page.all("#steps li")] == [
        None, None, "step", None, None,
    ]  # fmt: skip
    page.says("progress", "3 min 12 s of 10 min")
    page.says("progress", "9,600 (1,000 needed)")
    page.says("progress", "Waiting before the next step: bake time 3 min 12 s of 10 min")
    *begin, last = scene.document["steps"]
    held = last | {"weight": 99.0, "bake": 86400.0, "hold_back": True}
    fake.update(steps=[*begin, held, last])
    page.says("steps", "hold-back, 1 d")
    fake.update(steps=[*begin, last])
    fake.update(gate={"state": "refused", "cause": "http://gate/: not on Fridays"})
    page.says("progress", "A gate refused the next step: http://gate/: not on Fridays")
    fake.update(ready=True, gate=None)
    page.says("progress", "Resume continues to 50%")
    fake.update(state="paused", ready=False, hold="paused by ann", weight=7.5)
    page.says("progress", "Paused by ann")


def test_dialogs_tell_who_moves(page: Page, serve: Serve) -> None:
    scene = healthy()
    fake = serve(scene)
    page.open(fake.url)

    def says(name: str, *words: str) -> None:
        page.until(lambda: page.of(f"do-{name}").is_enabled(), f"{name} is allowed")
        page.of(f"do-{name}").click()
        page.dialog()
        for each in words:
            page.says("confirm-says", each)
        page.press(Keys.ESCAPE)
        page.until(lambda: not page.shown("confirm"), "the dialog is closed")

    says("pause", "No users move: 25% stay on the canary.")
    says("promote", "Skips 2 remaining steps", "The judge sees no regression", "not proven yet")
    fake.update(ready=True, allowed=["resume", "promote"])
    says(
        "resume",
        "25% of users move from stable to the canary",
        "25% → 50%",
        "Step 4 of 5 begins",
    )
    fake.update(step=5, weight=100.0)
    says("resume", "No users move.", "This was the last step: the release is promoted.")
    metrics = scene.document["metrics"]
    metrics[1]["level"] = "suspect"
    fake.update(state="paused", step=3, weight=7.5, ready=False, level="suspect", metrics=metrics)
    says("resume", "17.5% of users move from stable to the canary", "Step 3 of 5 continues.")
    says("promote", "Caution: the judge reports latency as suspect.")
    fake.update(state="promoted", step=5, weight=100.0, allowed=["abort", "trip"])
    previous = "Stable must still run the version before this release."
    says("trip", "100% of users move from the canary to stable", previous)
    says("abort", "The promotion is taken back", previous)
    fake.update(state="aborted", weight=0.0, allowed=["start"])
    says("start", "1% of users move from stable to the canary (0% to 1%)")


def test_reset_gives_back_the_weight_of_before_the_first_trip(page: Page, serve: Serve) -> None:
    """A probe trips again: what comes back is not the weight of the probe, nor that of the step."""
    scene = healthy()
    scene.document["weight"] = 7.5
    fake = serve(scene)
    page.open(fake.url)
    fake.trip()
    fake.record("probing", "the cool-down has passed", trips=1)
    fake.update(weight=1.0)
    fake.trip()
    page.says("weight", "0%")
    page.press("x")
    page.dialog()
    page.says("confirm-says", "0% → 7.5%")


def test_a_proxy_without_a_canary_says_so(page: Page, serve: Serve) -> None:
    fake = serve(no_canary())
    page.open(fake.url)
    page.says("variants", "No canary is configured")
    page.says("progress", "there is nothing to roll out")
    page.says("level", "nothing to compare")


def test_header_and_title_say_which_proxy_this_is_and_times_have_their_zone(
    page: Page, serve: Serve
) -> None:
    page.driver.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": "Asia/Kolkata"})
    try:
        page.open(serve(tripped()).url)
        assert page.text("environment") == "production"
        assert page.text("host") == " on edge-3"
        assert page.driver.title.endswith("cart-2.4 – production · edge-3")
        page.says("banner-title", " GMT+5:30")
        page.says("banner-next", " GMT+5:30.")
        assert [e.text for e in page.all(".zone")] == [" (GMT+5:30)".strip()] * 2
    finally:
        page.driver.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": ""})


def test_a_link_shows_the_same_to_whoever_opens_it(page: Page, serve: Serve) -> None:
    scene = healthy()
    for number in range(60):
        scene.record(scene.document["time"], "weight", f"change {number}", weight=25.0)
    fake = serve(scene)
    page.open(f"{fake.url}#event=4&metric=client_errors&quantile=p99")
    row = page.until(lambda: page.all("#history tr.named"), "the event is marked")[0]
    assert "suspect" in row.text, "although it is not among the newest fifty"
    assert "client errors" in page.all("#evidence article.named")[0].text
    page.says("figures", "P99 to first byte")
    at = scene.records[3]["time"]
    label = "return document.querySelector('.plot').getAttribute('aria-label')"
    assert "over 5 min." in page.run(label).replace("\u00a0", " ")
    assert page.shown("plots-now"), "the range is that around the event"
    page.of("plots-link").click()
    page.until(lambda: "from=" in page.driver.current_url, "the address has the range")
    link = page.driver.current_url
    page.of("plots-now").click()
    page.until(lambda: "from=" not in page.driver.current_url, "back to now")
    assert "event=" not in page.driver.current_url
    page.driver.get("data:,")
    page.open(link)
    times = page.run(
        "return [...new URLSearchParams(location.hash.slice(1))]"
        ".filter(([n]) => n === 'from' || n === 'to').map(([, v]) => Date.parse(v) / 1000)"
    )
    assert abs(times[0] - (at - 150)) <= 1
    assert abs(times[1] - (at + 150)) <= 1
    assert page.shown("plots-now")
    page.press("2")
    page.until(lambda: "range=30m" in page.driver.current_url, "the range is in the address")
    for wrong in ("#event=x&from=never&to=&range=1&quantile=p7&metric=%00", "#from=2&to=1"):
        page.driver.get("data:,")
        page.open(fake.url + wrong)
        assert not page.shown("plots-now")


def test_single_keys_can_be_switched_off(page: Page, serve: Serve) -> None:
    fake = serve(healthy())
    page.open(fake.url)
    page.press("?")
    page.all("#help input[type=checkbox]")[0].click()
    page.press(Keys.ESCAPE)
    page.until(lambda: not page.shown("help"), "the help is closed")
    page.press("a")
    page.wait_a_frame()
    assert not page.shown("confirm")
    page.of("do-abort").click()
    page.dialog()


def test_the_key_right_after_a_dialog_is_heard(page: Page, serve: Serve) -> None:
    """Until the browser draws, a field of the closed dialog has the focus; nobody types there."""
    page.open(serve(healthy()).url)
    page.press("?")
    page.until(lambda: page.run("return document.activeElement.tagName") == "INPUT", "a field")
    page.run(
        "document.querySelector('dialog[open]').close();"
        "document.activeElement.dispatchEvent("
        "  new KeyboardEvent('keydown', { key: 'a', bubbles: true, cancelable: true }))"
    )
    page.dialog()
    assert page.text("confirm-do") == "Abort the release"


def test_a_wait_in_vain_says_what_the_page_shows(
    page: Page, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    page.open(serve(healthy()).url)
    page.press("?")
    monkeypatch.setattr("tests.browser.page.DEADLINE", 0.0)
    with pytest.raises(AssertionError) as raised:
        page.dialog()
    for words in (
        "the dialog can be answered",
        "state Running, step 3 of 5",
        "help is open",
        "<input",
    ):
        assert words in str(raised.value)


def test_a_panel_that_fails_does_not_take_the_others_along(page: Page, serve: Serve) -> None:
    scene = healthy()
    scene.document["metrics"] = [{"metric": "errors"}]
    fake = serve(scene)
    page.open(fake.url)
    page.says("problem-list", 'This page cannot show "evidence"')
    page.says("variants", "stable")
    page.expected = '"evidence"'


def test_on_paper_nothing_asks_to_be_pressed(
    page: Page, serve: Serve, screenshots: Path | None
) -> None:
    page.open(serve(held()).url)
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert [b for b in page.all("button, input, select") if b.is_displayed()] == []
        for kept in ("release", "evidence", "history", "variants", "progress"):
            assert page.shown(kept)
        assert page.run("return getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
        if screenshots is not None:
            (screenshots / "print.png").write_bytes(page.driver.get_screenshot_as_png())
    finally:
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_nothing_moves_for_who_does_not_want_it(page: Page, serve: Serve) -> None:
    page.look("dark", 1280, 900, motion="reduce")
    fake = serve(healthy())
    page.open(fake.url)
    moving = page.run(
        "return [...document.querySelectorAll('*')].filter((e) =>"
        " getComputedStyle(e).transitionDuration !== '0s'"
        " || getComputedStyle(e).animationName !== 'none').length"
    )
    assert moving == 0
