"""LiRA: likelihood ratios of models trained with and without a sample.

Carlini, Chien, Nasr, Song, Terzis and Tramèr 2022, "Membership Inference Attacks From
First Principles" (arXiv 2112.03570, algorithm 1). The reference (shadow) models of a
membership design give each sample two Gaussians, IN and OUT.

The defaults are those of the released code (``mi_lira_2021``), from which the published
numbers come: medians where the paper has means, a standard deviation per sample, and
offline a density where the paper has a tail probability. Implementations differ most in
what they call a "fixed" variance; each of the three definitions has a name here.

The functions use NumPy on the host in float64, whatever the signals' dtype. They have
no loop over samples, and the work for all leave-one-out targets together is linear in
the number of models. Under ``jax.jit`` these functions call their counterparts in
:mod:`unlearn_jax.audit.device`.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import ArrayLike

from unlearn_jax.audit import device
from unlearn_jax.audit.device._lira import (
    Center,
    OfflineScore,
    Variance,
    check_options,
)
from unlearn_jax.audit.device._rmia import Mode
from unlearn_jax.audit.inputs import (
    is_traced,
    mask_array,
    real_array,
    refuse_infinite,
)
from unlearn_jax.types import InputError

# Numbers per block, so that a block fits in cache. Not a power of two, whose strides
# cause cache conflicts.
_BLOCK = 125_000


class _Options(NamedTuple):
    """Checked options of :func:`lira`."""

    mode: Mode
    variance: Variance
    center: Center
    offline_score: OfflineScore
    min_std: float


class _Side(NamedTuple):
    """Statistics of one side, IN or OUT, for each sample.

    ``middle [4, N]`` holds the order statistics around the median, ascending: the value
    just below the upper median, the lower median, the upper median, and the value just
    above the lower median. They determine the median of the other models when any one
    model is left out. ``middle`` has no rows if the center is the mean. ``last`` is the
    value of the side's last model. ``size``, ``mean`` and ``squares`` are as in
    :class:`_Fit`.
    """

    size: np.ndarray
    mean: np.ndarray
    squares: np.ndarray
    middle: np.ndarray
    last: np.ndarray


class _Fit(NamedTuple):
    """Statistics of a side, ``[N]``, or ``[B, N]`` with one row per target.

    ``size`` is the number of models, ``squares`` the sum of squared deviations from
    ``mean``.
    """

    size: np.ndarray
    mean: np.ndarray
    squares: np.ndarray
    center: np.ndarray


def lira(
    target: ArrayLike,
    reference: ArrayLike,
    member: ArrayLike,
    *,
    mode: Mode = "online",
    variance: Variance = "per_sample",
    center: Center = "median",
    offline_score: OfflineScore = "density",
    min_std: float = 1e-6,
) -> np.ndarray:
    """Return LiRA scores: the log-likelihood ratio of membership of each sample.

    Online, ``score(x) = log N(phi(x); c_in, s_in) - log N(phi(x); c_out, s_out)``,
    where ``c`` and ``s`` are the center and the standard deviation of the sample's
    signal over the reference models that were (IN) and were not (OUT) trained on it.
    Offline only OUT models are used, and the score is ``-log N(phi(x); c_out, s_out)``
    ("density") or ``log Pr[Z < phi(x)]`` with ``Z ~ N(c_out, s_out)`` ("cdf"). With
    augmentations the score is the mean over them. TF-Privacy's ``compute_score_lira``
    gives the same numbers with the opposite sign.

    Standard deviations divide by the number of values n, not by n - 1. The options are

    * ``"per_sample"``: one number per sample, augmentation and side, from the sample's
      own values. This needs many models; with fewer than 64, a fixed variance is
      usually the stronger attack.
    * ``"fixed_centered"``, or ``"fixed"``: one number for IN and one for OUT, from all
      values minus their sample's center (TF-Privacy's library). This is the recommended
      fixed variance: it measures differences between training runs.
    * ``"fixed_global"``: one number for both sides, from all IN values without
      centering, so that differences between samples increase it (``mi_lira_2021``;
      offline, from all OUT values). It only scales the online scores of a target and
      does not change their order.
    * ``"fixed_separate"``: as ``"fixed_global"``, but separately for IN and OUT
      (LeakPro below 64 models).

    All reference models are used; the released code uses only as many models per sample
    as the sample with the fewest has. If the target is one of the references, pass all
    references to :func:`lira_leave_one_out`: if only the target were left out, the
    numbers of IN and OUT models would reveal its membership.

    Args:
      target: ``[N]`` or ``[T, N]`` signals of the audited model(s), normally
        :func:`~unlearn_jax.audit.signals.logit_margin`, or ``[N, A]`` or ``[T, N, A]``
        with augmentations.
      reference: ``[M, N]``, or ``[M, N, A]``, the same signal under the reference
        models.
      member: ``[M, N]`` bool, True where the reference was trained on the sample.
      mode: "online" compares IN with OUT; "offline" uses OUT values only, and IN values
        may even be NaN.
      variance: definition of the standard deviation, see above.
      center: "median" (released code) or "mean" (paper) of the sample's values;
        standard deviations per sample are about the mean in either case.
      offline_score: "density" (released code) also calls a sample a member if its
        signal is far **below** that of the OUT models; "cdf" (paper) only above.
      min_std: lower limit of the standard deviations; positive, in units of the signal.
        The default is about the resolution of float32 signals. (Released codes add
        1e-30 instead, so that constant values score up to 1e60.)

    Returns:
      ``[N]`` or ``[T, N]`` float64, finite for signals of any size below 1e100; higher
      = more likely member. Online, 0 means no evidence either way.

    Raises:
      InputError: a sample without an IN (online) or OUT model, or with fewer than two
        if the variance is per sample (TF-Privacy fills in the average over other
        samples; a set of references with a half design has no such sample); fewer than
        two values for a fixed variance; NaN or infinite signals; shapes that do not
        match or unknown options.

    >>> reference = np.array([[2.0, 0.0], [4.0, 2.0], [-1.0, 4.0], [1.0, 6.0]])
    >>> member = np.array([[True, False], [True, False], [False, True], [False, True]])
    >>> print(lira([3.0, 3.0], reference, member))
    [4.5 0. ]
    """
    options = _check_options(mode, variance, center, offline_score, min_std)
    if is_traced(target, reference, member, min_std):
        scores = device.lira(target, reference, member, **options._asdict())
        return cast(np.ndarray, scores)
    reference, member = _read(reference, member)
    target = real_array("target", target, ndim=(reference.ndim - 1, reference.ndim))
    if target.shape[target.ndim - reference.ndim + 1 :] != reference.shape[1:]:
        raise InputError(
            f"target {target.shape} does not fit reference {reference.shape}: pass the"
            " same samples"
        )
    refuse_infinite("target", target)
    refuse_infinite("reference", reference if mode == "online" else reference[~member])
    inside, outside = _sides(reference, member, options, left_out=0)
    flat = target.reshape(*target.shape[: target.ndim - reference.ndim + 1], -1)
    scores = _score(flat, _whole(inside) if inside else None, _whole(outside), options)
    return _mean_over_augmentations(scores, reference)


def lira_leave_one_out(
    reference: ArrayLike,
    member: ArrayLike,
    *,
    mode: Mode = "online",
    variance: Variance = "per_sample",
    center: Center = "median",
    offline_score: OfflineScore = "density",
    min_std: float = 1e-6,
    balance: bool = True,
) -> np.ndarray:
    """Return LiRA scores of each model, with all other models as references.

    Row m is :func:`lira` of model m with model m left out of the references. No side is
    fitted M times: leaving out a value changes the mean, the sum of squares and the
    median by closed formulas, and fixed variances follow from these. Row m equals the
    direct computation up to rounding. The formulas subtract squares in float64, which
    loses digits if one value lies a million times farther out than the spread of the
    others.

    Leaving out only the target leaves a member one IN model fewer, and a non-member one
    OUT model fewer. The smaller side fits worse, so the target looks less like its own
    side. With signals that are independent of membership, the AUC of a half design
    falls below one half (40,000 samples, otherwise the defaults)::

        M                  6     8     16    32    64    128
        balance=False    .354  .421  .481  .494  .498  .498
        balance=True     .500  .499  .499  .500  .500  .499

    ``balance`` therefore also leaves out the last model of the **other** side. For a
    half design this equals the released code, which uses only as many models per sample
    as the sample with the fewest has. The price is that the order of models matters
    slightly.

    Args:
      reference: ``[M, N]``, or ``[M, N, A]`` with augmentations; finite signals of the
        models.
      member: ``[M, N]`` bool, True where the model was trained on the sample; the truth
        for row m is ``member[m]``.
      mode: as in :func:`lira`.
      variance: as in :func:`lira`.
      center: as in :func:`lira`.
      offline_score: as in :func:`lira`.
      min_std: as in :func:`lira`.
      balance: whether to also leave out a model of the other side, see above; False is
        exactly :func:`lira` with model m left out.

    Returns:
      ``[M, N]`` float64; higher = more likely member. The fits differ between rows, so
      one ROC curve of all rows together is not the mean of the rows' curves.

    Raises:
      InputError: the same cases as :func:`lira`, with one more IN and OUT model needed
        per sample, since each is left out in turn.

    >>> reference = np.array([[1, 3, 2, 9, -1, 1, 0, 7]], float).T
    >>> member = np.arange(8)[:, None] < 4
    >>> scores = lira_leave_one_out(reference, member, balance=False)
    >>> print(scores[0], lira(reference[0], reference[1:], member[1:]))
    [-0.18954226] [-0.18954226]
    """
    options = _check_options(mode, variance, center, offline_score, min_std)
    if is_traced(reference, member, min_std):
        scores = device.lira_leave_one_out(
            reference, member, balance=balance, **options._asdict()
        )
        return cast(np.ndarray, scores)
    reference, member = _read(reference, member)
    refuse_infinite("reference", reference)
    inside, outside = _sides(reference, member, options, left_out=1)
    models = reference.shape[0]
    columns = math.prod(reference.shape[1:])
    scores = np.empty(member.shape)
    for rows in _blocks(models, columns):
        values = reference[rows].reshape(-1, columns)
        trained = _repeat(member[rows], reference)
        fit_in = _without(inside, values, trained, balance) if inside else None
        block = _score(
            values, fit_in, _without(outside, values, ~trained, balance), options
        )
        scores[rows] = _mean_over_augmentations(block, reference)
    return scores


def _check_options(
    mode: Mode,
    variance: Variance,
    center: Center,
    offline_score: OfflineScore,
    min_std: float,
) -> _Options:
    check_options(mode, variance, center, offline_score)
    if not is_traced(min_std) and not 0 < min_std < np.inf:
        raise InputError(f"min_std is {min_std}: pass a positive number, such as 1e-6")
    return _Options(mode, variance, center, offline_score, min_std)


def _read(reference: ArrayLike, member: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return the references' signals and the mask, with their shapes checked."""
    reference = real_array("reference", reference, ndim=(2, 3))
    return reference, mask_array("member", member, reference.shape[:2])


