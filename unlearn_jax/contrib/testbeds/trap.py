"""A local minimum that traps descent-ascent and fine-tuning: two weights, four points.

The example is from the section on local minima of "Ascent Fails to Forget" (arXiv
2509.26427). Samples at x = -1, 1, 3, 4 with labels -1, +1, -1, +1 occur 5, 4, 1 and 4
times. The model is

    ``f(x) = 2 sigma(a x + b x^2) - 1 = tanh((1 + a x + b x^2) / 4)`` with
    ``sigma(z) = 1 / (1 + exp(-(1 + z) / 2))``

and the objective is ``sum_x count(x) (f(x) - y)^2 + (ridge / 2) (a^2 + b^2)``. Two of
the four copies at x = 4 are to be forgotten. In retraining that point has a count of 2,
in descent-ascent (retained minus forgotten) a count of 0. So descent-ascent flips the
predicted label of the point, and the retained copies cannot flip it back afterward.

The configuration is the paper's, except for the output. In the paper's text the output
is ``sigma`` itself, in (0, 1), against labels of -1 and +1. The *retrained* model then
already has the wrong boundary, contrary to the paper's claim. With an output in
(-1, 1), as here, the claim holds exactly. The ridge matters: at 0.2 instead of 0.1
there is no trap.
"""

from functools import partial
from typing import NamedTuple

import jax
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

POINTS = np.array([-1.0, 1.0, 3.0, 4.0])
"""Positions of the samples."""
LABELS = np.array([-1.0, 1.0, -1.0, 1.0])
"""Labels of the samples."""
COUNTS = {"original": (5, 4, 1, 4), "retrained": (5, 4, 1, 2), "ascent": (5, 4, 1, 0)}
"""Weights of the points in training, in retraining, and in descent-ascent."""
RIDGE = 0.1
_NEWTON_STEPS = 50


class TrapMinima(NamedTuple):
    """The ``K`` local minima of one objective, the lowest first.

    Attributes:
      weights: ``[K, 2]`` float64, (a, b).
      losses: ``[K]`` float64.
      signs: ``[K, 4]`` int, the predicted labels of the four points.
    """

    weights: np.ndarray
    losses: np.ndarray
    signs: np.ndarray


def trap_output(weights: ArrayLike, points: ArrayLike = POINTS) -> Array:
    """Return predictions ``[..., P]`` in (-1, 1) for weights ``[..., 2]``.

    Args:
      weights: ``[..., 2]``, (a, b).
      points: ``[P]`` positions x.

    Raises:
      InputError: shapes that do not fit.
    """
    weights = jnp.asarray(weights)
    points = jnp.asarray(points)
    if weights.shape[-1:] != (2,) or points.ndim != 1:
        raise InputError(
            f"weights have shape {weights.shape} and points {points.shape}: pass"
            " [..., 2] and [P]"
        )
    a = weights[..., :1]
    b = weights[..., 1:]
    points = points.reshape((1,) * (weights.ndim - 1) + (-1,))
    return jnp.tanh((1 + a * points + b * points**2) / 4)


def trap_loss(
    weights: ArrayLike, counts: ArrayLike, *, ridge: float | Array = RIDGE
) -> Array:
    """Return the objective ``[...]`` at weights ``[..., 2]``.

    Args:
      weights: ``[..., 2]``, (a, b).
      counts: ``[4]`` weights of the points, a value of :data:`COUNTS`.
      ridge: coefficient of ``(a^2 + b^2) / 2``.

    Raises:
      InputError: shapes that do not fit.

    >>> round(float(trap_loss([3.831, -0.790], COUNTS["retrained"])), 3)
    5.038
    """
    weights = jnp.asarray(weights, float)
    counts = jnp.asarray(counts, float)
    if weights.shape[-1:] != (2,) or counts.shape != (4,):
        raise InputError(
            f"weights have shape {weights.shape} and counts {counts.shape}: pass"
            " [..., 2], (a, b), and [4], one per point"
        )
    shape = (1,) * (weights.ndim - 1) + (-1,)
    misfit = (trap_output(weights) - jnp.asarray(LABELS, float).reshape(shape)) ** 2
    loss = jnp.sum(counts.reshape(shape) * misfit, -1)
    return loss + ridge / 2 * jnp.sum(weights**2, -1)


