"""The Dockerfile, read."""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path
from typing import NamedTuple

from dockerfile_parse import DockerfileParser
from packaging.markers import Marker
from packaging.version import Version

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


def locked(name: str) -> dict[str, Version]:
    """Return what a lock pins for this Python; each has a hash."""
    text = (ROOT / name).read_text()
    pins = re.findall(r"^([a-z0-9._-]+)==(\S+)(.*?)(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)
    found = {}
    for package, version, rest in pins:
        assert "--hash=sha256:" in rest, package
        marker = re.match(r" ; (.*?) \\\n", rest)
        if marker is None or Marker(marker[1]).evaluate():
            found[package] = Version(version)
    return found
