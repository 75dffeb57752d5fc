"""KLoM (arXiv 2410.23232): margins of 50 unlearned models against those of 50 retrained ones, sample by sample.

Command:   unlearn-jax run klom_digits --workdir runs/klom_digits
Published: none at this scale; the paper uses 100 models of ResNet-9 on CIFAR-10.
Measured:  TO BE MEASURED
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
