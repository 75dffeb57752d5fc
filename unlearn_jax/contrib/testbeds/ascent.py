"""Limits of descent-ascent on logistic regression with the exponential loss.

Mavrothalassitis, Puigdemont, Levi and Cevher, NeurIPS 2025, "Ascent Fails to Forget"
(arXiv 2509.26427). A model with weights w has the loss ``exp(-y w.x)`` on a sample, and
a ridge ``(lambda/2) |w|^2``. R are the retained samples, F the forget samples, D both
together, and N = |R| + |F|. Three objectives are compared: original training,
retraining (the goal of unlearning), and descent-ascent (DA)::

    original   (1/N)   sum_D loss                          + ridge
    retrained  (1/|R|) sum_R loss                          + ridge
    ascent     (1/|R|) sum_R loss - (1/|F|) sum_F loss     + ridge

Only b = |R_j| of the retained and alpha b of the forget samples are active on the
chosen weights. All active samples of a set have the same signed input ``y x``: the
direction u_R or u_F. So every objective is

    ``c_R exp(-u_R.w) + c_F exp(-u_F.w) + (lambda/2) |w|^2``

with the two forces c of :func:`forces`. Two cases are solved here: both sets share one
coordinate (u_R = u_F = 1), and two correlated coordinates (u_R = (1, eps), u_F = (eps,
1)). The proofs show how ascent can fail, not that it fails on a network.

The functions are host-side NumPy in float64, over arrays of alpha and eps. The paths
are in :mod:`unlearn_jax.contrib.testbeds.ascent_paths`.
"""

import dataclasses
import enum
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from unlearn_jax.checks import (
    check_counts,
    check_finite,
    check_not_negative,
    check_positive,
)
from unlearn_jax.types import InputError

_HALVINGS = 64
"""Bisection steps: more than the bits of a double, for brackets a few units wide."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Fixed numbers of the example.

    Attributes:
      num_retain: |R|, at least 1.
      num_forget: |F|, at least 1.
      num_active: b = |R_j|, number of retained samples that are active on the chosen
        weights, in 1..|R|.
      ridge: lambda, positive.
    """

    num_retain: int
    num_forget: int
    num_active: int
    ridge: float

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_counts(
            num_retain=self.num_retain,
            num_forget=self.num_forget,
            num_active=self.num_active,
        )
        if self.num_active > self.num_retain:
            raise InputError(
                f"{self.num_active} of {self.num_retain} retained samples are active:"
                " num_active must not exceed num_retain"
            )
        check_positive(ridge=self.ridge)

    @property
    def num_all(self) -> int:
        """N = |R| + |F|."""
        return self.num_retain + self.num_forget


class Forces(NamedTuple):
    """Coefficients ``[..., 2]`` of each objective's exponentials.

    The first coefficient belongs to the retained samples, the second to the forget
    samples.

    Attributes:
      original: ``b / N`` and ``alpha b / N``.
      retrained: ``b / |R|`` and 0.
      ascent: ``b / |R|`` and ``-alpha b / |F|``.
    """

    original: np.ndarray
    retrained: np.ndarray
    ascent: np.ndarray


class Regime(enum.IntEnum):
    """Stationary points of the ascent objective on one shared coordinate."""

    ONE_MINIMUM = 0
    """``alpha <= |F|/|R|``: a single, global minimum."""
    LOCAL_MINIMUM = 1
    """``alpha`` up to :func:`alpha_limit`: a local minimum and a local maximum."""
    DIVERGES = 2
    """``alpha`` above the limit: no stationary point; every path diverges."""


class SharedMinimizers(NamedTuple):
    """Stationary weights for one shared coordinate, of the shape of ``alpha``.

    Attributes:
      original: w_D, the trained model.
      retrained: w_R, the oracle.
      ascent: w_DA, the (local) minimum of the ascent objective; minus infinity if there
        is no minimum.
      ascent_maximum: local maximum of the ascent objective, which bounds the basin of
        w_DA; NaN if there is no maximum.
      regime: int, a :class:`Regime`.
    """

    original: np.ndarray
    retrained: np.ndarray
    ascent: np.ndarray
    ascent_maximum: np.ndarray
    regime: np.ndarray


class PairMinimizers(NamedTuple):
    """Minimizing weights for two correlated coordinates, ``[..., 2]`` float64.

    Attributes:
      original: the trained model.
      retrained: the oracle.
      ascent: the local minimum of the ascent objective; NaN if there is no minimum.
    """

    original: np.ndarray
    retrained: np.ndarray
    ascent: np.ndarray


