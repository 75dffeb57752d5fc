"""Experiments that are more than one run: their programs and their pages."""

import importlib
from types import ModuleType

__all__ = [
    "ascent",
    "coresets",
    "ensembles",
    "federated",
    "influence",
    "latent",
    "norms",
    "rbm",
    "references",
]


def __getattr__(name: str) -> ModuleType:
    """Import a study on first use (PEP 562)."""
    if name in __all__:
        return importlib.import_module(f"unlearn_jax.studies.{name}")
    raise AttributeError(f"module 'unlearn_jax.studies' has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the studies, loaded or not."""
    return __all__
