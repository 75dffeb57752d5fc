"""Every method on scikit-learn's digits, each tuned with the same number of trials; a perceptron.

Command:   unlearn-jax run methods_digits --workdir runs/methods_digits
Published: none at this scale; the paper's Tables 1 and 2 are ``amun_tables_cifar10``.
Measured:  TO BE MEASURED
"""

import dataclasses

from unlearn_jax.pipeline import presets, rows

_ROWS = rows.with_retain() | rows.without_retain()
del _ROWS["convolution_transpose"]  # a perceptron has no convolutions ...
_ROWS["masked_small_gradients"]["kernels"] = "all"  # ... and its layers stand in for them

PRESET = dataclasses.replace(presets.load("digits").config, title="Methods on digits", rows=_ROWS)