def forces(sizes: Sizes, alpha: ArrayLike) -> Forces:
    """Return the coefficients of the three objectives.

    Args:
      sizes: fixed numbers of the example.
      alpha: ``[...]`` ratio of active forget samples to active retained samples, not
        negative.

    Returns:
      The coefficients, ``[..., 2]`` for each objective.

    Raises:
      InputError: alpha is negative or not finite.
    """
    alpha = _checked(alpha, "alpha", 0.0, math.inf)
    ones = np.ones_like(alpha)
    b = sizes.num_active

    def pair(retain: ArrayLike, forget: ArrayLike) -> np.ndarray:
        return np.stack([retain * ones, forget * ones], -1)

    return Forces(
        original=pair(b / sizes.num_all, alpha * b / sizes.num_all),
        retrained=pair(b / sizes.num_retain, 0.0),
        ascent=pair(b / sizes.num_retain, -alpha * b / sizes.num_forget),
    )


def shared_minimizers(sizes: Sizes, alpha: ArrayLike) -> SharedMinimizers:
    """Return the stationary points for one shared coordinate, in closed form (lemma 2).

    W0 and W-1 are the branches of Lambert's function. Setting the derivative to zero
    gives ``w exp(w) = c / lambda``, where c is the sum of an objective's two forces::

        w_D  = W0((1 + alpha) b / (lambda N))
        w_R  = W0(b / (lambda |R|))
        w_DA = W0((1 - alpha |R|/|F|) b / (lambda |R|))

    The maximum of the ascent objective is as w_DA, with W-1 in place of W0.

    Args:
      sizes: fixed numbers of the example.
      alpha: ``[...]``, not negative.

    Returns:
      The stationary points. At ``alpha = |F|/|R|`` only the ridge remains of the ascent
      objective, so w_DA = 0.

    Raises:
      InputError: alpha is negative or not finite.

    >>> minimizers = shared_minimizers(Sizes(1000, 100, 50, 0.01), 0.0389)
    >>> print([round(float(w), 3) for w in minimizers[:3]])
    [1.294, 1.327, 1.059]
    """
    from scipy.special import lambertw

    alpha = np.asarray(alpha, np.float64)
    arguments = [c.sum(-1) / sizes.ridge for c in forces(sizes, alpha)]
    # Rounding must not decide at the ends of the ranges, nor leave Lambert's domain.
    has_minimum = alpha <= alpha_limit(sizes)
    has_maximum = has_minimum & (alpha > sizes.num_forget / sizes.num_retain)
    argument = np.maximum(arguments[2], np.nextafter(-1 / math.e, 0))
    ascent = np.where(
        has_minimum, lambertw(np.where(has_minimum, argument, 0.0)).real, -np.inf
    )
    maximum = np.where(
        has_maximum, lambertw(np.where(has_maximum, argument, -0.1), -1).real, np.nan
    )
    regime = np.where(
        has_minimum,
        np.where(has_maximum, Regime.LOCAL_MINIMUM, Regime.ONE_MINIMUM),
        Regime.DIVERGES,
    )
    return SharedMinimizers(
        lambertw(arguments[0]).real,
        lambertw(arguments[1]).real,
        ascent,
        maximum,
        regime,
    )


def pair_minimizers(
    sizes: Sizes, alpha: ArrayLike, correlation: ArrayLike
) -> PairMinimizers:
    """Return the minimizers for two correlated coordinates, exact up to one bisection.

    With margins ``x = w1 + eps w2`` and ``y = eps w1 + w2``, ``s = 1 + eps^2`` and
    ``d = (1 - eps^2)^2``, the stationary equations combine to::

        s x - 2 eps y = (c_R / lambda) d exp(-x)
        s y - 2 eps x = (c_F / lambda) d exp(-y)

    The first equation gives
    ``x(y) = 2 eps y / s + W0((c_R / lambda) (d / s) exp(-2 eps y / s))``. Inserted, it
    leaves an equation in y alone. That has one solution for ``c_F >= 0``; for
    ``c_F < 0`` it has two up to :func:`alpha_limit` and none above. The larger y of the
    two is the minimum; it lies between the y at the limit and the y of the oracle.

    Args:
      sizes: fixed numbers of the example.
      alpha: ``[...]``, not negative.
      correlation: eps, in [0, 1 - 1e-6], broadcast against alpha. (At 1 the sets would
        share one coordinate.)

    Returns:
      The weights (w1, w2).

    Raises:
      InputError: alpha or correlation out of range.
    """
    alpha, correlation = np.broadcast_arrays(
        _checked(alpha, "alpha", 0.0, math.inf), _eps(correlation)
    )
    limit = alpha_limit(sizes, correlation)
    force = forces(sizes, np.minimum(alpha, limit))
    original = _pair_minimizer(forces(sizes, alpha).original, sizes.ridge, correlation)
    retrained = _pair_minimizer(force.retrained, sizes.ridge, correlation)
    ascent = _pair_minimizer(force.ascent, sizes.ridge, correlation)
    return PairMinimizers(
        original, retrained, np.where((alpha <= limit)[..., None], ascent, np.nan)
    )