def _repeat(member: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Repeat a mask ``[B, N]`` over flattened augmentations, ``[B, N * A]``."""
    if reference.ndim == 2:
        return member
    return np.repeat(member, reference.shape[2], axis=1)


def _mean_over_augmentations(scores: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Average scores over augmentations, ``[..., N * A] -> [..., N]``."""
    return (
        scores
        if reference.ndim == 2
        else scores.reshape(*scores.shape[:-1], *reference.shape[1:]).mean(-1)
    )


def _sides(
    reference: np.ndarray, member: np.ndarray, options: _Options, *, left_out: int
) -> tuple[_Side | None, _Side]:
    """Return the statistics of the IN side (None if offline) and of the OUT side."""
    inside = (
        _side(reference, member, "IN", options, left_out)
        if options.mode == "online"
        else None
    )
    return inside, _side(reference, ~member, "OUT", options, left_out)


def _side(
    reference: np.ndarray,
    chosen: np.ndarray,
    name: str,
    options: _Options,
    left_out: int,
) -> _Side:
    _check_counts(chosen.sum(axis=0), name, options.variance, left_out)
    values = reference.reshape(reference.shape[0], -1)
    chosen = _repeat(chosen, reference)
    blocks = [
        _side_of_block(values[:, part], chosen[:, part], options.center)
        for part in _blocks(*values.shape[::-1])
    ]
    return _Side(
        *(np.concatenate(parts, axis=-1) for parts in zip(*blocks, strict=True))
    )


def _check_counts(
    counts: np.ndarray, name: str, variance: Variance, left_out: int
) -> None:
    """Raise if the models are too few for a sample or for a fixed variance."""
    need = (2 if variance == "per_sample" else 1) + left_out
    few = np.flatnonzero(counts < need)
    if few.size:
        cure = "leave them out, add models" + (
            " or use a fixed variance" if variance == "per_sample" else ""
        )
        raise InputError(
            f"{few.size} samples have fewer than {need} {name} models, the first is"
            f" {few[0]}: {cure}"
        )
    values = counts.max() if variance in ("fixed", "fixed_centered") else counts.sum()
    if values < 2 + left_out:
        raise InputError(
            f"the {name} models are too few for a fixed variance: add reference models"
        )


def _side_of_block(values: np.ndarray, chosen: np.ndarray, center: Center) -> _Side:
    """Return the statistics of ``values [M, K]`` over the chosen models."""
    chosen_values = _where(chosen, values, 0.0)
    size = chosen.sum(axis=0)
    mean = chosen_values.sum(axis=0, dtype=np.float64) / size
    deviation = _where(chosen, chosen_values - mean, 0.0)
    squares = np.einsum("mk,mk->k", deviation, deviation)
    last = np.take_along_axis(
        values, values.shape[0] - 1 - chosen[::-1].argmax(axis=0, keepdims=True), axis=0
    )[0]
    if center == "mean":
        return _Side(size, mean, squares, np.empty((0, mean.size)), last)
    ranked = _where(chosen, values, np.inf)
    ranked.sort(axis=0)
    low = (size - 1) // 2
    high = size // 2
    ranks = np.stack(
        [np.maximum(high - 1, 0), low, high, np.minimum(low + 1, size - 1)]
    )
    return _Side(
        size,
        mean,
        squares,
        np.take_along_axis(ranked, ranks, axis=0).astype(np.float64),
        last,
    )


def _where(chosen: np.ndarray, values: np.ndarray, other: float) -> np.ndarray:
    """Return ``np.where(chosen, values, other)``, computed from the bits of the floats.

    The computation has no branches, because irregular masks defeat branch prediction.
    """
    integer = np.dtype(f"i{values.itemsize}")
    bits = values.view(integer)
    other_bits = np.array(other, values.dtype).view(integer)
    mixed = other_bits ^ ((bits ^ other_bits) & -chosen.astype(integer))
    return mixed.view(values.dtype)


def _whole(side: _Side) -> _Fit:
    """Return the fit to all models of the side."""
    center = (side.middle[1] + side.middle[2]) / 2 if side.middle.size else side.mean
    return _Fit(side.size, side.mean, side.squares, center)


def _without(
    side: _Side, values: np.ndarray, inside: np.ndarray, balance: bool
) -> _Fit:
    """Return the fit to the side without ``values [B, K]``.

    Values are left out where ``inside`` is True, that is where the target belongs to
    the side. With ``balance``, the side's last model is left out elsewhere.
    """
    if balance:
        values = np.where(inside, values, side.last)
        inside = np.ones_like(inside)
    size = side.size - inside
    deviation = (values - side.mean) * inside
    mean = side.mean - deviation / size
    squares = np.maximum(side.squares - deviation**2 * (side.size / size), 0)
    if not side.middle.size:
        return _Fit(size, mean, squares, mean)
    before, low, high, after = side.middle
    # Without v, the value of rank r is the old value of rank r if v was above it, and
    # otherwise the old value of rank r + 1. At a tie both are equal.
    new_low = np.where(inside, np.where(values > before, before, high), low)
    new_high = np.where(inside, np.where(values > low, low, after), high)
    return _Fit(size, mean, squares, (new_low + new_high) / 2)


def _std(fit: _Fit, options: _Options) -> np.ndarray:
    """Return the standard deviation: ``[..., K]`` per sample, ``[..., 1]`` fixed."""
    if options.variance == "per_sample":
        variance = fit.squares / fit.size
    else:
        # Variance of all values minus an origin per sample: the part within samples
        # plus the part between them.
        offset = (
            fit.mean - fit.center
            if options.variance in ("fixed", "fixed_centered")
            else fit.mean
        )
        total = fit.size.sum(axis=-1, keepdims=True)
        between = offset - (fit.size * offset).sum(axis=-1, keepdims=True) / total
        variance = (fit.squares + fit.size * between**2).sum(
            axis=-1, keepdims=True
        ) / total
    return np.maximum(np.sqrt(variance), options.min_std)


def _score(
    target: np.ndarray, inside: _Fit | None, outside: _Fit, options: _Options
) -> np.ndarray:
    """Return scores ``[..., K]`` of ``target [..., K]``; offline if no ``inside``."""
    if inside is not None:
        std_in = _std(inside, options)
        std_out = (
            std_in if options.variance == "fixed_global" else _std(outside, options)
        )
        z_in = (target - inside.center) / std_in
        z_out = (target - outside.center) / std_out
        return np.log(std_out / std_in) + (z_out**2 - z_in**2) / 2
    std_out = _std(outside, options)
    z_out = (target - outside.center) / std_out
    if options.offline_score == "density":
        return np.log(std_out) + (z_out**2 + math.log(2 * math.pi)) / 2
    from scipy.special import log_ndtr

    return log_ndtr(z_out)


def _blocks(length: int, width: int) -> Iterator[slice]:
    """Return slices of rows of ``width`` numbers, about ``_BLOCK`` numbers each."""
    rows = max(1, _BLOCK // width)
    return (slice(start, start + rows) for start in range(0, length, rows))
