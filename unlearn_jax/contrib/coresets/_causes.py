"""Core-sets: knowledge, its suppression, probabilities of necessity and sufficiency."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from unlearn_jax.audit.inputs import mask_array
from unlearn_jax.checks import check_labels
from unlearn_jax.types import Array, InputError

CAVEAT = (
    "Suppressing what a model knows of a forget set as a whole is not privacy for the"
    " members left out of the core-set: they are still trained on."
)
"""A warning to print with every core-set."""

Knowledge = Callable[[Array, Array], Array]
"""``(outputs [Z, C], labels [Z]) -> []``: a model's knowledge of the forget set."""

ROUNDING = 1e-9
"""Rounding tolerance for fractions and for probabilities (means of zeros and ones)."""


class Causes(NamedTuple):
    """Probabilities, over training seeds, that removing a subset suppresses knowledge.

    Attributes:
      sufficiency: PS, fraction of worlds in which removing the subset suppresses the
        knowledge.
      necessity: PN, fraction of worlds in which removing the rest of the forget set
        instead does not.
      both: PNS, fraction of worlds in which both hold.
      bounds: lower and upper bound on PNS from the marginals alone, see
        :func:`tian_pearl_bounds`.
    """

    sufficiency: float
    necessity: float
    both: float
    bounds: tuple[float, float]


def mean_margin(outputs: Array, labels: Array) -> Array:
    """Return the mean :func:`margins` over samples, ``[Z, C], [Z] -> []``.

    For a network, pass probabilities: the result then lies in [-1, 1]. For regressions
    on one-hot targets it nearly does.
    """
    return jnp.mean(margins(outputs, labels))


def margins(outputs: Array, labels: Array) -> Array:
    """Return the true class's output minus the largest other output.

    Args:
      outputs: ``[..., Z, C]`` logits, probabilities or other scores.
      labels: ``[Z]`` integers.

    Returns:
      ``[..., Z]`` margins.

    Raises:
      InputError: shapes that do not fit, no samples, or labels that are not classes.
    """
    outputs = jnp.asarray(outputs)
    labels = jnp.asarray(labels)
    if outputs.ndim < 2 or not outputs.size:
        raise InputError(f"outputs have shape {outputs.shape}: pass [..., Z, C]")
    check_labels(labels, outputs.shape[-2], outputs.shape[-1], "outputs")
    hot = labels[:, None] == jnp.arange(outputs.shape[-1])[None]
    hot = jnp.broadcast_to(hot, outputs.shape)
    true = jnp.sum(jnp.where(hot, outputs, 0.0), -1)
    return true - jnp.max(jnp.where(hot, -jnp.inf, outputs), -1)


def forget_accuracy(outputs: Array, labels: Array) -> Array:
    """Return the fraction of samples whose true class alone has the largest output.

    ``[Z, C], [Z] -> []``.
    """
    outputs = jnp.asarray(outputs)
    return jnp.mean((margins(outputs, labels) > 0).astype(outputs.dtype))


def suppression(level: Any, original: Any, oracle: Any) -> Any:
    """Return the suppressed fraction of knowledge.

    ``(original - level) / (original - oracle)``.

    Args:
      level: ``k(D - C)``, any shape.
      original: ``k(D)``, broadcasts to ``level``.
      oracle: ``k(D - F)`` from the same seed, broadcasts to ``level``.

    Returns:
      0 at the original's knowledge, 1 at the oracle's, and above 1 if there is less
      knowledge than the oracle has; NaN or infinite where removing F changes nothing.

    >>> float(suppression(0.75, 1.0, 0.5))
    0.5
    """
    gap = original - oracle
    # Python numbers cannot be divided by 0.
    return (original - level) / (np.float64(gap) if isinstance(gap, float) else gap)


def suppressed(fraction: Any, *, tolerance: float) -> Any:
    """Return S(C): whether a fraction is within ``tolerance`` of the oracle's 1.

    Args:
      fraction: values of :func:`suppression`, any shape; NaN gives False.
      tolerance: largest distance from 1 on either side, in (0, 1).

    Raises:
      InputError: a tolerance outside (0, 1): at 1 the original would pass.

    >>> suppressed(np.array([0.0, 0.85, 0.95, 1.05, 1.2]), tolerance=0.1)
    array([False, False,  True,  True, False])
    """
    if not 0 < tolerance < 1:
        raise InputError(
            f"tolerance is {tolerance}: choose a fraction between 0 and 1, such as 0.1"
        )
    return abs(1 - fraction) <= tolerance + ROUNDING


def causes(sufficient: ArrayLike, complement: ArrayLike) -> Causes:
    """Return PS, PN and PNS of a subset from both counterfactuals on the same seeds.

    Args:
      sufficient: ``[S]`` bool, S(C) in each world.
      complement: ``[S]`` bool, S(F without C) in the same worlds.

    Returns:
      The probabilities. ``both`` always lies within ``bounds``. It grows with C: for
      C = F it is 1 wherever the original does not pass. Compare only subsets of equal
      size.

    Raises:
      InputError: arguments that are not boolean arrays over the same worlds.

    >>> causes([True, True, False, True], [False, True, False, False])
    Causes(sufficiency=0.75, necessity=0.75, both=0.5, bounds=(0.5, 0.75))
    """
    first = np.asarray(sufficient)
    if first.ndim != 1 or not first.size:
        raise InputError(
            f"sufficient has shape {first.shape}: pass one boolean per world"
        )
    first = mask_array("sufficient", first, first.shape)
    second = mask_array("complement", complement, first.shape)
    sufficiency = float(first.mean())
    return Causes(
        sufficiency=sufficiency,
        necessity=float((~second).mean()),
        both=float((first & ~second).mean()),
        bounds=tian_pearl_bounds(sufficiency, float(second.mean())),
    )


def tian_pearl_bounds(sufficient: float, complement: float) -> tuple[float, float]:
    """Return bounds on PNS from the two marginals.

    ``max(0, P(S(C)) - P(S(F-C))) <= PNS <= min(P(S(C)), 1 - P(S(F-C)))`` (Tian and
    Pearl 2000, "Probabilities of causation: bounds and identification"). The bounds are
    sharp without further knowledge. Use them where the two marginals come from
    different seeds.

    Args:
      sufficient: P(S(C) = 1), in [0, 1].
      complement: P(S(F without C) = 1), in [0, 1].

    Raises:
      InputError: arguments that are not probabilities.

    >>> tian_pearl_bounds(0.75, 0.25)
    (0.5, 0.75)
    """
    for value in (sufficient, complement):
        if not 0 <= value <= 1:
            raise InputError(f"{value} is not a probability: pass numbers in [0, 1]")
    return max(0.0, sufficient - complement), min(sufficient, 1 - complement)