def alpha_limit(sizes: Sizes, correlation: ArrayLike | None = None) -> np.ndarray:
    """Return the largest alpha for which ascent has a minimum (lemmas 2 and 10).

    For one shared coordinate the limit is ``|F|/|R| + lambda |F| / (e b)``. For two
    correlated coordinates consider the stationary points in the order of y: away from
    the oracle, alpha rises from 0 to a single maximum and then falls. The slope of log
    alpha has a single zero, which is found by bisection.

    Args:
      sizes: fixed numbers of the example.
      correlation: eps, ``[...]`` in [0, 1 - 1e-6]; None for one shared coordinate.

    Returns:
      ``[...]`` float64, the largest alpha.

    Raises:
      InputError: correlation out of range.

    >>> round(float(alpha_limit(Sizes(1000, 100, 50, 0.01))), 5)
    0.10736
    """
    b = sizes.num_active
    ridge = sizes.ridge
    if correlation is None:
        ratio = sizes.num_forget / sizes.num_retain
        return np.asarray(ratio + ridge * sizes.num_forget / (math.e * b))
    eps = _eps(correlation)
    fold = _fold(b / sizes.num_retain, ridge, eps)
    other = _other_margin(fold, b / sizes.num_retain, ridge, eps)
    height = 2 * eps * other - (1 + eps**2) * fold
    return np.exp(fold) * height * ridge * sizes.num_forget / (b * (1 - eps**2) ** 2)


