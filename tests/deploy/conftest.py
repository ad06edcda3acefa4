"""The proxy as the Dockerfile installs it: its wheel and what is locked, in an environment of its own."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.dockerfile import ROOT, stages


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory, testrun_uid: str) -> Path:
    """Return where the image's steps have installed the proxy: once for all processes of the tests."""
    folder = tmp_path_factory.getbasetemp().parent / f"image-{testrun_uid}"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = folder / "done"
        if not done.exists():
            _install(folder)
            done.touch()
    return folder / "opt" / "canaryproxy"


def _install(folder: Path) -> None:
    """Run each step of the first stage as it stands in the Dockerfile, only in another folder."""
    source, target = folder / "src", folder / "opt" / "canaryproxy"
    source.mkdir(parents=True)
    subprocess.run([sys.executable, "-m", "venv", folder / "base"], check=True)
    for line in stages()[0]:
        if line.name == "COPY":
            *names, to = line.value.split()
            for name in names:
                if (ROOT / name).is_dir():
                    ignore = shutil.ignore_patterns("__pycache__")
                    shutil.copytree(ROOT / name, source / to, ignore=ignore)
                else:
                    shutil.copy(ROOT / name, source / to)
            # Tested is that it compiles, not that the result is quick.
            project = source / "pyproject.toml"
            if project.exists():
                text = project.read_text()
                project.write_text(text.replace('opt_level = "3"', 'opt_level = "0"'))
        elif line.name == "RUN":
            step = line.value.replace("/opt/canaryproxy", str(target))
            step = step.replace("/wheels", str(folder / "wheels"))
            done = subprocess.run(
                ["/bin/sh", "-ec", step],
                cwd=source,
                env={"PATH": f"{folder}/base/bin:/usr/bin:/bin", "SOURCE_DATE_EPOCH": "0"}
                | {"COMPILE": os.environ.get("COMPILE", "false")}
                # Bytecode of what only builds is of no use here, and takes as long as all the rest.
                | {"PIP_COMPILE": "0"}
                | network(),
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{line.value}\n{done.stdout}\n{done.stderr}"


def network() -> dict[str, str]:
    """Return the variables by which pip finds the registry where these tests run."""
    return {
        name: value
        for name, value in os.environ.items()
        if re.match(r"(PIP|SSL)_|HOME$|https?_proxy$|no_proxy$", name, re.IGNORECASE)
    }
