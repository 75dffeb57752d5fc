"""ROC curves and weighted statistics on a device."""

import chex
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from unlearn_jax.audit.device._reductions import floating, sum_over_samples, tie_bounds
from unlearn_jax.audit.results import RocCurve
from unlearn_jax.types import Array


@jax.jit
def roc(scores: ArrayLike, is_member: ArrayLike) -> RocCurve:
    """Return the ROC curve of a membership score, one point per sample.

    Args:
      scores: ``[N]``, higher = more likely member.
      is_member: ``[N]`` bool.

    Returns:
      The curve with ``N + 1`` points. :func:`unlearn_jax.audit.roc` has one point per
      distinct score; here the point is repeated for each sample with that score,
      because the shapes of a compiled program cannot depend on values. A NaN score
      makes rates and area NaN.
    """
    scores = floating(scores)
    member = jnp.asarray(is_member)
    chex.assert_rank(scores, 1)
    chex.assert_equal_shape([scores, member])
    chex.assert_type(member, bool)
    order = jnp.argsort(-scores)
    ordered = scores[order]
    _, after = tie_bounds(-ordered)
    members = jnp.cumsum(member[order], dtype=jnp.int32)
    true_positives = members[after - 1]
    false_positives = after - true_positives
    # sorting would hide a NaN score
    is_nan = jnp.isnan(scores).any()
    zero = jnp.where(is_nan, jnp.nan, jnp.zeros(1, scores.dtype))
    num_members = members[-1]
    tpr = zero + true_positives.astype(scores.dtype) / num_members
    fpr = zero + false_positives.astype(scores.dtype) / (scores.size - num_members)
    return RocCurve(
        fpr=jnp.concatenate([zero, fpr]),
        tpr=jnp.concatenate([zero, tpr]),
        thresholds=jnp.concatenate([zero + jnp.inf, ordered]),
        auc=auc(scores, member),
    )


@jax.jit
def auc(scores: ArrayLike, is_member: ArrayLike) -> Array:
    """Return the area under the ROC curve, with half credit for ties.

    Args:
      scores: ``[..., N]``, higher = more likely member.
      is_member: ``[N]`` or ``[..., N]`` bool.

    Returns:
      ``[...]`` in [0, 1]; NaN where a class is empty or a score is NaN.
    """
    scores = floating(scores)
    member = jnp.asarray(is_member)
    chex.assert_type(member, bool)
    chex.assert_axis_dimension(member, -1, scores.shape[-1])
    if member.ndim == 1:
        member = jnp.broadcast_to(member, scores.shape)

    def area(row: Array, mask: Array) -> Array:
        ones = jnp.ones((1, row.size), row.dtype)
        return weighted_auc(row, mask, ~mask, ones)[0]

    return jnp.vectorize(area, signature="(n),(n)->()")(scores, member)


@jax.jit
def weighted_auc(
    scores: ArrayLike, positive: ArrayLike, negative: ArrayLike, weights: ArrayLike
) -> Array:
    """Return the AUC of the same scores under many weightings of the samples.

    Args:
      scores: ``[N]``, higher = more likely positive; only scores of positives and
        negatives are read.
      positive: ``[N]`` bool.
      negative: ``[N]`` bool, disjoint from ``positive``.
      weights: ``[B, N]``, not negative.

    Returns:
      ``[B]``; NaN where the positives or the negatives have no weight.
    """
    scores, positive, negative, weights = _read(scores, positive, negative, weights)
    marked = jnp.where(positive | negative, scores, jnp.inf)
    order = jnp.argsort(marked)
    first, after = tie_bounds(marked[order])
    above = jnp.where(positive[None], weights, 0)[:, order]
    below = jnp.where(negative[None], weights, 0)[:, order]
    total_above = sum_over_samples(above)
    total_below = sum_over_samples(below)
    # Weight of the negatives before each position, starting with 0.
    passed = jnp.pad(jnp.cumsum(below, axis=1), ((0, 0), (1, 0)))
    credit = (passed[:, first] + passed[:, after]) / 2
    credit = credit / total_below[:, None]
    return sum_over_samples(above * credit) / total_above


@jax.jit
def weighted_tpr(
    scores: ArrayLike,
    positive: ArrayLike,
    negative: ArrayLike,
    weights: ArrayLike,
    *,
    max_fpr: ArrayLike,
) -> Array:
    """Return the TPR at an FPR of at most ``max_fpr``, under many weightings.

    Args:
      scores: ``[N]``, higher = more likely positive; only scores of positives and
        negatives are read.
      positive: ``[N]`` bool.
      negative: ``[N]`` bool, disjoint from ``positive``.
      weights: ``[B, N]``, not negative.
      max_fpr: largest false positive rate, in [0, 1]; may be traced.

    Returns:
      ``[B]``; NaN where the positives or the negatives have no weight, or ``max_fpr``
      is outside [0, 1].
    """
    scores, positive, negative, weights = _read(scores, positive, negative, weights)
    marked = jnp.where(positive | negative, -scores, jnp.inf)
    order = jnp.argsort(marked)
    _, after = tie_bounds(marked[order])
    hits = jnp.cumsum(jnp.where(positive[None], weights, 0)[:, order], axis=1)
    alarms = jnp.cumsum(jnp.where(negative[None], weights, 0)[:, order], axis=1)
    total = alarms[:, -1:]
    # With the tolerance, max_fpr = k / n allows k false alarms despite rounding.
    tolerance = 1e-12 if scores.dtype == jnp.float64 else 1e-6
    is_within = alarms[:, after - 1] <= max_fpr * total * (1 + tolerance)
    best = jnp.where(is_within, hits[:, after - 1], 0).max(axis=1)
    rate = best / hits[:, -1]
    is_rate = jnp.clip(max_fpr, 0, 1) == max_fpr
    return jnp.where((total[:, 0] > 0) & is_rate, rate, jnp.nan)


@jax.jit
def weighted_mean(values: ArrayLike, mask: ArrayLike, weights: ArrayLike) -> Array:
    """Return the mean of the masked values under many weightings of the samples.

    Args:
      values: ``[N]`` reals or booleans; only masked values are read.
      mask: ``[N]`` bool.
      weights: ``[B, N]``, not negative.

    Returns:
      ``[B]``; NaN where the masked samples have no weight.
    """
    values = floating(values)
    mask = jnp.asarray(mask)
    chex.assert_rank(values, 1)
    chex.assert_equal_shape([values, mask])
    chex.assert_type(mask, bool)
    chex.assert_shape(weights, (None, values.size))
    masked_weights = jnp.where(mask[None], jnp.asarray(weights, values.dtype), 0)
    weighted = masked_weights * jnp.where(mask, values, 0)[None]
    return sum_over_samples(weighted) / sum_over_samples(masked_weights)


def _read(
    scores: ArrayLike, positive: ArrayLike, negative: ArrayLike, weights: ArrayLike
) -> tuple[Array, Array, Array, Array]:
    """Return the arguments of a weighted curve as arrays, with shapes checked."""
    scores = floating(scores)
    positive = jnp.asarray(positive)
    negative = jnp.asarray(negative)
    chex.assert_rank(scores, 1)
    chex.assert_equal_shape([scores, positive, negative])
    chex.assert_type([positive, negative], bool)
    chex.assert_shape(weights, (None, scores.size))
    # Sorting would hide a NaN score, so NaN weights carry it into the result.
    is_nan = (jnp.isnan(scores) & (positive | negative)).any()
    weights = jnp.asarray(weights).astype(scores.dtype)
    weights = jnp.where(is_nan, lax.full_like(weights, jnp.nan), weights)
    return scores, positive, negative, weights
