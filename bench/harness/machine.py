"""Describes the machine on which figures were taken."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def describe() -> dict[str, str]:
    """Return processor, usable cores, memory, kernel, TCP congestion control and Python."""
    return {
        "cpu": cpu_model(Path("/proc/cpuinfo").read_text()),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": _memory(Path("/proc/meminfo").read_text()),
        "kernel": f"{platform.system()} {platform.release()}",
        "tcp": Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }


def _memory(meminfo: str) -> str:
    kibibytes = next(line for line in meminfo.splitlines() if line.startswith("MemTotal:"))
    return f"{int(kibibytes.split()[1]) / 1024**2:.0f} GiB memory"


def cpu_model(cpuinfo: str) -> str:
    """Return the model of the first processor from the text of /proc/cpuinfo."""
    fields: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        key, separator, value = line.partition(":")
        if separator:
            fields.setdefault(key.strip(), value.strip())
    name = fields.get("model name", platform.machine())
    family, model = fields.get("cpu family"), fields.get("model")
    return f"{name} (family {family}, model {model})" if family and model else name
