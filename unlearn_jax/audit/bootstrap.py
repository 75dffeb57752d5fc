"""Confidence intervals for tables whose cells share samples, and their coverage.

A run is one unlearned model, with an original model, a forget set and a repeat. All
runs of a table score the same pool of N samples and have the same test samples, so the
errors of two runs are correlated. There are few originals and forget sets, often three
of each. Two parts of the variance are therefore estimated in two ways:

1. The samples' part: ``weights = sample_weights(rng, B, strata)`` has one row per
   replicate and is shared by the whole table. For each run and metric,
   ``weighted_auc(...)`` or ``weighted_mean(...)`` turn it into ``[B]`` replicates.
2. The part of the originals and forget sets: mean squares of the crossed random effects
   ``factors [R, 2]``, for Student's t with degrees of freedom near Satterthwaite's.

:func:`mean_variance` adds both parts and counts noise that is in both once.
``summarize(values [R], replicates [B, R], factors)`` returns mean, spread and interval.

The table lists the interval of each estimate. The third column names what is random;
the last is the measured coverage of 95% intervals, in % of simulated tables.

=========================  ============================  ===================  ========
estimate                   interval                      random               coverage
=========================  ============================  ===================  ========
accuracy or AUC of a run   Wilson, from the variance of  samples              94 to 97
                           the bootstrap
accuracy or AUC over       Wilson with Student's t,      originals, sets,
crossed runs:              :func:`mean_variance`         repeats, samples
3 to 10 levels, no effect  the same                      the same             94 to 97
3 to 10, small effects     the same                      the same             93 to 98
3 to 10, large effects     the same                      the same             93 to 96
2 levels, normal tables    the same                      the same             89 to 98
a distance (Avg Gap)       Student's t, cut off at 0     the same             93 to 100
a mean over seeds          Student's t, 2 to 20 seeds,   seeds                94 to 97
                           :func:`summarize_runs`
samples that all agree,    Clopper-Pearson,              samples              90 to 100
such as all correct        :func:`agreeing_interval`
U-LiRA                     Wilson with Student's t and   pairs of models,     96 to 100
                           ``pair_influences``           samples
a rank correlation         Bonett and Wright's z         pairs, groups        91 to 99
KLoM: mean                 Wilson with Student's t       samples              92 to 97
KLoM: quantiles            order statistics              samples              95 to 99
MIS                        Wilson or Student's t, SVMs   originals, sets,     93 to 100
                           refitted per replicate        repeats, samples
MIA (Kodge)                the same                      the same             86 to 92
MIA-NN, its gap            the same                      the same             93 to 100
paired difference of two   Student's t, from the         the same             95
rows                       differences of values and of
                           replicates
=========================  ============================  ===================  ========

MIS, MIA and MIA-NN have no interval if their SVMs are not refitted (``audit.refits``).
A factor with a single level is held fixed, and the interval is for that level only.
:func:`run_weights` is the pigeonhole bootstrap of crossed runs (Owen 2007), for
statistics that are not means; with few levels its intervals are too short. U-LiRA's
pairs share shadow models, a dependence that no factor describes;
:func:`~unlearn_jax.audit.pair_influences` corrects the variance for it. The results of
``experiments/benchmarks/coverage.py`` give the measured coverage in full.

The functions use NumPy on the host, in float64. :mod:`unlearn_jax.audit.device` has the
draws and the weighted statistics in ``jax.numpy``.
"""

import copy
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from unlearn_jax.audit import device
from unlearn_jax.audit._ranking import Ranking
from unlearn_jax.audit.inputs import (
    check_level,
    is_traced,
    mask_array,
    real_array,
    refuse_infinite,
)
from unlearn_jax.audit.results import Interval, clopper_pearson
from unlearn_jax.checks import check_counts
from unlearn_jax.types import InputError

# Elements of a [rows, N] block, so that its float64 copies fit in a core's cache.
_BLOCK = 1 << 18
# Largest number of weights that are stored instead of drawn again: 64 MiB.
_KEPT = 1 << 26


class MeanVariance(NamedTuple):
    """Variance of a mean over runs.

    Attributes:
      total: variance of the mean.
      samples: part of ``total`` that is due to the samples shared by all runs; more
        runs do not lower it.
      df: degrees of freedom of ``total``, at least 1; infinite if ``total`` is known.
    """

    total: float
    samples: float
    df: float


class Estimate(NamedTuple):
    """Mean over runs with its spread and interval, one cell of a table.

    Attributes:
      mean: unweighted mean over runs.
      std: standard deviation over runs (``ddof=1``), printed after ± in papers; NaN for
        a single run.
      low: lower end of the interval of ``mean``; NaN without an interval.
      high: upper end of the interval of ``mean``; NaN without an interval.
      num_runs: number of runs, R.
      num_dropped: number of replicates left out of the interval because a run has no
        value in them.
    """

    mean: float
    std: float
    low: float
    high: float
    num_runs: int
    num_dropped: int


