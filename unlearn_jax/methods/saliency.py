"""Weight saliency: which parameters the forget set matters to, and how to leave the others alone (arXiv 2310.12508)."""

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.core import Tracer
from jax.flatten_util import ravel_pytree

from unlearn_jax.losses import cross_entropy
from unlearn_jax.methods.base import WrapTx, check_numbers, is_zero
from unlearn_jax.train import steps_per_epoch, to_float
from unlearn_jax.types import Array, InputError, Params, Problem, PyTree


def forget_gradient(problem: Problem, *, batch_size: int = 128) -> Params:
    """Gradient of the cross-entropy, summed over the forget samples, at the original model.

    Evaluation mode, no augmentation, true labels. Reads no retained sample. The
    released code of SalUn sums the gradients of batch means, which weighs the samples
    of a smaller last batch more; here every sample counts once.

    Args:
      problem: gives the original model and the forget set.
      batch_size: samples at a time; changes memory, not values.

    Returns:
      A pytree like the parameters.
    """
    size = min(batch_size, problem.num_forget)
    rows = jnp.arange(steps_per_epoch(problem.num_forget, size) * size).reshape(
        -1, size
    )
    forget = jnp.nonzero(problem.forget, size=problem.num_forget)[0]

    def add_batch(total: Params, rows: Array) -> tuple[Params, None]:
        index = forget[rows % problem.num_forget]

        def loss_of(params: Params) -> Array:
            logits = problem.model.apply(
                problem.variables._replace(params=params),
                to_float(problem.train.images[index]),
            )
            losses = cross_entropy(logits, problem.train.labels[index])
            return jnp.sum(jnp.where(rows < problem.num_forget, losses, 0.0))

        return (
            jax.tree.map(jnp.add, total, jax.grad(loss_of)(problem.variables.params)),
            None,
        )

    return lax.scan(
        add_batch, jax.tree.map(jnp.zeros_like, problem.variables.params), rows
    )[0]


def saliency_mask(
    problem: Problem, *, share: float | Array, batch_size: int = 128
) -> PyTree:
    """SalUn's mask: the parameters with the largest ``|gradient|`` on the forget set (arXiv 2310.12508).

    Ranks all parameters together (BatchNorm's and biases too) by the magnitude of
    :func:`forget_gradient` and takes the first ``round(share * P)`` of ``P``; equal
    magnitudes rank by position, so the count is exact. ``share=1`` takes every
    parameter, those without gradient included.

    Args:
      problem: gives the original model and the forget set; reads no retained sample.
      share: in (0, 1], may be traced (then ``share * P`` is computed in float32, exact
        below 2**24 parameters but for the rounding of ``share`` itself). A share that
        rounds to no parameter at all selects none.
      batch_size: samples at a time; changes memory, not values.

    Returns:
      A pytree of bool like the parameters.

    Raises:
      InputError: a share outside (0, 1].
    """
    check_share(share)
    size, unravel = ravel_pytree(
        jax.tree.map(jnp.abs, forget_gradient(problem, batch_size=batch_size))
    )
    exact = not isinstance(share, Tracer)
    count = (
        round(float(share) * len(size))
        if exact
        else jnp.round(share * len(size)).astype(jnp.int32)
    )
    chosen = (
        jnp.zeros_like(size)
        .at[jnp.argsort(-size)]
        .set((jnp.arange(len(size)) < count).astype(size.dtype))
    )
    return jax.tree.map(lambda leaf: leaf > 0, unravel(chosen))


def check_share(share: float | Array) -> None:
    """Refuses a share outside (0, 1]; a traced one passes unseen.

    Raises:
      InputError: saying so.
    """
    check_numbers(low=0, high=1, share=share)
    if is_zero(share):
        raise InputError(
            "a share of 0 of the parameters would change nothing: choose one in (0, 1]"
        )


def freeze_outside(mask: PyTree, *, leak: bool = False) -> WrapTx:
    """Keeps an optimizer from moving the parameters outside a mask.

    Args:
      mask: pytree of bool like the parameters, True where they may move.
      leak: as in SalUn's code before its fix of February 2026, and in AMUN's: only
        gradients are masked, so weight decay (and its momentum) still moves the other
        parameters. False holds them bit for bit: no gradient, no momentum, no decay.

    Returns:
      ``tx -> tx``, for :func:`unlearn_jax.methods.base.finetune_on`.
    """

    def masked(tree: PyTree) -> PyTree:
        return jax.tree.map(
            lambda keep, leaf: jnp.where(keep, leaf, jnp.zeros_like(leaf)), mask, tree
        )

    def wrap(tx: optax.GradientTransformation) -> optax.GradientTransformation:
        def update(
            updates: Params, state: optax.OptState, params: Params | None = None
        ) -> tuple[Params, optax.OptState]:
            if leak:
                return tx.update(masked(updates), state, params)
            updates, state = tx.update(
                masked(updates), state, None if params is None else masked(params)
            )
            return masked(updates), state

        return optax.GradientTransformation(tx.init, update)

    return wrap
