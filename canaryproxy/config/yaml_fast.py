"""Composing large YAML files with libyaml's parser, in a fifth of the time that PyYAML's own needs.

libyaml accepts a little more than PyYAML. What the two may read differently is left to PyYAML, and so is
every text with an error: its messages and positions are those that people see.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from functools import cache
from typing import Any, Final

from canaryproxy.config.yaml_parts import Composer, Node, Resolver, ScalarNode

_EQUAL: Final = re.compile("[\n -~\u00a1-\u1fff\u2030-\ud7ff]*")
"""Characters that both treat alike: no tabs, other line breaks and byte order marks."""
_DIFFERENT: Final = re.compile(
    r"(?:^|[\s\[{,])[!?]|[|>][-+0-9]*#|^%|:(?:\s|#[^\n]*\n)+[,}\]]", re.MULTILINE
)
"""Tags, keys that begin with ``?``, comments right behind the indicator of a block, directives, and empty
values in flow style, which have another position."""


class _DifferentlyRead(Exception):
    """PyYAML may read this text in another way."""


def compose(text: str, composer: Any) -> Node | None:
    """Return the only document of ``text``, as ``composer`` makes it of the parser's events.

    ``None`` if that is to be left to PyYAML's own parser. ``composer`` is a ``Resolver``, too.
    """
    if (
        not _EQUAL.fullmatch(text)
        or _DIFFERENT.search(text)
        or (loader := _loader(composer)) is None
    ):
        return None
    try:
        found: Node | None = loader(text).get_single_node()
    except Exception:  # noqa: BLE001 - whatever it is, PyYAML's own parser says what is wrong
        return None
    return found


@cache
def _loader(composer: Hashable) -> Any:
    """Return the class that has libyaml's parser; ``None`` if PyYAML came without it."""
    # The extension looks for these in ``yaml`` when it is imported.
    import yaml.emitter  # noqa: PLC0415
    import yaml.representer  # noqa: PLC0415
    import yaml.serializer  # noqa: PLC0415, F401

    try:
        from yaml._yaml import CParser  # noqa: PLC0415
    except ImportError:
        return None

    class Loader(composer, CParser):  # type: ignore[misc, valid-type]
        def __init__(self, text: str) -> None:
            CParser.__init__(self, text)
            Composer.__init__(self)
            Resolver.__init__(self)

        def compose_scalar_node(self, anchor: Any) -> ScalarNode:
            """Compose a scalar; in flow style PyYAML's own parser takes no ``?`` within it."""
            node: ScalarNode = super().compose_scalar_node(anchor)
            if not node.style and "?" in node.value:
                raise _DifferentlyRead
            return node

    return Loader