def sample_weights(
    rng: np.random.Generator, num_replicates: int, strata: ArrayLike
) -> np.ndarray:
    """Return bootstrap counts of samples, drawn with replacement within each stratum.

    Strata keep the sizes of the parts of the pool fixed, for example of train and test,
    so every replicate has as many test samples as the data. Do not stratify by forget
    set: if there are several, a sample is forgotten only in some runs.

    Args:
      rng: random generator; its state advances.
      num_replicates: number of replicates B, at least 1.
      strata: ``[N]`` integers or booleans, the stratum of each sample.

    Returns:
      ``[B, N]`` int32 counts; within each row, the counts of a stratum of n samples sum
      to n and are Multinomial(n; 1/n, ..., 1/n).

    Raises:
      InputError: no replicates, or strata that are not a ``[N]`` array of integers or
        booleans.

    >>> sample_weights(np.random.default_rng(0), 2, [0, 0, 0, 1]).sum(axis=1)
    array([4, 4])
    """
    drawn = SampleWeights(rng, num_replicates, strata)
    weights = np.empty(drawn.shape, np.int32)
    for rows, block in drawn:
        weights[rows] = block
    return weights


class SampleWeights:
    """Bootstrap counts of samples in blocks, equal to those of :func:`sample_weights`.

    Iterating yields ``(rows, weights)``: a slice of replicates, and their counts
    ``[rows, N]``. If all blocks together need more than 64 MiB, a block is drawn again
    each time it is read, from a stored state of the generator. So memory stays bounded.
    Threads may read blocks at the same time.

    Args:
      rng: random generator; its state advances by all draws.
      num_replicates: number of replicates B, at least 1.
      strata: ``[N]`` integers or booleans, the stratum of each sample.

    Attributes:
      shape: ``(B, N)``.

    Raises:
      InputError: the same cases as :func:`sample_weights`.

    >>> weights = SampleWeights(np.random.default_rng(0), 3, [0, 0, 0, 1])
    >>> [block.sum(axis=1).tolist() for _, block in weights]
    [[4, 4, 4]]
    """

    def __init__(
        self, rng: np.random.Generator, num_replicates: int, strata: ArrayLike
    ) -> None:
        check_counts(num_replicates=num_replicates)
        strata = np.asarray(strata)
        if strata.ndim != 1 or strata.size == 0 or strata.dtype.kind not in "biu":
            raise InputError(
                f"strata are {strata.dtype} of shape {strata.shape}: pass one integer"
                " per sample"
            )
        self.shape = (num_replicates, strata.size)
        self._slices = list(blocks(*self.shape))
        self._strata = [np.flatnonzero(strata == one) for one in np.unique(strata)]
        self._kept: list[np.ndarray] = []
        # Draws are made stratum by stratum, and row by row within a stratum.
        self._states: list[list[Any]] = []
        self._rng = copy.deepcopy(rng)
        is_small = num_replicates * strata.size <= _KEPT
        if is_small:
            self._kept = [
                np.empty((one.stop - one.start, strata.size), np.uint8)
                for one in self._slices
            ]
        for samples in self._strata:
            states = []
            for number, rows in enumerate(self._slices):
                if is_small:
                    _draw(rng, samples, self._kept[number])
                    continue
                states.append(rng.bit_generator.state)
                for _ in range(rows.start, rows.stop):
                    rng.integers(samples.size, size=samples.size, dtype=np.int32)
            self._states.append(states)

    def __len__(self) -> int:
        return len(self._slices)

    def __iter__(self) -> Iterator[tuple[slice, np.ndarray]]:
        return (self.block(number) for number in range(len(self)))

    def block(self, number: int) -> tuple[slice, np.ndarray]:
        """Return one block: its replicates, and their counts ``[rows, N]`` uint8.

        Args:
          number: index of the block, in 0..len - 1.
        """
        rows = self._slices[number]
        if self._kept:
            return rows, self._kept[number]
        rng = copy.deepcopy(self._rng)
        weights = np.empty((rows.stop - rows.start, self.shape[1]), np.uint8)
        for samples, states in zip(self._strata, self._states, strict=True):
            rng.bit_generator.state = states[number]
            _draw(rng, samples, weights)
        return rows, weights


