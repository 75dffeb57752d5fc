"""RMIA on a device; see :func:`unlearn_jax.audit.rmia` for the attack."""

from functools import partial
from typing import Any, Literal, get_args

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from unlearn_jax.audit.device._reductions import (
    count_over_models,
    floating,
    sort_over_models,
    sum_over_models,
)
from unlearn_jax.audit.inputs import is_traced
from unlearn_jax.types import Array, InputError

Mode = Literal["online", "offline"]
Comparison = Literal["product", "quotient"]


def check_options(mode: str, offline_a: Any, trim: float) -> None:
    """Raise on options of :func:`rmia` out of range; a traced ``offline_a`` passes.

    Raises:
      InputError: such an option; the message names it.
    """
    if mode not in get_args(Mode):
        raise InputError(f"mode is {mode!r}: pass 'online' or 'offline'")
    if not 0 <= trim < 0.5:
        raise InputError(f"trim is {trim}: pass a fraction in [0, 0.5)")
    if mode == "online":
        return
    if trim:
        raise InputError("trim applies to mode='online' only: leave it at 0")
    if not is_traced(offline_a) and not 0 <= offline_a <= 1:
        raise InputError(f"offline_a is {offline_a}: pass a number in [0, 1]")


def check_gamma(gamma: Any) -> None:
    """Raise on a factor that is not positive and finite; a traced one passes.

    Raises:
      InputError: such a factor.
    """
    if not is_traced(gamma) and not 0 < gamma < jnp.inf:
        raise InputError(f"gamma is {gamma}: pass a positive number")


@partial(jax.jit, static_argnames=("mode", "trim", "comparison"))
def rmia(
    target: ArrayLike,
    reference: ArrayLike,
    member: ArrayLike,
    *,
    population: ArrayLike | None = None,
    reference_population: ArrayLike | None = None,
    gamma: ArrayLike = 2.0,
    mode: Mode = "online",
    offline_a: ArrayLike = 0.3,
    trim: float = 0.0,
    comparison: Comparison = "product",
) -> Array:
    """Return RMIA scores, as :func:`unlearn_jax.audit.rmia` does on the host.

    Args:
      target: ``[N]`` or ``[T, N]`` signals of the audited models.
      reference: ``[M, N]`` the same signal under the reference models.
      member: ``[M, N]`` bool, True where the reference was trained on the sample.
      population: ``[Z]`` or ``[T, Z]`` signals of the audited models on other samples;
        None compares each sample with all others of ``target``.
      reference_population: ``[M, Z]`` signals of the references on the same samples;
        required if and only if ``population`` is given.
      gamma: factor by which ratio(x) must exceed ratio(z); may be traced.
      mode: ``"online"`` or ``"offline"``; static.
      offline_a: coefficient a of the offline correction; may be traced.
      trim: fraction of references cut at each end before the mean; static.
      comparison: as in :func:`dominated_fraction`; static.

    Returns:
      ``[N]`` or ``[T, N]`` in the dtype of the signals, multiples of 1 / (N - 1) or 1 /
      Z up to rounding. Two ratios that agree to 1e-7 may compare differently in float32
      and in float64; each such pair changes a score by 1 / (N - 1).

    Raises:
      InputError: an unknown mode or comparison, ``trim`` out of range, or
        ``population`` without ``reference_population`` or the reverse.

    >>> member = jnp.array([[True, False, False], [False, True, True]])
    >>> reference = jnp.array([[0.3, 0.6, 0.4], [0.1, 0.4, 0.4]])
    >>> print(rmia(jnp.array([0.9, 0.5, 0.2]), reference, member))
    [1. 0. 0.]
    """
    options = {"mode": mode, "offline_a": offline_a, "trim": trim}
    ratio = rmia_ratio(target, reference, member, **options)
    if population is None and reference_population is None:
        return dominated_fraction(ratio, gamma=gamma, comparison=comparison)
    if population is None or reference_population is None:
        raise InputError(
            "population and reference_population belong together: pass both or neither"
        )
    outside = jnp.zeros(jnp.shape(reference_population), bool)
    population_ratio = rmia_ratio(population, reference_population, outside, **options)
    return dominated_fraction(
        ratio, population_ratio, gamma=gamma, comparison=comparison
    )


