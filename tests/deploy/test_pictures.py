"""The pictures in docs are what the judge does today."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from bench.judge import pictures
from tests.deploy.dockerfile import ROOT


@pytest.mark.parametrize("name", sorted(pictures.PICTURES))
def test_a_picture_is_what_would_be_drawn_now(name: str) -> None:
    drawn = pictures.PICTURES[name]()
    assert ElementTree.fromstring(drawn).tag.endswith("svg")
    kept = (pictures.FOLDER / name).read_text(encoding="utf-8")
    assert kept == drawn, "make pictures"


def test_each_picture_is_shown_and_there_are_no_others() -> None:
    shown = re.findall(r"\]\(pictures/([^)]+)\)", (ROOT / "docs" / "judge.md").read_text())
    assert sorted(shown) == sorted(pictures.PICTURES)
    assert sorted(path.name for path in pictures.FOLDER.iterdir()) == sorted(pictures.PICTURES)