def _draw(rng: np.random.Generator, samples: np.ndarray, weights: np.ndarray) -> None:
    """Write a stratum's counts into the rows of a block.

    A count fits in a byte: a sample's count reaches 256 with probability 1e-507.
    """
    for row in weights:
        drawn = rng.integers(samples.size, size=samples.size, dtype=np.int32)
        row[samples] = np.bincount(drawn, minlength=samples.size)


def run_weights(
    rng: np.random.Generator, num_replicates: int, factors: ArrayLike
) -> np.ndarray:
    """Return the weights of the pigeonhole bootstrap of crossed runs.

    Owen 2007, "The pigeonhole bootstrap". The levels of each factor are resampled with
    replacement, independently of the other factors, and a run's weight is the product
    of its levels' counts. With two factors this is known to be **conservative**: it
    overstates the part of the variance that belongs to the interaction and the repeats.
    As in every bootstrap, the variance due to a factor of L levels is too small by a
    factor of (L - 1) / L, which matters with two or three levels. Repeats of the same
    cell share their weight.

    Args:
      rng: random generator; its state advances.
      num_replicates: number of replicates B, at least 1.
      factors: ``[R, J]`` integers, the level of each run in each of J factors, such as
        the original model and the forget set. A factor with a single level is not
        resampled (all its counts are 1); the interval then holds for that level only.

    Returns:
      ``[B, R]`` int32 weights. A row is all zero if the design is incomplete and no run
      has all its levels drawn.

    Raises:
      InputError: no replicates, or factors that are not ``[R, J]`` integers.

    >>> run_weights(np.random.default_rng(0), 3, [[7, 0], [7, 0]])
    array([[1, 1],
           [1, 1],
           [1, 1]], dtype=int32)
    """
    check_counts(num_replicates=num_replicates)
    factors = _read_factors(factors)
    weights = np.ones((num_replicates, factors.shape[0]), np.int32)
    for factor in factors.T:
        levels, level_of_run = np.unique(factor, return_inverse=True)
        if levels.size > 1:
            counts = rng.multinomial(
                levels.size, np.full(levels.size, 1 / levels.size), size=num_replicates
            )
            weights *= counts[:, level_of_run].astype(np.int32)
    return weights


def weighted_auc(
    scores: ArrayLike, positive: ArrayLike, negative: ArrayLike, weights: ArrayLike
) -> np.ndarray:
    """Return the AUC of the same scores under many weightings of the samples.

    ``sum_ij w_i w_j ([s_i > s_j] + [s_i = s_j] / 2) / (sum_i w_i sum_j w_j)`` over
    positives i and negatives j. With integer weights this is exactly the Mann-Whitney
    statistic of the samples repeated that often, with half credit for ties. The samples
    are sorted once. Time is O(B N); working memory is constant.

    Args:
      scores: ``[N]``, higher = more likely positive; infinities are allowed. Only
        scores of positives and negatives are read.
      positive: ``[N]`` bool.
      negative: ``[N]`` bool, disjoint from ``positive``.
      weights: ``[B, N]``, not negative.

    Returns:
      ``[B]`` float64 in [0, 1]; NaN where the positives or the negatives have no
      weight.

    Raises:
      InputError: masks that are not boolean, overlap or are empty; NaN scores of
        positives or negatives; negative or NaN weights; or shapes that do not match.

    >>> positive = np.array([True, False, False])
    >>> weighted_auc([3, 2, 1], positive, ~positive, np.ones((1, 3)))
    array([1.])
    """
    if is_traced(scores, positive, negative, weights):
        areas = device.weighted_auc(scores, positive, negative, weights)
        return cast(np.ndarray, areas)
    ranking, weights = _read(scores, positive, negative, weights)
    replicates = np.empty(weights.shape[0])
    for rows in blocks(*weights.shape):
        curves = ranking.weighted(weights[rows])
        replicates[rows] = curves.auc("positive", "negative")
    return replicates


