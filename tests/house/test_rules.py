"""Bounds on size, exceptions with their reason, and words that do not come back."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "canaryproxy").rglob("*.py"))
MOST_LINES_OF_A_CLASS = 350
MOST_ATTRIBUTES = 25
MOST_LINES_OF_A_FUNCTION = 80

OLD_NAMES = frozenset(
    {
        *("Entrance", "NoEntry", "Witness", "Inspector", "Inspection", "Alike", "AnswerHeads"),
        *("RequestHeads", "Course", "Steering", "Told", "Taken", "Away", "ControlLike"),
        *("_Family", "_Single", "_Place"),
    }
)
"""Names of classes and functions that were ours alone; the field has a term for each."""

PHRASES = {
    r"\b(some|every|no|any)body\b": "name the client, the operator or the process",
    r"\bwhoever\b": "name the client, the operator or the process",
    r"\b\d+ %": "write 5%",
    r"\bdrawn by lot\b": "write randomised",
    r"\bsteers?\b": "write control plane, or controls",
}


HEADLESS = re.compile(r"(Who|What|Which|Whom)\b[^?\n]*(\n|\Z)")
"""Beginnings of docstrings that leave open what they speak of."""


def size(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def attributes(node: ast.ClassDef) -> set[str]:
    """Return what the class declares and what its methods set on ``self``."""
    declared = {
        one.target.id
        for one in node.body
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)
    }
    return declared | {
        one.attr
        for one in ast.walk(node)
        if isinstance(one, ast.Attribute)
        and isinstance(one.ctx, ast.Store)
        and isinstance(one.value, ast.Name)
        and one.value.id == "self"
    }


def too_large(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            lines, held = size(node), len(attributes(node))
            if lines > MOST_LINES_OF_A_CLASS or held > MOST_ATTRIBUTES:
                yield f"{node.lineno}: class {node.name}: {lines} lines, {held} attributes"
        elif (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and size(node) > MOST_LINES_OF_A_FUNCTION
        ):
            yield f"{node.lineno}: def {node.name}: {size(node)} lines"


def reasons(text: str) -> set[int]:
    """Return the lines with a comment that says something besides what a linter reads."""
    return {
        token.start[0]
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT
        and re.search(r"[a-z]+ [a-z]+", re.sub(r"(noqa|type):\s*\S+", "", token.string))
    }


def catches_all(handler: ast.ExceptHandler) -> bool:
    named = handler.type
    kinds = named.elts if isinstance(named, ast.Tuple) else [named]
    return any(
        kind is None or (isinstance(kind, ast.Name) and kind.id in ("Exception", "BaseException"))
        for kind in kinds
    )


def without_reason(text: str) -> Iterator[str]:
    nodes = ast.walk(ast.parse(text))
    handlers = [one for one in nodes if isinstance(one, ast.ExceptHandler) and catches_all(one)]
    said = reasons(text) if handlers else set()
    for node in handlers:
        if not said & {node.lineno - 1, node.lineno, node.lineno + 1}:
            yield f"{node.lineno}: an except that catches everything, without a comment that says why"


def old_words(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if node.name in OLD_NAMES:
                yield f"{node.lineno}: {node.name}"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            for phrase, advice in PHRASES.items():
                if (found := re.search(phrase, node.value)) is not None:
                    yield f"{node.lineno}: {found[0]!r}: {advice}"
        if (said := docstring(node)) and HEADLESS.match(said):
            yield f"{said.partition(chr(10))[0]!r}: begin with a noun or a verb"


def docstring(node: ast.AST) -> str | None:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return ast.get_docstring(node)
    return None


def by_path(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=by_path)
def test_classes_and_functions_can_be_overlooked(path: Path) -> None:
    assert list(too_large(ast.parse(path.read_text()))) == []


@pytest.mark.parametrize("path", SOURCES, ids=by_path)
def test_an_except_of_everything_says_why(path: Path) -> None:
    assert list(without_reason(path.read_text())) == []


@pytest.mark.parametrize("path", SOURCES, ids=by_path)
def test_words_of_our_own_do_not_come_back(path: Path) -> None:
    assert list(old_words(ast.parse(path.read_text()))) == []


def test_the_rules_find_what_breaks_them() -> None:
    long = "\n".join(["def f():", *["    x = 1"] * 80])
    assert list(too_large(ast.parse(long))) == ["1: def f: 81 lines"]
    wide = "class A:\n" + "".join(f"    a{n}: int\n" for n in range(26))
    assert list(too_large(ast.parse(wide))) == ["1: class A: 27 lines, 26 attributes"]
    caught = "try:\n    f()\nexcept Exception:{}\n    pass\n"
    assert list(without_reason(caught.format("")))
    assert list(without_reason(caught.format("  # noqa: BLE001")))
    assert not list(without_reason(caught.format("  # noqa: BLE001 a hook of the user")))
    assert not list(without_reason("try:\n    f()\nexcept (OSError, ValueError):\n    pass\n"))
    for text in ("nobody answers", "5 % of users", "the process that steers"):
        assert len(list(old_words(ast.parse(repr(text))))) == 1, text
    assert list(old_words(ast.parse('"""What is kept."""')))
    assert not list(old_words(ast.parse('"""What is this?"""')))
    assert list(old_words(ast.parse("class Witness: ..."))) == ["1: Witness"]
