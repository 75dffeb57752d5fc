"""What an attack needs to know of a norm, for one perturbation of any shape."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from unlearn_jax.types import Array

_INSIDE = 1.0 - 1e-6
"""Projections aim this much inside the ball, so that rounding never puts a distance above its radius."""


class Norm(NamedTuple):
    """A norm as four functions of one perturbation ``delta [H, W, ch]``.

    Attributes:
      measure: ``delta -> []``, its length.
      project: ``(delta, radius) -> delta``, the nearest point of the ball.
      direction: ``gradient -> delta``, the step of length 1 that increases the loss
        fastest; zero for a gradient that is zero or not finite.
      sample: ``(key, shape) -> delta``, uniform in the unit ball.
    """

    measure: Callable[[Array], Array]
    project: Callable[[Array, Array], Array]
    direction: Callable[[Array], Array]
    sample: Callable[[Array, tuple[int, ...]], Array]


def _l2_measure(delta: Array) -> Array:
    return jnp.sqrt(jnp.sum(delta**2))


def _l2_project(delta: Array, radius: Array) -> Array:
    return delta * jnp.minimum(
        1.0,
        _INSIDE * radius / jnp.maximum(_l2_measure(delta), jnp.finfo(delta.dtype).tiny),
    )


def _l2_direction(gradient: Array) -> Array:
    scaled = gradient / jnp.maximum(
        jnp.max(jnp.abs(gradient)), jnp.finfo(gradient.dtype).tiny
    )
    unit = scaled / jnp.maximum(_l2_measure(scaled), 0.5)
    return jnp.where(jnp.all(jnp.isfinite(unit)), unit, 0.0)


def _l2_sample(key: Array, shape: tuple[int, ...]) -> Array:
    key_direction, key_radius = jax.random.split(key)
    normal = jax.random.normal(key_direction, shape)
    return (
        normal
        / _l2_measure(normal)
        * jax.random.uniform(key_radius) ** (1 / normal.size)
    )


def _linf_measure(delta: Array) -> Array:
    return jnp.max(jnp.abs(delta))


def _linf_project(delta: Array, radius: Array) -> Array:
    return jnp.clip(delta, -_INSIDE * radius, _INSIDE * radius)


def _linf_direction(gradient: Array) -> Array:
    return jnp.where(jnp.all(jnp.isfinite(gradient)), jnp.sign(gradient), 0.0)


def _linf_sample(key: Array, shape: tuple[int, ...]) -> Array:
    return jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)


l2 = Norm(_l2_measure, _l2_project, _l2_direction, _l2_sample)
"""Euclidean length over all pixels and channels."""

linf = Norm(_linf_measure, _linf_project, _linf_direction, _linf_sample)
"""Largest absolute change of a pixel."""
