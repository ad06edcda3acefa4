"""Whether the data path of this installation was compiled when its wheel was built."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final

_routing = find_spec("canaryproxy.measure.routing")  # not imported: it imports the configuration

COMPILED: Final = _routing is not None and not str(_routing.origin).endswith(".py")
"""True: by mypyc, ``HATCH_BUILD_HOOK_ENABLE_MYPYC=true``; false: plain Python, which does the same."""
