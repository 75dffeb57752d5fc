"""RMIA: relative likelihoods against reference models, compared between samples.

Zarifzadeh, Liu and Shokri 2024, "Low-Cost High-Power Membership Inference Attacks"
(arXiv 2312.03262). The defaults are those of AMUN's audit: online, a plain mean over
all references, all other samples as population, gamma 2.

The functions use NumPy on the host. The whole attack is one mean, one sort and one
binary search per target, with memory linear in the number of samples. Means are taken
in float64, whatever the signals' dtype. Under ``jax.jit`` these functions call their
counterparts in :mod:`unlearn_jax.audit.device`.
"""

from typing import Any, cast, get_args

import numpy as np
from numpy.typing import ArrayLike

from unlearn_jax.audit import device
from unlearn_jax.audit.device._rmia import (
    Comparison,
    Mode,
    check_gamma,
    check_options,
)
from unlearn_jax.audit.inputs import (
    is_traced,
    mask_array,
    real_array,
    refuse_infinite,
    refuse_nan,
)
from unlearn_jax.types import InputError


def rmia(
    target: ArrayLike,
    reference: ArrayLike,
    member: ArrayLike,
    *,
    population: ArrayLike | None = None,
    reference_population: ArrayLike | None = None,
    gamma: float = 2.0,
    mode: Mode = "online",
    offline_a: float = 0.3,
    trim: float = 0.0,
    check_design: bool = True,
    comparison: Comparison = "product",
) -> np.ndarray:
    """Return RMIA scores: the fraction of the population that each sample dominates.

    ``score(x) = mean_z [ratio(x) > gamma * ratio(z)]`` with ``ratio(x) = Pr(x | target)
    / Pr(x)``; see :func:`rmia_ratio` for ``Pr(x)`` and :func:`dominated_fraction` for
    the comparison and its edge cases. Several targets may share the references; the
    ratios of a target are compared only with each other.

    Args:
      target: ``[N]`` or ``[T, N]`` signals of the audited model(s), normally
        :func:`~unlearn_jax.audit.signals.taylor_softmax`. RMIA divides signals, so a
        negative signal (a loss, an entropy, a margin) would reverse the order.
      reference: ``[M, N]`` the same signal under the reference models.
      member: ``[M, N]`` bool, True where the reference was trained on the sample.
      population: ``[Z]`` (``[T, Z]`` for several targets) signals of the audited
        model(s) on other samples z. With None, the population of x is all samples of
        ``target`` except x.
      reference_population: ``[M, Z]`` signals of the references on the same z;
        required if and only if ``population`` is given. In offline mode no reference
        may have been trained on any z.
      gamma: factor by which ratio(x) must exceed ratio(z); positive. AMUN and the paper
        use 2, newer code 1.
      mode: "online" averages over all references, "offline" over those that were not
        trained on the sample.
      offline_a: coefficient a of the offline correction, in [0, 1]; 0.3 for CIFAR-10,
        0.6 for CIFAR-100.
      trim: fraction of references cut at each end before the mean, in [0, 0.5), online
        only. The paper's code uses 0.2.
      check_design: whether online mode requires that each sample is in exactly half of
        the references (the paper's design).
      comparison: ``product`` or ``quotient``, see :func:`dominated_fraction`.

    Returns:
      ``[N]`` or ``[T, N]`` float64 in [0, 1], multiples of 1 / (N - 1) or 1 / Z; higher
      = more likely member.

    Raises:
      InputError: shapes that do not match; fewer than two references; a sample not in
        exactly half of them (online, ``check_design``); a sample in all of them
        (offline); gamma, a or trim out of range; NaN or infinite signals;
        ``population`` without ``reference_population`` or the reverse; a single sample
        and no population.

    >>> target = np.array([0.9, 0.5, 0.2])
    >>> reference = np.array([[0.3, 0.6, 0.4], [0.1, 0.4, 0.4]])
    >>> member = np.array([[True, False, False], [False, True, True]])
    >>> print(rmia(target, reference, member))
    [1. 0. 0.]
    """
    if (population is None) != (reference_population is None):
        raise InputError(
            "population and reference_population belong together: pass both or neither"
        )
    options = {"mode": mode, "offline_a": offline_a, "trim": trim}
    ratio = rmia_ratio(target, reference, member, check_design=check_design, **options)
    if population is None or reference_population is None:
        return dominated_fraction(ratio, gamma=gamma, comparison=comparison)
    others = reference_population
    if not is_traced(others):
        others = real_array("reference_population", others, ndim=(2,))
    shape = np.shape(others)
    if shape[0] != np.shape(reference)[0]:
        raise InputError(
            f"reference_population has {shape[0]} models and reference"
            f" {np.shape(reference)[0]}: pass the same models in the same order"
        )
    outside = np.zeros(shape, bool)
    return dominated_fraction(
        ratio,
        rmia_ratio(population, others, outside, check_design=False, **options),
        gamma=gamma,
        comparison=comparison,
    )


