"""The configuration: what is accepted, and what is said of what is not."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from canaryproxy import config
from canaryproxy.config import (
    ConfigError,
    Endpoint,
    Problem,
    TcpAddress,
    UnixAddress,
    addresses,
    units,
)
from canaryproxy.config.errors import dotted
from canaryproxy.config.yaml_reader import read

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "config").glob("*.yaml"))
BROKEN = sorted((Path(__file__).parent / "broken").glob("*.yaml"))
BASE = 'variants: {stable: {endpoints: ["http://127.0.0.1:9001"]}}\n'
SCHEMA = Draft202012Validator(config.schema())


def parse(more: str = "") -> config.Config:
    return config.parse(BASE + more, file="f.yaml")


def problems_of(text: str) -> tuple[Problem, ...]:
    """Return the problems of a text; none if it is valid. Anything but a ``ConfigError`` is a failure."""
    try:
        config.parse(text, file="f.yaml")
    except ConfigError as error:
        return error.problems
    return ()


def plain(text: str) -> Any:
    """Return what YAML text says, as JSON has it."""
    return json.loads(json.dumps(read(text, "f.yaml").value))


# Examples


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_valid_and_match_the_schema(path: Path) -> None:
    config.parse(path.read_text(), file=path.name)
    SCHEMA.validate(plain(path.read_text()))


def test_the_example_has_the_values_that_it_shows() -> None:
    found = config.parse((ROOT / "config/example.yaml").read_text(), file="example.yaml")
    assert [one.address for one in found.listen] == [TcpAddress("127.0.0.1", 8080)]
    assert found.variants.canary is not None
    assert found.variants.canary.endpoints[1] == Endpoint("http", "127.0.0.1", 9003)
    assert found.split.sticky.cookie == "canary_id"
    assert found.split.sticky.max_age == 30 * 86400
    assert found.split.match[0].header is not None
    assert found.split.match[0].header.equals == "yes"
    assert found.release is not None
    assert [step.weight for step in found.release.steps] == [1, 5, 25, 50, 100]
    assert found.release.steps[0].bake == 300
    assert found.judge.metrics.errors is not None
    assert found.judge.metrics.errors.margin == 0.01
    assert found.judge.metrics.errors.statuses == ("5xx",)
    assert found.judge.metrics.latency is not None
    assert found.judge.metrics.latency.margin == 0.05
    assert found.judge.outcomes["signup"].match.method == ("POST",)
    assert found.judge.outcomes["signup"].when.status == ("2xx",)
    assert found.judge.outcomes["empty_search"].bad
    assert found.judge.guard_rails is not None
    assert found.judge.guard_rails.errors == 0.5
    assert found.judge.metrics.classes is not None
    assert found.judge.metrics.classes.gross == 0.2
    assert found.judge.routes is not None
    assert found.judge.routes["search"].prefix == "/search"
    assert (found.release.steps[0].min_users, found.release.steps[1].min_users) == (20, None)
    assert (found.judge.min_users, found.judge.not_up) == (10, 120.0)
    assert found.rescue.replay_buffer == 65536
    assert str(found.forwarded.trust[0]) == "10.0.0.0/8"
    assert found.notify[0].webhook == "http://127.0.0.1:9911/hook"


# What is accepted


def test_a_minimal_configuration_has_the_documented_defaults() -> None:
    found = parse()
    assert found.variants.canary is None
    assert found.split.sticky.cookie == "canary_id"
    assert found.split.sticky.set
    assert found.split.salt is None
    assert found.judge.metrics.errors is not None
    assert found.judge.metrics.latency is not None
    assert found.judge.metrics.throughput is not None
    assert found.judge.metrics.business is None
    assert found.judge.metrics.classes is not None
    assert found.judge.metrics.content is not None
    assert found.judge.metrics.connections is not None
    assert found.judge.guard_rails is not None
    assert found.judge.guard_rails.errors is None
    assert found.judge.routes is None
    assert found.limits.header_timeout == 10.0
    assert found.admin.socket == "./run/admin.sock"


def test_values_are_frozen() -> None:
    found = parse()
    with pytest.raises(ValidationError):
        found.workers = 2  # type: ignore[misc]
    with pytest.raises(ValidationError):
        found.split.weight = 50.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("listen: unix:/run/p.sock", (UnixAddress("/run/p.sock"),)),
        ('listen: "[::1]:8080"', (TcpAddress("::1", 8080),)),
        ('listen: ["0.0.0.0:80", "[::]:80"]', (TcpAddress("0.0.0.0", 80), TcpAddress("::", 80))),
        (
            "listen: [127.0.0.1:1, localhost:2]",
            (TcpAddress("127.0.0.1", 1), TcpAddress("localhost", 2)),
        ),
    ],
)
def test_listen_takes_one_address_or_a_list(text: str, expected: tuple[Any, ...]) -> None:
    assert tuple(one.address for one in parse(text).listen) == expected


@pytest.mark.parametrize("text", ["yes", "no", "on", "off", "10:30", "0x10", "2026-01-01", "1_000"])
def test_yaml_1_1_surprises_are_text(text: str) -> None:
    rule = parse(f"split: {{match: [{{variant: canary, header: {{name: a, equals: {text}}}}}]}}")
    assert rule.split.match[0].header is not None
    assert rule.split.match[0].header.equals == text


def test_tags_of_known_types_are_obeyed() -> None:
    assert parse("split: {salt: !!str 5}").split.salt == "5"
    assert parse('workers: !!int "2"').workers == 2


def test_a_metric_can_be_switched_on_and_off_in_one_word() -> None:
    metrics = parse(
        "judge: {metrics: {errors: true, latency: false, business: false, throughput: }}"
    ).judge.metrics
    assert metrics.errors is not None
    assert metrics.latency is None
    assert metrics.throughput is None
    assert metrics.business is None


def test_routes_are_the_busiest_or_none_or_by_name() -> None:
    assert parse("judge: {routes: true}").judge.routes is None
    assert parse("judge: {routes: false}").judge.routes == {}
    named = parse("judge: {routes: {pay: {regex: '^/v[12]/pay'}}}").judge.routes
    assert named is not None
    assert named["pay"].regex == "^/v[12]/pay"


@pytest.mark.parametrize(
    ("text", "state"), [("null", "null"), ("true", "true"), ("false", "false"), ("zero", "zero")]
)
def test_a_json_state_needs_no_quotes(text: str, state: str) -> None:
    when = parse(f"judge: {{outcomes: {{a: {{when: {{json: {{pointer: /a, is: {text}}}}}}}}}}}")
    json_when = when.judge.outcomes["a"].when.json_
    assert json_when is not None
    assert json_when.is_ == state


@pytest.mark.parametrize("value", ["a", 1, 1.5, True, False])
def test_a_json_value_keeps_its_type(value: object) -> None:
    text = f"judge: {{outcomes: {{a: {{when: {{json: {{pointer: /a, equals: {json.dumps(value)}}}}}}}}}}}"
    json_when = parse(text).judge.outcomes["a"].when.json_
    assert json_when is not None
    assert json_when.equals == value
    assert type(json_when.equals) is type(value)


def test_sticky_without_a_choice_is_the_cookie() -> None:
    assert (
        parse("split: {sticky: {max_age: 1h, address: false}}").split.sticky.cookie == "canary_id"
    )
    assert parse("split: {sticky: {address: true}}").split.sticky.cookie is None


@pytest.mark.parametrize(
    ("text", "weight"), [("5", 5.0), ("5%", 5.0), ("0.25%", 0.25), ("100%", 100.0), ("1.10%", 1.1)]
)
def test_a_weight_is_a_number_or_a_percentage(text: str, weight: float) -> None:
    assert parse(f"split: {{weight: {text}}}").split.weight == weight


def test_single_values_stand_for_lists() -> None:
    found = parse(
        "split: {match: [{variant: canary, method: GET}]}\n"
        "judge: {outcomes: {a: {when: {status: [503, 5xx]}}}}"
    )
    assert found.split.match[0].method == ("GET",)
    assert found.judge.outcomes["a"].when.status == ("503", "5xx")


# What is wrong


@pytest.mark.parametrize("path", BROKEN, ids=lambda path: path.stem)
def test_broken_files_are_refused_with_their_messages(path: Path) -> None:
    expected = path.with_suffix(".txt").read_text().splitlines()
    with pytest.raises(ConfigError) as caught:
        config.parse(path.read_text(), file=path.name)
    assert [str(problem) for problem in caught.value.problems] == expected
    assert str(caught.value).splitlines() == expected


def test_there_are_enough_broken_files_and_no_stray_messages() -> None:
    assert len(BROKEN) >= 30
    messages = sorted((Path(__file__).parent / "broken").glob("*.txt"))
    assert [path.stem for path in messages] == [path.stem for path in BROKEN]


def test_a_problem_has_its_parts() -> None:
    (problem,) = problems_of(BASE + "split: {weight: 101}")
    assert (problem.file, problem.line, problem.column) == ("f.yaml", 2, 17)
    assert problem.path == ("split", "weight")
    assert problem.found == "101"
    assert str(problem) == f"f.yaml:2:17: split.weight: {problem.message}"


def test_problems_are_in_order_of_place() -> None:
    found = problems_of((Path(__file__).parent / "broken/hidden.yaml").read_text())
    places = [(problem.line, problem.column) for problem in found]
    assert places == sorted(places)


def test_a_file_that_is_too_large_is_not_read() -> None:
    (problem,) = problems_of("#" * 1_000_001)
    assert "larger than" in problem.message


EXAMPLE = plain((ROOT / "config/example.yaml").read_text())


def paths_in(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield (*path, key)
        if isinstance(item, (dict, list)):
            yield from paths_in(item, (*path, key))


def example_with(path: tuple[str | int, ...], value: Any) -> str:
    """Return the example with another value at a path, as YAML."""
    copy = json.loads(json.dumps(EXAMPLE))
    here = copy
    for part in path[:-1]:
        here = here[part]
    here[path[-1]] = value
    return yaml.safe_dump(copy, sort_keys=False)


@pytest.mark.parametrize("path", list(paths_in(EXAMPLE)), ids=dotted)
def test_one_mistake_anywhere_is_one_problem(path: tuple[str | int, ...]) -> None:
    (problem,) = problems_of(example_with(path, [[1]]))
    assert problem.path[: len(path)] == path


SECTIONS = [path for path in paths_in(EXAMPLE) if dotted(path) != "judge.outcomes"]


@pytest.mark.parametrize(
    "where", [(), ("split", "sticky"), ("judge", "outcomes", "signup", "when")]
)
def test_an_unknown_key_is_pointed_at(where: tuple[str, ...]) -> None:
    text = example_with((*where, "unheard_of"), 1)
    (problem,) = problems_of(text)
    assert problem.path == (*where, "unheard_of")
    assert text.splitlines()[problem.line - 1][problem.column - 1 :].startswith("unheard_of")


def test_unknown_keys_everywhere_are_all_reported_at_once() -> None:
    copy = json.loads(json.dumps(EXAMPLE))
    sections = []
    for path in SECTIONS:
        here = copy
        for part in path:
            here = here[part]
        if isinstance(here, dict):
            sections.append(here)
    for section in sections:
        section["unheard_of"] = 1
    assert len(problems_of(yaml.safe_dump(copy))) == len(sections) > 20


# Whatever the text


def inside(problem: Problem, text: str) -> bool:
    """Tell whether a problem points into the text, or right after its end."""
    lines = re.split("\r\n|[\n\r\x85\u2028\u2029]", text)
    return (
        1 <= problem.line <= len(lines) and 1 <= problem.column <= len(lines[problem.line - 1]) + 1
    )


def check_any(text: str) -> None:
    for problem in problems_of(text):
        assert inside(problem, text), problem
        assert len(str(problem).splitlines()) == 1
        str(problem).encode()


@given(st.text(max_size=200))
def test_arbitrary_text_raises_nothing_else(text: str) -> None:
    check_any(text)


@given(st.text(alphabet="ab:-[]{}#&*!|>'\"\\,?%@` \n\r\t\x85\u2028\ufeff01.~<Ux", max_size=40))
@settings(max_examples=300)
def test_arbitrary_punctuation_raises_nothing_else(text: str) -> None:
    check_any(text)
    check_any("variants: " + text)


_scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["5s", "1%", "64KiB", "GET", "/a", "http://a:1", "127.0.0.1:8080", "5xx", "("])
)  # fmt: skip
_trees = st.recursive(
    _scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(section=st.sampled_from(sorted(config.schema()["properties"])), tree=_trees)
def test_arbitrary_trees_raise_nothing_else(section: str, tree: Any) -> None:
    check_any(
        yaml.safe_dump({"variants": {"stable": {"endpoints": ["http://a:1"]}}, section: tree})
    )


@given(
    st.lists(st.tuples(st.sampled_from(list(paths_in(EXAMPLE))), _trees), min_size=1, max_size=3)
)
@settings(deadline=None)
def test_mutations_of_the_example_are_refused_or_fit_the_schema(
    mutations: list[tuple[tuple[str | int, ...], Any]],
) -> None:
    copy = json.loads(json.dumps(EXAMPLE))
    for path, value in mutations:
        here: Any = copy
        for part in path[:-1]:
            here = here[part] if _has(here, part) else None
        if _has(here, path[-1]):
            here[path[-1]] = value
    text = yaml.safe_dump(copy)
    check_any(text)
    if not problems_of(text):
        SCHEMA.validate(plain(text))


def _has(here: Any, part: str | int) -> bool:
    if isinstance(here, list):
        return isinstance(part, int) and part < len(here)
    return isinstance(here, dict) and part in here


@pytest.mark.parametrize("written", ["None", "none", "NONE", "'none'"])
def test_same_site_and_the_forwarding_field_are_names_in_any_case(written: str) -> None:
    more = "forwarded: {trust: [10.0.0.0/8], client_from: FORWARDED}"
    text = f"split: {{sticky: {{same_site: {written}}}}}\n{more}"
    assert parse(text).split.sticky.same_site == "None"
    assert parse(text).forwarded.client_from == "Forwarded"
    SCHEMA.validate(plain(BASE + text))
    (problem,) = problems_of(BASE + "split: {sticky: {same_site: maybe}}")
    assert problem.message == "expected Lax, Strict or None, found 'maybe'"


# The schema

ONLY_PARSE_KNOWS = {
    "admin_open", "admin_socket_taken", "admin_tokens", "admit_header", "alpha_order", "duration_long",
    "endpoint_label", "endpoint_port", "endpoint_twice", "follow_release", "gate_timeout",
    "hold_back", "host_prefix", "listen_admin", "listen_every_v6",
    "listen_localhost", "listen_loop", "listen_loop_every", "listen_port", "listen_sexagesimal",
    "listen_twice", "match_regex", "outcome_unknown", "own_socket", "regex_large", "regex_lookahead",
    "secret_two", "services_cookies", "services_loop", "services_place_twice", "services_two_defaults",
    "steps_fall", "sticky_cookie_only", "variant_header", "weight_fine",
    "match_variant",
}  # fmt: skip
"""Mistakes of several fields, of ranges inside text, and of regular expressions."""


def test_the_schema_is_a_schema_in_the_files_own_units() -> None:
    schema = config.schema()
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert "required" not in schema
    assert schema["properties"]["listen"]["default"] == "127.0.0.1:8080"
    definitions = schema["$defs"]
    assert definitions["Limits"]["properties"]["header_timeout"]["default"] == "10s"
    assert definitions["Sticky"]["properties"]["max_age"]["default"] == "30d"
    assert definitions["Errors"]["properties"]["margin"]["default"] == "1%"
    assert definitions["Rescue"]["properties"]["replay_buffer"]["default"] == "64KiB"


def test_every_key_is_described_and_every_default_fits() -> None:
    schema = config.schema()
    for section in (schema, *schema["$defs"].values()):
        assert section["additionalProperties"] is False
        for name, described in section.get("properties", {}).items():
            target = schema["$defs"].get(described.get("$ref", "").rpartition("/")[2], {})
            assert described.get("description") or target.get("description"), name
            if "default" in described:
                one = {**described, "$defs": schema["$defs"]}
                assert Draft202012Validator(one).is_valid(described["default"]), name


def test_the_schema_file_is_up_to_date() -> None:
    """``canaryproxy schema > config/schema.json`` mends it."""
    assert json.loads((ROOT / "config/schema.json").read_text()) == config.schema()


@pytest.mark.parametrize(
    "path",
    [path for path in BROKEN if not read(path.read_text(), "f").problems],
    ids=lambda path: path.stem,
)
def test_the_schema_refuses_what_it_can_tell(path: Path) -> None:
    assert SCHEMA.is_valid(plain(path.read_text())) is (path.stem in ONLY_PARSE_KNOWS)


# Units


@given(st.integers(1, 3650), st.sampled_from(["ms", "s", "m", "h", "d"]))
def test_a_duration_is_a_number_and_a_unit(number: int, unit: str) -> None:
    seconds = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}[unit]
    assert units.duration(f"{number}{unit}") == pytest.approx(number * seconds)


@given(st.floats(0, units.LONGEST).map(lambda number: round(number, 6)))
def test_durations_round_trip(seconds: float) -> None:
    assert units.duration(units.duration_text(seconds)) == seconds


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (0.05, "50ms"), (1.5, "1500ms"), (300, "5m"), (2592000, "30d")]
)
def test_durations_are_written_as_people_do(seconds: float, text: str) -> None:
    assert units.duration_text(seconds) == text
    assert units.duration(text) == seconds


@given(st.integers(0, 10**5), st.sampled_from(["", "B", "kB", "KiB", "MiB", "GiB"]))
def test_a_size_is_a_number_and_a_unit(number: int, unit: str) -> None:
    factor = {"": 1, "B": 1, "kB": 1000, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}[unit]
    assert units.size(f"{number}{unit}") == number * factor


@given(st.integers(0, 1 << 50))
def test_sizes_round_trip(count: int) -> None:
    assert units.size(units.size_text(count)) == units.size(count) == count


@given(st.integers(0, 10000))
def test_ratios_and_weights(hundredths: int) -> None:
    assert units.ratio(f"{hundredths / 100}%") == hundredths / 10000
    assert units.weight(hundredths / 100) == hundredths / 100


def test_no_weight_is_less_than_nothing() -> None:
    assert str(units.weight(-0.0)) == "0.0"


@given(st.floats(0, 1).map(lambda number: round(number, 9)))
def test_ratios_round_trip(fraction: float) -> None:
    assert units.ratio(units.ratio_text(fraction)) == units.ratio(fraction) == fraction


# Addresses


@given(
    st.integers(1, 65535), st.sampled_from(["127.0.0.1", "[::1]", "example.org", "a-b.internal"])
)
def test_addresses_round_trip(port: int, host: str) -> None:
    assert str(addresses.address(f"{host}:{port}")) == f"{host}:{port}"
    assert str(addresses.endpoint(f"http://{host}:{port}")) == f"http://{host}:{port}"


def test_an_endpoint_has_the_default_port_of_its_scheme() -> None:
    assert addresses.endpoint("http://a").port == 80
    assert addresses.endpoint("https://[::1]").port == 443
    assert str(addresses.address("unix:./a.sock")) == "unix:./a.sock"


@pytest.mark.parametrize(
    ("url", "port", "http2", "tls"),
    [("http://a", 80, False, False), ("https://a", 443, False, True), ("h2c://a", 80, True, False),
     ("h2://a", 443, True, True), ("h2c://[::1]:50051", 50051, True, False),
     ("h2c+srv://_grpc._tcp.a", 0, True, False), ("h2+srv://_grpc._tcp.a", 0, True, True)],
)  # fmt: skip
def test_the_scheme_of_an_endpoint_says_what_it_speaks(
    url: str, port: int, http2: bool, tls: bool
) -> None:
    found = addresses.endpoint(url)
    assert (found.port, found.is_http2, found.is_tls) == (port, http2, tls)
    assert str(addresses.endpoint(str(found) if port else url)) == str(found)
    schema = config.schema()["$defs"]["Variant"]["properties"]["endpoints"]["items"]
    assert re.search(schema["pattern"], url)


def test_tls_settings_are_for_endpoints_of_http_2_too() -> None:
    text = 'variants: {stable: {endpoints: ["h2://a:1"], tls: {server_name: b}}}'
    assert config.parse(text, file="f.yaml").variants.stable.tls is not None


def test_a_neighbour_is_not_asked_over_http_2() -> None:
    with pytest.raises(ConfigError, match=r"expected http://host:port.* not HTTP/2"):
        parse('admin: {overview: [{address: "h2c://a:1"}]}')


@pytest.mark.parametrize(
    "text",
    ["http://a/", "http://a?b", "http://a#b", "http://u:p@a", "http://a:", "http://[1]:2", "http://1.2:3",
     "http://a:65536", "http://a:0", "//a:1", "HTTP://a", "http://a\n:1", " http://a:1", "http://",
     "h2c://a/", "H2://a", "h2s://a", "h3://a"],
)  # fmt: skip
def test_endpoints_are_bare(text: str) -> None:
    with pytest.raises(ValueError, match="without path"):
        addresses.endpoint(text)


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("LocalHost", True), ("0.0.0.0", False),
     ("127.evil.example", False), ("10.0.0.1", False), ("::", False)],
)  # fmt: skip
def test_loopback_addresses_are_known(host: str, local: bool) -> None:
    assert addresses.is_loopback(host) is local


# Advice


def test_warnings_name_risky_plans_and_what_has_no_effect() -> None:
    found = config.warnings(
        parse(
            "mirror: {percent: 1}\n"
            "release: {id: a, steps: [{weight: 10, bake: 1m}, {weight: 100}]}\n"
            "split: {match: [{variant: canary, method: GET}]}"
        )
    )
    text = "\n".join(found)
    for part in (
        "mirror.percent", "steps[0].weight", "steps[0].bake is 1m",
        "release has no effect without variants.canary", "split.match[0] has no effect",
    ):  # fmt: skip
        assert part in text
    assert config.warnings(parse()) == ()


def test_warnings_about_the_judge() -> None:
    found = config.warnings(
        config.parse(
            "variants: {stable: {endpoints: [http://a]}, canary: {endpoints: [http://b]}}\n"
            "judge: {guard_rails: false, metrics: {errors: {unit: request}}}\n"
            "release:\n"
            "  id: a\n"
            "  steps:\n"
            "    - {weight: 1, bake: 5m, min_users: 0}\n"
            "    - {weight: 1.25, bake: 5m}\n"
            "    - {weight: 50, bake: 5m, min_users: 20}\n"
            "    - {weight: 100, min_users: 5}\n",
            file="f",
        )
    )
    assert found == (
        "release.steps[0]: min_users is 0, so one user's requests can complete the step",
        "release.steps[1] moves 0.25% of users and needs 10 of them (min_users): with fewer than 4,000"
        " users it is never left",
        "release.steps[3].min_users has no effect at 100%: no user is left to compare with",
        "judge.metrics.errors.unit has no effect any more, users are compared: remove it",
        "judge.guard_rails is false: a canary that fails for its few users is held, not rolled back",
    )


BOTH = "variants: {stable: {endpoints: [http://a, http://b]}, canary: {endpoints: [http://%s]}}\n"
STEPS = "release: {id: a, steps: [%s]}\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            BOTH % "c" + "split: {weight: 5}\n" + STEPS % "{weight: 1, bake: 5m}, {weight: 100}",
            "split.weight has no effect beside release: the weights are those of release.steps",
        ),
        (
            BOTH % "b",
            "variants.stable and variants.canary share http://b:80: users of the canary get stable's version"
            " there, and nothing is compared",
        ),
        (
            BOTH % "c" + "split: {weight: 5, follow: {from: [10.0.0.0/8]}}",
            "split.weight is for requests that do not follow (split.follow): they get the canary at that"
            " weight, and are not compared",
        ),
        (
            BOTH % "c" + "split: {follow: {from: ['::/0']}}",
            "split.follow.from has every address, and nothing is signed: any client chooses its version",
        ),
        (
            "listen: {address: 0.0.0.0:80, proxy_protocol: required}\n"
            + BOTH % "c"
            + "split: {follow: {from: [10.0.0.0/8]}}",
            "split.follow without sign: a peer of a listener with proxy_protocol: required can claim an"
            " address of split.follow.from, and choose its version",
        ),
        (
            BOTH % "c" + "split: {weight: 0.05}",
            "split.weight is 0.05% of users, 1 in 2,000: weights are in percent; if 5% is meant, write 5",
        ),
        (
            BOTH % "c" + STEPS % "{weight: 0.05, bake: 5m}, {weight: 100}",
            "release.steps[0].weight is 0.05% of users, 1 in 2,000: weights are in percent; if 5% is meant,"
            " write 5",
        ),
        (
            BOTH % "c" + STEPS % "{weight: 0.25, bake: 5m}, {weight: 0.5, bake: 5m}, {weight: 1}",
            "release.steps[0].weight is 0.25% of users, 1 in 400: weights are in percent; if 25% is meant,"
            " write 25",
        ),
    ],
)
def test_what_was_probably_meant_otherwise_is_warned_of(text: str, says: str) -> None:
    assert says in config.warnings(config.parse(text, file="f"))


@pytest.mark.parametrize(
    "steps", ["{weight: 0.25, bake: 5m}, {weight: 100}", "{weight: 1}, {weight: 5}"]
)
def test_a_small_first_step_is_not_taken_for_a_fraction(steps: str) -> None:
    found = config.warnings(config.parse(BOTH % "c" + STEPS % steps, file="f"))
    assert not any("weights are in percent" in one for one in found)


def test_a_step_that_moves_no_users_is_warned_of() -> None:
    found = config.warnings(
        config.parse(
            "variants: {stable: {endpoints: [http://a]}, canary: {endpoints: [http://b]}}\n"
            "release: {id: a, steps: [{weight: 0, bake: 5m}, {weight: 100}]}\n",
            file="f",
        )
    )
    assert (
        "release.steps[0] moves no users: nothing is compared, and it is left by hand only" in found
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{enabled: false, after: 1s}", "rescue.after has no effect: rescue.enabled is false"),
        (
            "{methods: [GET, POST]}",
            "rescue.methods has POST: such a request may run on both versions, and do twice what it does",
        ),
        ("{after: 30s}", "rescue.after has no effect: limits.first_byte_timeout is 30s"),
        (
            "{assets: {path: {prefix: /}}}",
            "rescue.assets has every path: each 404 makes two requests; name the paths of hashed files",
        ),
    ],
)
def test_a_rescue_that_does_not_do_what_it_says_is_warned_of(text: str, says: str) -> None:
    assert config.warnings(config.parse(BOTH % "c" + f"rescue: {text}", file="f")) == (says,)


def test_a_response_cannot_vary_by_an_address() -> None:
    with pytest.raises(ConfigError, match="no response can vary by the client's address"):
        config.parse(BOTH % "c" + "split: {cacheable: vary, sticky: {address: true}}", file="f")


def test_a_rescue_of_other_than_failures_is_refused() -> None:
    with pytest.raises(ConfigError, match="404 is no failure of a server"):
        config.parse(BOTH % "c" + "rescue: {statuses: [503, 404]}", file="f")


def test_warnings_name_what_has_no_effect_without_a_canary() -> None:
    assert config.warnings(parse("split: {weight: 5}")) == (
        "split.weight has no effect without variants.canary",
    )


# Connections


TLS_LISTENER = """
listen:
  - 127.0.0.1:8080
  - address: 0.0.0.0:8443
    tls: {certificates: [{cert: a.pem, key: a.key, names: ["*.a.example"]}], min_version: 1.3}
    proxy_protocol: true
  - {address: "unix:/run/p.sock", proxy_protocol: trusted}
