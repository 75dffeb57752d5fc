"""TRS: a penalty on members' input gradients that are large or parallel.

Yang et al., arXiv 2104.00671.
"""

import itertools

import chex
import jax.numpy as jnp

from unlearn_jax.types import Array, InputError


def gradient_similarity(gradients: Array) -> Array:
    """Return the mean ``|cos|`` of input gradients over samples and pairs of members.

    Args:
      gradients: ``[M, B, ...]``, gradients of the members' losses with respect to the
        images, M >= 2.

    Returns:
      ``[]``, in [0, 1]; a zero gradient counts as orthogonal to all others, and so does
      one whose squares underflow (entries below 1e-19 in float32).

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
      gradients: ``[M, B, ...]``, gradients of the members' losses with respect to the
        images.

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

    The penalty is ``similarity * mean |cos| + smoothness * 2 mean |gradient|^2``, to be
    added to the sum of the members' mean losses. The full method evaluates the second
    term, for half of the batch, at points where an inner attack has made it large. This
    form evaluates it at the images themselves.

    Args:
      gradients: ``[M, B, ...]``, gradient of each sample's **own** loss with respect to
        its image. The released code differentiates the mean over the batch instead, so
        that its gradients are ``B`` times and its second term ``B^2`` times smaller. To
        reproduce it, divide ``smoothness`` by ``B^2``. The cosine is the same either
        way.
      similarity: weight of the cosine (lambda_a); 40 for CIFAR-10 according to the
        authors (issue 1 of their repository; the released code has no default).
      smoothness: weight of the magnitude (lambda_b); 2.5 for CIFAR-10 according to the
        same issue, with the gradients of the released code.

    Returns:
      ``[]``, differentiable in the gradients.

    Raises:
      InputError: fewer than two members.
    """
    alignment = similarity * gradient_similarity(gradients)
    return alignment + smoothness * gradient_magnitude(gradients)
