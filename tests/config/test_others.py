"""``variants.others``: versions beside the canary, each a service of its own."""

from __future__ import annotations

import pytest

from canaryproxy import config
from canaryproxy.config import Config, ConfigError

VERSIONS = """
    stable: {endpoints: ["http://127.0.0.1:9001"]}
    canary: {endpoints: ["http://127.0.0.1:9002"]}
    others:
      v3: {endpoints: ["http://127.0.0.1:9003"], share: 20, release: {id: v3-1, steps: [{weight: 5}]}}
      holdout: {endpoints: ["http://127.0.0.1:9004"], share: 5, weight: 50}
"""
ONE = f"""
variants:{VERSIONS}
judge: {{alpha: 0.003}}
release: {{id: r1, steps: [{{weight: 1}}]}}
mirror: {{percent: 5}}
split: {{match: [{{header: {{name: X-Try, equals: "3"}}, variant: v3}}]}}
fleet: {{redis: "redis://127.0.0.1:6379/0", group: shop}}
"""


def parse(text: str) -> Config:
    return config.parse(text, file="f.yaml")


def problem(text: str) -> str:
    with pytest.raises(ConfigError) as raised:
        parse(text)
    (found,) = raised.value.problems
    return str(found)


def test_each_version_is_the_canary_of_a_service_of_its_own() -> None:
    found = parse(ONE).by_service()
    assert list(found) == ["default", "default.v3", "default.holdout"]
    first, v3, holdout = found.values()
    assert [one.release_id for one in found.values()] == ["r1", "v3-1", None]
    assert [one.variants.stable for one in (v3, holdout)] == [first.variants.stable] * 2
    assert v3.variants.canary is not None
    assert v3.variants.canary.endpoints[0].port == 9003
    assert (holdout.split.weight, v3.split.weight) == (50.0, 0.0)
    assert [one.state for one in found.values()] == [
        "./run/state.json",
        "run/services/default.v3.json",
        "run/services/default.holdout.json",
    ]
    assert [one.fleet.group for one in found.values() if one.fleet] == [
        "shop",
        "shop/default.v3",
        "shop/default.holdout",
    ]


def test_the_versions_share_the_chance_of_a_false_alarm() -> None:
    assert [one.judge.alpha for one in parse(ONE).by_service().values()] == pytest.approx(
        [0.001] * 3
    )


def test_only_the_service_forces_users_sets_cookies_and_copies_requests() -> None:
    first, *others = parse(ONE).by_service().values()
    assert (len(first.split.match), first.split.sticky.set, first.mirror.percent) == (1, True, 5.0)
    for one in others:
        assert (one.split.match, one.split.sticky.set, one.mirror.percent) == ((), False, 0.0)


def test_caches_keep_nothing_while_there_are_several_versions() -> None:
    assert {one.split.cacheable for one in parse(ONE).by_service().values()} == {"private"}
    vary = ONE.replace("split: {", "split: {cacheable: vary, ")
    assert {one.split.cacheable for one in parse(vary).by_service().values()} == {"vary"}


def test_the_versions_of_services_follow_all_services() -> None:
    text = f"services:\n  cart: {{paths: /cart, variants: {{{VERSIONS}}}}}\n  web: {{}}\n"
    text = f"""
variants: {{stable: {{endpoints: ["http://127.0.0.1:9001"]}}}}
services:
  cart:
    paths: /cart
    variants:{VERSIONS.replace(chr(10), chr(10) + "  ")}
  web: {{}}
"""
    found = parse(text).by_service()
    assert list(found) == ["cart", "web", "cart.v3", "cart.holdout"]
    assert found["cart.v3"].state == "run/services/cart.v3.json"


def test_their_endpoints_are_endpoints_of_the_file() -> None:
    assert [one.port for one in parse(ONE).endpoints] == [9001, 9002, 9003, 9004]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("share: 20,", "share: 0,"), "share: expected a share above 0%, found 0%"),
        (("share: 20,", "share: 95,"), "the shares up to here are 100% in all: expected less than"),
        (("      v3:", "      canary:"), "stable and canary are not names of other versions"),
        (("share: 20,", "share: 20, weight: 3,"), "v3.weight: has no effect: the steps of its"),
        (
            ("variant: v3", "variant: v4"),
            "expected one of stable, canary, v3 or holdout, found",
        ),
        (("split: {", "split: {admit: new_sessions, "), "new_sessions is for stable and canary"),
        (
            ("steps: [{weight: 5}]", "steps: [{cohort: staff, weight: 5}]"),
            "others.v3.release.steps",
        ),
        (
            (
                "split: {",
                "split: {follow: {header: X-Canary, from: [10.0.0.0/8]}, ",
            ),
            "a service that follows a front has the front's versions",
        ),
        (("127.0.0.1:9003", "127.0.0.1:8080"), "v3.endpoints[0]: http://127.0.0.1:8080 is the"),
    ],
)
def test_mistakes_are_said_where_they_are(change: tuple[str, str], said: str) -> None:
    text = ONE.replace(*change)
    if "follow" in change[1]:
        text = text.replace("release: {id: r1, steps: [{weight: 1}]}", "")
        text = text[: text.index("fleet:")]
    if change[1].strip() == "canary:":
        text = text.replace("variant: v3", "variant: holdout")
    assert said in problem(text)


def test_warnings_about_a_version_name_its_own_fields_and_repeat_none_of_its_service() -> None:
    text = """
{more}variants:
  stable: {{endpoints: ["http://127.0.0.1:1"]}}
  canary: {{endpoints: ["http://127.0.0.1:2"]}}
  others:
    v3:
      endpoints: ["http://127.0.0.1:3"]
      share: 20
      release: {{id: v3-1, steps: [{{weight: 20, bake: 10m}}, {{weight: 50}}]}}
    holdout: {{endpoints: ["http://127.0.0.1:1"], share: 4, weight: 0.05}}
split: {{weight: 3, sticky: {{address: true}}}}
"""
    own = (
        "split.sticky.address without forwarded.trust",
        "variants.others.v3.release.steps[0].weight is 20%: begin with 1% to 5%",
        "variants.others.holdout.weight is 0.05% of users, 1 in 2,000",
        "variants.stable and variants.others.holdout share http://127.0.0.1:1",
    )
    for more, whose in (
        ("", ""),
        ("services: {cart: {}}\n", "service cart: "),
        ("services: {cart: {paths: /cart}, web: {}}\n", "every service: "),
    ):
        found = config.warnings(config.parse(text.format(more=more), file="c.yaml"))
        assert [one for one in found if "split.weight" in one] == []
        for line in own:
            (one,) = (one for one in found if line in one)
            assert one.startswith(f"{whose}{line}"), one
