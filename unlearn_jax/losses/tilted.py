"""Tilted target of class unlearning: the prediction without the forgotten classes.

Tilted ReWeighting (TRW; RWFT and TREW in other versions), arXiv 2506.20893, and chapter
5 of arXiv 2512.06993.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from unlearn_jax import linalg
from unlearn_jax.checks import check_positive
from unlearn_jax.losses.classification import cross_entropy
from unlearn_jax.types import Array, InputError


def tilted_target(
    logits: Array, forget: Array, similarity: Array, *, beta: float | Array
) -> Array:
    """Return the renormalized prediction, tilted towards similar classes.

    ``q(k) = r(k) exp(beta s_k) / sum_j r(j) exp(beta s_j)`` (equation 5.2 of arXiv
    2512.06993), where ``r`` is the prediction, renormalized without the forgotten
    classes. Of all distributions with the same expected similarity, ``q`` is the
    closest to ``r`` in ``KL(q || r)``. It is computed as
    ``softmax(mask(logits) + beta s)``, which does not divide by ``1 - p_f``: the result
    is finite for all finite logits, even if ``p_f`` rounds to 1.

    Args:
      logits: ``[..., C]``, logits of the original model.
      forget: ``[C]`` or ``[..., C]`` bool, the classes that get probability 0; at least
        one class must remain (otherwise the result is NaN).
      similarity: ``[C]`` or ``[..., C]``, similarities ``s``. Neither the entries of
        forgotten classes nor a constant added to all entries affect the result.
      beta: strength of the tilt, a scalar, not negative. 0 only renormalizes (the
        target of DELETE). ``inf`` keeps only the most similar class, or, if several are
        exactly equal, their probabilities in the ratio of ``r``.

    Returns:
      ``[..., C]`` probabilities with sum 1, exactly 0 on forgotten classes.

    Raises:
      InputError: a concrete ``beta`` that is negative or NaN.

    >>> forget = jnp.array([True, False, False])
    >>> similarity = jnp.array([1.0, 0.0, 0.1])
    >>> logits = jnp.array([1e4, 1.0, 0.0])  # tilted by 0 and 1: both become 1
    >>> tilted_target(logits, forget, similarity, beta=10.0).tolist()
    [0.0, 0.5, 0.5]
    """
    chex.assert_equal_shape_suffix([logits, forget, similarity], 1)
    chex.assert_type(forget, bool)
    chex.assert_rank(beta, 0)
    if not isinstance(beta, Tracer) and not np.asarray(beta) >= 0:
        raise InputError(f"beta must be 0 or more, or infinite, got {beta}")
    shape = jnp.broadcast_shapes(
        jnp.shape(logits), jnp.shape(forget), jnp.shape(similarity)
    )
    logits = jnp.broadcast_to(logits, shape)
    forget = jnp.broadcast_to(forget, shape)
    similarity = jnp.broadcast_to(similarity, shape)
    # the softmax is invariant to a shift; with the largest similarity at 0, it is
    # finite for an infinite beta
    best = jnp.max(jnp.where(forget, -jnp.inf, similarity), -1, keepdims=True)
    gap = similarity - lax.stop_gradient(best)
    # infinity times 0 is not a number
    tilt = jnp.where(jnp.isinf(beta) & (gap == 0), 0.0, beta * gap)
    return jax.nn.softmax(jnp.where(forget, -jnp.inf, logits + tilt))


def tilted_loss(
    logits: Array,
    teacher_logits: Array,
    forget: Array,
    similarity: Array,
    *,
    beta: float | Array,
) -> Array:
    """Return the cross-entropy against the tilted target of a teacher.

    This is the forget term of TRW, equation 5.3 of arXiv 2512.06993. It equals
    ``KL(q || softmax(logits))`` up to a constant, and its gradient with respect to
    ``logits`` is ``softmax(logits) - q``. No gradient flows into the target. (The
    direction of the divergence is our reading of its description; the equation itself
    was not available.)

    Args:
      logits: ``[..., C]``, logits of the model being trained.
      teacher_logits: ``[..., C]``, logits of the original model, in evaluation mode.
      forget: ``[C]`` or ``[..., C]`` bool, the classes that get probability 0.
      similarity: ``[C]`` or ``[..., C]``, similarities of the classes to the forgotten
        one.
      beta: strength of the tilt, a scalar, not negative.

    Returns:
      ``[...]``, in nats.

    Raises:
      InputError: a concrete ``beta`` that is negative or NaN.
    """
    chex.assert_equal_shape([logits, teacher_logits])
    target = tilted_target(teacher_logits, forget, similarity, beta=beta)
    return cross_entropy(logits, lax.stop_gradient(target))


def class_similarity(
    head_kernel: Array,
    *,
    num_components: int | None = None,
    center: bool = True,
    temperature: float | Array | None = None,
) -> Array:
    """Return the cosines between the classes' weight vectors in the last layer.

    The paper projects by PCA, takes cosines and then "a sharp softmax temperature". It
    does not give the dimension, the centering or the temperature, all of which change
    the result. Biases are not used.

    Args:
      head_kernel: ``[D, C]``, a column per class.
      num_components: number of leading principal components whose scores replace the
        vectors (static); with ``center=False`` this is a truncated singular value
        decomposition. None for the vectors themselves.
      center: first subtract the mean of the classes' vectors.
      temperature: positive temperature, with which a row is the softmax of
        ``cosine / temperature`` over the other classes, with 0 on the diagonal. None
        for the cosines.

    Returns:
      ``[C, C]``; row ``f`` holds the similarity of every class to ``f``.

    Raises:
      InputError: more components than the vectors have, or fewer than one; a
        temperature that is not positive and finite.

    >>> kernel = jnp.array([[1.0, 2.0, 0.0], [0.0, 0.0, 1.0]])
    >>> class_similarity(kernel, center=False).tolist()
    [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    chex.assert_rank(head_kernel, 2)
    rows = head_kernel.T
    if center:
        rows = rows - jnp.mean(rows, 0, keepdims=True)
    if num_components is not None:
        rank = min(len(rows) - center, rows.shape[-1])
        if not 1 <= num_components <= rank:
            raise InputError(
                f"num_components must be in 1..{rank} for {len(rows)} classes of"
                f" {rows.shape[-1]} features, got {num_components}"
            )
        left, values, _ = linalg.svd(linalg.at_least_float32(rows))
        rows = (left * values[None, :])[:, :num_components]
    similarity = cosine(rows, rows)
    if temperature is None:
        return similarity
    return sharpen(similarity, jnp.eye(len(rows), dtype=bool), temperature=temperature)


def sharpen(similarity: Array, excluded: Array, *, temperature: float | Array) -> Array:
    """Return ``softmax(similarity / temperature)`` over classes that are not excluded.

    Args:
      similarity: ``[..., C]`` similarities.
      excluded: ``[..., C]`` bool, the classes to exclude.
      temperature: positive; a small one makes the row nearly one-hot.

    Returns:
      ``[..., C]``, 0 on excluded classes.

    Raises:
      InputError: a temperature that is not positive and finite.
    """
    check_positive(temperature=temperature)
    chex.assert_equal_shape_suffix([similarity, excluded], 1)
    chex.assert_type(excluded, bool)
    weights = jax.nn.softmax(jnp.where(excluded, -jnp.inf, similarity / temperature))
    return jnp.where(excluded, 0.0, weights)


def cosine(vectors: Array, others: Array) -> Array:
    """Return the cosines of vectors with others, 0 where a vector is zero.

    Args:
      vectors: ``[..., D]``.
      others: ``[C, D]``.

    Returns:
      ``[..., C]``.
    """
    chex.assert_equal_shape_suffix([vectors, others], 1)
    # exact, since beta magnifies the error
    return linalg.product(_unit(vectors), _unit(others).T)


def _unit(vectors: Array) -> Array:
    squares = jnp.sum(vectors**2, -1, keepdims=True)
    # the root of 0 has no finite slope
    return vectors / jnp.sqrt(jnp.where(squares > 0, squares, 1.0))
