"""docs/tls.md: what is shown can be used, and what is said of limits is what the code has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from canaryproxy import config
from canaryproxy.http1 import proxy_protocol
from canaryproxy.tls import files as certificates

PAGE = (Path(__file__).parents[2] / "docs" / "tls.md").read_text()
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS)
def test_what_is_shown_is_valid(block: str) -> None:
    rest = (
        "" if "variants:" in block else 'variants: {stable: {endpoints: ["http://127.0.0.1:9001"]}}'
    )
    made = config.parse(block + rest, file="tls.md")
    assert list(certificates.named(made))
    assert not config.warnings(made)


def test_the_figures_are_those_of_the_code() -> None:
    assert BLOCKS
    assert f"at most {proxy_protocol.MAX_V2} bytes" in PAGE
    assert f"within {certificates.EXPIRES_SOON / 86400:g} days" in PAGE