def rmia_ratio(
    target: ArrayLike,
    reference: ArrayLike,
    member: ArrayLike,
    *,
    mode: Mode = "online",
    offline_a: float = 0.3,
    trim: float = 0.0,
    check_design: bool = True,
) -> np.ndarray:
    """Return the target's signal divided by the references' average.

    ``ratio(x) = Pr(x | target) / Pr(x)``. Online, ``Pr(x)`` is the mean over all
    references. Offline, ``Pr(x) = ((1 + a) mean_out(x) + (1 - a)) / 2``, with the mean
    over the references that were not trained on x. For one target and one population,
    the RMIA score is a monotone step function of this ratio; the ratio lacks the ties
    that the steps cause.

    Args:
      target: ``[N]`` or ``[T, N]`` signals of the audited model(s).
      reference: ``[M, N]`` signals of the references, finite; offline, only those of
        references not trained on the sample are used.
      member: ``[M, N]`` bool, True where the reference was trained on the sample.
      mode: as in :func:`rmia`.
      offline_a: as in :func:`rmia`.
      trim: as in :func:`rmia`; ``int(trim * M)`` references are cut at each end.
      check_design: as in :func:`rmia`.

    Returns:
      ``[N]`` or ``[T, N]`` float64; higher = more likely member. Where ``Pr(x)`` is 0,
      the ratio is 1 if the target's signal is 0 too (no evidence either way), otherwise
      infinite with the signal's sign. SM-Taylor signals can make the ratio negative.

    Raises:
      InputError: the same cases as :func:`rmia`.
    """
    check_options(mode, offline_a, trim)
    if is_traced(target, reference, member, offline_a):
        ratio = device.rmia_ratio(
            target, reference, member, mode=mode, offline_a=offline_a, trim=trim
        )
        return cast(np.ndarray, ratio)
    target = real_array("target", target, ndim=(1, 2))
    reference = real_array("reference", reference, ndim=(2,))
    if reference.shape[1] != target.shape[-1]:
        raise InputError(
            f"reference has {reference.shape[1]} samples and target {target.shape[-1]}:"
            " pass the same samples"
        )
    options: dict[str, Any] = {"mode": mode, "offline_a": offline_a, "trim": trim}
    average = reference_average(reference, member, check_design=check_design, **options)
    return ratio_to_average(target, average)


def reference_average(
    reference: ArrayLike,
    member: ArrayLike,
    *,
    mode: Mode = "online",
    offline_a: float = 0.3,
    trim: float = 0.0,
    check_design: bool = True,
) -> np.ndarray:
    """Return the references' average signal, ``Pr(x)`` of :func:`rmia_ratio`.

    RMIA needs nothing else from the references.

    Args:
      reference: as in :func:`rmia_ratio`.
      member: as in :func:`rmia_ratio`.
      mode: as in :func:`rmia`.
      offline_a: as in :func:`rmia`.
      trim: as in :func:`rmia`.
      check_design: as in :func:`rmia`.

    Returns:
      ``[N]`` float64, finite; the same average serves any number of targets.

    Raises:
      InputError: the same cases as :func:`rmia`.

    >>> reference_average([[1.0, 2.0], [3.0, 2.0]], np.eye(2, dtype=bool))
    array([2., 2.])
    """
    check_options(mode, offline_a, trim)
    reference = real_array("reference", reference, ndim=(2,))
    if reference.shape[0] < 2:
        raise InputError(
            "RMIA needs at least 2 reference models, one with and one without each"
            " sample"
        )
    member = mask_array("member", member, reference.shape)
    if mode == "online":
        if check_design:
            _check_half(member)
        average = _trimmed_mean(reference, trim)
    else:
        average = _offline_mean(reference, member, offline_a)
    refuse_infinite("the references' average", average)
    # SM-Taylor signals may be negative, but only for a few samples.
    if np.median(average) < 0:
        raise InputError(
            "the references' signals are negative for most samples: RMIA divides"
            " probabilities, pass a signal such as taylor_softmax"
        )
    return average


