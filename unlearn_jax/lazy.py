"""Lazy packages, whose names are imported on first use (PEP 562)."""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def on_first_use(package: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a ``__getattr__`` for a package that imports names when they are read.

    Args:
      package: ``__name__`` of the package.
      names: defining modules by public name; empty for a name that is itself a module
        of the package.
    """

    def load(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if not names[name]:
            return importlib.import_module(f"{package}.{name}")
        module = importlib.import_module(f"{package}.{names[name]}")
        setattr(sys.modules[package], name, getattr(module, name))
        return getattr(module, name)

    return load
