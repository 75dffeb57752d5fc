"""Paired differences of the rows of a table, and the verdicts that they allow.

All rows share runs and replicates, so differences are computed run by run and replicate
by replicate: effects common to both rows, such as easy samples, cancel. A verdict on a
method is one of three:

* ``like``: forgotten like retraining. Two one-sided tests show that the difference lies
  inside an equivalence margin; for a single method, this means that the interval of the
  difference lies inside the margin. The margin is the seed floor's own spread: the
  standard deviation over runs of the difference between two retrained models (for a
  distance to retraining, of the floor's own values).
* ``different``: Student's test shows that the difference is not 0.
* ``undecided``: neither is shown. It comes with the number of further runs after which
  one of the two tests would show it with a probability of 80%, if the true difference
  and variance are those of the table.

Both tests are corrected for the number of methods (Holm 1979).
"""

import bisect
import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import special, stats

from unlearn_jax import audit
from unlearn_jax.pipeline.measure.pool import AuditPool
from unlearn_jax.pipeline.measure.records import Difference, State, Verdict
from unlearn_jax.pipeline.measure.statistics import Measured, subtract

_POWER = 0.8
_PROBABILITIES = (np.arange(100) + 0.5) / 100
_LARGEST_DF = 1e6
_DECIMALS = 4
_MAX_RUNS = 100_000
MIN_RUNS = 3
"""Number of runs that the spread of the seed floor needs."""


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number by Holm's method.

    NaN values do not count as tests and stay NaN.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    corrected = [float("nan")] * len(p_values)
    largest = 0.0
    for i, count in _num_compared(p_values).items():
        largest = max(largest, min(1.0, count * p_values[i]))
        corrected[i] = largest
    return corrected


def _num_compared(p_values: Sequence[float]) -> dict[int, int]:
    """Return how many tests Holm's method still compares at each p-value's rank.

    Returns:
      The numbers by position, from the smallest p-value to the largest; NaN values have
      none.
    """
    known = [i for i, p in enumerate(p_values) if not math.isnan(p)]
    order = sorted(known, key=lambda i: p_values[i])
    return {i: len(known) - step for step, i in enumerate(order)}


def equivalence_margin(
    oracle: Measured, floor: Measured, *, is_distance: bool
) -> float | None:
    """Return the seed floor's spread over runs, in the metric's unit.

    Args:
      oracle: metric of the retrained models.
      floor: metric of the second retrained models, for the same runs.
      is_distance: whether the metric is itself a distance to retrained models.

    Returns:
      The standard deviation; None with fewer than three runs, or if it is 0.
    """
    if len(floor.value) < MIN_RUNS:
        return None
    values = floor.value if is_distance else floor.value - oracle.value
    margin = float(np.std(values, ddof=1))
    return margin if margin > 0 else None


def compare(
    pool: AuditPool,
    rows: Mapping[str, Measured],
    reference: Measured | Mapping[str, Measured],
    margin: float | None,
) -> dict[str, Difference]:
    """Compare one metric of several methods with a reference, corrected together.

    Args:
      pool: pool of the table.
      rows: metric by row; rows without replicates are left out.
      reference: same metric of the reference, or of one reference for each row.
      margin: margin of equivalence, in the metric's unit; None for no test of
        equivalence.

    Returns:
      The differences by row.
    """
    level = pool.config.level
    compared = {}
    variances = {}
    for name, one in rows.items():
        other = reference if isinstance(reference, Measured) else reference.get(name)
        if other is None:
            continue
        difference = subtract(one, other)
        if difference.replicates is None:
            continue
        variance = audit.mean_variance(
            difference.value
            if difference.influences is None
            else difference.influences,
            difference.replicates,
            pool.factors,
            num_samples=difference.num_samples,
        )
        mean = float(difference.value.mean())
        if not variance.total > (1e-9 * (1 + abs(mean))) ** 2:
            continue
        variances[name] = variance
        compared[name] = difference
    errors = {name: math.sqrt(one.total) for name, one in variances.items()}
    means = {name: float(one.value.mean()) for name, one in compared.items()}
    different = []
    like = []
    for name, error in errors.items():
        law = stats.t(variances[name].df)
        different.append(2 * float(law.sf(abs(means[name]) / error)))
        distance = math.nan if margin is None else margin - abs(means[name])
        like.append(float(law.sf(distance / error)))
    differences = {}
    num_different = _num_compared(different)
    num_like = _num_compared(like)
    tests = zip(compared, holm(different), holm(like), strict=True)
    for row, (name, p_different, p_like) in enumerate(tests):
        interval = audit.mean_interval(means[name], variances[name], level=level)
        state: State = "undecided"
        if p_like <= (1 - level) / 2:
            state = "like"
        elif p_different <= 1 - level:
            state = "different"
        more = None
        if state == "undecided":
            more = more_runs(
                means[name],
                variances[name],
                pool.factors,
                margin,
                level=level,
                num_tests=(num_different[row], num_like.get(row, 1)),
            )
        differences[name] = Difference(
            mean=round(means[name], _DECIMALS),
            low=round(interval.low, _DECIMALS),
            high=round(interval.high, _DECIMALS),
            margin=None if margin is None else round(margin, _DECIMALS),
            p_different=float(f"{p_different:.4g}"),
            p_like=math.nan if math.isnan(p_like) else float(f"{p_like:.4g}"),
            state=state,
            more_runs=more,
        )
    return differences