def harmful_range(
    sizes: Sizes, correlation: ArrayLike | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the range of alpha in which ascent is proven harmful (lemmas 3 and 9).

    For one shared coordinate the range is from ``|F|^2 / (|R| (|F| + N))`` to
    ``|F|/|R|``. In it, the oracle's weight is at least the original's (retraining makes
    the model *more confident*), but ascent lowers the weight. For two correlated
    coordinates the range is from
    ``max(s / (2 eps) |F|^2, (2 eps / s) |F| N) / (|R| (N + |F|))`` to
    :func:`alpha_limit`; in it, ascent lowers both margins. The range is empty if the
    first number is above the second, which is always so at eps = 0. Without the second
    term of the maximum the range would be wider. The ordering held in the wider range
    too, on all sampled examples (``experiments/ascent_theory.py``), but this is not
    proven.

    Args:
      sizes: fixed numbers of the example.
      correlation: eps, ``[...]`` in [0, 1 - 1e-6]; None for one shared coordinate.

    Returns:
      The two ends of the range.

    Raises:
      InputError: correlation out of range.
    """
    num_forget = sizes.num_forget
    scale = sizes.num_retain * (num_forget + sizes.num_all)
    if correlation is None:
        high = np.asarray(num_forget / sizes.num_retain)
        return np.asarray(num_forget**2 / scale), high
    eps = _eps(correlation)
    with np.errstate(divide="ignore"):
        half = 2 * eps / (1 + eps**2)
        most = np.maximum(num_forget**2 / half, half * num_forget * sizes.num_all)
    return most / scale, alpha_limit(sizes, eps)


def ordering_holds(
    sizes: Sizes,
    alpha: ArrayLike,
    correlation: ArrayLike | None = None,
    *,
    tolerance: float = 1e-9,
) -> np.ndarray:
    """Return where ascent ends beyond the original model, away from the oracle.

    The minimizers themselves are compared. For one shared coordinate the ordering is
    ``w_DA <= w_D <= w_R`` (lemma 3). For two coordinates it is on both margins,
    ``x_DA <= x_D`` and ``y_DA <= y_D`` (lemma 9). It is proven only inside
    :func:`harmful_range`.

    Args:
      sizes: fixed numbers of the example.
      alpha: ``[...]``, not negative.
      correlation: eps, broadcast against alpha; None for one shared coordinate.
      tolerance: allowed violation of an inequality, for the ends of the range.

    Returns:
      ``[...]`` bool; for two coordinates, False where ascent has no minimum.

    Raises:
      InputError: alpha, correlation or tolerance out of range.

    >>> print(ordering_holds(Sizes(1000, 100, 50, 0.01), [0.001, 0.0389, 0.099, 0.11]))
    [False  True  True False]
    """
    check_not_negative(tolerance=tolerance)
    if correlation is None:
        shared = shared_minimizers(sizes, alpha)
        lower = shared.ascent <= shared.original + tolerance
        return lower & (shared.original <= shared.retrained + tolerance)
    pair = pair_minimizers(sizes, alpha, correlation)
    eps = _eps(correlation)[..., None]
    original = pair.original + eps * pair.original[..., ::-1]  # margins (x, y)
    ascent = pair.ascent + eps * pair.ascent[..., ::-1]
    return np.all(ascent <= original + tolerance, axis=-1)


def _pair_minimizer(force: np.ndarray, ridge: float, eps: np.ndarray) -> np.ndarray:
    """Return the minimum ``[..., 2]`` of an objective with forces ``[..., 2]``.

    c_F must be at least its value at :func:`alpha_limit`.
    """
    retain = force[..., 0]
    forget = force[..., 1]
    s = 1 + eps**2
    d = (1 - eps**2) ** 2
    # Margin y of the oracle: the left side of the second equation is 0 there.
    oracle = 2 * eps / s * _lambert(s * retain / ridge)

    def residual(y: np.ndarray) -> np.ndarray:
        other = _other_margin(y, retain, ridge, eps)
        return s * y - 2 * eps * other - forget / ridge * d * np.exp(-y)

    # At ``above``, after a few doublings at most, the right side is below the left.
    above = oracle + np.log1p(np.maximum(forget, 0) / ridge * d) + 1
    while (short := residual(above) < 0).any():
        above = np.where(short, 2 * above + 1, above)
    low = np.where(forget < 0, _fold(retain, ridge, eps), oracle)
    high = np.where(forget < 0, oracle, above)
    y = _bisect(residual, low, high)
    x = _other_margin(y, retain, ridge, eps)
    return np.stack([x - eps * y, y - eps * x], -1) / (1 - eps**2)[..., None]


def _other_margin(
    y: np.ndarray, retain: ArrayLike, ridge: float, eps: np.ndarray
) -> np.ndarray:
    """Return x(y) on the curve of stationary points."""
    s = 1 + eps**2
    scale = np.asarray(retain) / ridge * (1 - eps**2) ** 2 / s
    return 2 * eps * y / s + _lambert(scale * np.exp(-2 * eps * y / s))


def _fold(retain: ArrayLike, ridge: float, eps: np.ndarray) -> np.ndarray:
    """Return the margin y at which alpha is largest along the stationary points.

    alpha is proportional to ``exp(y) h(y)`` with ``h = 2 eps x(y) - s y``, so
    ``h + h' = 0`` at this margin. There is only one, because ``h + h'`` decreases
    everywhere: divided by s, its slope is ``q^2/(1+W) + q^3 W/(1+W)^3 - 1 < 0`` with
    ``q = 2 eps / s <= 1`` and W > 0.
    """
    s = 1 + eps**2

    def falling(y: np.ndarray) -> np.ndarray:
        x = _other_margin(y, retain, ridge, eps)
        lambert = x - 2 * eps * y / s
        return 2 * eps * x - s * y + 4 * eps**2 / (s * (1 + lambert)) - s

    oracle = 2 * eps / s * _lambert(s * np.asarray(retain) / ridge)
    below = oracle - 2.0
    while (short := falling(below) < 0).any():
        below = np.where(short, oracle - 2 * (oracle - below), below)
    return _bisect(lambda y: -falling(y), below, oracle)


def _bisect(
    rising: Callable[[np.ndarray], np.ndarray], low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """Return the zero of a function that rises from ``low`` to ``high``."""
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        under = rising(middle) < 0
        low = np.where(under, middle, low)
        high = np.where(under, high, middle)
    return (low + high) / 2


def _lambert(value: ArrayLike) -> np.ndarray:
    """Return W0 of values that are not negative."""
    from scipy.special import lambertw

    return lambertw(value).real


def _eps(correlation: ArrayLike) -> np.ndarray:
    # Nearer to 1 the height of the fold is lost to cancellation.
    return _checked(correlation, "correlation", 0.0, 1 - 1e-6)


def _checked(value: ArrayLike, name: str, low: float, high: float) -> np.ndarray:
    """Return values in float64, inside a range.

    Raises:
      InputError: values out of range; the message names them.
    """
    check_finite(**{name: value})
    array = np.asarray(value, np.float64)
    if not (np.isfinite(array) & (array >= low) & (array <= high)).all():
        where = "in [0, 1 - 1e-6]" if high < 1 else "at least 0 and finite"
        raise InputError(
            f"{name} must be {where}, got {np.min(array):g} to {np.max(array):g}"
        )
    return array
