"""Lazy packages, whose names are imported on first use (PEP 562)."""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def on_first_use(
    package: str, names: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` of a package with lazy names.

    Args:
      package: ``__name__`` of the package.
      names: defining modules by public name; empty for a name that is itself a module
        of the package.

    Returns:
      A function that imports a name when it is read, and a function that returns the
      package's ``__all__``.
    """

    def load(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if not names[name]:
            return importlib.import_module(f"{package}.{name}")
        module = importlib.import_module(f"{package}.{names[name]}")
        setattr(sys.modules[package], name, getattr(module, name))
        return getattr(module, name)

    def list_names() -> list[str]:
        return list(sys.modules[package].__all__)

    return load, list_names
