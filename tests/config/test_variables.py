"""Environment variables in the configuration: where they are replaced, and what is said where not."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from canaryproxy import config
from canaryproxy.config import Config, ConfigError
from canaryproxy.config.yaml_reader import read, with_value

BASE = """
variants:
  stable: {endpoints: ["http://${HOST}:9001", "unix:/run/$${HOST}"]}
release:
  id: ${RELEASE_ID}
  steps: [{weight: 5}]
  gates: [{webhook: "https://gate.example/${RELEASE_ID}"}]
notify: [{webhook: "${HOOK}", links: ["https://ci.example/${RELEASE_ID}"]}]
"""
SET = {"HOST": "app", "RELEASE_ID": "cart-2.5", "HOOK": "https://hooks.example/token"}


def parse(text: str, **environment: str) -> Config:
    return config.parse(text, file="f.yaml", environment=environment)


def errors(text: str, **environment: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, **environment)
    return list(map(str, caught.value.problems))


def test_variables_are_replaced_in_the_id_endpoints_webhooks_and_links() -> None:
    found = parse(BASE, **SET)
    assert found.release is not None
    assert found.release_id == "cart-2.5"
    assert [str(one) for one in found.variants.stable.endpoints] == [
        "http://app:9001",
        "unix:/run/${HOST}",
    ]
    assert found.release.gates[0].webhook == "https://gate.example/cart-2.5"
    assert found.notify[0].webhook == SET["HOOK"]
    assert found.notify[0].links == ("https://ci.example/cart-2.5",)


def test_the_schema_accepts_them_where_they_are_replaced() -> None:
    Draft202012Validator(config.schema()).validate(
        {
            "variants": {"stable": {"endpoints": ["http://${HOST}:9001", "${URL}"]}},
            "release": {"id": "${RELEASE_ID}", "steps": [{"weight": 5}]},
            "notify": [{"webhook": "${HOOK}"}],
        }
    )


def test_a_missing_variable_is_an_error_with_its_name_and_place() -> None:
    missing = {**SET}
    del missing["RELEASE_ID"]
    found = errors(BASE, **missing)
    assert [one.partition(": the environment")[0] for one in found] == [
        "f.yaml:5:7: release.id",
        "f.yaml:7:21: release.gates[0].webhook",
        "f.yaml:8:39: notify[0].links[0]",
    ]
    assert "the environment variable RELEASE_ID is not set; set it where canaryproxy" in found[0]


@pytest.mark.parametrize("written", ["${A:-b}", "${", "${1}", "${A", "${ A }", "${}"])
def test_what_is_no_name_is_an_error(written: str) -> None:
    text = BASE.replace("${RELEASE_ID}", f'"{written}"', 1)
    assert errors(text, **SET, A="a") == [
        "f.yaml:5:7: release.id: expected the name of an environment variable, ${NAME} without a"
        " default; write $${ for the characters ${"
    ]


def test_a_value_is_one_text_whatever_the_variable_contains() -> None:
    (problem,) = errors(BASE, **{**SET, "RELEASE_ID": "a\n  steps: []"})[:1]
    assert "release.id: expected 1 to 64 letters" in problem
    assert "from '${RELEASE_ID}'" in problem
    assert parse(BASE, **{**SET, "RELEASE_ID": "1e5"}).release_id == "1e5"


def test_the_url_of_a_webhook_is_not_shown_if_it_comes_from_the_environment() -> None:
    (problem,) = errors(BASE, **{**SET, "HOOK": "secret"})
    assert "secret" not in problem
    assert problem.endswith("found '${HOOK}'")


def test_elsewhere_they_are_text_and_an_error_says_where_they_are_replaced() -> None:
    plain = parse(
        "variants: {stable: {endpoints: ['http://a:1']}}\n"
        "split: {match: [{variant: stable, header: {name: X, equals: '${HOST}'}}]}\n"
    )
    assert plain.split.match[0].header is not None
    assert plain.split.match[0].header.equals == "${HOST}"
    (problem,) = errors(
        "variants: {stable: {endpoints: ['http://a:1']}}\nlisten: 0.0.0.0:${PORT}\n", PORT="1"
    )
    assert "(variables are replaced only in release.id, endpoints, webhooks and links)" in problem


@given(st.text("abA1_${}:-", max_size=12))
def test_any_text_is_replaced_or_an_error(text: str) -> None:
    written = BASE.replace("${RELEASE_ID}", f'"x{text}"', 1)
    try:
        found = parse(written, **SET, A="A1").release_id
    except ConfigError:
        return
    assert found is not None
    assert re.fullmatch(r"[A-Za-z0-9._:-]+", found)
    assert "$" not in found


# Another release id


@pytest.mark.parametrize(
    "written", ["cart-2.4", '"cart-2.4"', "'cart-2.4'", "1.5", "cart-2.4  # the build", "!!str 5"]
)
def test_another_release_id_changes_nothing_else(written: str) -> None:
    text = (
        f"# é comment\r\nrelease:\n  id: {written}\n  steps: [{{weight: 5}}]  # kept\nx: cart-2.4\n"
    )
    changed = with_value(text, ("release", "id"), "1e5")
    assert changed is not None
    assert read(changed, "").value == {
        **read(text, "").value,
        "release": {"id": "1e5", "steps": ({"weight": 5},)},
    }
    head, _, tail = text.partition(written.partition("  #")[0])
    assert changed.startswith(head)
    assert changed.endswith(tail)


@pytest.mark.parametrize(
    "text",
    [
        "x: &id cart\nrelease: {id: *id}\n",
        "release: {steps: []}\n",
        "release: 5\n",
        "release: {id: [a]}\n",
        "",
        "release: {id: a",
    ],
)
def test_another_release_id_needs_one_place_to_write_it(text: str) -> None:
    assert with_value(text, ("release", "id"), "b") is None


def test_an_unset_variable_as_the_only_endpoint_is_one_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("UNSET_HOST", raising=False)
    text = 'variants: {stable: {endpoints: ["${UNSET_HOST}"]}}\n'
    with pytest.raises(config.ConfigError) as caught:
        config.parse(text, file="a.yaml")
    (problem,) = caught.value.problems
    assert "UNSET_HOST is not set" in str(problem)
