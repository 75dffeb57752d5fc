"""Adversarial examples: projected gradient attacks and AMUN's search for the closest ones.

Attacks see a function and an opaque pytree, images in [0, 1], and evaluation mode; nothing here knows what a layer is.
"""

from unlearn_jax.attacks.capped import cap_failures
from unlearn_jax.attacks.fast import fast_adversarial_set
from unlearn_jax.attacks.norms import Norm, l2, linf
from unlearn_jax.attacks.pgd import fast_gradient, pgd, random_start
from unlearn_jax.attacks.search import adversarial_set, status_counts
from unlearn_jax.attacks.targeted import target_runner_up

__all__ = [
    "Norm",
    "adversarial_set",
    "cap_failures",
    "fast_adversarial_set",
    "fast_gradient",
    "l2",
    "linf",
    "pgd",
    "random_start",
    "status_counts",
    "target_runner_up",
]
