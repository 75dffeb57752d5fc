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
* ``undecided``: neither is shown. It comes with the number of further runs that would
  show one of the two with a probability of 80 %, given the variances of the table.

Both tests are corrected for the number of methods (Holm 1979).
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from unlearn_jax import audit
from unlearn_jax.pipeline.measure.pool import AuditPool
from unlearn_jax.pipeline.measure.records import Difference, State, Verdict
from unlearn_jax.pipeline.measure.statistics import Measured, subtract

_POWER = float(stats.norm.ppf(0.8))
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
    known = [i for i, p in enumerate(p_values) if not math.isnan(p)]
    largest = 0.0
    for step, i in enumerate(sorted(known, key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(known) - step) * p_values[i]))
        corrected[i] = largest
    return corrected


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
    tests = zip(compared, holm(different), holm(like), strict=True)
    for name, p_different, p_like in tests:
        interval = audit.mean_interval(means[name], variances[name], level=level)
        state: State = "undecided"
        if p_like <= (1 - level) / 2:
            state = "like"
        elif p_different <= 1 - level:
            state = "different"
        more = None
        if state == "undecided":
            more = more_runs(
                means[name], variances[name], len(pool.forget), margin, level=level
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
    num_runs: int,
    margin: float | None,
    *,
    level: float = 0.95,
) -> int | None:
    """Return the number of further runs that would decide with a probability of 80 %.

    Further originals and forget sets reduce the variance, except for the part that is
    due to the samples. There are two decisions, inside the margin and different from 0;
    the one that needs fewer runs counts.

    Args:
      mean: mean of the difference.
      variance: variance of that mean.
      num_runs: number of runs behind the mean.
      margin: margin of equivalence, or None.
      level: confidence level of the test, in (0, 1).

    Returns:
      The number; None if the samples alone leave the decision open, or if more than
      100,000 runs are needed in total.
    """
    distance = abs(mean)
    if margin is not None:
        distance = max(distance, margin - abs(mean))
    needed = (distance / (stats.norm.ppf((1 + level) / 2) + _POWER)) ** 2
    if needed <= variance.samples:
        return None
    runs = (variance.total - variance.samples) * num_runs
    count = math.ceil(runs / (needed - variance.samples))
    return max(count - num_runs, 1) if count <= _MAX_RUNS else None


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
