"""Adversarial examples: gradient attacks, and AMUN's search for the closest ones.

Attacks are functions of ``(apply_fn, variables, images, labels)``, with a ``key`` first
if they draw random numbers. ``apply_fn`` runs the model in evaluation mode,
``variables`` is any pytree, and images lie in [0, 1]. Values such as :class:`PGD` hold
the hyperparameters of an attack; they are called with the same arguments and ``key=``.
"""

from unlearn_jax.attacks._apgd import (
    apgd,
    autoattack_small,
    difference_of_logits_ratio,
    targeted_difference_of_logits_ratio,
)
from unlearn_jax.attacks._pgd import fast_gradient, pgd, random_start
from unlearn_jax.attacks._transfer import (
    Robustness,
    Transfer,
    black_box_accuracy,
    correct,
    risk_gap_bound,
    robustness,
    transfer,
    transfer_rate,
    transfer_rates,
)
from unlearn_jax.attacks.capped import cap_failures
from unlearn_jax.attacks.certificate import certified_distance
from unlearn_jax.attacks.curve import pgd_curve
from unlearn_jax.attacks.legacy import legacy_pgd
from unlearn_jax.attacks.line_search import fast_adversarial_set
from unlearn_jax.attacks.norms import NORMS, Norm, NormName, l2, linf
from unlearn_jax.attacks.search import adversarial_set, status_counts
from unlearn_jax.attacks.targeted import target_runner_up
from unlearn_jax.attacks.values import (
    APGD,
    LOSSES,
    PGD,
    Attack,
    AutoAttackSmall,
    CappedFailures,
    Doubling,
    FixedRadius,
    Grid,
    LegacyPGD,
    LineSearch,
    Minimal,
)

__all__ = [
    "APGD",
    "LOSSES",
    "NORMS",
    "PGD",
    "Attack",
    "AutoAttackSmall",
    "CappedFailures",
    "Doubling",
    "FixedRadius",
    "Grid",
    "LegacyPGD",
    "LineSearch",
    "Minimal",
    "Norm",
    "NormName",
    "Robustness",
    "Transfer",
    "adversarial_set",
    "apgd",
    "autoattack_small",
    "black_box_accuracy",
    "cap_failures",
    "certified_distance",
    "correct",
    "difference_of_logits_ratio",
    "fast_adversarial_set",
    "fast_gradient",
    "l2",
    "legacy_pgd",
    "linf",
    "pgd",
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
