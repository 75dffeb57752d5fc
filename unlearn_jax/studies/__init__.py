"""Experiments that need more than one run: their programs and their pages."""

from unlearn_jax.lazy import on_first_use

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
__getattr__, __dir__ = on_first_use(__name__, dict.fromkeys(_SUBPACKAGES, ""))
