"""Hard forget sets: a random tenth of digits, the tenth that models memorise most, and the tenth they know least.

Command:   unlearn-jax run hard_sets_digits --workdir runs/hard_sets_digits
Published: none at this scale.
Measured:  TO BE MEASURED
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
    "memorised": dataclasses.replace(_BASE, forget=ForgetConfig(kind="memorised")),
    "uncertain": dataclasses.replace(_BASE, forget=ForgetConfig(kind="uncertain")),
}
