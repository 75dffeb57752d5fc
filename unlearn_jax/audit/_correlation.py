"""Rank correlation with an interval.

Host-side NumPy, float64.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata, t

from unlearn_jax.audit.bootstrap import Estimate
from unlearn_jax.audit.inputs import check_level, real_array, refuse_infinite
from unlearn_jax.types import InputError


def rank_correlation(
    x: ArrayLike,
    y: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    level: float = 0.95,
) -> Estimate:
    """Return Spearman's rank correlation and the interval of the population's.

    Fisher's z with the variance of Bonett and Wright 2000, "Sample size requirements
    for estimating Pearson, Kendall and Spearman correlations",
    ``(1 + r^2 / 2) / (n - 3)``, at Student's t with n - 3 degrees of freedom. What the
    jackknife over groups finds beyond it is added, with one degree of freedom less than
    groups (Satterthwaite). An order that is exact stands half a step below 1. The mean
    of r over samples is ``6 / (pi (n + 1)) (asin(rho) + (n - 2) asin(rho / 2))`` for a
    normal copula of correlation rho (Moran 1948), nearer to 0 than the population's
    ``6 / pi asin(rho / 2)``; both ends are corrected for that.

    On normal copulas of 24 pairs in three groups it covers 97 to 99 % where groups have
    no effect and 94 to 98 % where they have 0.3 or 0.7 of the variance; 87 % where the
    groups' effects have the opposite correlation of what is within them.

    Args:
      x: ``[n]``; ties have their mean rank.
      y: ``[n]``.
      groups: ``[n]`` of pairs that may share effects, such as the seed of each; None
        takes pairs as independent.
      level: confidence level, in (0, 1).

    Returns:
      The estimate, with ``num_runs`` n; without an interval for fewer than 5 pairs, and
      NaN where one side has a single value.

    Raises:
      InputError: sides of different lengths, fewer than two pairs, NaN or infinite
        values, a level outside (0, 1).

    >>> print(f"{rank_correlation(range(8), [1, 2, 3, 4, 5, 6, 8, 7]).low:.2f}")
    0.74
    """
    check_level(level)
    sides = []
    for name, values in (("x", x), ("y", y)):
        side = real_array(name, values, ndim=(1,)).astype(np.float64, copy=False)
        refuse_infinite(name, side)
        sides.append(side)
    count = len(sides[0])
    if len(sides[1]) != count or count < 2:
        raise InputError(
            f"x has {count} values and y {len(sides[1])}: pass two or more pairs"
        )
    labels = np.arange(count) if groups is None else np.asarray(groups)
    if labels.shape != (count,):
        raise InputError(f"groups have shape {labels.shape}: pass one of each pair")
    unknown = float("nan")
    r = _spearman(*sides)
    if np.isnan(r) or count < 5:
        return Estimate(r, unknown, unknown, unknown, count, 0)
    # Neighbors swapped once lower r by 12 / (n^3 - n).
    largest = 1 - 6 / (count**3 - count)
    variance = (1 + r**2 / 2) / (count - 3)
    df = count - 3.0
    names = np.unique(labels)
    if 1 < len(names) < count:
        without = np.zeros(len(names))
        for place, name in enumerate(names):
            others = labels != name
            without[place] = _spearman(sides[0][others], sides[1][others])
        z = np.arctanh(np.clip(without[~np.isnan(without)], -largest, largest))
        between = (len(z) - 1) * float(z.var()) if len(z) else 0.0
        if between > variance:
            df = 1 / (variance**2 / between**2 / df + 1 / (len(names) - 1))
            variance = between
    half = t.ppf((1 + level) / 2, df) * np.sqrt(variance)
    center = np.arctanh(np.clip(r, -largest, largest))
    # The grid is fine near 1, where the correction matters.
    rho = np.sin(np.linspace(-np.pi / 2, np.pi / 2, 4001))
    mean = np.arcsin(rho) + (count - 2) * np.arcsin(rho / 2)
    low, high = np.interp(
        np.tanh([center - half, center + half]),
        6 / (np.pi * (count + 1)) * mean,
        6 / np.pi * np.arcsin(rho / 2),
    )
    return Estimate(r, unknown, min(float(low), r), max(float(high), r), count, 0)


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Return the correlation of the ranks; NaN where a side has a single value."""
    first, second = (rankdata(side) - (len(side) + 1) / 2 for side in (x, y))
    size = np.sqrt((first**2).sum() * (second**2).sum())
    return float(np.clip(first @ second / size, -1, 1)) if size > 0 else float("nan")
