"""TRS: members' input gradients must be small and not parallel.

Yang et al., arXiv 2104.00671.
"""

import itertools

import chex
import jax.numpy as jnp

from unlearn_jax.types import Array, InputError


def gradient_similarity(gradients: Array) -> Array:
    """Return the mean ``|cos|`` of input gradients over samples and pairs of members.

    Args:
      gradients: ``[M, B, ...]`` of the members' losses by the image, M >= 2.

    Returns:
      ``[]`` in [0, 1]; a gradient that is zero is orthogonal to all.

    Raises:
      InputError: fewer than two members.

    >>> gradients = jnp.array([[[1.0, 0.0]], [[-2.0, 0.0]], [[0.0, 1.0]]])
    >>> float(gradient_similarity(gradients))
    0.333...
    """
    chex.assert_shape(gradients, (None, None, ...))
    if len(gradients) < 2:
        raise InputError("gradients are compared between members: give two or more")
    flat = gradients.reshape(*gradients.shape[:2], -1)
    squares = jnp.sum(flat**2, -1)
    # the root of 0 has no finite slope; an infinite length makes the cosine 0
    length = jnp.where(
        squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1.0)), jnp.inf
    )
    unit = flat / length[..., None]
    pairs = list(itertools.combinations(range(len(flat)), 2))
    cosines = [jnp.mean(jnp.abs(jnp.sum(unit[i] * unit[j], -1))) for i, j in pairs]
    return sum(cosines, jnp.zeros(())) / len(pairs)


def gradient_magnitude(gradients: Array) -> Array:
    """Return twice the mean squared length of input gradients.

    Args:
      gradients: ``[M, B, ...]`` of the members' losses by the image.

    Returns:
      ``[]``.

    >>> float(gradient_magnitude(jnp.array([[[3.0, 4.0]], [[0.0, 0.0]]])))
    25.0
    """
    chex.assert_shape(gradients, (None, None, ...))
    axes = tuple(range(2, gradients.ndim))
    return 2 * jnp.mean(jnp.sum(gradients**2, axes))


def trs_penalty(
    gradients: Array,
    *,
    similarity: float | Array = 40.0,
    smoothness: float | Array = 2.5,
) -> Array:
    """Return TRS in its cheap form ("cos-l2").

    ``similarity * mean |cos| + smoothness * 2 mean |gradient|^2``, to be added to the
    sum of the members' mean losses. The full method takes the second
    term at points, for half of the batch, where an inner attack has made it large; this
    one takes it at the images themselves.

    Args:
      gradients: ``[M, B, ...]``, of each sample's **own** loss by its image. The
        released code differentiates the mean over the batch instead, so that its
        gradients are ``B`` times and its second term ``B^2`` times smaller; to repeat
        it, divide ``smoothness`` by ``B^2``. The cosine is the same either way.
      similarity: weight of the cosine (lambda_a); 40 for CIFAR-10 by the authors'
        account (their repository's issue 1; the released code leaves it to the user).
      smoothness: weight of the magnitude (lambda_b); 2.5 there, with the gradients of
        the released code.

    Returns:
      ``[]``, differentiable in the gradients.

    Raises:
      InputError: fewer than two members.
    """
    alignment = similarity * gradient_similarity(gradients)
    return alignment + smoothness * gradient_magnitude(gradients)
