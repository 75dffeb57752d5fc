"""Hard forget sets: random, memorized and uncertain digits.

Claim:   memorized and uncertain samples are harder to forget than random ones.
Command: unlearn-jax run hard_sets_digits --workdir runs/hard_sets_digits
Results: ``experiments/results/hard_sets_digits.json``
"""

import dataclasses

from unlearn_jax.pipeline import ForgetConfig, presets

_BASE = presets.load("digits").config
_BASE = dataclasses.replace(
    _BASE,
    title="Hard forget sets",
    replicas=dataclasses.replace(_BASE.replicas, originals=tuple(range(10))),
)

STUDY = {
    "random": dataclasses.replace(_BASE, forget=ForgetConfig(seeds=(1,))),
    "memorized": dataclasses.replace(_BASE, forget=ForgetConfig(kind="memorized")),
    "uncertain": dataclasses.replace(_BASE, forget=ForgetConfig(kind="uncertain")),
}
