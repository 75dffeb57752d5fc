"""KLoM: divergence of margins between unlearned and retrained models, per sample.

Georgiev, Rinberg, Park, Garg, Ilyas, Madry and Neel 2024, "Attribute-to-Delete: Machine
Unlearning via Datamodel Matching" (arXiv 2410.23232). Unlearning is perfect if a
sample's margin, as a random variable over training runs, has the same distribution
after unlearning as after retraining. KLoM therefore needs **ensembles**: M unlearned
models, each from a different original, and M' models retrained without the same forget
set.

The functions use NumPy on the host in float64, without a loop over samples.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binom

from unlearn_jax.audit.bootstrap import (
    Interval,
    MeanVariance,
    mean_interval,
)
from unlearn_jax.audit.inputs import (
    check_level,
    mask_array,
    real_array,
    refuse_infinite,
    refuse_nan,
)
from unlearn_jax.checks import check_counts, check_positive
from unlearn_jax.types import InputError


class KlomSummary(NamedTuple):
    """KLoM over the samples of one part of the pool, in nats.

    Attributes:
      mean: mean over samples.
      median: median over samples.
      p95: 95th percentile over samples, the number that papers print.
      mean_interval: interval of ``mean`` for random samples and fixed models.
      median_interval: interval of ``median``, in the same sense.
      p95_interval: interval of ``p95``, in the same sense.
      num_samples: number of samples summarized.
    """

    mean: float
    median: float
    p95: float
    mean_interval: Interval
    median_interval: Interval
    p95_interval: Interval
    num_samples: int


def klom(
    target: ArrayLike,
    reference: ArrayLike,
    *,
    num_bins: int = 20,
    max_margin: float = 100.0,
    floor: float = 1e-5,
) -> np.ndarray:
    """Return each sample's KL divergence of margins, from two histograms.

    ``klom(x) = sum_{b: p_b > 0} p_b log(p_b / max(q_b, floor))``. Here ``p_b`` and
    ``q_b`` are the fractions of the margins of x in bin b under the unlearned models
    (``target``) and the retrained models (``reference``). The ``num_bins`` bins have
    equal widths and lie between the smallest and the largest margin of both. q is not
    renormalized after the floor.

    Direction, bins, clipping and floor are those of the authors' EasyDUB benchmark
    (arXiv 2602.16400). Its code leaves out each sample's largest margin, because its
    last bin excludes its end; here that margin is counted. (The code of the first paper
    has 19 bins, clips only one side, and normalizes q.)

    The value is biased upward, because a reference bin that is empty by chance adds up
    to ``-log(floor)``. For equal numbers of Gaussian margins of one distribution on
    both sides, the divergence is 0, but ``klom`` has this mean and 95th percentile over
    samples:

    ========  ====  ====  ====  ====  ====
    M = M'      10    20    50   100   200
    ========  ====  ====  ====  ====  ====
    mean      5.6   3.1   0.90  0.35  0.15
    p95       8.1   5.0   1.7   0.68  0.29
    ========  ====  ====  ====  ====  ====

    So use about 100 models on each side, and report a baseline next to the result:
    ``klom`` of a second, independent retrained ensemble of the size of the unlearned
    ensemble. Values at different M or M' are not comparable.

    Args:
      target: ``[M, N]`` correct-class margins
        (:func:`~unlearn_jax.audit.signals.logit_margin`) under the unlearned models, M
        at least 2.
      reference: ``[M', N]`` the same margins under models retrained without the forget
        set, M' at least 2; M' need not be M.
      num_bins: number of bins of each histogram, at least 1.
      max_margin: limit to which margins, infinite ones too, are clipped on both sides
        of 0; positive and finite.
      floor: lower limit of ``q_b``; in (0, 1).

    Returns:
      ``[N]`` float64 in nats; lower = closer to retraining. The value is 0 for equal
      histograms and at least ``-num_bins * floor``. It is at most ``-log(floor)``, 11.5
      by default, if all unlearned margins are in one bin without references.

    Raises:
      InputError: NaN margins, fewer than two models on a side, different numbers of
        samples, or an option out of range.

    >>> print(klom([[0.0, 5.0], [1.0, 6.0]], [[0.0, 0.0], [1.0, 1.0]]).round(2))
    [ 0.   10.82]
    """
    sides = []
    for name, margins in (
        ("target", target),
        ("reference", reference),
    ):
        margins = real_array(name, margins, ndim=(2,)).astype(np.float64, copy=False)
        if margins.shape[0] < 2:
            raise InputError(f"{name} has 1 model: pass an ensemble, about 100 models")
        refuse_nan(name, margins)
        sides.append(margins)
    if sides[0].shape[1] != sides[1].shape[1]:
        counts = f"{sides[0].shape[1]} and {sides[1].shape[1]}"
        raise InputError(
            f"target and reference have {counts} samples: pass margins of the"
            " same samples"
        )
    check_counts(num_bins=num_bins)
    check_positive(max_margin=max_margin)
    if not 0 < floor < 1:
        raise InputError(f"floor is {floor}: pass a number between 0 and 1")
    clipped = [np.clip(side, -max_margin, max_margin) for side in sides]
    start = np.minimum(*(side.min(axis=0) for side in clipped))
    end = np.maximum(*(side.max(axis=0) for side in clipped))
    edges = np.linspace(start, np.where(end > start, end, start + 1), num_bins + 1)
    p = _histogram(clipped[0], edges)
    q = np.maximum(_histogram(clipped[1], edges), floor)
    return (p * np.log(np.where(p > 0, p, 1) / q)).sum(axis=0)


def klom_summary(
    values: ArrayLike,
    mask: ArrayLike | None = None,
    *,
    level: float = 0.95,
    bounds: tuple[float, float] = (0.0, 11.52),
) -> KlomSummary:
    """Summarize KLoM over one part of the pool, with intervals.

    The intervals treat samples as random and the ensembles as fixed. So they account
    neither for the choice of models nor for the upward bias of small ensembles (see
    :func:`klom`). The interval of the mean is Wilson's with Student's t
    (:func:`~unlearn_jax.audit.mean_interval`), or
    :func:`~unlearn_jax.audit.agreeing_interval` if all samples agree. The intervals of
    the quantiles are order statistics, which cover at least ``level`` for every
    distribution; with too few samples, an end is replaced by a bound. On KLoM of
    Gaussian margins, the mean's interval covers 92 to 96% with 10 samples or more.

    Args:
      values: ``[N]`` result of :func:`klom`.
      mask: ``[N]`` bool, the samples to summarize (forget, retain or test); None takes
        all.
      level: confidence level, in (0, 1).
      bounds: smallest and largest possible value; the default fits the default floor of
        :func:`klom`. Values outside widen the bounds.

    Returns:
      The summary; percentiles interpolate linearly between samples.

    Raises:
      InputError: an empty mask, values that are NaN or infinite, bounds that are not
        finite and ascending, or a level outside (0, 1).

    >>> klom_summary([0.1, 0.2, 0.9], [True, True, False]).mean.__round__(2)
    0.15
    """
    check_level(level)
    if not -np.inf < bounds[0] < bounds[1] < np.inf:
        raise InputError(f"bounds are {bounds}: pass the smallest and largest value")
    values = real_array("values", values, ndim=(1,)).astype(np.float64, copy=False)
    if mask is not None:
        values = values[mask_array("mask", mask, values.shape)]
        if not values.size:
            raise InputError("mask is empty: mark at least one sample")
    refuse_infinite("values", values)
    ordered = np.sort(values)
    count = values.size
    least = min(bounds[0], float(ordered[0]))
    largest = max(bounds[1], float(ordered[-1]))
    mean = float(values.mean())
    variance = MeanVariance(0.0, 0.0, np.inf)
    if ordered[0] < ordered[-1]:
        variance = MeanVariance(float(values.var(ddof=1)) / count, 0.0, count - 1.0)
    intervals = [
        mean_interval(
            mean, variance, level=level, bounds=(least, largest), num_samples=count
        )
    ]
    median, p95 = (float(point) for point in np.quantile(values, (0.5, 0.95)))
    for fraction, point in ((0.5, median), (0.95, p95)):
        # P(low-th smallest value > quantile) is at most the tail; likewise at the high
        # end.
        low, high = binom.ppf([(1 - level) / 2, (1 + level) / 2], count, fraction)
        start = float(ordered[int(low) - 1]) if low >= 1 else least
        end = float(ordered[int(high)]) if high < count else largest
        intervals.append(Interval(min(start, point), max(end, point)))
    return KlomSummary(mean, median, p95, *intervals, num_samples=count)


def _histogram(margins: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return the fractions of models between consecutive edges.

    ``[M, N], [K + 1, N] -> [K, N]``. Bins exclude their upper edge, except for the
    last.
    """
    at_least = np.stack([(margins >= edge).sum(axis=0) for edge in edges[:-1]])
    return -np.diff(at_least, axis=0, append=0) / margins.shape[0]
