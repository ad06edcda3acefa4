"""Builds the extensions in C into wheels whose data path is compiled."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_SOURCES = (
    "canaryproxy/measure/native_bytes.c",
    "canaryproxy/measure/native_cells.c",
    "canaryproxy/proxy/native_sockets.c",
)


class ExtensionsHook(BuildHookInterface[BuilderConfig]):
    """Compiles beside the source, where mypyc leaves what it has compiled, too."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build them, if the wheel is one that mypyc compiles (``HATCH_BUILD_HOOK_ENABLE_MYPYC``)."""
        enabled = os.environ.get("HATCH_BUILD_HOOK_ENABLE_MYPYC", "").lower()
        if version == "editable" or enabled not in ("true", "1"):
            return
        for source in _SOURCES:
            made = self._compile(source)
            build_data["artifacts"].append(str(made.relative_to(self.root)))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def _compile(self, source: str) -> Path:
        """Return the extension that was built beside its source."""
        # Plain wheels are built without setuptools.
        from setuptools import Distribution, Extension  # noqa: PLC0415
        from setuptools.command.build_ext import build_ext  # noqa: PLC0415

        module = source.removesuffix(".c").replace("/", ".")
        # CFLAGS of the environment replace those of Python, with what they say of optimization.
        extension = Extension(module, [str(Path(self.root, source))], extra_compile_args=["-O3"])
        command = build_ext(Distribution({"name": "canaryproxy", "ext_modules": [extension]}))
        with tempfile.TemporaryDirectory() as folder:
            command.build_temp = folder
            command.build_lib = folder
            command.ensure_finalized()
            command.run()
            (built,) = (Path(one) for one in command.get_outputs())
            made = Path(self.root, source).with_name(built.name)
            made.write_bytes(built.read_bytes())
        return made
