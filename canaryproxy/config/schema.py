"""The JSON Schema of the configuration file, for editors."""

from __future__ import annotations

from typing import Any

from canaryproxy.config import types as fields
from canaryproxy.config import units
from canaryproxy.config.model import Config

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_TEXT = {
    fields.DURATION: units.duration_text,
    fields.SIZE: units.size_text,
    fields.RATIO: units.ratio_text,
}


def schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of the file.

    It knows keys, types, enums, forms and defaults (as the file has them: ``10s``, not ``10.0``). What
    depends on several fields, such as rising weights, only ``parse`` knows.
    """
    made = Config.model_json_schema(mode="validation")
    made["$defs"]["Judge"]["properties"]["outcomes"]["additionalProperties"] = False
    for section in (made, *made["$defs"].values()):
        for described in section.get("properties", {}).values():
            if "default" in described:
                described["default"] = _as_written(described, described["default"])
    return {"$schema": DIALECT, **made}


def _as_written(described: dict[str, Any], default: Any) -> Any:
    """Return a default in the unit of the file."""
    marks = [described, *described.get("anyOf", ())]
    for mark in marks:
        if default is not None and (write := _TEXT.get(mark.get("$comment", ""))):
            return write(default)
    return default
