"""U-LiRA: per-sample likelihood ratios of unlearned and retrained models.

Hayes, Shumailov, Triantafillou, Khalifa and Papernot 2024, "Inexact Unlearning Needs
More Careful Evaluations to Avoid a False Sense of Privacy" (arXiv 2403.01218), and its
form for class unlearning in the released code of Kodge, Saha and Roy (arXiv
2312.00761). The attacker has shadow models of both kinds, so the attack needs
**ensembles**: S unlearned models, each from a different original, and S models
retrained without the samples.

The functions use NumPy on the host in float64, without a loop over samples.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from unlearn_jax.audit import device
from unlearn_jax.audit._roc import auc
from unlearn_jax.audit.inputs import is_traced, real_array, refuse_infinite
from unlearn_jax.audit.results import ULira
from unlearn_jax.types import InputError

_KODGE_FLOOR = 1e-32


class KodgeResult(NamedTuple):
    """Result of U-LiRA as in the code of Kodge et al., for one pair of models.

    Attributes:
      auc: area under the ROC curve of the held-out pair's density ratios.
      accuracy: fraction of the held-out unlearned model's samples whose ratio is at
        least the threshold, in [0, 1]. It is a true positive rate; the code prints it
        as "Acc".
      balanced_accuracy: balanced accuracy of the held-out pair, at the threshold that
        was chosen on the same pair.
      threshold: density ratio at the equal-error point.
    """

    auc: float
    accuracy: float
    balanced_accuracy: float
    threshold: float


def ulira(target: ArrayLike, reference: ArrayLike, *, min_std: float = 1e-3) -> ULira:
    """Classify models as unlearned or retrained by Gaussians, cross-fitted over pairs.

    Each pair (s-th unlearned model, s-th retrained model) is held out in turn. For each
    sample and each side, the mean and the unbiased standard deviation of phi over the
    other S - 1 models give a Gaussian. The ratio of a held-out value is
    ``log N(phi; mean_un, std_un) - log N(phi; mean_re, std_re)``; the value is called
    unlearned if the ratio is above 0. (This is the attack of Hayes et al., with
    log-densities, an explicit floor and every pair held out in turn.)

    No threshold is fitted, and no model is scored by a Gaussian that was fitted to it.
    So if both sides have the same distribution, the expected accuracy of every pair is
    exactly 0.5, for any S and any distribution. The fits of different pairs overlap, so
    the pairs are not independent repetitions; see :func:`pair_influences`.

    Args:
      target: ``[S, N]`` statistic phi of S unlearned models at N samples that all of
        them forgot, one row per model. For class unlearning it is the
        :func:`~unlearn_jax.audit.signals.logit_margin` of the forgotten class on its
        training samples (evaluation mode, no augmentation). S at least 3.
      reference: ``[S, N]`` the same statistic of models retrained without the samples.
      min_std: lower limit of the standard deviations, in the unit of phi; positive. A
        method that drives a probability to a constant gives a point mass. With this
        limit, values a few ``min_std`` away are still distinguished from it.

    Returns:
      Ratios, calls, accuracies and AUCs. Permuting the pairs permutes the rows,
      permuting the samples permutes the columns.

    Raises:
      InputError: fewer than 3 models on a side, different shapes, NaN or infinite
        values, or a ``min_std`` that is not positive and finite.

    >>> target = [[4.0, 5.0], [5.0, 4.0], [4.5, 4.5]]
    >>> result = ulira(target, [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    >>> print(result.accuracy, result.auc)
    [1. 1. 1.] [1. 1. 1.]
    """
    if not is_traced(min_std) and not 0 < min_std < np.inf:
        raise InputError(
            f"min_std is {min_std}: pass a positive standard deviation, such as 0.001"
        )
    if is_traced(target, reference, min_std):
        return device.ulira(target, reference, min_std=min_std)
    target, reference = _read_sides(target, reference)
    moments = []
    for side in (target, reference):
        mean, std = _moments_of_others(side)
        moments.append((mean, np.maximum(std, min_std)))
    target_ratio, reference_ratio = (
        _log_normal(values, *moments[0]) - _log_normal(values, *moments[1])
        for values in (target, reference)
    )
    target_called = np.heaviside(target_ratio, 0.5)
    reference_called = np.heaviside(reference_ratio, 0.5)
    hits = target_called.mean(axis=1)
    false_alarms = reference_called.mean(axis=1)
    pairs = zip(target_ratio, reference_ratio, strict=True)
    return ULira(
        target=target_ratio,
        reference=reference_ratio,
        target_called=target_called,
        reference_called=reference_called,
        accuracy=(hits + 1 - false_alarms) / 2,
        auc=np.array([_pair_auc(*pair) for pair in pairs]),
    )


def pair_influences(accuracy: ArrayLike) -> np.ndarray:
    """Return values that replace the pairs' accuracies in the variance of their mean.

    Every pair is scored by Gaussians fitted to the other S - 1 pairs, so the accuracies
    are dependent, and their standard error is too small for their mean. Nadeau and
    Bengio 2003, "Inference for the Generalization Error", estimate the variance of such
    a mean by ``1 / S + 1 / (S - 1)`` times the variance of the values, in place of
    ``1 / S`` times. Here deviations from the mean are scaled by the square root of the
    quotient of both factors. (No estimator is unbiased for every distribution.) On
    Gaussian pairs, the Student's t interval covers 91 to 98% with this scaling for 3
    to 10 pairs, and 80 to 94% without.

    Args:
      accuracy: ``[S]`` accuracy of each pair, or ``[S, K]`` several such numbers; S at
        least 2.

    Returns:
      Array of the shape of ``accuracy``, with the same mean over pairs.

    Raises:
      InputError: fewer than two pairs, or NaN or infinite values.

    >>> pair_influences([0.4, 0.5, 0.6]).round(3)
    array([0.342, 0.5  , 0.658])
    """
    values = real_array("accuracy", accuracy, ndim=(1, 2)).astype(
        np.float64, copy=False
    )
    refuse_infinite("accuracy", values)
    if len(values) < 2:
        raise InputError("accuracy has fewer than 2 pairs: pass one value per pair")
    count = len(values)
    mean = values.mean(axis=0)
    return mean + np.sqrt(1 + count / (count - 1)) * (values - mean)


def ulira_kodge(target: ArrayLike, reference: ArrayLike) -> KodgeResult:
    """Return U-LiRA as the released code of Kodge et al. computes it.

    Use this function to compare with numbers that were published from such code. Only
    the last pair of models is held out. The statistic is
    ``log(p / (1 - p + 1e-32) + 1e-32)``, computed here from phi without forming p. The
    score is the ratio of densities, not of their logarithms, ``N(phi; mean_un, std_un +
    1e-32) / (N(phi; mean_re, std_re + 1e-32) + 1e-32)``. So a value far from both
    Gaussians has ratio 0, and point masses have ratios up to 4e63.

    The threshold is the corner of the held-out pair's ROC curve where ``|fpr + tpr -
    1|`` is smallest. ``accuracy`` is the true positive rate of the same held-out
    unlearned model at this threshold, although that code prints it as a balanced
    accuracy. The released code works in float32, where a point mass of exactly equal
    values gives NaN and stops it; this function works in float64. The released code
    also scores randomly augmented images; here the caller chooses the images.

    Args:
      target: ``[S, N]`` logit margins phi of the forgotten class, as for :func:`ulira`;
        S at least 3.
      reference: ``[S, N]`` logit margins of models retrained without the samples.

    Returns:
      AUC, true positive rate, balanced accuracy and threshold. The first three are
      about 0.5 if both sides have the same distribution. If all ratios are equal, the
      true positive rate is 0 and the threshold infinite.

    Raises:
      InputError: the same cases as :func:`ulira`.

    >>> target = [[4.0, 5.0], [5.0, 4.0], [4.5, 4.5]]
    >>> ulira_kodge(target, [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]).accuracy
    1.0
    """
    from sklearn.metrics import roc_curve

    sides = [_kodge_statistic(side) for side in _read_sides(target, reference)]
    gaussians = [
        (side[:-1].mean(axis=0), side[:-1].std(axis=0, ddof=1)) for side in sides
    ]
    target_ratio, reference_ratio = (
        _density_ratio(side[-1], *gaussians) for side in sides
    )
    is_target = np.repeat([True, False], target_ratio.size)
    pooled = np.concatenate([target_ratio, reference_ratio])
    fpr, tpr, thresholds = roc_curve(is_target, pooled)
    threshold = thresholds[np.argmin(np.abs(fpr + tpr - 1))]
    hits = (target_ratio >= threshold).mean()
    false_alarms = (reference_ratio >= threshold).mean()
    return KodgeResult(
        auc=_pair_auc(target_ratio, reference_ratio),
        accuracy=float(hits),
        balanced_accuracy=float((hits + 1 - false_alarms) / 2),
        threshold=float(threshold),
    )


def _read_sides(target: ArrayLike, reference: ArrayLike) -> list[np.ndarray]:
    """Return both sides as float64, checked."""
    sides = []
    for name, values in (("target", target), ("reference", reference)):
        side = real_array(name, values, ndim=(2,)).astype(np.float64, copy=False)
        if side.shape[0] < 3:
            raise InputError(
                f"{name} has {side.shape[0]} models: pass at least 3 (two to fit, one"
                " held out), usually 8"
            )
        refuse_infinite(name, side)
        sides.append(side)
    if sides[0].shape != sides[1].shape:
        raise InputError(
            f"target has shape {sides[0].shape} and reference {sides[1].shape}: "
            "pass equally many models and the same samples"
        )
    return sides


def _moments_of_others(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and unbiased std over all other rows, ``[S, N]`` each.

    Moments of the rows before and after a row are merged (Chan, Golub and LeVeque
    1983). The work is linear in S, as when the row is subtracted from the sums of all
    rows, but there is no cancellation if the row is far from the others.
    """
    before = _running_moments(values[:-1])
    after = _running_moments(values[:0:-1])
    means = np.empty_like(values)
    stds = np.empty_like(values)
    others = len(values) - 1
    for s in range(len(values)):
        mean_a, squares_a = before[s]
        mean_b, squares_b = after[others - s]
        gap = mean_b - mean_a
        means[s] = mean_a + gap * ((others - s) / others)
        stds[s] = np.sqrt(
            (squares_a + squares_b + gap**2 * (s * (others - s) / others))
            / (others - 1)
        )
    return means, stds


def _running_moments(values: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return mean and squared deviations of the first 0, 1, ... rows (Welford 1962)."""
    mean = squares = np.zeros(values.shape[1])
    moments = [(mean, squares)]
    for count, row in enumerate(values, start=1):
        gap = row - mean
        mean = mean + gap / count
        squares = squares + gap * (row - mean)
        moments.append((mean, squares))
    return moments


def _log_normal(values: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Return the normal log-density without its constant, which cancels in a ratio."""
    return -0.5 * ((values - mean) / std) ** 2 - np.log(std)


def _pair_auc(target: np.ndarray, reference: np.ndarray) -> float:
    """Return P(unlearned model's ratio > retrained model's), with ties counted half."""
    pooled = np.concatenate([target, reference])
    return auc(pooled, np.repeat([True, False], target.size))


def _kodge_statistic(phi: np.ndarray) -> np.ndarray:
    """Return ``log(p / (1 - p + 1e-32) + 1e-32)`` of ``p = sigmoid(phi)``.

    The statistic equals phi between -73.7 and 73.7, and is constant outside.
    """
    floor = np.log(_KODGE_FLOOR)
    log_p = -np.logaddexp(0.0, -phi)
    return np.logaddexp(log_p - np.logaddexp(-np.logaddexp(0.0, phi), floor), floor)


def _density_ratio(
    values: np.ndarray,
    target: tuple[np.ndarray, np.ndarray],
    reference: tuple[np.ndarray, np.ndarray],
) -> np.ndarray:
    """Return the ratio of two normal densities with Kodge et al.'s additive floors."""

    def density(mean: np.ndarray, std: np.ndarray) -> np.ndarray:
        return np.exp(_log_normal(values, mean, std + _KODGE_FLOOR)) / np.sqrt(
            2 * np.pi
        )

    return density(*target) / (density(*reference) + _KODGE_FLOOR)