def ratio_to_average(target: ArrayLike, average: ArrayLike) -> np.ndarray:
    """Return :func:`rmia_ratio` from the references' average.

    Args:
      target: ``[N]`` or ``[T, N]`` signals of the audited model(s).
      average: ``[N]`` result of :func:`reference_average`.

    Returns:
      ``[N]`` or ``[T, N]`` float64; where signal and average are both 0, the ratio
      is 1.

    Raises:
      InputError: NaN or infinite signals, or shapes that do not match.
    """
    target = real_array("target", target, ndim=(1, 2))
    average = real_array("average", average, ndim=(1,))
    if average.shape != target.shape[-1:]:
        raise InputError(
            f"average has {average.size} samples and target {target.shape[-1]}: pass"
            " the same samples"
        )
    refuse_infinite("target", target)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratio = target.astype(np.float64, copy=False) / average
    return np.where(np.isnan(ratio), 1.0, ratio)


def dominated_fraction(
    ratio: ArrayLike,
    population_ratio: ArrayLike | None = None,
    *,
    gamma: float = 2.0,
    comparison: Comparison = "product",
) -> np.ndarray:
    """Return the fraction of the population that each sample's ratio dominates.

    This is the RMIA score of ratios, ``score(x) = mean_z [ratio(x) > gamma *
    ratio(z)]``, with a strict inequality. One sort and one binary search per row do the
    work of N x Z comparisons. The result **exactly** equals the pairwise comparison of
    the float64 numbers, because rounding keeps the order of the ``gamma * ratio(z)``.

    The paper writes ``ratio(x) / ratio(z) > gamma``, and AMUN's released code divides.
    ``comparison="product"`` equals the division for every ratio(z) > 0, and for
    ratio(z) = 0 (a positive ratio dominates, others do not). A ratio(z) < 0 arises only
    from signals outside [0, 1], such as the Taylor signals. There the division reverses
    the inequality and rewards a sample for being more negative. The product keeps the
    score non-decreasing in ratio(x): every ratio(x) above gamma * ratio(z) dominates
    such a z. ``comparison="quotient"`` divides, for parity with the released code.

    Args:
      ratio: ``[N]`` or ``[T, N]`` ratios of :func:`rmia_ratio`; infinities are allowed.
      population_ratio: ``[Z]`` or ``[T, Z]`` ratios of the population. With None, the
        population of x is all other samples of its row.
      gamma: factor by which ratio(x) must exceed ratio(z); positive and finite.
      comparison: ``product`` or ``quotient``; they differ only where ratio(z) < 0.

    Returns:
      ``[N]`` or ``[T, N]`` float64 in [0, 1].

    Raises:
      InputError: NaN ratios, gamma not positive, an unknown comparison, different
        numbers of targets, or one sample and no population.

    >>> print(dominated_fraction([1.0, 3.0, 2.0, 7.0]))
    [0.         0.33333333 0.         1.        ]
    >>> print(dominated_fraction([1.0, 3.0], [0.4, 0.5, 2.0]))
    [0.33333333 0.66666667]
    """
    if comparison not in get_args(Comparison):
        raise InputError(f"comparison is {comparison!r}: pass 'product' or 'quotient'")
    check_gamma(gamma)
    if is_traced(ratio, population_ratio, gamma):
        fraction = device.dominated_fraction(
            ratio, population_ratio, gamma=gamma, comparison=comparison
        )
        return cast(np.ndarray, fraction)
    ratio = real_array("ratio", ratio, ndim=(1, 2)).astype(np.float64, copy=False)
    refuse_nan("ratio", ratio)
    if population_ratio is None:
        if ratio.shape[-1] < 2:
            raise InputError(
                "a single sample has no others to compare with: pass a population"
            )
        return np.apply_along_axis(_fraction_of_others, -1, ratio, gamma, comparison)
    others = real_array("population_ratio", population_ratio, ndim=(1, 2)).astype(
        np.float64, copy=False
    )
    refuse_nan("population_ratio", others)
    if others.ndim != ratio.ndim or others.shape[:-1] != ratio.shape[:-1]:
        raise InputError(
            f"population ratios {others.shape} do not fit ratios {ratio.shape}: pass"
            " one row per target"
        )
    bounds = gamma * np.sort(others, axis=-1)
    if ratio.ndim == 1:
        return _num_dominated(bounds, ratio, comparison) / others.shape[-1]
    counts = [
        _num_dominated(bound, row, comparison)
        for bound, row in zip(bounds, ratio, strict=True)
    ]
    return np.stack(counts) / others.shape[-1]


