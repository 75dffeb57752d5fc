"""Fields close to image unlearning; no other part of the library depends on them.

``coresets`` finds the forget samples whose removal suffices, ``diffusion`` erases
concepts from generators, and ``federated`` removes clients. ``testbeds`` holds models
whose unlearning has an exact solution: ascent on logistic examples and diluted
Boltzmann machines.
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
