"""Paths of gradient descent on the examples of :mod:`.ascent`."""

import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import ArrayLike

from unlearn_jax.types import Array, InputError

SHARED = np.ones((2, 1))
"""Directions ``[2, 1]`` of retained and forget samples that share one coordinate."""


def directions(correlation: float | Array) -> Array:
    """Return the signed inputs ``[2, 2]`` of two correlated coordinates; traceable.

    ``(1, eps)`` of the retained and ``(eps, 1)`` of the forget samples.
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

    Traceable, to be mapped: training, fine-tuning or descent-ascent. The gradient is
    ``lambda w - c_R exp(-u_R.w) u_R - c_F exp(-u_F.w) u_F``. Simultaneous
    descent-ascent is descent with ``forces(...).ascent``. The alternating form takes
    two steps instead of each one: first on the forget samples alone, then on the
    retained ones alone, each with the ridge. To first order in the learning rate this
    is the simultaneous form with twice the ridge.

    Args:
      force: ``[2]`` c_R and c_F, a field of
        :class:`.ascent.Forces`.
      toward: ``[2, D]`` u_R and u_F: :func:`directions`, or :data:`SHARED`.
      ridge: lambda.
      start: ``[D]`` the first weights.
      learning_rate: of every step.
      num_steps: steps (static); an alternating pair counts as one.
      alternating: take the alternating form (static).

    Returns:
      ``[num_steps + 1, D]`` all weights, the start first; not finite once a path has
      left the range of its float type.

    Raises:
      InputError: shapes that do not fit, or a negative number of steps.
    """
    force, toward, start = (jnp.asarray(part, float) for part in (force, toward, start))
    if (
        force.shape != (2,)
        or start.ndim != 1
        or toward.shape != (2, *start.shape)
        or num_steps < 0
    ):
        raise InputError(
            f"force {force.shape}, toward {toward.shape}, start {start.shape} and"
            f" {num_steps} steps: pass [2], [2, D], [D] and at least 0 steps"
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

    Euclidean, and infinite where the weights are not finite.

    >>> print(distances(jnp.asarray([[3.0, 4.0], [jnp.nan, 0.0]]), [0.0, 0.0]))
    [ 5. inf]
    """
    path = jnp.asarray(path)
    point = jnp.asarray(point, path.dtype).reshape((1,) * (path.ndim - 1) + (-1,))
    away = jnp.sqrt(jnp.sum((path - point) ** 2, -1))
    return jnp.where(jnp.isfinite(away), away, jnp.inf)
