"""Branches that stay branches where many models are mapped."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

from unlearn_jax.types import Array


@custom_vmap
def any_mapped(flag: Array) -> Array:
    """Return a flag ``[]``; under ``vmap``, whether any of the mapped flags is set.

    The result is not mapped, so that ``lax.cond`` and ``lax.while_loop`` on it stay
    what they are instead of becoming selections between both branches.
    """
    return flag


@any_mapped.def_vmap
def _any_of_batch(
    axis_size: int, in_batched: list[bool], flags: Array
) -> tuple[Array, bool]:
    del axis_size, in_batched
    return any_mapped(jnp.any(flags, 0)), False


@custom_vmap
def _is_single(flag: Array) -> Array:
    return jnp.ones_like(flag)


@_is_single.def_vmap
def _is_not_single(
    axis_size: int, in_batched: list[bool], flags: Array
) -> tuple[Array, bool]:
    del axis_size, in_batched, flags
    return jnp.zeros((), bool), False


def cond(
    predicate: Array,
    true_fun: Callable[..., Any],
    false_fun: Callable[..., Any],
    *operands: Any,
) -> Any:
    """Apply one of two functions, as :func:`jax.lax.cond` does without ``vmap``.

    Under ``vmap``, ``lax.cond`` evaluates both functions always. Here ``true_fun`` is
    evaluated where the predicate holds for at least one of the mapped models, which
    matters where it is expensive and due for all of them at once, or for none.

    Args:
      predicate: ``[]`` bool.
      true_fun: the expensive function of the operands.
      false_fun: the cheap one, of the same result; always evaluated.
      *operands: of both.

    Returns:
      What the chosen function returns, to the bit.

    >>> root = lambda x: cond(x > 0, jnp.sqrt, jnp.zeros_like, x)
    >>> jax.vmap(root)(jnp.array([4.0, -1.0])).tolist()
    [2.0, 0.0]
    """
    # where nothing is mapped, XLA leaves the selection out
    is_chosen = predicate | _is_single(predicate)

    def both(*operands: Any) -> Any:
        chosen = true_fun(*operands)
        other = false_fun(*operands)
        return jax.tree.map(
            lambda one, two: jnp.where(is_chosen, one, two), chosen, other
        )

    return lax.cond(any_mapped(predicate), both, false_fun, *operands)