def _num_dominated(
    bounds: np.ndarray, ratio: np.ndarray, comparison: Comparison
) -> np.ndarray:
    """Return the number of ascending ``gamma * ratio(z)`` that each ratio dominates."""
    counts = np.searchsorted(bounds, ratio, side="left")
    if comparison == "product":
        return counts
    # Dividing by a negative number reverses the comparison.
    negative = bounds[: np.searchsorted(bounds, 0.0, side="left")]
    smaller = np.searchsorted(negative, ratio, side="left")
    larger = negative.size - np.searchsorted(negative, ratio, side="right")
    return counts - smaller + larger


def _fraction_of_others(
    ratio: np.ndarray, gamma: float, comparison: Comparison
) -> np.ndarray:
    """Return one row of :func:`dominated_fraction`, excluding each sample itself."""
    order = np.argsort(ratio)
    ordered = ratio[order]
    bounds = gamma * ordered
    # Queries in ascending order keep the binary search in cache. A sample may dominate
    # itself (gamma < 1, or a negative ratio); that comparison must not count.
    itself = ordered > bounds
    if comparison == "quotient":
        itself = np.where(ordered < 0, ordered < bounds, itself)
    counts = _num_dominated(bounds, ordered, comparison) - itself
    fractions = np.empty(ratio.shape)
    fractions[order] = counts / (ratio.size - 1)
    return fractions


def _check_half(member: np.ndarray) -> None:
    """Raise unless each sample is in exactly half of the models."""
    models = member.shape[0]
    if models % 2:
        raise InputError(
            f"no sample can be in exactly half of {models} references: pass an even"
            " number, or check_design=False"
        )
    counts = member.view(np.int8).sum(axis=0, dtype=np.int32)
    wrong = np.flatnonzero(counts != models // 2)
    if wrong.size:
        raise InputError(
            f"{wrong.size} samples are not in exactly half of the {models} references"
            f" (sample {wrong[0]} is in {counts[wrong[0]]}): pass such a design, or"
            " check_design=False"
        )


def _trimmed_mean(reference: np.ndarray, trim: float) -> np.ndarray:
    """Return the mean over models after cutting ``int(trim * M)`` at each end."""
    models = reference.shape[0]
    cut = int(trim * models)
    if cut:
        ranked = np.partition(reference, (cut, models - cut - 1), axis=0)
        reference = ranked[cut : models - cut]
    # Infinities of both signs give NaN, which the caller refuses.
    with np.errstate(invalid="ignore"):
        return reference.mean(axis=0, dtype=np.float64)


def _offline_mean(
    reference: np.ndarray, member: np.ndarray, offline_a: float
) -> np.ndarray:
    """Return ``((1 + a) mean_out + (1 - a)) / 2`` over the OUT references."""
    outside = ~member
    count = outside.view(np.int8).sum(axis=0, dtype=np.int32)
    if not count.all():
        where = int(np.argmin(count))
        raise InputError(
            f"sample {where} is in every reference: offline RMIA needs a reference that"
            " was not trained on it; leave the sample out"
        )
    # Infinities of both signs give NaN, which the caller refuses.
    with np.errstate(invalid="ignore"):
        total = np.einsum("mn,mn->n", reference, outside, dtype=np.float64)
    return ((1 + offline_a) * (total / count) + (1 - offline_a)) / 2
