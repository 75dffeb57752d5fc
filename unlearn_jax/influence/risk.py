"""Slopes and curvatures of each sample's loss as a function of its outputs."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from unlearn_jax.checks import check_mask, check_range
from unlearn_jax.losses import cross_entropy
from unlearn_jax.types import Array, InputError

OutputLoss = Callable[[Array, Array], Array]
"""``(outputs [..., C], targets [...] or [..., C]) -> losses [...]``, convex, smooth."""


def squared_error(outputs: Array, targets: Array) -> Array:
    """Return ``1/2 |f - y|^2 [...]`` of outputs and targets ``[..., C]``.

    >>> float(squared_error(jnp.array([1.0, 2.0]), jnp.array([1.0, 0.0])))
    2.0
    """
    chex.assert_equal_shape([outputs, targets])
    return jnp.sum((outputs - targets) ** 2, -1) / 2


def slopes(loss: OutputLoss, outputs: Array, targets: Array) -> Array:
    """Return the gradients ``[N, C]`` of the samples' losses in their outputs."""
    chex.assert_rank(outputs, 2)
    chex.assert_equal_shape_prefix([outputs, targets], 1)
    return jax.vmap(jax.grad(loss))(outputs, targets)


def curvatures(loss: OutputLoss, outputs: Array, targets: Array) -> Array:
    """Return the Hessians ``[N, C, C]`` of the samples' losses in their outputs."""
    chex.assert_rank(outputs, 2)
    chex.assert_equal_shape_prefix([outputs, targets], 1)
    return jax.vmap(jax.hessian(loss))(outputs, targets)


def half_curvatures(loss: OutputLoss, outputs: Array, targets: Array) -> Array:
    """Return lower triangular ``B [N, C, C]`` with ``B B^T`` the samples' Hessians.

    These are Cholesky factors that also exist for singular matrices, such as those of
    the cross-entropy: a pivot within rounding of 0 gives a column of zeros.
    """
    # LAPACK is not used: on CPU its batches share XLA's threads, and may wait for each
    # other forever if there are few threads.
    matrices = curvatures(loss, outputs, targets)
    count = matrices.shape[-1]
    positions = jnp.arange(count)
    least = (
        count
        * jnp.finfo(matrices.dtype).eps
        * jnp.max(jnp.diagonal(matrices, axis1=1, axis2=2), 1)
    )

    def column(step: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        left, factor = carry
        pivot = left[:, step, step]
        usable = pivot > least
        scale = jnp.where(usable, 1 / jnp.sqrt(jnp.where(usable, pivot, 1.0)), 0.0)
        below = (
            jnp.where(positions >= step, 1.0, 0.0)[None, :]
            * left[:, :, step]
            * scale[:, None]
        )
        left = left - below[:, :, None] * below[:, None, :]
        return left, factor.at[:, :, step].set(below)

    return lax.fori_loop(0, count, column, (matrices, jnp.zeros_like(matrices)))[1]


def check_ridge(ridge: float | Array) -> None:
    """Raise on a penalty that is not positive and finite; a traced one passes.

    Raises:
      InputError: a penalty that is not positive and finite.
    """
    if not isinstance(ridge, Tracer) and not 0 < float(ridge) < float("inf"):
        raise InputError(
            "influence needs a positive, finite ridge (the penalty the model was"
            f" trained with): got {ridge}"
        )


def check_targets(loss: OutputLoss, targets: Any, num_classes: int) -> None:
    """Raise on concrete classes that are out of range, if the loss takes classes.

    Args:
      loss: loss of outputs and targets; only those of the cross-entropy are known.
      targets: ``[N]`` classes or ``[N, C]``.
      num_classes: number of outputs, C.

    Raises:
      InputError: a class out of range.
    """
    if loss is cross_entropy and jnp.issubdtype(targets.dtype, jnp.integer):
        check_range(targets, num_classes, "targets")


def count_forget(forget: Any, num_forget: int | None, num_samples: int) -> int:
    """Return the number of samples that a mask removes, as a static number.

    Args:
      forget: ``[N]`` bool, the samples to remove.
      num_forget: number of forget samples; None to count them.
      num_samples: number of all samples, N.

    Raises:
      InputError: a mask of the wrong type or length; a mask that selects no sample or
        all of them, or another number than ``num_forget``; a traced mask without
        ``num_forget``.
    """
    check_mask("the forget mask", forget, num_samples)
    if not isinstance(forget, Tracer):
        count = int(np.asarray(forget).sum())
        if num_forget not in (None, count):
            raise InputError(
                f"the forget mask has {count} samples where num_forget is {num_forget}:"
                " leave num_forget out"
            )
        num_forget = count
    if num_forget is None:
        raise InputError(
            "the forget mask is traced, so its size must be given: pass num_forget"
        )
    if not 0 < num_forget < num_samples:
        raise InputError(
            f"remove at least one of the {num_samples} samples, and leave one: got"
            f" {num_forget}"
        )
    return num_forget
