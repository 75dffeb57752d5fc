"""Distances within which a Lipschitz constant excludes adversarial examples."""

import jax.numpy as jnp
from jax.typing import ArrayLike

from unlearn_jax.attacks._pgd import class_margin
from unlearn_jax.types import Array


def certified_distance(
    logits: Array, labels: Array, *, log10_lipschitz: ArrayLike
) -> Array:
    """Return a lower bound on the L2 distance of every adversarial example.

    The difference of two logits changes by at most ``sqrt(2) L`` times the distance.
    So no image within ``margin / (sqrt(2) L)`` gets another class, whatever the attack
    (Tsuzuku et al., arXiv 1802.04034, proposition 1). An example found at twice this
    distance is at most twice as far away as the closest one. The bound is loose:
    products of layers' norms exceed the slopes of deep networks by orders of magnitude.

    Args:
      logits: ``[..., C]`` logits of the clean images.
      labels: ``[...]`` integer classes to move away from.
      log10_lipschitz: ``[]`` or ``[...]``, decimal logarithm of a bound ``L`` on the L2
        Lipschitz constant of the logits as a function of the image, from
        :func:`unlearn_jax.theory.log10_lipschitz_bound` or, for converged norms,
        :func:`unlearn_jax.spectral.log10_lipschitz_product`. Both are bounds only for a
        chain of layers without residual sums.

    Returns:
      ``[...]``, 0 where the label is not the prediction.

    >>> logits = jnp.array([3.0, 1.0, 0.0])
    >>> bound = certified_distance(logits, jnp.array(0), log10_lipschitz=1.0)
    >>> round(float(bound), 4)
    0.1414
    """
    margin = class_margin(logits, labels)
    lipschitz = 10.0 ** jnp.asarray(log10_lipschitz)
    return jnp.maximum(margin, 0.0) / (jnp.sqrt(2.0) * lipschitz)
