"""Configurations of other tools as ours: ``convert`` recognises the tool and returns YAML.

``fields`` reads YAML, JSON and TOML, ``nginx_syntax`` the syntax of nginx. There is a module for each tool,
which adds settings to a ``draft``; the draft is written as YAML and read by our own loader before it is
returned. Pure: the files that an include names are read by a function that the caller gives.
"""

from __future__ import annotations

from canaryproxy.importing.convert import KINDS, Imported, convert
from canaryproxy.importing.shares import Wanted

__all__ = ["KINDS", "Imported", "Wanted", "convert"]
