"""As the manifests have the proxy run: their user, a read-only root, their volumes, a swapped ConfigMap."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.dockerfile import ROOT
from tests.deploy.test_process_one import children
from tests.system.processes import DEADLINE, until

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("pod.sh")
ALONE = ["unshare", "--mount", "--pid", "--net", "--fork", "--kill-child"]


def can_be_alone(folder: Path) -> bool:
    """Whether namespaces and an overlay over / are allowed here."""
    if os.getuid() != 0 or not all(
        map(shutil.which, ("unshare", "nsenter", "setpriv", "ip", "kubectl"))
    ):
        return False
    trial = [*ALONE, str(SCRIPT), str(folder), "10001:10001", os.devnull, "/", "true"]
    return subprocess.run(trial, capture_output=True, check=False).returncode == 0


class Pod:
    """What the kubelet would make of a pod with a proxy in it."""

    def __init__(self, folder: Path, name: str) -> None:
        built = subprocess.run(
            ["kubectl", "kustomize", ROOT / "config" / "kubernetes" / name],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        objects: list[dict[str, Any]] = list(yaml.safe_load_all(built))
        (self.text,) = [
            text for one in objects if one["kind"] == "ConfigMap" for text in one["data"].values()
        ]
        (spec,) = [
            one["spec"]["template"]["spec"]
            for one in objects
            if one["kind"] in ("Deployment", "StatefulSet")
        ]
        (self.container,) = [
            one
            for one in [*spec.get("initContainers", []), *spec["containers"]]
            if one["name"] == "canaryproxy"
        ]
        security = spec["securityContext"] | self.container["securityContext"]
        self.user = f"{security['runAsUser']}:{security['runAsGroup']}"
        self.map = folder / "map"
        self._folder = folder
        kinds = {one["name"]: one for one in spec["volumes"]}
        lines = []
        for mount in self.container["volumeMounts"]:
            kind = kinds.get(mount["name"], {})
            if "configMap" in kind:
                lines.append(f"ro {mount['mountPath']} {self.map}")
            elif "secret" in kind:  # optional, and not there
                (folder / "secret").mkdir()
                lines.append(f"ro {mount['mountPath']} {folder / 'secret'}")
            else:
                lines.append(f"rw {mount['mountPath']} {security['fsGroup']}")
        (folder / "mounts").write_text("\n".join(lines) + "\n")
        self.write(self.text)

    def write(self, text: str) -> None:
        """Put another content into the ConfigMap, by the links that the kubelet swaps."""
        self.map.mkdir(exist_ok=True)
        version = self.map / f"..{len(list(self.map.iterdir()))}"
        version.mkdir()
        (version / "canaryproxy.yaml").write_text(text)
        (self.map / "..tmp").symlink_to(version.name)
        (self.map / "..tmp").replace(self.map / "..data")
        if not (self.map / "canaryproxy.yaml").is_symlink():
            (self.map / "canaryproxy.yaml").symlink_to("..data/canaryproxy.yaml")

    def command(self, *words: str) -> list[str]:
        """A command in the environment of the container."""
        variables = [f"{one['name']}={one['value']}" for one in self.container["env"]]
        path = f"PATH={Path(sys.executable).parent}:/usr/bin:/bin"
        return ["env", "-i", path, f"PYTHONPATH={ROOT}", *variables, *words]

    def start(self) -> subprocess.Popen[bytes]:
        """Run the container's command as it is there."""
        (self._folder / "root").mkdir()
        code = [Path(name).resolve() for name in (ROOT, sys.prefix, sys.base_prefix)]
        parents = {str(parent) for path in code for parent in (path, *path.parents)}
        run = [sys.executable, "-m", "canaryproxy", *self.container["args"]]
        place = [str(self._folder / "root"), self.user, str(self._folder / "mounts")]
        return subprocess.Popen(
            [*ALONE, str(SCRIPT), *place, " ".join(parents), *self.command(*run)]
        )

    def exec(self, pid: int, *words: str) -> subprocess.CompletedProcess[str]:
        """``kubectl exec``, in the container of a process."""
        user, group = self.user.split(":")
        inside = ["nsenter", "--target", str(pid), "--all", "--root", "--wd=/"]
        inside += ["setpriv", "--reuid", user, "--regid", group, "--clear-groups"]
        return subprocess.run(
            [*inside, *self.command(*words)],
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )


@pytest.fixture(params=["edge", "sidecar"])
def pod(request: pytest.FixtureRequest, tmp_path: Path) -> Pod:
    trial = tmp_path / "trial"
    trial.mkdir()
    if not can_be_alone(trial):
        pytest.skip("needs root, namespaces and an overlay")
    (tmp_path / "pod").mkdir()
    return Pod(tmp_path / "pod", request.param)


def test_it_runs_reloads_and_ends_as_the_manifest_says(pod: Pod) -> None:
    health = [sys.executable, "-m", "canaryproxy.health"]
    admin = [sys.executable, "-m", "canaryproxy"]
    outside = pod.start()
    try:
        until(lambda: children(outside.pid) or outside.poll() is not None, "a process")
        (pid,) = children(outside.pid)
        until(
            lambda: outside.poll() is not None or pod.exec(pid, *health).returncode == 0,
            "readiness",
        )
        assert outside.poll() is None
        status = Path(f"/proc/{pid}/status").read_text()
        assert f"\nUid:\t{pod.user.split(':')[0]}\t" in status
        assert "\nCapEff:\t0000000000000000\n" in status
        assert "\nNoNewPrivs:\t1\n" in status
        assert pod.exec(pid, "touch", "/etc/anything").returncode != 0  # the root is read-only
        # The probes' address.
        assert pod.exec(pid, *health, "http://127.0.0.1:9900").returncode == 0
        # What is in the ConfigMap is taken as the kubelet swaps it.
        assert "0%" in pod.exec(pid, *admin, "status").stdout
        pod.write(pod.text.replace("weight: 0", "weight: 7"))
        until(lambda: "7%" in pod.exec(pid, *admin, "status").stdout, "the new weight")
        pod.write("listen: nonsense")
        until(lambda: "reload_failed" in pod.exec(pid, *admin, "history").stdout, "the refusal")
        assert "7%" in pod.exec(pid, *admin, "status").stdout
        os.kill(pid, signal.SIGTERM)
        assert outside.wait(DEADLINE) == 0
    finally:
        # The kernel forgets whom to end with the parent when a process becomes another user.
        for child in children(outside.pid) if outside.poll() is None else ():
            os.kill(child, signal.SIGKILL)
        outside.kill()
        outside.wait()