def weighted_tpr(
    scores: ArrayLike,
    positive: ArrayLike,
    negative: ArrayLike,
    weights: ArrayLike,
    *,
    max_fpr: float,
) -> np.ndarray:
    """Return the TPR at an FPR of at most ``max_fpr``, under many weightings.

    The ROC curve is read conservatively, without interpolation, as by
    :meth:`unlearn_jax.audit.RocCurve.tpr_at_fpr`: at the lowest threshold whose false
    positive rate is at most ``max_fpr``. Samples with equal scores are called together.

    Args:
      scores: ``[N]``, higher = more likely positive. Only scores of positives and
        negatives are read.
      positive: ``[N]`` bool.
      negative: ``[N]`` bool, disjoint from ``positive``.
      weights: ``[B, N]``, not negative.
      max_fpr: largest false positive rate, in [0, 1].

    Returns:
      ``[B]`` float64 in [0, 1]; NaN where the positives or the negatives have no
      weight.

    Raises:
      InputError: the same cases as :func:`weighted_auc`; ``max_fpr`` outside [0, 1].

    >>> positive = np.array([True, False, True, False])
    >>> weighted_tpr([4, 3, 2, 1], positive, ~positive, np.ones((1, 4)), max_fpr=0.5)
    array([1.])
    """
    if not is_traced(max_fpr) and not 0 <= max_fpr <= 1:
        raise InputError(f"max_fpr is {max_fpr}: pass a rate in [0, 1]")
    if is_traced(scores, positive, negative, weights, max_fpr):
        rates = device.weighted_tpr(
            scores, positive, negative, weights, max_fpr=max_fpr
        )
        return cast(np.ndarray, rates)
    ranking, weights = _read(scores, positive, negative, weights)
    replicates = np.empty(weights.shape[0])
    for rows in blocks(*weights.shape):
        curves = ranking.weighted(weights[rows])
        replicates[rows] = curves.tpr("positive", "negative", max_fpr=max_fpr)
    return replicates


def weighted_mean(values: ArrayLike, mask: ArrayLike, weights: ArrayLike) -> np.ndarray:
    """Return the mean of the masked values under many weightings of the samples.

    Args:
      values: ``[N]`` reals or booleans (such as correct predictions); only masked
        values are read.
      mask: ``[N]`` bool.
      weights: ``[B, N]``, not negative.

    Returns:
      ``[B]`` float64; NaN where the masked samples have no weight.

    Raises:
      InputError: an empty mask, NaN or infinite masked values, negative or NaN weights,
        or shapes that do not match.

    >>> weighted_mean([True, False, True], [True, True, False], [[1, 1, 1], [3, 1, 0]])
    array([0.5 , 0.75])
    """
    if is_traced(values, mask, weights):
        return cast(np.ndarray, device.weighted_mean(values, mask, weights))
    values = real_array("values", values, ndim=(1,))
    weights = _read_weights(weights, values.size)
    samples = np.flatnonzero(mask_array("mask", mask, values.shape))
    if not samples.size:
        raise InputError("mask is empty: mark at least one sample")
    refuse_infinite("values", values[samples])
    columns = np.stack(
        [values[samples].astype(np.float64), np.ones(samples.size)], axis=1
    )
    sums = np.empty((weights.shape[0], 2))
    for rows in blocks(*weights.shape):
        block = weights[rows].take(samples, axis=1).astype(np.float64, copy=False)
        sums[rows] = block @ columns
    with np.errstate(invalid="ignore"):
        return sums[:, 0] / sums[:, 1]


def interval(
    replicates: ArrayLike,
    point: float,
    *,
    level: float = 0.95,
    num_samples: int | None = None,
    bounds: tuple[float, float] | None = None,
) -> Interval:
    """Return the percentile interval of bootstrap replicates.

    The interval is widened, if needed, to contain the estimate itself: for statistics
    that contain an absolute value, all replicates may lie on one side of it.

    If all replicates equal the estimate, as with 20 of 20 samples correct, they hold no
    information on the width. The interval is then :func:`agreeing_interval` if
    ``num_samples`` is given and either ``bounds`` are finite, or they are None and the
    estimate is 0 or 1. Otherwise it is the statistic's whole range.

    Args:
      replicates: ``[B]``; NaN replicates (no weight on one side) are dropped.
      point: estimate on the data without resampling.
      level: confidence level, in (0, 1).
      num_samples: number of samples behind the estimate; for an AUC, of the smaller
        class.
      bounds: smallest and largest value of the statistic, such as (-1, 1) for a
        correlation; None for an unbounded statistic.

    Returns:
      The interval; its ends are NaN if all replicates are NaN.

    Raises:
      InputError: no replicates, a NaN estimate, infinite numbers, an estimate outside
        the bounds, or a level outside (0, 1).

    >>> interval([0.0, 1.0, 2.0, float("nan")], 1.0, level=0.5)
    Interval(low=0.5, high=1.5)
    >>> print(f"{interval([1.0, 1.0], 1.0, num_samples=20):.3f}")
    [0.832, 1.000]
    >>> interval([1.0, 1.0], 1.0)
    Interval(low=-inf, high=inf)
    >>> interval([1.0, 1.0], 1.0, bounds=(-1, 1))
    Interval(low=-1.0, high=1.0)
    """
    check_level(level)
    replicates = real_array("replicates", replicates, ndim=(1,)).astype(
        np.float64, copy=False
    )
    if np.isnan(point):
        raise InputError(
            "the estimate is NaN: there is nothing to put an interval around"
        )
    if np.isinf(point) or np.isinf(replicates).any():
        raise InputError("the estimate or a replicate is infinite: pass finite numbers")
    if bounds is not None:
        _check_bounds(float(point), *bounds)
    usable = replicates[~np.isnan(replicates)]
    if not usable.size:
        return Interval(float("nan"), float("nan"))
    if np.all(usable == point):
        if bounds is None:
            bounds = (0, 1) if num_samples and point in (0, 1) else (-np.inf, np.inf)
        if num_samples and np.isfinite(bounds).all():
            return agreeing_interval(point, num_samples, bounds, level=level)
        return Interval(float(bounds[0]), float(bounds[1]))
    low, high = np.quantile(usable, [(1 - level) / 2, (1 + level) / 2])
    return Interval(min(float(low), float(point)), max(float(high), float(point)))


