"""Follows a JSON pointer (RFC 6901) through a document that comes in pieces, and keeps none of it.

Theory of operation. A pointer is followed down and never up: the scanner enters the first member or element
that the next step names and skips all others, so it needs no stack, whatever the nesting. Its states:

    VALUE                    a value on the pointer's path comes: its target, or a container to enter
    OPENED                   the target is a container that was just opened: is it empty?
    FIRST_KEY, KEY, COLON    within an object on the path
    FIRST_ELEMENT, ELEMENT   within an array on the path
    AFTER                    behind a member or an element that was skipped
    OTHER                    a value beside the path comes
    SKIP, STRING, SCALAR     within such a value: a container, text, a number or a literal

The path is read as the grammar says. What is skipped is only told apart: strings are passed over and brackets
are counted. So the result can be known long before the document ends, and a document that is malformed
elsewhere may still have one. Of duplicate keys the first counts.

At most ``LONGEST`` bytes are kept, of a key or a value that has come in part.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final

LONGEST: Final = 64 * 1024
"""Bytes of a text at the pointer that are read at most."""

PENDING: Final = 0
"""The end of the pointer has not come."""
FOUND: Final = 1
"""It came: ``value``."""
MISSING: Final = 2
"""The document has nothing there."""
INVALID: Final = 3
"""It is not JSON."""

LONG_TEXT: Final = object()
"""In place of a text longer than ``LONGEST``, as it is written."""
_CONTENTS: Final = ...
"""In place of what a container has in it."""

_VALUE: Final = 0
_OPENED: Final = 1
_FIRST_KEY: Final = 2
_KEY: Final = 3
_COLON: Final = 4
_FIRST_ELEMENT: Final = 5
_ELEMENT: Final = 6
_AFTER: Final = 7
_OTHER: Final = 8
_SKIP: Final = 9
_STRING: Final = 10
_SCALAR: Final = 11

_QUOTE: Final = 0x22
_BACKSLASH: Final = 0x5C
_COMMA: Final = 0x2C
_OPEN_ARRAY: Final = 0x5B
_CLOSE_ARRAY: Final = 0x5D
_OPEN_OBJECT: Final = 0x7B
_CLOSE_OBJECT: Final = 0x7D

_TEXT: Final = rb'(?:[^"\\]++|\\.)*+'
_FLAT: Final = rb'(?:[^][{}"]++|"' + _TEXT + rb'")*+'
"""What has no brackets outside strings."""
_blank = re.compile(rb"[ \t\n\r]*+").match
_scalar = re.compile(rb"[-+.0-9A-Za-z]*+").match
_text = re.compile(_TEXT, re.DOTALL).match
_string = re.compile(rb'"' + _TEXT + rb'"', re.DOTALL).match
_run = re.compile(
    rb'(?:[^][{}"]++|"' + _TEXT + rb'"|\{' + _FLAT + rb"\}|\[" + _FLAT + rb"\])*+", re.DOTALL
).match
"""As far as one may go in a container that is skipped without counting brackets."""
_index = re.compile(r"0|[1-9][0-9]{0,8}").fullmatch


def steps_of(pointer: str) -> tuple[str, ...]:
    """Return the steps of a JSON pointer."""
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:])


class PointerScanner:
    """Looks for the value at a pointer in one document."""

    __slots__ = (
        "_began",
        "_closer",
        "_depth",
        "_escaped",
        "_index",
        "_kept",
        "_level",
        "_matched",
        "_state",
        "_steps",
        "_then",
        "result",
        "value",
    )

    def __init__(self, steps: Sequence[str]) -> None:
        self._steps = steps
        self.result = PENDING
        """``PENDING``, ``FOUND``, ``MISSING`` or ``INVALID``."""
        self.value: Any = None
        """The value found: a scalar as ``json`` has it, ``LONG_TEXT``, or a list or dict that only shows
        whether it is empty."""
        self._state = _VALUE
        self._level = 0
        """Steps that have been taken."""
        self._index = 0
        """Elements of the array on the path that are still to be skipped."""
        self._closer = 0
        """What ends the container on the path."""
        self._matched = False
        """The key that came last is the next step."""
        self._depth = 0
        self._then = _AFTER
        """The state that follows ``STRING``."""
        self._escaped = False
        """The piece before ended with a backslash within a skipped string."""
        self._kept = b""
        """The beginning of a key or value that has not come as a whole."""
        self._began = False

    def feed(self, data: bytes) -> None:
        """Take the next piece of the document."""
        if self._kept:
            data = self._kept + data
            self._kept = b""
        if not self._began and data:
            if b"\xef\xbb\xbf".startswith(data[:3]) and len(data) < 3:
                self._kept = data
                return
            self._began = True
            data = data.removeprefix(b"\xef\xbb\xbf")
        at, end = 0, len(data)
        while at < end and self.result == PENDING:
            state = self._state
            if state == _SKIP:
                at = self._skip(data, at)
            elif state == _STRING:
                at = self._skip_string(data, at)
            elif state == _SCALAR:
                at = _end(_scalar, data, at)
                if at < end:
                    self._state = _AFTER
            else:
                at = _end(_blank, data, at)
                if at < end:
                    at = self._step(state, data, at)
            if at < 0:
                self._kept = data[~at:]
                return

    def finish(self) -> None:
        """Take note that the document has ended. ``PENDING`` then means that it was cut off."""
        if self.result == PENDING:
            self.feed(b" ")  # the end of a number, if that is all there is
        if self.result == PENDING and self._state == _VALUE and not (self._level or self._kept):
            self.result = INVALID  # nothing but blanks

    def _step(self, state: int, data: bytes, at: int) -> int:
        """Take what begins at a byte that is not blank.

        Returns where to go on, or ``~at`` of something that has to come as a whole.
        """
        char = data[at]
        if state == _VALUE:
            return self._value(data, at, char)
        if state == _OPENED:
            self._opened(char)
            return at
        if state == _OTHER:
            return self._begin_skip(at, char)
        if state in (_FIRST_ELEMENT, _ELEMENT):
            if state == _FIRST_ELEMENT and char == _CLOSE_ARRAY:
                self.result = MISSING
            elif self._index:
                self._index -= 1
                self._state = _OTHER
            else:
                self._level += 1
                self._state = _VALUE
            return at
        if state == _COLON:
            if char != 0x3A:
                self.result = INVALID
            self._level += self._matched
            self._state = _VALUE if self._matched else _OTHER
            return at + 1
        if state == _AFTER:
            if char == _COMMA:
                self._state = _KEY if self._closer == _CLOSE_OBJECT else _ELEMENT
            else:
                self.result = MISSING if char == self._closer else INVALID
            return at + 1
        return self._key(state, data, at, char)

    def _value(self, data: bytes, at: int, char: int) -> int:
        """Take a value on the path."""
        on_target = self._level == len(self._steps)
        if char in (_OPEN_ARRAY, _OPEN_OBJECT):
            self._closer = char + 2
            if on_target:
                self._state = _OPENED
            elif char == _OPEN_OBJECT:
                self._state = _FIRST_KEY
            elif _index(step := self._steps[self._level]):
                self._index = int(step)
                self._state = _FIRST_ELEMENT
            else:
                self.result = MISSING
            return at + 1
        if char == _QUOTE:
            if not on_target:
                self.result = MISSING
                return at
            found = _string(data, at)
            end = len(data) if found is None else found.end()
            if end - at > LONGEST:
                self._resolve(LONG_TEXT)
                return end
            if found is None:
                return ~at
        else:
            end = _end(_scalar, data, at)
            if end == len(data) and end - at <= LONGEST:
                return ~at
        try:
            self._resolve(json.loads(data[at:end]))
        except ValueError:
            self.result = INVALID
        if not on_target and self.result == FOUND:
            self.result = MISSING
        return end

    def _opened(self, char: int) -> None:
        """Take what follows the opening bracket of the target."""
        is_array = self._closer == _CLOSE_ARRAY
        if char == self._closer:
            self._resolve([] if is_array else {})
        elif char == _QUOTE if not is_array else _begins_value(char):
            self._resolve([_CONTENTS] if is_array else {"": _CONTENTS})
        else:
            self.result = INVALID

    def _resolve(self, value: Any) -> None:
        self.value = value
        self.result = FOUND

    def _key(self, state: int, data: bytes, at: int, char: int) -> int:
        """Take a key of the object on the path, or its end."""
        if char != _QUOTE:
            is_end = char == _CLOSE_OBJECT and state == _FIRST_KEY
            self.result = MISSING if is_end else INVALID
            return at
        step = self._steps[self._level]
        found = _string(data, at)
        if found is None:
            if len(data) - at <= 12 * len(step) + 2:  # an escaped surrogate pair has 12 bytes
                return ~at
            self._matched = False
            self._then = _COLON
            self._state = _STRING
            return at + 1
        key = found[0]
        self._matched = _is_key(key, step)
        self._state = _COLON
        return at + len(key)

    def _begin_skip(self, at: int, char: int) -> int:
        """Begin a value beside the path."""
        if char == _QUOTE:
            self._then = _AFTER
            self._state = _STRING
            return at + 1
        if char in (_OPEN_ARRAY, _OPEN_OBJECT):
            self._depth = 1
            self._state = _SKIP
            return at + 1
        if _begins_value(char):
            self._state = _SCALAR
        else:
            self.result = INVALID
        return at

    def _skip(self, data: bytes, at: int) -> int:
        """Go on within a container that is skipped."""
        depth, end = self._depth, len(data)
        while True:
            at = _end(_run, data, at)
            if at == end:
                break
            char = data[at]
            at += 1
            if char in (_OPEN_ARRAY, _OPEN_OBJECT):
                depth += 1
            elif char == _QUOTE:
                self._then = _SKIP
                self._state = _STRING
                break
            else:
                depth -= 1
                if not depth:
                    self._state = _AFTER
                    break
        self._depth = depth
        return at

    def _skip_string(self, data: bytes, at: int) -> int:
        """Go on within a string that is skipped."""
        if self._escaped:
            self._escaped = False
            at += 1
        at = _end(_text, data, at)
        if at < len(data):
            if data[at] == _BACKSLASH:
                self._escaped = True
            else:
                self._state = self._then
            at += 1
        return at


def _end(match: Any, data: bytes, at: int) -> int:
    """Return where a pattern that matches anywhere, if only nothing, ends."""
    end: int = match(data, at).end()
    return end


def _begins_value(char: int) -> bool:
    return char in b'"[{-0123456789tfnNI'


def _is_key(key: bytes, step: str) -> bool:
    """Tell whether a key, with its quotes, is a step of the pointer."""
    if b"\\" not in key:
        return key[1:-1] == step.encode("utf-8", "surrogatepass")
    try:
        return bool(json.loads(key) == step)
    except ValueError:
        return False
