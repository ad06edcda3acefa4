"""``python -m tests.soak --seconds 600``: exit status 1 if something does not balance."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from .run import Soak


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="canaryproxy-soak-") as folder:
        report = Soak(Path(folder), arguments.seconds, seed=arguments.seed).run()
    print(report)
    return bool(report.problems)


if __name__ == "__main__":
    sys.exit(main())
