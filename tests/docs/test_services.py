"""The page about several services: its files are valid, and do what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from canaryproxy import config
from canaryproxy.cli.check import check
from canaryproxy.config.model.service import MOST, MOST_PLACES, SECTIONS
from canaryproxy.config.yaml_reader import MAX_CHARACTERS, MAX_VALUES
from canaryproxy.measure.service_table import UNKNOWN_HOST, UNKNOWN_PATH, ServiceTable

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "services.md").read_text()
FILES = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
EXAMPLE = config.parse((ROOT / "config" / "services.yaml").read_text(), file="services.yaml")


def test_check_prints_what_the_page_shows(tmp_path: Path) -> None:
    path = tmp_path / "services.yaml"
    path.write_text(FILES[0])
    (shown,) = re.findall(r"```\n(cart .*?)```", PAGE, re.DOTALL)
    found = CliRunner().invoke(check, ["-c", str(path)])
    assert found.stdout == f"{shown}{path}: ok\n"


def test_the_page_and_the_example_have_the_same_services() -> None:
    page = config.parse(FILES[0], file="page")
    assert [(name, one.hosts, one.paths) for name, one in page.services.items()] == [
        (name, one.hosts, one.paths) for name, one in EXAMPLE.services.items()
    ]
    assert config.warnings(EXAMPLE) == ()


@pytest.mark.parametrize(
    ("host", "path", "service"),
    [
        (b"shop.example.com", b"/cart/items", "cart"),
        (b"Shop.Example.com:8080", b"/cart", "cart"),
        (b"shop.example.com", b"/cartoon", "web"),
        (b"shop.example.com", b"/%63art", "web"),
        (b"shop.example.com", b"/suggest", "search"),
        (b"de.search.example.com", b"/search/x", "search"),
        (b"search.example.com", b"/search/x", "web"),
        (b"10.0.0.1", b"/cart", "web"),
    ],
)
def test_requests_find_the_services_of_the_example(host: bytes, path: bytes, service: str) -> None:
    table = ServiceTable(EXAMPLE.services.values())
    assert list(EXAMPLE.services)[table.find(host, path)] == service


def test_without_a_default_there_are_unknown_hosts_and_paths() -> None:
    table = ServiceTable(one for name, one in EXAMPLE.services.items() if name != "web")
    assert table.find(b"shop.example.com", b"/") == UNKNOWN_PATH
    assert table.find(b"example.com", b"/cart") == UNKNOWN_HOST


def test_sections_are_taken_over_as_the_page_says() -> None:
    cart, web = config.parse(FILES[1], file="page").by_service().values()
    assert (cart.judge.alpha, cart.judge.min_users) == (0.001, 10)
    assert (web.judge.alpha, web.judge.min_users) == (0.01, 20)
    for section in SECTIONS:
        assert f"`{section}`" in PAGE


def test_limits_are_those_of_the_page() -> None:
    for limit in (MOST, MOST_PLACES, MAX_CHARACTERS, MAX_VALUES):
        assert f"{limit:,}" in PAGE