def more_runs(
    mean: float,
    variance: audit.MeanVariance,
    factors: np.ndarray,
    margin: float | None,
    *,
    level: float = 0.95,
    num_tests: tuple[int, int] = (1, 1),
) -> int | None:
    """Return the number of further runs that would decide with a probability of 80%.

    This is the power of the row's tests if the true difference is ``mean``. There are
    two, different from 0 and inside the margin; the one that needs fewer runs counts.

    Further runs are further levels of the factors, with as many runs each as now. With
    k times as many levels, the variance falls to 1 / k, except for the part that is due
    to the samples, and the degrees of freedom grow as those of the factor with the most
    levels. Levels of crossed factors increase alike, so that k times the levels are
    k ** 2 times the runs: enough for the effects of originals and of forget sets, and
    more than enough where one of them or their interaction makes up the variance.

    Args:
      mean: mean of the difference.
      variance: variance of that mean.
      factors: ``[R, 2]``, numbers of the original and the forget set of each run.
      margin: margin of equivalence, or None.
      level: confidence level of the tests, in (0, 1).
      num_tests: number of rows that Holm's method still compares at this row's rank, in
        the test of a difference and in that of equivalence.

    Returns:
      The number; None if the samples alone leave the decision open, or if more than
      100,000 runs are needed in total.
    """
    if variance.samples >= variance.total:
        return None
    num_runs = len(factors)
    num_levels = max(len(np.unique(column)) for column in factors.T)
    num_crossed = 2 if len(np.unique(factors, axis=0)) > num_levels else 1
    limits = ((1 - level) / 2 / num_tests[0], (1 - level) / 2 / num_tests[1])

    def decides(count: int) -> bool:
        growth = (count / num_runs) ** (1 / num_crossed)
        error = math.sqrt(
            variance.samples + (variance.total - variance.samples) / growth
        )
        df = variance.df * (growth * num_levels - 1) / (num_levels - 1)
        df = min(df, _LARGEST_DF)
        return _power(mean, error, df, margin, limits) >= _POWER

    counts = range(num_runs + 1, _MAX_RUNS + 1)
    position = bisect.bisect_left(counts, True, key=decides)
    return position + 1 if position < len(counts) else None


def _power(
    mean: float,
    error: float,
    df: float,
    margin: float | None,
    limits: tuple[float, float],
) -> float:
    """Return the power of Student's test of a difference or of equivalence, the larger.

    It is an average over the distribution of the estimated standard error, since
    SciPy's noncentral t distribution is NaN for some arguments.

    Args:
      mean: true difference.
      error: true standard error of the estimated difference.
      df: degrees of freedom.
      margin: margin of equivalence, or None.
      limits: significance levels on one side, of the two tests.
    """
    scales = np.sqrt(2 * special.gammaincinv(df / 2, _PROBABILITIES) / df)
    width, gap = (-special.stdtrit(df, limit) * scales for limit in limits)
    center = mean / error
    power = np.mean(special.ndtr(center - width) + special.ndtr(-center - width))
    if margin is not None:
        room = np.maximum(margin / error - gap, 0)
        inside = special.ndtr(room - center) - special.ndtr(-room - center)
        power = max(power, np.mean(inside))
    return float(power)


def combine(differences: Mapping[str, Difference]) -> Verdict | None:
    """Return the verdict on a method from several metrics' differences to retraining.

    A method is ``different`` if it is in any metric, and ``like`` if it is in all.

    Args:
      differences: differences by metric.

    Returns:
      The verdict; None without a difference.
    """
    if not differences:
        return None
    states = {key: one.state for key, one in differences.items()}
    differs = tuple(key for key, state in states.items() if state == "different")
    if differs:
        return Verdict(state="different", metrics=differs)
    open_ones = {k: d for k, d in differences.items() if d.state == "undecided"}
    if not open_ones:
        return Verdict(state="like", metrics=tuple(states))
    counts = [one.more_runs for one in open_ones.values()]
    known = [count for count in counts if count is not None]
    more = max(known) if len(known) == len(counts) else None
    return Verdict(state="undecided", metrics=tuple(open_ones), more_runs=more)
