"""The pages use the field's words and plain sentences. CONTRIBUTING.md has the rules and the reasons."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "SECURITY.md", "CHANGELOG.md", "bench/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
PATTERNS = {
    r"\b[Ss]teer(s|ed|ing)?\b": "control plane, control process; change a release",
    r"\b([Ss]ome|[Ee]very|[Nn]o)body\b": "a client, an operator, every user",
    r"\b[Ww]hoever\b": "name the subject",
    r"\b(is|are|was|were) told\b": "is sent, is shown, learns",
    r"\bby lot\b": "randomised",
    r"\bg(ive|ives|ave) way\b": "is evicted",
    r"\b\d+ %": "5%, without a blank",
    r"\b\d{1,3}(,\d{3})+ to 1\b": "6,350:1",
    r"(^|\. |: )Who (has|is|may|can|does|holds|sends|comes)\b[^?]*\.": "a subject: the process that ...",
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page_uses_plain_words(page: Path) -> None:
    text = page.read_text()
    found = [
        f"{page.name}:{text.count(chr(10), 0, match.start()) + 1}: {match[0]!r}: write {better}"
        for pattern, better in PATTERNS.items()
        for match in re.finditer(pattern, text, re.MULTILINE)
    ]
    assert not found, "\n".join(found)
