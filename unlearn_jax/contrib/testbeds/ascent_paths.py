"""Paths of gradient descent on the logistic examples.

The objectives are those of :mod:`unlearn_jax.contrib.testbeds.ascent`.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import ArrayLike

from unlearn_jax.checks import (
    check_counts,
    check_finite,
    check_not_negative,
    check_positive,
    check_shape,
)
from unlearn_jax.types import Array, InputError

SHARED = np.ones((2, 1))
"""Directions ``[2, 1]`` of retained and forget samples that share one coordinate."""


def directions(correlation: float | Array) -> Array:
    """Return the signed inputs ``[2, 2]`` of two correlated coordinates.

    They are ``(1, eps)`` for the retained and ``(eps, 1)`` for the forget samples. The
    function is traceable.
    """
    one = jnp.ones_like(correlation)
    return jnp.stack([jnp.stack([one, correlation]), jnp.stack([correlation, one])])


def gradient_path(
    force: ArrayLike,
    toward: ArrayLike,
    ridge: float | Array,
    start: ArrayLike,
    *,
    learning_rate: float | Array,
    num_steps: int,
    alternating: bool = False,
) -> Array:
    """Return a path of gradient descent on one of the objectives.

    The path is training, fine-tuning or descent-ascent, and the function is traceable
    and can be mapped. The gradient is
    ``lambda w - c_R exp(-u_R.w) u_R - c_F exp(-u_F.w) u_F``. Simultaneous
    descent-ascent is descent with ``forces(...).ascent``. The alternating form replaces
    each step by two: the first on the forget samples alone, the second on the retained
    samples alone, each with the ridge. To first order in the learning rate this is the
    simultaneous form with twice the ridge.

    Args:
      force: ``[2]`` c_R and c_F, a field of
        :class:`unlearn_jax.contrib.testbeds.ascent.Forces`.
      toward: ``[2, D]`` u_R and u_F: :func:`directions`, or :data:`SHARED`.
      ridge: lambda.
      start: ``[D]`` initial weights.
      learning_rate: learning rate of every step.
      num_steps: number of steps (static); an alternating pair counts as one.
      alternating: whether to use the alternating form (static).

    Returns:
      ``[num_steps + 1, D]`` all weights, the start first; not finite once a path
      overflows its float type.

    Raises:
      InputError: shapes that do not fit, numbers that are not finite, a rate that is
        not positive, or a negative ridge or number of steps.
    """
    check_finite(force=force, toward=toward, start=start)
    check_not_negative(ridge=ridge)
    check_positive(learning_rate=learning_rate)
    check_counts(0, num_steps=num_steps)
    force, toward, start = (jnp.asarray(part, float) for part in (force, toward, start))
    if force.shape != (2,) or start.ndim != 1 or toward.shape != (2, *start.shape):
        raise InputError(
            f"force {force.shape}, toward {toward.shape} and start {start.shape}: pass"
            " [2], [2, D] and [D]"
        )
    retain = jnp.asarray([1.0, 0.0])
    forget = jnp.asarray([0.0, 1.0])
    parts = [force * forget, force * retain] if alternating else [force]

    def step(weights: Array, _: None) -> tuple[Array, Array]:
        for part in parts:
            pull = part * jnp.exp(-(toward @ weights))
            weights = weights - learning_rate * (ridge * weights - pull @ toward)
        return weights, weights

    path = lax.scan(step, start, None, length=num_steps)[1]
    return jnp.concatenate([start[None], path])


def distances(path: Array, point: ArrayLike) -> Array:
    """Return the distance ``[...]`` of weights ``[..., D]`` from a point ``[D]``.

    The distance is Euclidean, and infinite where the weights are not finite.

    Raises:
      InputError: a point of another length.

    >>> print(distances(jnp.asarray([[3.0, 4.0], [jnp.nan, 0.0]]), [0.0, 0.0]))
    [ 5. inf]
    """
    path = jnp.asarray(path)
    check_shape("a point", point, path.shape[-1:])
    point = jnp.asarray(point, path.dtype).reshape((1,) * (path.ndim - 1) + (-1,))
    away = jnp.sqrt(jnp.sum((path - point) ** 2, -1))
    return jnp.where(jnp.isfinite(away), away, jnp.inf)