def agreeing_interval(
    value: float,
    num_samples: int,
    bounds: tuple[float, float],
    *,
    level: float = 0.95,
) -> Interval:
    """Return the interval of a mean over samples that all have the same value.

    At most a fraction ``1 - ((1 - level) / 2) ** (1 / num_samples)`` of the population
    has another value (Clopper-Pearson for 0 of ``num_samples``), and these values lie
    within the bounds. If ``value`` is a bound, the interval is Clopper-Pearson's.

    Args:
      value: value of every sample.
      num_samples: number of samples, at least 1; for an AUC, of the smaller class.
      bounds: smallest and largest value that a sample can have; finite.
      level: confidence level, in (0, 1).

    Raises:
      InputError: a value outside the bounds, or the cases of
        :func:`~unlearn_jax.audit.clopper_pearson`.

    >>> print(f"{agreeing_interval(0.5, 90, (0, 1)):.3f}")
    [0.480, 0.520]
    """
    least, largest = bounds
    _check_bounds(value, least, largest)
    other = clopper_pearson(0, num_samples, level=level).high
    return Interval(
        float(value - other * (value - least)), float(value + other * (largest - value))
    )


def mean_variance(
    values: ArrayLike,
    replicates: ArrayLike | None = None,
    factors: ArrayLike | None = None,
    *,
    num_samples: int | None = None,
) -> MeanVariance:
    """Return the variance of a mean over runs, with random samples and factor levels.

    With one factor (seeds) and no replicates it is the squared standard error, with
    L - 1 degrees of freedom. With two crossed factors and no replicates it is
    ``(MS_1 + MS_2 - MS_12) / R`` of the two-way random effects model. With replicates
    it is the sum of two parts: the bootstrap variance of the mean with the runs fixed,
    and the excess of each factor's mean square over its expectation from the replicates
    alone. The excess avoids counting the samples' noise twice, since mean squares
    contain it too. It is at least 0. With several factors, every excess except the
    largest is reduced by the excess of the interaction.

    The degrees of freedom are ``1 / sum(w ** 1.5 / df)`` over fractions ``w`` of the
    variance: those of the mean squares with a positive excess, and that of the samples.
    Satterthwaite's (1946) rule has ``w ** 2``, which is right if the fractions are
    known. Fractions from mean squares with two degrees of freedom are not known; if
    they are small by chance, Satterthwaite's interval is too short. On normal tables
    with known noise of the samples, the Student's t interval covers 93.1 to 97.8% with
    3 to 10 levels (Satterthwaite's 92.2 to 97.7%), and 89 to 98% with two. The
    exponent was chosen among four rules on such tables, so coverage elsewhere may be
    lower.

    If levels have unequal numbers of runs, the part of the levels stays unbiased, and
    that of repeats is too large. L - 1 degrees of freedom are then an approximation: a
    single factor with (3, 3, 1) or (9, 1, 1, 1) runs covers 94 to 99%.

    Args:
      values: ``[R]`` value of each run.
      replicates: ``[B, R]`` value of each run under the sample weights of each
        bootstrap replicate; rows with a NaN are dropped. None treats the samples as
        fixed.
      factors: ``[R, J]`` integers, the level of each run in each factor, such as
        originals and forget sets. A factor with a single level, or whose levels each
        lie within one level of another factor, is left out. None treats the runs as
        fixed.
      num_samples: number of samples behind each value; for an AUC, of the smaller
        class. It sets the degrees of freedom of the bootstrap variance and its factor
        n / (n - 1). None takes the bootstrap variance as known.

    Returns:
      The variance; NaN if there are neither replicates nor varying factors.

    Raises:
      InputError: shapes that do not match, or infinite or NaN values.

    >>> mean_variance([1.0, 2.0, 3.0], factors=[[0], [1], [2]])
    MeanVariance(total=0.333..., samples=0.0, df=2.0)
    """
    values = real_array("values", values, ndim=(1,)).astype(np.float64, copy=False)
    refuse_infinite("values", values)
    num_runs = values.size
    forms = _quadratic_forms(factors, num_runs)
    # every form is 0 on constants, but would cancel digits of a large one
    deviations = values - values.mean()
    parts = np.array([deviations @ form @ deviations for form, _ in forms])
    # mean squares, which rounding must not make negative
    parts = np.maximum(parts, 0)
    expected = np.zeros(len(forms))
    sampled = 0.0
    if replicates is not None:
        drawn = _read_replicates(replicates, num_runs)
        centered = drawn - drawn.mean(axis=0)
        scale = 1 / (len(drawn) - 1) if len(drawn) > 1 else np.nan
        if num_samples is not None:
            scale *= num_samples / (num_samples - 1) if num_samples > 1 else np.nan
        sampled = float(scale * np.sum(centered.mean(axis=1) ** 2))
        for position, (form, _) in enumerate(forms):
            products = np.einsum("br,br->b", centered @ form, centered)
            expected[position] = scale * products.sum()
    elif not forms:
        return MeanVariance(np.nan, 0.0, np.nan)
    excess = np.zeros(0)
    spread = 0.0
    noise = 0.0
    if forms:
        mains = slice(None) if len(forms) == 1 else slice(-1)
        main_parts = parts[mains]
        excess = np.maximum(main_parts - expected[mains], 0)
        noise = float(expected[mains].sum())
        if len(forms) > 1:
            # Interaction and repeats are in every factor's mean square but count once.
            interaction = max(parts[-1] - expected[-1], 0)
            is_largest = np.arange(excess.size) == excess.argmax()
            excess = np.where(is_largest, excess, np.maximum(excess - interaction, 0))
            noise -= (len(forms) - 2) * float(expected[-1])
        for part, more, (_, df) in zip(main_parts, excess, forms, strict=False):
            spread += part**1.5 / df if more > 0 else 0.0
    shared = max(sampled - noise, 0.0)
    if num_samples is not None and num_samples > 1:
        spread += shared**1.5 / (num_samples - 1)
    total = sampled + float(excess.sum())
    df = total**1.5 / spread if spread > 0 else np.inf
    return MeanVariance(total, shared, float(max(df, 1.0)))


