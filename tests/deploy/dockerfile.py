"""The Dockerfile, read."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import NamedTuple

from dockerfile_parse import DockerfileParser

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "Dockerfile"


class Line(NamedTuple):
    """One instruction."""

    name: str
    value: str


def lines() -> list[Line]:
    """Return all instructions."""
    parser = DockerfileParser(fileobj=StringIO(DOCKERFILE.read_text()))
    return [
        Line(one["instruction"], one["value"])
        for one in parser.structure
        if one["instruction"] != "COMMENT"
    ]


def stages() -> list[list[Line]]:
    """Return the instructions of each stage, beginning with its FROM."""
    found: list[list[Line]] = []
    for line in lines():
        if line.name == "FROM":
            found.append([])
        if found:
            found[-1].append(line)
    return found
