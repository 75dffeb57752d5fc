"""Experiments that need more than one run: their programs and their pages."""

import importlib
from types import ModuleType

_SUBPACKAGES = (
    "ascent",
    "coresets",
    "ensembles",
    "federated",
    "influence",
    "latent",
    "norms",
    "rbm",
    "references",
)

__all__ = [*_SUBPACKAGES]


def __getattr__(name: str) -> ModuleType:
    """Import a study on first use (PEP 562)."""
    if name in _SUBPACKAGES:
        return importlib.import_module(f"unlearn_jax.studies.{name}")
    raise AttributeError(f"module 'unlearn_jax.studies' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the names of the studies, loaded or not."""
    return __all__