def mean_interval(
    mean: float,
    variance: MeanVariance,
    *,
    level: float = 0.95,
    bounds: tuple[float, float] | None = None,
    num_samples: int | None = None,
) -> Interval:
    """Return the Student's t interval of a mean.

    Args:
      mean: mean over the runs.
      variance: result of :func:`mean_variance`.
      level: confidence level, in (0, 1).
      bounds: smallest and largest value of the statistic, such as (0, 100) for an
        accuracy in percent or (0, inf) for a distance. With two finite bounds the
        interval is Wilson's for the effective number of samples, which follows from the
        variance (Korn and Graubard 1998); it stays within the bounds. With one finite
        bound the interval is cut off there.
      num_samples: number of samples behind the mean. If given with two finite bounds,
        the interval is :func:`agreeing_interval` when there is only one sample, the
        mean is at a bound, or the variance is 0.

    Returns:
      The interval. Its ends are NaN if the variance is unknown, or if it is 0 and
      ``num_samples`` or finite bounds are missing.

    Raises:
      InputError: a mean outside the bounds, or a level outside (0, 1).

    >>> variance = MeanVariance(total=0.0, samples=0.0, df=float("inf"))
    >>> at_edge = mean_interval(1.0, variance, bounds=(0, 1), num_samples=20)
    >>> print(f"{at_edge:.3f}")
    [0.832, 1.000]
    """
    check_level(level)
    unknown = Interval(float("nan"), float("nan"))
    is_zero = not variance.total > (1e-12 * abs(mean)) ** 2
    least, largest = (-np.inf, np.inf) if bounds is None else bounds
    _check_bounds(mean, least, largest)
    width = largest - least
    fraction = min(max((mean - least) / width, 0.0), 1.0) if np.isfinite(width) else 0.5
    # At a bound all samples agree; a variance there is a rounding error.
    is_edge = fraction in (0, 1)
    is_constant = is_zero and not np.isnan(variance.total)
    has_one_value = num_samples == 1 or is_edge or is_constant
    if has_one_value and num_samples and np.isfinite(width):
        value = min(max(mean, least), largest)
        return agreeing_interval(value, num_samples, (least, largest), level=level)
    if is_zero or np.isnan(variance.df):
        return unknown
    t = float(stats.t.ppf((1 + level) / 2, variance.df))
    half = t * float(np.sqrt(variance.total))
    if not np.isfinite(width) or is_edge:
        return Interval(max(mean - half, least), min(mean + half, largest))
    # Wilson's n: the number of independent samples that have the same variance.
    worth = width**2 * fraction * (1 - fraction) / variance.total
    center = (fraction + t**2 / (2 * worth)) / (1 + t**2 / worth)
    half = t / (1 + t**2 / worth)
    half *= float(np.sqrt(fraction * (1 - fraction) / worth + t**2 / (4 * worth**2)))
    low = max(center - half, 0.0)
    high = min(center + half, 1.0)
    return Interval(least + width * low, least + width * high)


