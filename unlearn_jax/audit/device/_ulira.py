"""U-LiRA on a device; see :func:`unlearn_jax.audit.ulira` for the attack."""

import chex
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from unlearn_jax.audit.device._curves import auc
from unlearn_jax.audit.device._reductions import floating, sum_over_samples
from unlearn_jax.audit.results import ULira
from unlearn_jax.types import Array


@jax.jit
def ulira(
    target: ArrayLike, reference: ArrayLike, *, min_std: ArrayLike = 1e-3
) -> ULira:
    """Return U-LiRA's ratios, calls, accuracies and AUCs, cross-fitted over pairs.

    Args:
      target: ``[S, N]`` statistic of S unlearned models, S at least 3.
      reference: ``[S, N]`` the same statistic of models retrained without the samples.
      min_std: lower limit of the standard deviations; may be traced.

    Returns:
      The fields of :class:`unlearn_jax.audit.ULira`, in the dtype of the input.
    """
    target = floating(target)
    reference = floating(reference)
    chex.assert_rank(target, 2)
    chex.assert_equal_shape([target, reference])
    chex.assert_axis_dimension_gt(target, 0, 2)
    target_moments = _moments_of_others(target, min_std)
    reference_moments = _moments_of_others(reference, min_std)

    def ratio(values: Array) -> Array:
        log_target = _log_normal(values, *target_moments)
        return log_target - _log_normal(values, *reference_moments)

    target_ratio = ratio(target)
    reference_ratio = ratio(reference)
    target_called = jnp.heaviside(target_ratio, 0.5)
    reference_called = jnp.heaviside(reference_ratio, 0.5)
    num_samples = target.shape[1]
    hits = sum_over_samples(target_called) / num_samples
    false_alarms = sum_over_samples(reference_called) / num_samples
    pooled = jnp.concatenate([target_ratio, reference_ratio], axis=1)
    is_target = jnp.arange(2 * num_samples) < num_samples
    return ULira(
        target=target_ratio,
        reference=reference_ratio,
        target_called=target_called,
        reference_called=reference_called,
        accuracy=(hits + 1 - false_alarms) / 2,
        auc=auc(pooled, is_target),
    )


def _moments_of_others(values: Array, min_std: ArrayLike) -> tuple[Array, Array]:
    """Return mean and unbiased std over all other rows, ``[S, N]`` each.

    Moments of the rows before and after a row are merged (Chan, Golub and LeVeque
    1983), so there is no cancellation if the row is far from the others.
    """
    num_others = values.shape[0] - 1
    mean_before, squares_before = _running_moments(values[:-1])
    mean_after, squares_after = _running_moments(values[:0:-1])
    before = jnp.arange(num_others + 1, dtype=values.dtype)[:, None]
    after = num_others - before
    gap = mean_after[::-1] - mean_before
    mean = mean_before + gap * (after / num_others)
    between = gap**2 * (before * after / num_others)
    squares = squares_before + squares_after[::-1] + between
    std = jnp.sqrt(squares / (num_others - 1))
    return mean, jnp.maximum(std, min_std)


def _running_moments(values: Array) -> tuple[Array, Array]:
    """Return mean and squared deviations of the first 0, 1, ... rows (Welford 1962)."""

    def add(
        carry: tuple[Array, Array], item: tuple[Array, Array]
    ) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        mean, squares = carry
        row, count = item
        gap = row - mean
        mean = mean + gap / count
        squares = squares + gap * (row - mean)
        return (mean, squares), (mean, squares)

    zero = jnp.zeros_like(values[0])
    counts = jnp.arange(1, values.shape[0] + 1, dtype=values.dtype)
    _, (means, squares) = lax.scan(add, (zero, zero), (values, counts))
    start = zero[None]
    return jnp.concatenate([start, means]), jnp.concatenate([start, squares])


def _log_normal(values: Array, mean: Array, std: Array) -> Array:
    """Return the normal log-density without its constant, which cancels in a ratio."""
    return -0.5 * ((values - mean) / std) ** 2 - jnp.log(std)
