"""Every method on digits, each with the same trials per hyperparameter.

Claim:   how near each method comes to retraining when all are tuned alike.
Command: unlearn-jax run methods_digits --workdir runs/methods_digits
Results: ``experiments/results/methods_digits.json``
"""

import dataclasses

from unlearn_jax.pipeline import presets
from unlearn_jax.pipeline.config import rows

_ROWS = rows.with_retain() | rows.without_retain()
# a perceptron has no convolutions, and its layers stand in for them
del _ROWS["convolution_transpose"]
_ROWS["masked_small_gradients"] = rows.with_options(
    _ROWS["masked_small_gradients"], kernels="all"
)

PRESET = dataclasses.replace(
    presets.load("digits").config, title="Methods on digits", rows=_ROWS
)