@partial(jax.jit, static_argnames=("mode", "trim"))
def rmia_ratio(
    target: ArrayLike,
    reference: ArrayLike,
    member: ArrayLike,
    *,
    mode: Mode = "online",
    offline_a: ArrayLike = 0.3,
    trim: float = 0.0,
) -> Array:
    """Return the target's signal divided by the references' average.

    Args:
      target: ``[N]`` or ``[T, N]`` signals of the audited models.
      reference: ``[M, N]`` the same signal under the reference models.
      member: ``[M, N]`` bool, True where the reference was trained on the sample.
      mode: as in :func:`rmia`.
      offline_a: as in :func:`rmia`.
      trim: as in :func:`rmia`.

    Returns:
      ``[N]`` or ``[T, N]``; 0 / 0 is 1, as on the host. The average is a compensated
      sum over models.

    Raises:
      InputError: an unknown mode or a ``trim`` out of range.
    """
    check_options(mode, offline_a, trim)
    target = floating(target)
    reference = floating(reference)
    member = jnp.asarray(member)
    chex.assert_rank(target, {1, 2})
    chex.assert_rank(reference, 2)
    chex.assert_equal_shape([reference, member])
    chex.assert_type(member, bool)
    chex.assert_axis_dimension(target, -1, reference.shape[1])
    num_models = reference.shape[0]
    if mode == "online":
        cut = int(trim * num_models)
        if cut:
            reference = sort_over_models(reference)[cut : num_models - cut]
        average = sum_over_models(reference) / reference.shape[0]
    else:
        total = sum_over_models(jnp.where(member, 0, reference))
        mean = total / (num_models - count_over_models(member))
        average = ((1 + offline_a) * mean + (1 - offline_a)) / 2
    average = jnp.broadcast_to(average, target.shape)
    ratio = target / average
    # Only 0 / 0 means no evidence; a NaN signal stays NaN.
    return jnp.where((target == 0) & (average == 0), 1, ratio)


@partial(jax.jit, static_argnames=("comparison",))
def dominated_fraction(
    ratio: ArrayLike,
    population_ratio: ArrayLike | None = None,
    *,
    gamma: ArrayLike = 2.0,
    comparison: Comparison = "product",
) -> Array:
    """Return the fraction of the population that each sample's ratio dominates.

    ``score(x) = mean_z [ratio(x) > gamma * ratio(z)]``. The counts exactly equal those
    of pairwise comparisons in the input's dtype, with one sort and one binary search
    per row. XLA divides by multiplying with the reciprocal, so the last digit may
    differ from NumPy's, and it flushes subnormal products to zero.

    Args:
      ratio: ``[N]`` or ``[T, N]``; infinities are allowed.
      population_ratio: ``[Z]`` or ``[T, Z]`` ratios of the population; None takes all
        other samples of the row.
      gamma: factor by which ratio(x) must exceed ratio(z); positive; may be traced.
      comparison: ``"product"`` or ``"quotient"``, see
        :func:`unlearn_jax.audit.dominated_fraction`; static.

    Returns:
      ``[N]`` or ``[T, N]`` in [0, 1]; NaN where a ratio of the row is NaN, or ``gamma``
      is not positive.

    Raises:
      InputError: an unknown comparison.
    """
    if comparison not in get_args(Comparison):
        raise InputError(f"comparison is {comparison!r}: pass 'product' or 'quotient'")
    ratio = floating(ratio)
    others = ratio if population_ratio is None else floating(population_ratio)
    chex.assert_rank(ratio, {1, 2})
    chex.assert_equal_rank([ratio, others])
    chex.assert_equal_shape_prefix([ratio, others], ratio.ndim - 1)
    factor = jnp.asarray(gamma, others.dtype)

    is_quotient = comparison == "quotient"

    def count(row: Array, population: Array) -> Array:
        bounds = factor * jnp.sort(population)
        counts = jnp.searchsorted(bounds, row, side="left")
        if is_quotient:
            # Dividing by a negative number reverses the comparison.
            num_negative = jnp.sum(population < 0)
            smaller = jnp.minimum(counts, num_negative)
            larger = num_negative - jnp.minimum(
                jnp.searchsorted(bounds, row, side="right"), num_negative
            )
            counts = counts - smaller + larger
        is_nan = jnp.isnan(bounds).any() | jnp.isnan(row).any()
        return jnp.where(~is_nan & (factor > 0), counts.astype(row.dtype), jnp.nan)

    counts = jnp.vectorize(count, signature="(n),(z)->(n)")(ratio, others)
    num_others = others.shape[-1]
    if population_ratio is None:
        # A sample may dominate itself (gamma < 1, or a negative ratio); not counted.
        itself = ratio > factor * ratio
        if is_quotient:
            itself = jnp.where(ratio < 0, ratio < factor * ratio, itself)
        counts = counts - itself
        num_others -= 1
    return counts / num_others
