"""``canaryproxy`` with another wall clock: ``python skewed.py FILE ARGUMENTS``.

FILE holds the seconds that are added, and is read anew each time.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

_offset = Path(sys.argv.pop(1))
_time, _time_ns = time.time, time.time_ns
time.time = lambda: _time() + float(_offset.read_text() or 0)
time.time_ns = lambda: _time_ns() + int(float(_offset.read_text() or 0) * 1e9)

from canaryproxy.cli import main  # noqa: E402 - after the clock

main()