def trap_path(
    start: ArrayLike,
    counts: ArrayLike,
    *,
    num_steps: int,
    learning_rate: float | Array = 0.005,
    ridge: float | Array = RIDGE,
    stride: int = 1,
) -> Array:
    """Return a path of gradient descent.

    The function is traceable and can be mapped over starts.

    Args:
      start: ``[2]`` initial weights.
      counts: ``[4]``, a value of :data:`COUNTS`.
      num_steps: total number of steps (static), a multiple of ``stride``.
      learning_rate: learning rate, below 0.011: the largest curvature anywhere is about
        181 (with the original counts).
      ridge: ridge of the objective.
      stride: steps between two stored points (static).

    Returns:
      ``[num_steps / stride + 1, 2]``, the start first.

    Raises:
      InputError: a number of steps that is not a multiple of ``stride``, shapes that do
        not fit, a rate that is not positive, or a negative ridge.
    """
    check_counts(stride=stride)
    check_counts(0, num_steps=num_steps)
    check_positive(learning_rate=learning_rate)
    check_not_negative(ridge=ridge)
    check_shape("start", start, (2,))
    check_finite(start=start, counts=counts)
    if num_steps % stride:
        raise InputError(
            f"{num_steps} steps, stride {stride}: pass a number of steps that is a"
            " multiple of the stride"
        )
    slope = jax.grad(partial(trap_loss, ridge=ridge))
    counts = jnp.asarray(counts, float)
    start = jnp.asarray(start, float)

    def stretch(weights: Array, _: None) -> tuple[Array, Array]:
        weights = lax.fori_loop(
            0, stride, lambda _, w: w - learning_rate * slope(w, counts), weights
        )
        return weights, weights

    path = lax.scan(stretch, start, None, length=num_steps // stride)[1]
    return jnp.concatenate([start[None], path])


def trap_minima(
    counts: ArrayLike,
    *,
    ridge: float = RIDGE,
    starts_per_axis: int = 25,
    low: tuple[float, float] = (-6.0, -6.0),
    high: tuple[float, float] = (6.0, 6.0),
    num_steps: int = 4000,
) -> TrapMinima:
    """Return all minima that gradient descent reaches from a grid of starts.

    Each minimum is refined by Newton's method in float64.

    Args:
      counts: ``[4]``, not negative; a value of :data:`COUNTS`.
      ridge: ridge of the objective, positive.
      starts_per_axis: number of starts along each of a and b.
      low: corner of the grid.
      high: opposite corner of the grid.
      num_steps: steps of descent from each start, at a learning rate of 0.005.

    Returns:
      The minima. A minimum whose basin contains no start is missed. Points where the
      Hessian is not positive definite are left out.

    Raises:
      InputError: negative counts, a ridge that is not positive, no starts or steps, or
        corners of the grid that are not two finite numbers.
    """
    check_shape("counts", counts, (4,))
    check_not_negative(counts=counts)
    check_positive(ridge=ridge)
    check_counts(starts_per_axis=starts_per_axis, num_steps=num_steps)
    for name, corner in (("low", low), ("high", high)):
        check_shape(name, corner, (2,))
        check_finite(**{name: corner})
    counts = np.asarray(counts, np.float64)
    axes = [np.linspace(low[i], high[i], starts_per_axis) for i in (0, 1)]
    starts = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    ends = _ends(
        jnp.asarray(starts, float), jnp.asarray(counts, float), ridge, num_steps
    )
    minima: list[np.ndarray] = []
    for weights in np.asarray(ends, np.float64):
        point = _newton(weights, counts, ridge)
        if point is None:
            continue
        if all(np.linalg.norm(point - other) > 1e-4 for other in minima):
            minima.append(point)
    weights = np.array(minima).reshape(-1, 2)
    outputs = np.tanh((1 + weights @ _FEATURES.T) / 4)
    misfit = (counts * (outputs - LABELS) ** 2).sum(-1)
    losses = misfit + ridge / 2 * (weights**2).sum(-1)
    order = np.argsort(losses)
    signs = np.sign(outputs[order]).astype(int)
    return TrapMinima(weights[order], losses[order], signs)


_FEATURES = np.stack([POINTS, POINTS**2], -1)


@partial(jax.jit, static_argnums=3)
def _ends(starts: Array, counts: Array, ridge: float, num_steps: int) -> Array:
    def end(start: Array) -> Array:
        path = trap_path(
            start, counts, num_steps=num_steps, ridge=ridge, stride=num_steps
        )
        return path[-1]

    return jax.vmap(end)(starts)


def _newton(weights: np.ndarray, counts: np.ndarray, ridge: float) -> np.ndarray | None:
    """Return the minimum that Newton's steps reach, or None."""
    hessian = np.eye(2)
    for _ in range(_NEWTON_STEPS):
        output = np.tanh((1 + _FEATURES @ weights) / 4)
        slope = (1 - output**2) / 4
        miss = output - LABELS
        gradient = _FEATURES.T @ (2 * counts * miss * slope) + ridge * weights
        curvature = counts * (2 * slope**2 - miss * output * slope)
        hessian = (_FEATURES.T * curvature) @ _FEATURES + ridge * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        weights = weights - step
        if np.abs(step).max() < 1e-13:
            break
    is_minimum = np.isfinite(weights).all() and np.linalg.eigvalsh(hessian)[0] > 0
    return weights if is_minimum else None
