"""The bill of materials names everything that the image installs, with its hashes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_everything_locked_is_listed_with_its_hashes(tmp_path: Path) -> None:
    target = re.search(r"\n\t\$\(BIN\)/(cyclonedx-py [^>]*)2>", (ROOT / "Makefile").read_text())
    assert target is not None
    command = target[1].replace("\\\n", " ").split()
    out = tmp_path / "sbom.json"
    command[command.index("--output-file") + 1] = str(out)
    command[0] = str(Path(sys.executable).with_name(command[0]))
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    bill = json.loads(out.read_text())
    assert bill["metadata"]["component"]["name"] == "canaryproxy"
    listed = {
        f"{part['name']}=={part['version']}": {
            entry["content"]
            for reference in part["externalReferences"]
            for entry in reference.get("hashes", ())
        }
        for part in bill["components"]
    }
    lock = (ROOT / "requirements.lock").read_text()
    locked = re.findall(r"^([^\s#]+==[^\s;]+)((?:.*\\\n)+.*)", lock, re.M)
    assert len(locked) > 15
    for name, rest in locked:
        assert listed[name] == set(re.findall(r"sha256:([0-9a-f]{64})", rest))
    assert len(listed) == len(locked)
