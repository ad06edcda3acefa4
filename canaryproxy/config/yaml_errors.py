"""PyYAML's errors in words that say what to change in the file."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from canaryproxy.config.yaml_parts import Mark, MarkedYAMLError

Place = tuple[int, int]
"""Line and column, from 1."""

_OPENING = {"]": "[", "}": "{"}
_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class _Failure:
    match: re.Match[str]
    """PyYAML's message, matched by a pattern of ``_TEXTS``."""
    place: Place
    """Where the parser failed."""
    began: Place
    """Where the construct began that the parser was in."""
    lines: list[str]

    @property
    def starts_line(self) -> bool:
        line, column = self.place
        return not self.lines[line - 1][: column - 1].strip(" ")


_Said = tuple[str, Place]


def explain(error: MarkedYAMLError, text: str, here: Place) -> _Said:
    """Return what is wrong and where; ``here`` is the position for errors without one."""
    problem = (error.problem or error.context or "malformed").strip()
    place = _place(error.problem_mark) or _place(error.context_mark) or here
    began = _place(error.context_mark) or place
    for pattern, said in _TEXTS:
        if (match := pattern.search(problem)) is None:
            continue
        if isinstance(said, str):
            return "not valid YAML: " + said.format(*match.groups()), place
        return said(_Failure(match, place, began, _BREAK.split(text)))
    return f"not valid YAML: {problem}", place


def _place(mark: Mark | None) -> Place | None:
    return None if mark is None else (mark.line + 1, mark.column + 1)


def _block(failure: _Failure) -> _Said:
    """Explain a line at which a list or mapping should have ended."""
    found = failure.match[1]
    what = "text" if found.startswith("<") else f"'{found}'"
    message = f"unexpected {what} after a value; put the whole value in quotes"
    if failure.starts_line:
        if failure.place[1] != failure.began[1]:
            return _indentation(failure.place, failure.began[1])
        if found == "-":
            message = "a list item ('- ...') among the keys of a mapping"
        elif found == "?":
            message = "a key among the items of a list"
    return f"not valid YAML: {message}", failure.place


def _colon(failure: _Failure) -> _Said:
    """Explain a colon where the value has begun already, on this line or the one above."""
    line, column = failure.place
    here = failure.lines[line - 1][: column - 1]
    above = next((one for one in reversed(failure.lines[: line - 1]) if one.strip()), None)
    if ": " in here or above is None:
        message = "a second ': ' on this line; put the value in quotes"
        return f"not valid YAML: {message}", failure.place
    return _indentation((line, _first_column(here)), _first_column(above))


def _flow(failure: _Failure) -> _Said:
    """Explain a list in brackets or a mapping in braces that goes on without a comma."""
    closing, found = failure.match[1], failure.match[2]
    message = f"the '{_OPENING[closing]}' here is never closed"
    if found != "<stream end>":
        message = f"the '{_OPENING[closing]}' here needs ',' or '{closing}' before '{found}'"
    return f"not valid YAML: {message}", failure.began


def _content(failure: _Failure) -> _Said:
    found = failure.match[1]
    message = f"expected a value, found '{found}'"
    if found == "<stream end>":
        message = "the file ends where a value is expected; is a '[' or '{' not closed?"
    return f"not valid YAML: {message}", failure.place


def _character(failure: _Failure) -> _Said:
    message = f"a value cannot begin with {failure.match[1]}; put it in quotes"
    if failure.match[1] == r"'\t'":
        message = "indented with a tab; use spaces"
    return f"not valid YAML: {message}", failure.place


def _no_colon(failure: _Failure) -> _Said:
    return "not valid YAML: expected 'key: value', found no colon", failure.began


def _quote(failure: _Failure) -> _Said:
    return "not valid YAML: the quote here is never closed", failure.began


def _indentation(place: Place, neighbours: int) -> _Said:
    columns = f"column {place[1]}, its neighbours at column {neighbours}"
    return f"indentation: this line starts at {columns}", place


def _first_column(line: str) -> int:
    return len(line) - len(line.lstrip(" ")) + 1


_TEXTS: tuple[tuple[re.Pattern[str], str | Callable[[_Failure], _Said]], ...] = (
    (re.compile(r"^expected <block end>, but found '(.*)'$"), _block),
    (re.compile(r"^mapping values are not allowed"), _colon),
    (re.compile(r"^expected ',' or '(.)', but got '(.*)'$"), _flow),
    (re.compile(r"^expected the node content, but found '(.*)'$"), _content),
    (re.compile(r"^found character (.*) that cannot start any token"), _character),
    (re.compile(r"^could not find expected ':'"), _no_colon),
    (re.compile(r"^found unexpected end of stream"), _quote),
    (
        re.compile(r"^found undefined alias '(.*)'$"),
        "unknown alias *{0}: no anchor &{0} precedes it",
    ),
    (re.compile(r"^second occurrence"), "an anchor of this name exists already"),
    (
        re.compile(r"^sequence entries are not allowed"),
        "a list item ('- ...') must begin on a line of its own",
    ),
    (
        re.compile(r"^found unknown escape character '(.*)'$"),
        "unknown escape \\{0} in double quotes; use single quotes or \\\\{0}",
    ),
    (re.compile(r"another document"), "expected one document, found a second one"),
)
"""What is said instead of PyYAML's message: a text, or a function that looks at the position too."""
