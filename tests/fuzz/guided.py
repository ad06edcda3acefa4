"""Coverage-guided fuzzing of the targets with atheris.

    python -m tests.fuzz.guided --seconds 60 [--targets requests,chunks]

Each target gets the same time, a process of its own, and the corpus to begin with. What was found by
earlier runs is kept in ``.fuzz/`` and used again. Ends with 1 at the first input for which something does not
hold; it is in ``.fuzz/`` then.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import time
from pathlib import Path

from .targets import TARGETS
from .test_targets import seeds

FOUND = Path(".fuzz")


def fuzz(name: str) -> None:
    """Fuzz one target in this process, which ends with it."""
    import atheris

    with atheris.instrument_imports(include=["canaryproxy", "tests.fuzz.targets"]):
        for module in [one for one in sys.modules if one.startswith("canaryproxy")]:
            del sys.modules[module]
        sys.modules.pop("tests.fuzz.targets")
        from . import targets

    atheris.Setup([sys.argv[0], *sys.argv[3:]], targets.TARGETS[name])
    atheris.Fuzz()


def main() -> int:
    """Fuzz every target for a while; return the exit status."""
    if sys.argv[1:2] == ["--one"]:
        fuzz(sys.argv[2])
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60.0, help="for all targets together")
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    names = arguments.targets.split(",")
    each = max(int(arguments.seconds / len(names)), 1)
    for name in names:
        folder = FOUND / name
        folder.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(seeds(name, random.Random(name))):
            (folder / f"seed-{number}").write_bytes(seed)
        started = time.monotonic()
        status = subprocess.run(
            [
                sys.executable, "-m", "tests.fuzz.guided", "--one", name, str(folder),
                f"-max_total_time={each}", f"-seed={arguments.seed}", "-max_len=4096",
                f"-artifact_prefix={FOUND}/{name}-", "-print_final_stats=1", "-verbosity=0",
            ],
            check=False,
            capture_output=True,
            text=True,
        )  # fmt: skip
        lines = status.stderr.splitlines()
        executed = [line.split()[-1] for line in lines if "number_of_executed_units" in line]
        took = time.monotonic() - started
        print(f"{name}: {' '.join(executed)} inputs in {took:.0f} s", flush=True)
        if status.returncode:
            print(status.stdout[-4000:], status.stderr[-4000:], sep="\n")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
