"""canaryproxy whose users' time has intervals of half a second: ``python quick.py run -c FILE``."""

from __future__ import annotations

from canaryproxy.cli import main
from canaryproxy.judging import user_time

if __name__ == "__main__":
    user_time.INTERVAL = 0.5  # type: ignore[misc]
    main(prog_name="canaryproxy")
