"""Norms of perturbations: length, projection, steepest direction, uniform samples."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from unlearn_jax.types import Array

NormName = Literal["l2", "linf"]

_INSIDE = 1.0 - 1e-6
"""Fraction of the radius at which projections end, slightly inside the ball.

Otherwise, rounding would put some distances above the radius.
"""


class Norm(NamedTuple):
    """A norm as four functions of one perturbation ``delta [H, W, ch]``.

    Attributes:
      measure: ``delta -> []``, the length of the perturbation.
      project: ``(delta, radius) -> delta``, the nearest point in the ball.
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
    length = jnp.maximum(_l2_measure(delta), jnp.finfo(delta.dtype).tiny)
    return delta * jnp.minimum(1.0, _INSIDE * radius / length)


def _l2_direction(gradient: Array) -> Array:
    # Divide by the largest entry first: squares of small gradients underflow. The
    # scaled gradient is then 0 or has a length of at least 1, so 0.5 only guards
    # the division of a zero gradient.
    largest = jnp.max(jnp.abs(gradient))
    scaled = gradient / jnp.maximum(largest, jnp.finfo(gradient.dtype).tiny)
    unit = scaled / jnp.maximum(_l2_measure(scaled), 0.5)
    return jnp.where(jnp.all(jnp.isfinite(unit)), unit, 0.0)


def _l2_sample(key: Array, shape: tuple[int, ...]) -> Array:
    key_direction, key_radius = jax.random.split(key)
    normal = jax.random.normal(key_direction, shape)
    # The volume within radius r is proportional to r**size.
    radius = jax.random.uniform(key_radius) ** (1 / normal.size)
    return normal / _l2_measure(normal) * radius


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

NORMS: dict[NormName, Norm] = {"l2": l2, "linf": linf}
"""Norms by name, for the ``norm`` field of attacks."""
