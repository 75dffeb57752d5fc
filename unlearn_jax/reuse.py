"""Compiled programs of models that the next call with equal shapes reuses."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from unlearn_jax.types import ApplyFn, PyTree, pure_functions


def is_reusable(apply_fn: ApplyFn, *arguments: PyTree) -> bool:
    """Return whether a compiled call of a model may serve the next call.

    Only the ``apply`` of a :class:`unlearn_jax.types.Model`, and the functions of
    ensembles, are known to be pure. Any other function may depend on values that change
    between two calls, or belong to a trace.

    Args:
      apply_fn: ``(variables, images) -> logits``.
      *arguments: arrays and floats; with traced or other leaves the answer is False.
    """
    try:
        if apply_fn not in pure_functions:
            return False
    except TypeError:  # an object that cannot be hashed
        return False
    kinds = (jax.Array, np.ndarray, float)
    leaves = jax.tree.leaves(arguments)
    return all(
        isinstance(leaf, kinds) and not isinstance(leaf, Tracer) for leaf in leaves
    )


@lru_cache(maxsize=16)
def program(function: Callable[..., Any], *static: Any) -> Callable[..., Any]:
    """Return ``function(*static, ...)``, compiled; the last 16 are kept.

    Args:
      function: pure function of the static arguments and of arrays.
      *static: leading arguments that can be hashed, such as a model's ``apply`` for
        which :func:`is_reusable` is True.
    """
    return jax.jit(partial(function, *static))
