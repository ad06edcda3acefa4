"""Large files: libyaml's parser composes what PyYAML's own does, or leaves it to that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from canaryproxy import config
from canaryproxy.config import ConfigError, yaml_fast
from canaryproxy.config.yaml_parts import MappingNode, Node, ScalarNode
from canaryproxy.config.yaml_reader import BoundedComposer, Unreadable, documents

ROOT = Path(__file__).parents[2]
FILES = sorted(
    (*(ROOT / "config").glob("*.yaml"), *(Path(__file__).parent / "broken").glob("*.yaml"))
)

needs_libyaml = pytest.mark.skipif(not yaml.__with_libyaml__, reason="PyYAML without libyaml")


def tree(node: Node, depth: int = 0) -> Any:
    """Return everything of a node that is read: tags, values, positions."""
    begin = (node.start_mark.line, node.start_mark.column)
    if depth > 32:
        return begin  # an alias within its own value
    if isinstance(node, ScalarNode):
        return node.tag, begin, node.value, node.style or None
    if isinstance(node, MappingNode):
        return (
            node.tag,
            begin,
            [(tree(key, depth + 1), tree(value, depth + 1)) for key, value in node.value],
        )
    return node.tag, begin, [tree(item, depth + 1) for item in node.value]


def check(text: str) -> bool:
    """Tell whether libyaml composed the text; then PyYAML must have composed the same."""
    found = yaml_fast.compose(text, BoundedComposer)
    if found is None:
        return False
    (expected,) = documents(text)
    assert tree(found) == tree(expected)
    return True


@needs_libyaml
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_files_are_composed_alike(path: Path) -> None:
    try:
        is_valid = len(documents(path.read_text())) == 1
    except Unreadable:
        is_valid = False
    if not is_valid:
        assert not check(path.read_text())
    else:
        check(path.read_text())


@needs_libyaml
def test_examples_are_composed_by_libyaml() -> None:
    assert all(check(path.read_text()) for path in (ROOT / "config").glob("*.yaml"))


@needs_libyaml
@given(
    st.text(
        alphabet="ab:-[]{}#&*!|>'\"\\,?%@` \n\t\r\x85\u2028\ufeff\u00e4\U0001f600~<01.", max_size=24
    )
)
@settings(max_examples=500)
@example("a: {b?c}")
@example("{a: , b:  }")
@example("[a: # b\n , b]")
@example("a\n?")
@example("|#")
@example(">-#a")
@example("!.!")
@example("%YAML 1.1\n---\na")
@example("a:\t1")
@example("[" * 100)
@example("'\ud800'")
def test_any_text_is_composed_alike(text: str) -> None:
    check(text)
    check(f"a: {text}")
    check(f"a: [{text}]")


def large(more: str) -> str:
    """Return a configuration of more than 16 KiB, with another line at its end."""
    services = "".join(
        f"  s{at}: {{hosts: s{at}.example.com, split: {{weight: {at / 100}}}}}\n"
        for at in range(500)
    )
    return f'variants: {{stable: {{endpoints: ["http://a:1"]}}}}\nservices:\n{services}{more}\n'


def test_a_large_file_means_what_it_says() -> None:
    found = config.parse(large("  last: {hosts: last.example.com}"), file="f.yaml")
    assert len(found.services) == 501
    assert found.by_service()["s7"].split.weight == 0.07


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (
            "  s0: {hosts: b.example.com}",
            "f.yaml:503:3: services.s0: duplicate key 's0', already on line 3",
        ),
        ("  last: {hosts: [b.example.com}", "f.yaml:503:17: not valid YAML"),
        ("  last: {hosts: 5}", "f.yaml:503:17: services.last.hosts: expected a host name"),
        (
            "  last: &a [*a]",
            "f.yaml:503:9: services.last[0]: the alias refers to a value that contains it",
        ),
    ],
)
def test_a_mistake_in_a_large_file_has_its_position(more: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.parse(large(more), file="f.yaml")
    assert says in str(caught.value)


def test_without_libyaml_a_large_file_is_read_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_fast, "_loader", lambda _: None)
    assert len(config.parse(large(""), file="f.yaml").services) == 500
