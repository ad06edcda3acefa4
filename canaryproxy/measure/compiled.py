"""Whether the data path of this installation was compiled when its wheel was built."""

from __future__ import annotations

from typing import Final

from canaryproxy.measure import routing

COMPILED: Final = not routing.__file__.endswith(".py")
"""True: by mypyc, ``HATCH_BUILD_HOOK_ENABLE_MYPYC=true``; false: plain Python, which does the same."""
