"""Packages whose names are imported on first use (PEP 562)."""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def on_first_use(package: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a package's ``__getattr__``, which imports what it is asked for.

    Args:
      package: its ``__name__``.
      names: by public name, the module of the package that defines it; empty for a
        name that is a module of the package itself.
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
