"""Core-sets: the part C of a forget set F whose removal suppresses knowledge of F.

The first open question of arXiv 2512.06993 asks for the causally decisive samples of a
forget set, by the probabilities of necessity and sufficiency. This package is an
answer; its definitions are the library's own. ``k(.)`` is the knowledge of **all** of F
in a model trained on a set of samples, such as the mean margin on F::

    suppression(C) = (k(D) - k(D - C)) / (k(D) - k(D - F))     1 for the oracle D - F
    S(C) = 1  if  |1 - suppression(C)| <= tolerance
    PS(C) = P(S(C) = 1)    PN(C) = P(S(F - C) = 0)
    PNS(C) = P(S(C) = 1 and S(F - C) = 0)

The probabilities are over training seeds. All worlds (C, F - C, F or nothing removed)
are simulated on the same seed, so PNS is observed, not only bounded. The search runs on
kernel ridge regressions, because any subset can be removed from them exactly
(:mod:`unlearn_jax.influence.ridge`); their training seeds are the seeds of their random
features. :func:`retrain_without` confirms the result of the search on networks.
"""

from unlearn_jax.contrib.coresets._causes import (
    CAVEAT,
    Causes,
    Knowledge,
    causes,
    forget_accuracy,
    margins,
    mean_margin,
    suppressed,
    suppression,
    tian_pearl_bounds,
)
from unlearn_jax.contrib.coresets.search import (
    CoreSet,
    backward_prune,
    find_core_set,
    forward_greedy,
    rank_by_influence,
    suppression_without,
)
from unlearn_jax.contrib.coresets.worlds import retrain_without, seed_worlds

__all__ = [
    "CAVEAT",
    "Causes",
    "CoreSet",
    "Knowledge",
    "backward_prune",
    "causes",
    "find_core_set",
    "forget_accuracy",
    "forward_greedy",
    "margins",
    "mean_margin",
    "rank_by_influence",
    "retrain_without",
    "seed_worlds",
    "suppressed",
    "suppression",
    "suppression_without",
    "tian_pearl_bounds",
]
