"""Influence functions, primal and dual: the effect of removing training samples.

A model is ``(apply_fn, variables)``, where ``variables`` is any pytree. Derivatives are
with respect to its trained part (:func:`trained`), and changes have the structure of
that part. :func:`linearize` returns a model's first-order expansion.
:func:`dual_change` works with a kernel (:func:`ntk`, :func:`feature_kernel`, or any
other), :func:`primal_change` with parameters. :func:`remove` runs either, and warns if
its :class:`Guard` does not trust the result. :func:`fit_dual` and :func:`fit_primal`
train linearized models to their optimum, for comparison.
"""

from unlearn_jax.influence._ntk import (
    OutputFn,
    cross_influence_norm,
    feature_kernel,
    jacobian,
    kernel_block,
    kernel_product,
    linearize,
    ntk,
    outputs_of,
    pull,
    push,
    trained,
)
from unlearn_jax.influence._solvers import CG, Dense, Solver
from unlearn_jax.influence.dual import (
    DualChange,
    DualFit,
    dual_change,
    fit_dual,
    loss_change,
    output_change,
    penalty_change,
)
from unlearn_jax.influence.primal import (
    PrimalChange,
    PrimalFit,
    fit_primal,
    forward_change,
    primal_change,
)
from unlearn_jax.influence.removal import (
    Guard,
    Removal,
    guard,
    remove,
    warn_unless_trusted,
)
from unlearn_jax.influence.risk import OutputLoss, squared_error

__all__ = [
    "CG",
    "Dense",
    "DualChange",
    "DualFit",
    "Guard",
    "OutputFn",
    "OutputLoss",
    "PrimalChange",
    "PrimalFit",
    "Removal",
    "Solver",
    "cross_influence_norm",
    "dual_change",
    "feature_kernel",
    "fit_dual",
    "fit_primal",
    "forward_change",
    "guard",
    "jacobian",
    "kernel_block",
    "kernel_product",
    "linearize",
    "loss_change",
    "ntk",
    "output_change",
    "outputs_of",
    "penalty_change",
    "primal_change",
    "pull",
    "push",
    "remove",
    "squared_error",
    "trained",
    "warn_unless_trusted",
]
