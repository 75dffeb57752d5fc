"""Spectral norms of layers: estimation, bounds, clipping.

Layers are linear maps that are applied but never written out as matrices
(:mod:`~unlearn_jax.spectral.operators`). Norms are computed by Golub-Kahan-Lanczos,
whose residual bounds the error, or by block power iteration, which is cheap, resumes
from its last vectors, and underestimates. FastClip and its comparators are rules for
one layer's weights. A rule becomes an optax transformation (:func:`projection`) or is
applied once (:func:`project`).
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
