"""JSON as the admin API and webhooks send it."""

from __future__ import annotations

import json
from typing import Any

from pydantic_core import PydanticSerializationError, to_json, to_jsonable_python


def encode(value: Any) -> bytes:
    """Return ``value`` as compact JSON.

    Models and dataclasses become objects, NaN and infinity ``null``; a value that JSON does not know becomes
    its ``str``.
    """
    try:
        return to_json(value, inf_nan_mode="null", fallback=str)
    except PydanticSerializationError:
        # A lone surrogate, as in a file name that is not UTF-8, can only be sent as an escape.
        plain = to_jsonable_python(value, inf_nan_mode="null", fallback=str)
        return json.dumps(plain, separators=(",", ":")).encode()
