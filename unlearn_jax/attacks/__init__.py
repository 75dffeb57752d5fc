"""Adversarial examples: projected gradient attacks and AMUN's search for the closest ones.

Attacks see a function and an opaque pytree, images in [0, 1], and evaluation mode;
nothing here knows what a layer is.
"""

from unlearn_jax.attacks._apgd import (
    apgd,
    autoattack_small,
    difference_of_logits_ratio,
    targeted_difference_of_logits_ratio,
)
from unlearn_jax.attacks._pgd import fast_gradient, pgd, random_start
from unlearn_jax.attacks._transfer import (
    Transfer,
    autoattack,
    black_box_accuracy,
    correct,
    legacy_attack,
    pgd_attack,
    risk_gap_bound,
    robustness,
    transfer,
    transfer_rate,
    transfer_rates,
)
from unlearn_jax.attacks.capped import cap_failures
from unlearn_jax.attacks.curve import pgd_curve
from unlearn_jax.attacks.fast import fast_adversarial_set
from unlearn_jax.attacks.norms import Norm, l2, linf
from unlearn_jax.attacks.search import adversarial_set, status_counts
from unlearn_jax.attacks.targeted import target_runner_up
from unlearn_jax.attacks.values import PGD, Doubling

__all__ = [
    "PGD",
    "Doubling",
    "Norm",
    "Transfer",
    "adversarial_set",
    "apgd",
    "autoattack",
    "autoattack_small",
    "black_box_accuracy",
    "cap_failures",
    "correct",
    "difference_of_logits_ratio",
    "fast_adversarial_set",
    "fast_gradient",
    "l2",
    "legacy_attack",
    "linf",
    "pgd",
    "pgd_attack",
    "pgd_curve",
    "random_start",
    "risk_gap_bound",
    "robustness",
    "status_counts",
    "target_runner_up",
    "targeted_difference_of_logits_ratio",
    "transfer",
    "transfer_rate",
    "transfer_rates",
]
