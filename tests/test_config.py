"""The configuration: what is accepted, and what is said of what is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from canaryproxy import config
from canaryproxy.config import ConfigError, Endpoint, TcpAddress, UnixAddress, units

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "config").glob("*.yaml"))
BROKEN = sorted((Path(__file__).parent / "broken").glob("*.yaml"))
BASE = 'variants: {stable: {endpoints: ["http://127.0.0.1:9001"]}}\n'


def parse(more: str = "") -> config.Config:
    return config.parse(BASE + more, file="f.yaml")


def problems_of(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config.parse(text, file="f.yaml")
    return [str(problem) for problem in caught.value.problems]


# Examples


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_valid_and_match_the_schema(path: Path) -> None:
    text = path.read_text()
    config.parse(text, file=path.name)
    Draft202012Validator(config.schema()).validate(yaml.safe_load(text))


def test_the_schema_is_a_schema_and_its_defaults_are_documented() -> None:
    schema = config.schema()
    Draft202012Validator.check_schema(schema)
    json.dumps(schema)
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["variants"]
    assert schema["$defs"]["Limits"]["properties"]["header_timeout"]["default"] == 10.0


def test_example_values() -> None:
    found = config.parse((ROOT / "config/example.yaml").read_text(), file="example.yaml")
    assert found.listen == (TcpAddress("127.0.0.1", 8080),)
    assert found.variants.canary is not None
    assert found.variants.canary.endpoints[1] == Endpoint("http", "127.0.0.1", 9003)
    assert found.split.weight == 5
    assert found.split.sticky.cookie == "canary_id"
    assert found.split.sticky.max_age == 30 * 86400
    assert found.split.match[0].header is not None
    assert found.split.match[0].header.equals == "yes"
    assert found.release is not None
    assert [step.weight for step in found.release.steps] == [1, 5, 25, 50, 100]
    assert found.release.steps[0].bake == 300
    assert found.judge.metrics.errors is not None
    assert found.judge.metrics.errors.margin == 0.01
    assert found.judge.metrics.latency is not None
    assert found.judge.metrics.latency.margin == pytest.approx(0.05)
    assert found.judge.guard_rails is not None
    assert found.judge.guard_rails.errors == 0.5
    assert found.rescue.replay_buffer == 65536
    assert str(found.forwarded.trust[0]) == "10.0.0.0/8"


def test_defaults() -> None:
    found = parse()
    assert found.variants.canary is None
    assert found.split.sticky.cookie == "canary_id"
    assert found.judge.metrics.errors is not None
    assert found.judge.metrics.business is None
    assert found.limits.header_timeout == 10.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("listen: unix:/run/p.sock", (UnixAddress("/run/p.sock"),)),
        ('listen: "[::1]:8080"', (TcpAddress("::1", 8080),)),
        (
            "listen: [127.0.0.1:1, localhost:2]",
            (TcpAddress("127.0.0.1", 1), TcpAddress("localhost", 2)),
        ),
    ],
)
def test_listen(text: str, expected: tuple[Any, ...]) -> None:
    assert parse(text).listen == expected


def test_yaml_surprises_are_text() -> None:
    rule = parse(
        "split: {match: [{variant: canary, header: {name: X-Beta, equals: yes}}]}"
    ).split.match[0]
    assert rule.header is not None
    assert rule.header.equals == "yes"


def test_a_metric_can_be_switched_on_and_off_in_one_word() -> None:
    metrics = parse("judge: {metrics: {errors: true, latency: false}}").judge.metrics
    assert metrics.errors is not None
    assert metrics.latency is None
    assert metrics.throughput is None


# What is wrong


@pytest.mark.parametrize("path", BROKEN, ids=lambda path: path.stem)
def test_broken_files_are_refused_with_their_messages(path: Path) -> None:
    expected = path.with_suffix(".txt").read_text().splitlines()
    with pytest.raises(ConfigError) as caught:
        config.parse(path.read_text(), file=path.name)
    assert [str(problem) for problem in caught.value.problems] == expected


def test_there_are_enough_broken_files() -> None:
    assert len(BROKEN) >= 30


@pytest.mark.parametrize(
    "name", ["unknown_key", "weight_above", "empty_endpoints", "boolean", "duration_without_unit"]
)
def test_the_schema_refuses_what_the_code_refuses(name: str) -> None:
    text = (Path(__file__).parent / "broken" / f"{name}.yaml").read_text()
    assert not Draft202012Validator(config.schema()).is_valid(
        yaml.load(text, Loader=yaml.CSafeLoader)
        if name != "boolean"
        else {"rescue": {"enabled": 1}}
    )


def test_an_alias_bomb_ends_quickly() -> None:
    levels = "\n".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 9))
    found = problems_of("l0: &l0 [x, x]\n" + levels)
    assert any("too large" in line for line in found)


def places_of(text: str) -> list[int]:
    """The lines that the problems of a text point at; empty if it is valid."""
    try:
        config.parse(text, file="f")
    except ConfigError as error:
        return [problem.line for problem in error.problems]
    return []


@given(st.text(max_size=200))
def test_arbitrary_text_raises_nothing_else(text: str) -> None:
    breaks = sum(text.count(mark) for mark in "\n\r\x85\u2028\u2029")
    assert all(1 <= line <= breaks + 2 for line in places_of(text))


_scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
_trees = st.recursive(
    _scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(section=st.sampled_from(sorted(config.Config.model_fields)), tree=_trees)
def test_arbitrary_trees_raise_nothing_else(section: str, tree: Any) -> None:
    text = yaml.safe_dump({"variants": {"stable": {"endpoints": ["http://a:1"]}}, section: tree})
    assert all(1 <= line <= text.count("\n") + 1 for line in places_of(text))


# Units


@given(st.integers(1, 10**6), st.sampled_from(["ms", "s", "m", "h", "d"]))
def test_durations(number: int, unit: str) -> None:
    seconds = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}[unit]
    assert units.duration(f"{number}{unit}") == pytest.approx(number * seconds)


@given(st.integers(0, 10**6), st.sampled_from(["", "B", "kB", "KiB", "MiB", "GiB"]))
def test_sizes(number: int, unit: str) -> None:
    factor = {"": 1, "B": 1, "kB": 1000, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}[unit]
    assert units.size(f"{number}{unit}") == number * factor


@given(st.integers(0, 10000))
def test_ratios_and_weights(hundredths: int) -> None:
    assert units.ratio(f"{hundredths / 100}%") == pytest.approx(hundredths / 10000)
    assert units.weight(hundredths / 100) == hundredths / 100


@given(
    st.integers(1, 65535), st.sampled_from(["127.0.0.1", "[::1]", "example.org", "a-b.internal"])
)
def test_addresses_round_trip(port: int, host: str) -> None:
    assert str(units.address(f"{host}:{port}")) == f"{host}:{port}"
    assert str(units.endpoint(f"http://{host}:{port}")) == f"http://{host}:{port}"


def test_default_ports() -> None:
    assert units.endpoint("http://a").port == 80
    assert units.endpoint("https://a/").port == 443


# Advice


def test_warnings_name_risky_plans_and_what_is_not_active() -> None:
    found = config.warnings(
        parse(
            "workers: 2\nmirror: {percent: 1}\nnotify: [{webhook: 'http://a/b'}]\n"
            "release: {id: a, steps: [{weight: 10, bake: 1m}, {weight: 100}]}"
        )
    )
    text = "\n".join(found)
    for part in ("mirror.percent", "notify", "workers", "steps[0].weight", "steps[0].bake is 60 s"):
        assert part in text
    assert config.warnings(parse()) == ()
