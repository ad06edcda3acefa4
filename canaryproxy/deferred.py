"""Packages without the parts that the proxy does not use."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec, module_from_spec
from typing import Any


def defer(
    package: str, context: AbstractContextManager[None] | None = None, **attributes: Any
) -> None:
    """Let ``import package.module`` import the module, but not what the package itself imports.

    That is imported, within ``context``, when an attribute of the package is used that is neither one of its
    modules nor one of ``attributes``. Call it before anything imports the package.
    """
    spec = find_spec(package)
    if package in sys.modules or spec is None or spec.loader is None:
        return
    execute = spec.loader.exec_module
    module = module_from_spec(spec)

    def attribute(name: str) -> Any:
        if find_spec(f"{package}.{name}") is not None:
            raise AttributeError(name)  # ``from package import module`` imports it now
        if vars(module).pop("__getattr__", None) is not None:
            with context or nullcontext():
                execute(module)
        return getattr(module, name)

    vars(module).update(attributes, __getattr__=attribute)
    sys.modules[package] = module
