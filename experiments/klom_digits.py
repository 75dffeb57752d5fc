"""KLoM of 50 unlearned models against 50 retrained ones; digits.

Claim:   a low Avg Gap does not mean a low KLoM.
Command: unlearn-jax run klom_digits --workdir runs/klom_digits
Results: ``experiments/results/klom_digits.json``
"""

import dataclasses

from unlearn_jax.pipeline import ForgetConfig, presets

_BASE = presets.load("digits").config

PRESET = dataclasses.replace(
    _BASE,
    title="KLoM on digits",
    forget=ForgetConfig(seeds=(1,)),
    replicas=dataclasses.replace(_BASE.replicas, originals=tuple(range(50)), group=50),
    audit=dataclasses.replace(_BASE.audit, klom=True),
)