def summarize(
    values: ArrayLike,
    replicates: ArrayLike | None,
    factors: ArrayLike | None = None,
    *,
    level: float = 0.95,
    bounds: tuple[float, float] | None = None,
    num_samples: int | None = None,
    influences: ArrayLike | None = None,
) -> Estimate:
    """Return the mean over runs and its interval.

    Args:
      values: ``[R]`` each run's estimate on the data without resampling.
      replicates: ``[B, R]`` as in :func:`mean_variance`, or None.
      factors: ``[R, J]`` as in :func:`mean_variance`, or None.
      level: confidence level, in (0, 1).
      bounds: as in :func:`mean_interval`.
      num_samples: number of samples behind each value; for an AUC, of the smaller
        class.
      influences: ``[R]`` numbers that replace the values in the variance, for runs that
        share more than factor levels, such as distances to a common mean; None uses the
        values.

    Returns:
      The estimate. A replicate is dropped and counted if a run has no value in it.

    Raises:
      InputError: shapes that do not match, NaN or infinite values, a mean outside the
        bounds, or a level outside (0, 1).

    >>> summarize([0.4, 0.6], None, [[0], [1]], level=0.5)
    Estimate(mean=0.5, std=0.1414..., low=0.4, high=0.6, num_runs=2, num_dropped=0)
    """
    check_level(level)
    values = real_array("values", values, ndim=(1,))
    refuse_infinite("values", values)
    variance = mean_variance(
        values if influences is None else influences,
        replicates,
        factors,
        num_samples=num_samples,
    )
    mean = float(values.mean(dtype=np.float64))
    std = float("nan")
    if values.size > 1:
        std = float(values.std(ddof=1, dtype=np.float64))
    low, high = mean_interval(
        mean, variance, level=level, bounds=bounds, num_samples=num_samples
    )
    num_dropped = 0
    if replicates is not None:
        num_dropped = int(np.isnan(np.asarray(replicates)).any(axis=1).sum())
    return Estimate(mean, std, low, high, values.size, num_dropped)


def summarize_runs(
    values: ArrayLike,
    *,
    factors: ArrayLike | None = None,
    level: float = 0.95,
    bounds: tuple[float, float] | None = None,
) -> Estimate:
    """Return the mean over runs and its Student's t interval, from the runs alone.

    Args:
      values: ``[L1, ..., LJ]``, one axis for each factor, such as seeds and forget
        sets; ``[R]`` if ``factors`` are given.
      factors: ``[R, J]`` levels of each run, as in :func:`mean_variance`; None uses
        the positions along the axes of ``values``.
      level: confidence level, in (0, 1).
      bounds: as in :func:`mean_interval`.

    Returns:
      The estimate; without an interval for a single run, or if all runs agree.

    Raises:
      InputError: different numbers of rows of ``factors`` and of values; the same cases
        as :func:`summarize`.

    >>> summarize_runs([1.0, 2.0, 3.0])
    Estimate(mean=2.0, std=1.0, low=-0.484..., high=4.484..., num_runs=3, num_dropped=0)
    """
    values = np.asarray(values, np.float64)
    if factors is None:
        factors = np.indices(values.shape).reshape(values.ndim, -1).T
    return summarize(values.reshape(-1), None, factors, level=level, bounds=bounds)


