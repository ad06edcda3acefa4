"""Environment variables in the configuration: ``${NAME}`` in values that differ between deployments.

They are replaced after YAML has been read, so a value stays one text whatever the variable contains, and only
where a pipeline or a container gives a value of its own: the release id, endpoints, webhooks and links.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from canaryproxy.config.errors import Path

WHERE: Final = "release.id, endpoints, webhooks and links"
"""The values in which variables are replaced, for messages."""
REFERENCE_PATTERN: Final = r"\$\{[A-Za-z_][A-Za-z0-9_]*\}"

_ESCAPED_OR_REFERENCE = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def allowed_at(path: Path) -> bool:
    """Tell whether variables are replaced in the value at ``path``."""
    if path[:1] == ("services",):
        return path[2:3] != ("services",) and allowed_at(path[2:])
    if path == ("release", "id"):
        return True
    if path[:1] == ("variants",):
        return path[2:3] == ("endpoints",)
    if path[:1] == ("notify",):
        return path[2:3] in (("webhook",), ("links",))
    return path[:2] == ("release", "gates") and path[3:] == ("webhook",)


def expand(text: str, environment: Mapping[str, str]) -> str:
    """Return ``text`` with its variables replaced; ``$${`` stands for ``${``.

    Raises ``ValueError`` with what is wrong and what to do.
    """

    def value(found: re.Match[str]) -> str:
        name, end = found[1], found[2]
        if name is None:
            return "${"
        if not end or not _NAME.fullmatch(name):
            raise ValueError(
                "expected the name of an environment variable, ${NAME} without a default;"
                " write $${ for the characters ${"
            )
        try:
            replaced = environment[name]
            replaced.encode()
        except KeyError:
            raise ValueError(
                f"the environment variable {name} is not set; set it where canaryproxy is started,"
                " or write $${ for the characters ${"
            ) from None
        except UnicodeEncodeError:
            raise ValueError(f"the environment variable {name} is not UTF-8 text") from None
        return replaced

    return _ESCAPED_OR_REFERENCE.sub(value, text)
