"""LiRA on a device; see :func:`unlearn_jax.audit.lira` for the attack."""

import math
from functools import partial
from typing import Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.scipy.special import log_ndtr
from jax.typing import ArrayLike

from unlearn_jax.audit.device._reductions import (
    count_over_models,
    floating,
    sort_over_models,
    sum_over_models,
    sum_over_samples,
)
from unlearn_jax.audit.device._rmia import Mode
from unlearn_jax.types import Array, InputError

Variance = Literal[
    "per_sample", "fixed", "fixed_centered", "fixed_global", "fixed_separate"
]
Center = Literal["median", "mean"]
OfflineScore = Literal["density", "cdf"]
STATIC = ("mode", "variance", "center", "offline_score")


class _Side(NamedTuple):
    """Statistics of one side, IN or OUT, for each of the K columns.

    ``middle [4, K]`` holds the order statistics around the median, ascending: the value
    just below the upper median, the lower median, the upper median, and the value just
    above the lower median. They determine the median of the other models when any one
    model is left out. ``middle`` has no rows if the center is the mean. ``last`` is the
    value of the side's last model. ``size``, ``mean`` and ``squares`` are as in
    :class:`_Fit`.
    """

    size: Array
    mean: Array
    squares: Array
    middle: Array
    last: Array


class _Fit(NamedTuple):
    """Statistics of a side, ``[1, K]``, or ``[M, K]`` with one row per target.

    ``size`` is the number of models, ``squares`` the sum of squared deviations from
    ``mean``.
    """

    size: Array
    mean: Array
    squares: Array
    center: Array


@partial(jax.jit, static_argnames=STATIC)
def lira(
    target: ArrayLike,
    reference: ArrayLike,
    member: ArrayLike,
    *,
    mode: Mode = "online",
    variance: Variance = "per_sample",
    center: Center = "median",
    offline_score: OfflineScore = "density",
    min_std: ArrayLike = 1e-6,
) -> Array:
    """Return LiRA scores, as :func:`unlearn_jax.audit.lira` does on the host.

    Args:
      target: ``[N]`` or ``[T, N]`` signals of the audited models, or ``[N, A]`` or
        ``[T, N, A]`` with augmentations.
      reference: ``[M, N]`` or ``[M, N, A]`` the same signal under the references.
      member: ``[M, N]`` bool, True where the reference was trained on the sample.
      mode: ``"online"`` or ``"offline"``; static.
      variance: ``"per_sample"``, ``"fixed"`` (the same as ``"fixed_centered"``),
        ``"fixed_global"`` or ``"fixed_separate"``; static.
      center: ``"median"`` or ``"mean"``; static.
      offline_score: ``"density"`` or ``"cdf"``; static.
      min_std: lower limit of the standard deviations; may be traced.

    Returns:
      ``[N]`` or ``[T, N]`` in the dtype of the signals; NaN for a sample with fewer
      models on a side than the host function takes.

    >>> reference = jnp.array([[2.0, 0.0], [4.0, 2.0], [-1.0, 4.0], [1.0, 6.0]])
    >>> member = jnp.array([[True, False]] * 2 + [[False, True]] * 2)
    >>> print(lira(jnp.array([3.0, 3.0]), reference, member))
    [4.5 0. ]
    """
    check_options(mode, variance, center, offline_score)
    target = floating(target)
    reference = floating(reference)
    member = jnp.asarray(member)
    chex.assert_rank(target, {reference.ndim - 1, reference.ndim})
    chex.assert_equal_shape_suffix([target, reference], reference.ndim - 1)
    shape = target.shape[: target.ndim - reference.ndim + 1]
    values, chosen = _columns(reference, member)
    side = partial(_side, values, center=center, variance=variance, left_out=0)
    outside = _whole(side(~chosen))
    inside = _whole(side(chosen)) if mode == "online" else None
    rows = target.reshape(-1, values.shape[1])
    scores = _score(rows, inside, outside, variance, offline_score, min_std)
    scores = scores.reshape(*shape, -1)
    return _mean_over_augmentations(scores, reference)


@partial(jax.jit, static_argnames=(*STATIC, "balance"))
def lira_leave_one_out(
    reference: ArrayLike,
    member: ArrayLike,
    *,
    mode: Mode = "online",
    variance: Variance = "per_sample",
    center: Center = "median",
    offline_score: OfflineScore = "density",
    min_std: ArrayLike = 1e-6,
    balance: bool = True,
) -> Array:
    """Return LiRA scores of each model, with all other models as references.

    Args:
      reference: ``[M, N]`` or ``[M, N, A]`` signals of the models.
      member: ``[M, N]`` bool, True where the model was trained on the sample.
      mode: as in :func:`lira`.
      variance: as in :func:`lira`.
      center: as in :func:`lira`.
      offline_score: as in :func:`lira`.
      min_std: as in :func:`lira`.
      balance: whether to also leave out the last model of the other side, see
        :func:`unlearn_jax.audit.lira_leave_one_out`; static.

    Returns:
      ``[M, N]`` in the dtype of the signals.
    """
    check_options(mode, variance, center, offline_score)
    reference = floating(reference)
    values, chosen = _columns(reference, jnp.asarray(member))
    side = partial(_side, values, center=center, variance=variance, left_out=1)
    outside = _without(side(~chosen), values, ~chosen, balance)
    inside = None
    if mode == "online":
        inside = _without(side(chosen), values, chosen, balance)
    scores = _score(values, inside, outside, variance, offline_score, min_std)
    return _mean_over_augmentations(scores, reference)