def _quadratic_forms(
    factors: ArrayLike | None, num_runs: int
) -> list[tuple[np.ndarray, int]]:
    """Return quadratic forms ``[R, R]`` of the mean squares, with degrees of freedom.

    A form applied to the runs' values gives a mean square divided by R or, for levels
    with unequal numbers of runs, an unbiased estimate of the levels' part. There is one
    form per factor that varies. With several such factors, the last form is that of the
    interaction, the residual of the additive model within the means of the cells.
    """
    if factors is None:
        return []
    factors = _read_factors(factors)
    if len(factors) != num_runs:
        raise InputError(
            f"{len(factors)} rows of factors for {num_runs} values: pass one row per"
            " value"
        )
    levels = [np.unique(column, return_inverse=True)[1] for column in factors.T]
    random = []
    for number, level in enumerate(levels):
        count = int(level.max()) + 1
        is_nested = False
        for other_number, other in enumerate(levels):
            pairs = len(np.unique(np.stack([level, other]), axis=1).T)
            is_same = int(other.max()) + 1 == count
            if other_number != number and int(other.max()) > 0 and pairs == count:
                is_nested |= not is_same or other_number < number
        if count > 1 and not is_nested:
            random.append(np.eye(count)[level])
    center = np.eye(num_runs) - 1 / num_runs
    forms = []
    for indicator in random:
        count = indicator.shape[1]
        sums = center @ indicator
        scale = _unbiased_scale(indicator) / num_runs**2
        forms.append((scale * sums @ sums.T, count - 1))
    if len(random) > 1:
        additive = np.concatenate(random, axis=1)
        cells = np.unique(np.concatenate(random, axis=1), axis=0, return_inverse=True)
        cell = np.eye(len(cells[0]))[cells[1].reshape(-1)]
        fitted = [one @ np.linalg.pinv(one) for one in (cell, additive)]
        residual = fitted[0] - fitted[1]
        df = round(float(np.trace(residual)))
        scale = 1 / (max(df, 1) * num_runs)
        forms.append((scale * residual, max(df, 1)))
    return forms


def _unbiased_scale(indicator: np.ndarray) -> float:
    """Return the factor by which squared sums of levels give the variance of a mean.

    It is ``L / (L - 1)`` for equal numbers of runs per level. Otherwise levels with
    many runs draw the mean to themselves, and the factor is larger.

    Args:
      indicator: ``[R, L]``, 1 where a run has a level.
    """
    # integers of Python, whose quotient is rounded once
    sizes = [int(size) for size in indicator.sum(axis=0)]
    num_runs = sum(sizes)
    squares = sum(size**2 for size in sizes)
    rests = [num_runs**2 - 2 * num_runs * size + squares for size in sizes]
    expected = sum(size**2 * rest for size, rest in zip(sizes, rests, strict=True))
    return squares * num_runs**2 / expected


def _read_factors(factors: ArrayLike) -> np.ndarray:
    """Return the checked factors ``[R, J]``."""
    array = np.asarray(factors)
    if array.ndim != 2 or array.size == 0 or array.dtype.kind not in "iu":
        raise InputError(
            f"factors are {array.dtype} of shape {array.shape}: pass [R, 2]"
            " integers, the original and the forget set of each run"
        )
    return array


def _read_replicates(replicates: ArrayLike, num_runs: int) -> np.ndarray:
    """Return the replicates ``[B, R]`` without rows that have a NaN."""
    array = real_array("replicates", replicates, ndim=(2,))
    if array.shape[1] != num_runs:
        raise InputError(
            f"replicates have shape {array.shape}: pass [B, {num_runs}], one column per"
            " value"
        )
    array = array.astype(np.float64, copy=False)
    usable = array[~np.isnan(array).any(axis=1)]
    refuse_infinite("replicates", usable)
    return usable if len(usable) else np.full((2, num_runs), np.nan)


def _read_weights(weights: ArrayLike, num_columns: int) -> np.ndarray:
    """Return the checked weights ``[B, num_columns]`` in their own dtype."""
    array = np.asarray(weights)
    if (
        array.ndim != 2
        or array.shape[1] != num_columns
        or not array.size
        or array.dtype.kind not in "biuf"
    ):
        raise InputError(
            f"weights are {array.dtype} of shape {array.shape}: pass [B, {num_columns}]"
            " numbers"
        )
    # Comparisons with NaN are false.
    if not (array.min() >= 0 and array.max() < np.inf):
        raise InputError(
            "weights are infinite, negative or NaN: pass counts of at least 0"
        )
    return array


def _read(
    scores: ArrayLike, positive: ArrayLike, negative: ArrayLike, weights: ArrayLike
) -> tuple[Ranking, np.ndarray]:
    """Return the ranking of the samples of both sides, and the checked weights."""
    scores = real_array("scores", scores, ndim=(1,))
    weights = _read_weights(weights, scores.size)
    return Ranking(scores, {"positive": positive, "negative": negative}), weights


def blocks(num_rows: int, num_columns: int) -> Iterator[slice]:
    """Return slices of rows with about ``_BLOCK`` elements each."""
    step = max(1, _BLOCK // num_columns)
    for start in range(0, num_rows, step):
        yield slice(start, min(start + step, num_rows))


def _check_bounds(value: float, least: float, largest: float) -> None:
    slack = 1e-6 * max(1.0, abs(value))  # for rounding
    if not least < largest or value < least - slack or value > largest + slack:
        raise InputError(
            f"the estimate {value:g} is not within the bounds ({least:g},"
            f" {largest:g}): pass the smallest and the largest value, in the unit of"
            " the values"
        )
