"""Rank correlation with an interval, in NumPy on the host and in float64."""

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
    """Return Spearman's rank correlation and an interval of the population value.

    The interval uses Fisher's z with the variance ``(1 + r^2 / 2) / (n - 3)`` of Bonett
    and Wright 2000, "Sample size requirements for estimating Pearson, Kendall and
    Spearman correlations", and Student's t with n - 3 degrees of freedom. If the
    jackknife over groups gives a larger variance, the excess is added; Satterthwaite's
    rule combines the degrees of freedom, with one less than the number of groups for
    the jackknife. A perfect correlation is lowered by half of the smallest step of r.

    For a normal copula of correlation rho, the mean of r over samples is
    ``6 / (pi (n + 1)) (asin(rho) + (n - 2) asin(rho / 2))`` (Moran 1948). It is nearer
    to 0 than the population value ``6 / pi asin(rho / 2)``; both ends of the interval
    are corrected for this bias.

    On normal copulas of 24 pairs in three groups, coverage is 97 to 99% if groups have
    no effect, and 94 to 98% if they have 0.3 or 0.7 of the variance. It is 87% if the
    correlation between groups has the opposite sign of that within groups.

    Args:
      x: ``[n]`` values; ties have their mean rank.
      y: ``[n]`` values.
      groups: ``[n]`` group of each pair; pairs of a group may share effects, for
        example of a seed. None treats the pairs as independent, and so does a single
        group, whose shared effects leave no trace: the interval is for that group only.
      level: confidence level, in (0, 1).

    Returns:
      The estimate, with ``num_runs`` n. It has no interval for fewer than 5 pairs, and
      is NaN if all values of x or of y are equal.

    Raises:
      InputError: sides of different lengths, fewer than two pairs, NaN or infinite
        values, or a level outside (0, 1).

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
        raise InputError(f"groups have shape {labels.shape}: pass one group per pair")
    unknown = float("nan")
    r = _spearman(*sides)
    if np.isnan(r) or count < 5:
        return Estimate(r, unknown, unknown, unknown, count, 0)
    # Swapping two neighbors lowers r from 1 by 12 / (n^3 - n).
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
    """Return the correlation of the ranks, NaN if all values of a side are equal."""
    first, second = (rankdata(side) - (len(side) + 1) / 2 for side in (x, y))
    size = np.sqrt((first**2).sum() * (second**2).sum())
    return float(np.clip(first @ second / size, -1, 1)) if size > 0 else float("nan")
