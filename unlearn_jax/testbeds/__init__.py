"""Exact test-beds: unlearning problems small enough that every answer is known.

* :mod:`~unlearn_jax.testbeds.ascent`: where descent-ascent ends on logistic examples, in closed form, and
  :mod:`~unlearn_jax.testbeds.ascent_paths` how it gets there.
* :mod:`~unlearn_jax.testbeds.trap`: a local minimum that descent-ascent falls into and fine-tuning cannot leave.
"""

from unlearn_jax.testbeds.ascent import (
    Forces,
    PairMinimisers,
    Regime,
    SharedMinimisers,
    Sizes,
    alpha_limit,
    forces,
    harmful_range,
    ordering_holds,
    pair_minimisers,
    shared_minimisers,
)
from unlearn_jax.testbeds.ascent_paths import SHARED, directions, distances, gradient_path
from unlearn_jax.testbeds.trap import (
    COUNTS,
    LABELS,
    POINTS,
    RIDGE,
    TrapMinima,
    trap_loss,
    trap_minima,
    trap_output,
    trap_path,
)

__all__ = [
    "COUNTS",
    "LABELS",
    "POINTS",
    "RIDGE",
    "SHARED",
    "Forces",
    "PairMinimisers",
    "Regime",
    "SharedMinimisers",
    "Sizes",
    "TrapMinima",
    "alpha_limit",
    "directions",
    "distances",
    "forces",
    "gradient_path",
    "harmful_range",
    "ordering_holds",
    "pair_minimisers",
    "shared_minimisers",
    "trap_loss",
    "trap_minima",
    "trap_output",
    "trap_path",
]
