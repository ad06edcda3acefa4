"""The JSON Schema of the configuration file, for editors."""

from __future__ import annotations

from typing import Any

from canaryproxy.config import types, units
from canaryproxy.config.model import Config

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_WRITERS = {
    types.DURATION: units.duration_text,
    types.SIZE: units.size_text,
    types.RATIO: units.ratio_text,
}


def schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of the file.

    It covers keys, types, enums, patterns and defaults (in the units of the file: ``10s``, not ``10.0``).
    Rules across fields, such as rising weights, are checked only by ``parse``.
    """
    found = Config.model_json_schema(mode="validation")
    found["$defs"]["Judge"]["properties"]["outcomes"]["additionalProperties"] = False
    found["properties"]["services"]["additionalProperties"] = False
    for section in (found, *found["$defs"].values()):
        for described in section.get("properties", {}).values():
            if "default" in described:
                described["default"] = _as_written(described, described["default"])
    return {"$schema": DIALECT, **found}


def _as_written(described: dict[str, Any], default: Any) -> Any:
    """Return a default in the unit of the file."""
    for alternative in (described, *described.get("anyOf", ())):
        write = _WRITERS.get(alternative.get("$comment", ""))
        if default is not None and write is not None:
            return write(default)
    return default
