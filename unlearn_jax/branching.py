"""Conditionals that remain conditionals under ``vmap``."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

from unlearn_jax.types import Array


@custom_vmap
def any_mapped(flag: Array) -> Array:
    """Return a flag ``[]``, or under ``vmap`` whether any of the mapped flags is set.

    The result is never batched. So under ``vmap`` a ``lax.cond`` on it still evaluates
    one branch only, and a ``lax.while_loop`` on it needs no selection of old and new
    values for each model.
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
    """Return True, or False if ``vmap`` maps the flag over several models.

    Without a mapped flag the result is the constant True, whatever the flag. XLA folds
    ``flag | True`` to True and ``where(True, chosen, other)`` to ``chosen``, and drops
    ``other``, which nothing reads: the compiled program is that of ``lax.cond``. Under
    ``vmap`` the rule below takes the place of this function, so ``flag | False`` is
    each model's own flag and the selection remains.
    """
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
    """Apply one of two functions; under ``vmap``, skip an expensive one if possible.

    Under ``vmap``, :func:`jax.lax.cond` always evaluates both functions. This function
    evaluates ``true_fun`` only if the predicate holds for at least one of the mapped
    models. That saves time if ``true_fun`` is expensive and needed either by all models
    at once or by none. Without ``vmap`` it does what ``lax.cond`` does.

    Args:
      predicate: ``[]`` bool.
      true_fun: expensive function of the operands.
      false_fun: cheap function of the operands, with results of the same structure;
        under ``vmap`` always evaluated.
      *operands: arguments of both functions.

    Returns:
      The result of the chosen function, bit for bit.

    >>> root = lambda x: cond(x > 0, jnp.sqrt, jnp.zeros_like, x)
    >>> jax.vmap(root)(jnp.array([4.0, -1.0])).tolist()
    [2.0, 0.0]
    """
    # True for a single model, which reaches `both` only if its predicate holds
    is_chosen = predicate | _is_single(predicate)

    def both(*operands: Any) -> Any:
        chosen = true_fun(*operands)
        other = false_fun(*operands)
        return jax.tree.map(
            lambda one, two: jnp.where(is_chosen, one, two), chosen, other
        )

    return lax.cond(any_mapped(predicate), both, false_fun, *operands)
