"""Neighboring fields of image unlearning, which no other part of the library needs.

``coresets`` finds the forget samples that suffice, ``diffusion`` erases concepts from
generators, ``federated`` removes clients, and ``testbeds`` holds models whose
unlearning can be solved: ascent on logistic examples and diluted Boltzmann machines.
"""

import importlib
from types import ModuleType

_SUBPACKAGES = ("coresets", "diffusion", "federated", "testbeds")

__all__ = [*_SUBPACKAGES]


def __getattr__(name: str) -> ModuleType:
    """Import a sub-package on first use (PEP 562)."""
    if name in _SUBPACKAGES:
        return importlib.import_module(f"unlearn_jax.contrib.{name}")
    raise AttributeError(f"module 'unlearn_jax.contrib' has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the sub-packages, loaded or not."""
    return __all__
