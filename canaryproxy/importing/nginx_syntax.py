"""The syntax of nginx's configuration: directives with arguments and blocks, and includes.

Tokens are those of ``ngx_conf_read_token``: blanks separate, ``;`` and braces end, quotes keep both, a
backslash keeps the next character, ``#`` begins a comment where a token may begin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from canaryproxy.config.errors import shown
from canaryproxy.config.yaml_reader import MAX_CHARACTERS
from canaryproxy.importing.fields import Place, whole

ReadFiles = Callable[[str], list[tuple[str, str]]]
"""Returns names and texts of the files that an include's pattern means; raises ``OSError``."""
MAX_DEPTH: Final = 32
MAX_FILES: Final = 500
_BLANK: Final = " \t\r\n"


@dataclass(slots=True)
class Directive:
    """A directive: ``name args;`` or ``name args { block }``."""

    name: str
    args: tuple[str, ...]
    place: Place
    block: list[Directive] | None = None
    read: bool = field(default=False)
    """Whether an importer has read it."""

    def all(self, *names: str) -> list[Directive]:
        """Return the directives of the block with these names, and count them as read."""
        found = [one for one in self.block or () if one.name in names]
        for one in found:
            one.read = True
        return found

    def forget(self) -> None:
        """Count the directive and those in its block as not read."""
        self.read = False
        for one in self.block or ():
            one.forget()

    def last(self, name: str) -> Directive | None:
        """Return the last directive of the block with this name."""
        found = self.all(name)
        return found[-1] if found else None

    def arg(self, at: int = 0) -> str:
        """Return an argument, or fail."""
        if at >= len(self.args):
            raise self.place.error(
                f"{self.name}: expected {at + 1} arguments, found {len(self.args)}"
            )
        return self.args[at]


def parse(text: str, file: str, read_files: ReadFiles) -> list[Directive]:
    """Return the directives of a file and of those that it includes."""
    return _Files(read_files).directives(text, file, ())


class _Files:
    """Reads a file and what it includes, within bounds."""

    def __init__(self, read_files: ReadFiles) -> None:
        self._read_files = read_files
        self._files = 0
        self._characters = 0

    def directives(self, text: str, file: str, outer: tuple[str, ...]) -> list[Directive]:
        self._files += 1
        self._characters += len(text)
        if self._files > MAX_FILES or self._characters > MAX_CHARACTERS:
            raise Place(file, 1, 1).error(
                f"found more than {MAX_FILES} files or {MAX_CHARACTERS:,} characters with all includes"
            )
        root = Directive("", (), Place(file, 1, 1), [])
        open_: list[Directive] = [root]
        tokens = _tokens(whole(text, file), file)
        words: list[str] = []
        place = root.place
        for end, word, here in tokens:
            if not end:
                place = here if not words else place
                words.append(word)
                continue
            block = open_[-1].block
            assert block is not None
            if end == "}":
                if words:
                    raise here.error(f"expected ; after {shown(' '.join(words))}, found }}")
                if len(open_) == 1:
                    raise here.error("found } without {")
                open_.pop()
                continue
            if not words:
                raise here.error(f"expected a directive, found {end}")
            found = Directive(words[0], tuple(words[1:]), place, [] if end == "{" else None)
            words = []
            if found.name == "include" and end == ";" and open_[-1].name != "types":
                block += self._included(found, (*outer, file))
                continue
            block.append(found)
            if end == "{":
                open_.append(found)
                if len(open_) > MAX_DEPTH:
                    raise found.place.error(f"blocks are nested deeper than {MAX_DEPTH} levels")
        if words:
            raise place.error(
                f"expected ; or {{ after {shown(' '.join(words))}, found the end of the file"
            )
        if len(open_) > 1:
            raise open_[-1].place.error(
                f"expected }} of {open_[-1].name}, found the end of the file"
            )
        assert root.block is not None
        return root.block

    def _included(self, include: Directive, outer: tuple[str, ...]) -> Iterator[Directive]:
        pattern = include.arg()
        if len(outer) > MAX_DEPTH:
            raise include.place.error(f"includes are nested deeper than {MAX_DEPTH} levels")
        try:
            files = self._read_files(pattern)
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise include.place.error(f"cannot include {shown(pattern)}: {why}") from None
        for name, text in files:
            if name in outer:
                raise include.place.error(f"{name} includes itself: {' -> '.join((*outer, name))}")
            yield from self.directives(text, name, outer)


def _tokens(text: str, file: str) -> Iterator[tuple[str, str, Place]]:
    """Yield words, and what ends them: ``;``, ``{`` or ``}``."""
    at, line, begin = 0, 1, 0
    size = len(text)
    previous = ""
    while at < size:
        char = text[at]
        if char == "\n":
            at, line, begin = at + 1, line + 1, at + 1
        elif char in _BLANK:
            at += 1
        elif char == "#":
            end = text.find("\n", at)
            at = size if end < 0 else end
        else:
            place = Place(file, line, at - begin + 1)
            if char in ";{}":
                if char == "{" and previous.endswith("_by_lua_block"):
                    end = _after_lua(text, at)
                    if end < 0:
                        raise place.error("expected } of the Lua block, found the end of the file")
                    line, begin = _moved(text, at, end, line, begin)
                    at = end
                    yield ";", "", place
                    continue
                yield char, "", place
                at += 1
                previous = ""
                continue
            word, end = _quoted(text, at, place) if char in "\"'" else _word(text, at)
            line, begin = _moved(text, at, end, line, begin)
            at = end
            previous = previous or word
            yield "", word, place


def _moved(text: str, at: int, end: int, line: int, begin: int) -> tuple[int, int]:
    """Return the line at ``end`` and where it begins."""
    breaks = text.count("\n", at, end)
    return (line + breaks, text.rfind("\n", at, end) + 1) if breaks else (line, begin)


def _quoted(text: str, at: int, place: Place) -> tuple[str, int]:
    quote, found = text[at], []
    at += 1
    while at < len(text):
        if text[at] == "\\" and at + 1 < len(text):
            found.append(_escaped(text[at + 1]))
            at += 2
        elif text[at] == quote:
            at += 1
            if at < len(text) and text[at] not in f"{_BLANK};{{)":
                raise place.error(
                    f"expected a blank or ; after the quoted text, found {shown(text[at])}"
                )
            return "".join(found), at
        else:
            found.append(text[at])
            at += 1
    raise place.error(f"expected {quote} at the end of the text, found the end of the file")


def _word(text: str, at: int) -> tuple[str, int]:
    found: list[str] = []
    while at < len(text) and text[at] not in f"{_BLANK};":
        if text[at] == "\\" and at + 1 < len(text):
            found.append(_escaped(text[at + 1]))
            at += 2
        elif text[at] == "$" and text[at + 1 : at + 2] == "{":
            end = text.find("}", at)
            end = len(text) if end < 0 else end + 1
            found.append(text[at:end])
            at = end
        elif text[at] == "{":
            break
        else:
            found.append(text[at])
            at += 1
    return "".join(found), at


def _escaped(char: str) -> str:
    """Return what a backslash and a character mean; only quotes, blanks and itself lose the backslash."""
    if char in "\"'\\":
        return char
    return {"t": "\t", "r": "\r", "n": "\n"}.get(char, f"\\{char}")


def _after_lua(text: str, at: int) -> int:
    """Return the index after the block of Lua that begins at ``at``; -1 if it has no end."""
    depth = 0
    for index in range(at, len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if depth == 0:
            return index + 1
    return -1