"""


def test_a_listener_is_an_address_or_says_more() -> None:
    plain, secure, local = parse(TLS_LISTENER).listen
    assert plain.tls is None
    assert plain.proxy_protocol == "off"
    assert secure.tls is not None
    assert secure.tls.certificates[0].names == ("*.a.example",)
    assert secure.tls.min_version == "1.3"
    assert secure.proxy_protocol == "required"
    assert local.address == UnixAddress("/run/p.sock")
    advice = config.warnings(parse(TLS_LISTENER))
    assert any(
        line.startswith("listen[1].proxy_protocol: required lets every peer") for line in advice
    )
    assert any(line.startswith("listen[2].proxy_protocol has no effect") for line in advice)


@pytest.mark.parametrize(
    ("written", "protocols"),
    [
        ("http2", ("http2",)),
        ("[http1]", ("http1",)),
        ("[http2, http1]", ("http1", "http2")),
    ],
)
def test_protocols_of_a_listener_are_one_or_a_list(
    written: str, protocols: tuple[str, ...]
) -> None:
    (listener,) = parse(f"listen: {{address: '[::1]:1', protocols: {written}}}").listen
    assert listener.protocols == protocols


@pytest.mark.parametrize("written", ["[]", "[http1, http1]", "http3", "true", "{http1: yes}"])
def test_other_protocols_are_an_error_that_names_those_there_are(written: str) -> None:
    with pytest.raises(ConfigError, match=r"http1, http2 or \[http1, http2\]"):
        parse(f"listen: {{address: '[::1]:1', protocols: {written}}}")


def test_bounds_of_http_2_have_the_ranges_that_it_allows() -> None:
    found = parse("limits: {http2: {max_streams: 1, stream_window: 64KiB}}").limits.http2
    assert (found.max_streams, found.stream_window, found.flood_budget) == (1, 65_536, 2000)
    for wrong in ("max_streams: 0", "stream_window: 65535", "stream_window: 2GiB"):
        assert problems_of(BASE + f"limits: {{http2: {{{wrong}}}}}"), wrong
    (problem,) = problems_of(BASE + "limits: {http2: {stream_window: 1KiB}}")
    assert "a size from 64KiB to 1GiB" in problem.message


def test_bounds_of_http_2_that_let_one_client_fill_the_memory_are_a_warning() -> None:
    (line,) = config.warnings(parse("limits: {http2: {max_streams: 5000}}"))
    assert line == (
        "limits.http2: one client can make the proxy hold 625 MiB (max_streams times stream_window)"
    )


def test_endpoints_on_unix_sockets() -> None:
    found = config.parse('variants: {stable: {endpoints: ["unix:/run/a.sock"]}}', file="f.yaml")
    (endpoint,) = found.variants.stable.endpoints
    assert str(endpoint) == "unix:/run/a.sock"
    assert endpoint.authority == "/run/a.sock"


def test_unverified_endpoints_are_warned_about() -> None:
    text = 'variants: {stable: {endpoints: ["https://a:1"], tls: {verify: false}}}'
    (line,) = config.warnings(config.parse(text, file="f.yaml"))
    assert line.startswith("variants.stable.tls.verify is false")


def test_a_problem_found_later_has_its_place_in_the_file() -> None:
    where = ("listen", 0, "tls", "certificates", 0, "key")
    text = "listen:\n  address: 127.0.0.1:1\n  tls:\n    certificates:\n      - cert: a\n        key: b\n"
    found = config.problem(text, file="f.yaml", path=where, message="does not fit")
    assert str(found) == "f.yaml:6:14: listen.tls.certificates[0].key: does not fit"


def sticky(settings: str, more: str = "") -> tuple[str, ...]:
    variants = "{stable: {endpoints: [http://a:1]}, canary: {endpoints: [http://a:2]}}"
    return config.warnings(
        config.parse(f"variants: {variants}\nsplit: {{sticky: {settings}}}\n{more}", file="f.yaml")
    )


def test_an_address_behind_an_untrusted_balancer_is_warned_of() -> None:
    (line,) = sticky("{address: true}")
    assert line.startswith("split.sticky.address without forwarded.trust: behind a load balancer")
    assert sticky("{address: true}", "forwarded: {trust: [10.0.0.0/8]}") == ()
    assert sticky("{address: true}", "listen: unix:/run/p.sock") == ()
    assert sticky("{header: X-User}") == ()


@pytest.mark.parametrize(
    "settings", ["{same_site: None}", "{cookie: __Host-u}", "{cookie: __Secure-u}"]
)
def test_a_cookie_that_needs_https_without_https_is_warned_of(settings: str) -> None:
    (line,) = sticky(settings)
    assert "over https only, and no listener has tls" in line
    assert sticky(settings, "forwarded: {trust: [10.0.0.0/8]}") == ()


def test_probes_can_be_turned_off() -> None:
    variants = "variants: {stable: {endpoints: [http://a:1]}}"
    for text, found in (
        ("", True),
        ("split: {probes: false}", False),
        ("split: {probes: true}", True),
    ):
        made = config.parse(f"{variants}\n{text}", file="f.yaml")
        assert (made.split.probes is not None) is found
    assert parse().split.probes is not None
