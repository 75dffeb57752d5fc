"""Spectral norms of layers: estimate, bound, clip.

Layers are linear maps that are applied, never written out
(:mod:`~unlearn_jax.spectral.operators`). Norms come from Golub-Kahan-Lanczos, whose
residual bounds the error, or from block power iteration, which is cheap, starts where
it stopped, and underestimates. FastClip and its comparators are rules for one layer's
weights; a rule becomes an optax transform (:func:`projection`) or is applied once
(:func:`project`).
"""

from unlearn_jax.spectral._fastclip import (
    ClipRule,
    ClipState,
    clip,
    clip_kernel,
    fastclip,
)
from unlearn_jax.spectral._power_qr import Spectrum, lanczos, power_qr
from unlearn_jax.spectral._projection import (
    KernelRule,
    ProjectionState,
    Rule,
    Targets,
    project,
    projection,
    state_shapes,
)
from unlearn_jax.spectral.comparators import (
    delattre_bound,
    fft_clip,
    frequency_blocks,
    gouk,
    gram_bound,
    miyato,
    sedghi,
)
from unlearn_jax.spectral.norms import (
    log10_lipschitz_product,
    named,
    spectral_norms,
    top_spectrum,
)
from unlearn_jax.spectral.operators import LinearMap, affine_map, layer_map, linear_map

__all__ = [
    "ClipRule",
    "ClipState",
    "KernelRule",
    "LinearMap",
    "ProjectionState",
    "Rule",
    "Spectrum",
    "Targets",
    "affine_map",
    "clip",
    "clip_kernel",
    "delattre_bound",
    "fastclip",
    "fft_clip",
    "frequency_blocks",
    "gouk",
    "gram_bound",
    "lanczos",
    "layer_map",
    "linear_map",
    "log10_lipschitz_product",
    "miyato",
    "named",
    "power_qr",
    "project",
    "projection",
    "sedghi",
    "spectral_norms",
    "state_shapes",
    "top_spectrum",
]