def check_options(mode: str, variance: str, center: str, offline_score: str) -> None:
    """Raise on an unknown name of an option.

    Raises:
      InputError: such a name; the message lists the choices.
    """
    options = (
        ("mode", mode, Mode),
        ("variance", variance, Variance),
        ("center", center, Center),
        ("offline_score", offline_score, OfflineScore),
    )
    for name, value, allowed in options:
        if value not in allowed.__args__:
            choices = ", ".join(map(repr, allowed.__args__))
            raise InputError(f"{name} is {value!r}: pass one of {choices}")


def _columns(reference: Array, member: Array) -> tuple[Array, Array]:
    """Return signals and mask with augmentations as columns, ``[M, K]`` each."""
    chex.assert_rank(reference, {2, 3})
    chex.assert_type(member, bool)
    chex.assert_shape(member, reference.shape[:2])
    values = reference.reshape(reference.shape[0], -1)
    num_repeats = math.prod(reference.shape[2:])
    return values, jnp.repeat(member, num_repeats, axis=1)


def _mean_over_augmentations(scores: Array, reference: Array) -> Array:
    """Average scores over augmentations, ``[..., N * A] -> [..., N]``."""
    if reference.ndim == 2:
        return scores
    return scores.reshape(*scores.shape[:-1], *reference.shape[1:]).mean(-1)


def _side(
    values: Array, chosen: Array, *, center: Center, variance: Variance, left_out: int
) -> _Side:
    """Return the statistics of ``values [M, K]`` over the chosen models.

    A size is NaN where the host refuses too few models.
    """
    num_models = values.shape[0]
    count = count_over_models(chosen)
    is_few = count < (2 if variance == "per_sample" else 1) + left_out
    if variance != "per_sample":
        is_centered = variance in ("fixed", "fixed_centered")
        is_few |= (count.max() if is_centered else count.sum()) < 2 + left_out
    size = jnp.where(is_few, jnp.nan, count.astype(values.dtype))
    mean = sum_over_models(jnp.where(chosen, values, 0)) / size
    deviation = jnp.where(chosen, values - mean[None], 0)
    squares = sum_over_models(deviation**2)
    last_model = num_models - 1 - jnp.argmax(chosen[::-1], axis=0)
    last = jnp.take_along_axis(values, last_model[None], axis=0)[0]
    if center == "mean":
        return _Side(size, mean, squares, jnp.empty((0, mean.size), mean.dtype), last)
    ranked = sort_over_models(jnp.where(chosen, values, jnp.inf))
    low = (count - 1) // 2
    high = count // 2
    ranks = jnp.stack(
        [jnp.maximum(high - 1, 0), low, high, jnp.minimum(low + 1, count - 1)]
    )
    middle = jnp.take_along_axis(ranked, ranks, axis=0, mode="clip")
    return _Side(size, mean, squares, middle, last)


def _whole(side: _Side) -> _Fit:
    """Return the fit to all models of the side, ``[1, K]``."""
    center = (side.middle[1] + side.middle[2]) / 2 if side.middle.size else side.mean
    return _Fit(side.size[None], side.mean[None], side.squares[None], center[None])


def _without(side: _Side, values: Array, inside: Array, balance: bool) -> _Fit:
    """Return the fit to the side without ``values [M, K]``.

    Values are left out where ``inside`` is True, that is where the target belongs to
    the side. With ``balance``, the side's last model is left out elsewhere.
    """
    side_size = side.size[None]
    side_mean = side.mean[None]
    if balance:
        values = jnp.where(inside, values, side.last[None])
        inside = jnp.ones_like(inside)
    size = side_size - inside
    deviation = (values - side_mean) * inside
    mean = side_mean - deviation / size
    squares = side.squares[None] - deviation**2 * (side_size / size)
    squares = jnp.maximum(squares, 0)
    if not side.middle.size:
        return _Fit(size, mean, squares, mean)
    before, low, high, after = (row[None] for row in side.middle)
    # Without v, the value of rank r is the old value of rank r if v was above it, and
    # otherwise the old value of rank r + 1. At a tie both are equal.
    new_low = jnp.where(inside, jnp.where(values > before, before, high), low)
    new_high = jnp.where(inside, jnp.where(values > low, low, after), high)
    return _Fit(size, mean, squares, (new_low + new_high) / 2)


def _std(fit: _Fit, variance: Variance, min_std: ArrayLike) -> Array:
    """Return the standard deviation: ``[M, K]`` per sample, ``[M, 1]`` fixed."""
    if variance == "per_sample":
        squared = fit.squares / fit.size
    else:
        # Variance of all values minus an origin per sample: the part within samples
        # plus the part between them.
        is_centered = variance in ("fixed", "fixed_centered")
        offset = fit.mean - fit.center if is_centered else fit.mean
        total = sum_over_samples(fit.size)[..., None]
        mean_offset = sum_over_samples(fit.size * offset)[..., None] / total
        spread = fit.squares + fit.size * (offset - mean_offset) ** 2
        squared = sum_over_samples(spread)[..., None] / total
    return jnp.maximum(jnp.sqrt(squared), min_std)


def _score(
    target: Array,
    inside: _Fit | None,
    outside: _Fit,
    variance: Variance,
    offline_score: OfflineScore,
    min_std: ArrayLike,
) -> Array:
    """Return scores ``[T, K]`` of ``target [T, K]``; offline if no ``inside``."""
    if inside is not None:
        std_in = _std(inside, variance, min_std)
        is_shared = variance == "fixed_global"
        std_out = std_in if is_shared else _std(outside, variance, min_std)
        z_in = (target - inside.center) / std_in
        z_out = (target - outside.center) / std_out
        return jnp.log(std_out / std_in) + (z_out**2 - z_in**2) / 2
    std_out = _std(outside, variance, min_std)
    z_out = (target - outside.center) / std_out
    if offline_score == "density":
        return jnp.log(std_out) + (z_out**2 + math.log(2 * math.pi)) / 2
    return log_ndtr(z_out)
