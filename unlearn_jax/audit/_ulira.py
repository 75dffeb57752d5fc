"""U-LiRA: can an attacker tell a model that unlearned a sample from one that never saw it, sample by sample?

Hayes, Shumailov, Triantafillou, Khalifa and Papernot 2024, "Inexact Unlearning Needs
More Careful Evaluations to Avoid a False Sense of Privacy" (arXiv 2403.01218), and its
form for class unlearning in the released code of Kodge, Saha and Roy (arXiv
2312.00761). The attacker has shadow models of both kinds, so this needs **ensembles**:
S unlearned models, each from an original of its own, and S models retrained without the
samples.

Host-side NumPy, float64, no loop over samples.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from unlearn_jax.audit._roc import auc
from unlearn_jax.audit.inputs import real_array, refuse_infinite
from unlearn_jax.types import InputError

_KODGE_FLOOR = 1e-32


class ULira(NamedTuple):
    """Outcome of U-LiRA, each pair of models held out once.

    Attributes:
      unlearned: ``[S, N]`` log-likelihood ratio
        ``log p(phi | unlearned) - log p(phi | retrained)`` of each held-out unlearned
        model, in nats; higher = more likely unlearned, that is, was a member once.
      retrained: ``[S, N]`` the same of each held-out retrained model.
      called_unlearned: ``[S, N]`` 1 where ``unlearned`` is above 0, 0 below, 0.5 at a
        tie.
      called_retrained: ``[S, N]`` 1 where ``retrained`` is above 0: the attacker calls
        it "unlearned" and is wrong.
      accuracy: ``[S]`` balanced accuracy of each pair, the mean over samples of
        ``(called_unlearned + 1 - called_retrained) / 2``, in [0, 1]; 0.5 cannot be told
        apart.
      auc: ``[S]`` area under the ROC curve of each pair's ratios, samples pooled.
    """

    unlearned: np.ndarray
    retrained: np.ndarray
    called_unlearned: np.ndarray
    called_retrained: np.ndarray
    accuracy: np.ndarray
    auc: np.ndarray


class KodgeResult(NamedTuple):
    """Outcome of U-LiRA as the code of Kodge et al. computes it, on one held-out pair of models.

    Attributes:
      auc: of the held-out pair's density ratios.
      accuracy: what that code prints as "Acc": share of the held-out unlearned model's
        samples whose ratio reaches the threshold. A true positive rate, in [0, 1].
      balanced_accuracy: of the held-out pair at the threshold that was chosen on it.
      threshold: the density ratio at the equal-error point.
    """

    auc: float
    accuracy: float
    balanced_accuracy: float
    threshold: float


def ulira(
    unlearned: ArrayLike, retrained: ArrayLike, *, min_std: float = 1e-3
) -> ULira:
    """Tells unlearned from retrained models by per-sample Gaussians, cross-fitted over pairs of models.

    The pair (s-th unlearned model, s-th retrained model) is held out; for each sample n
    and each side, mean and unbiased standard deviation of phi over the other S - 1
    models give a Gaussian; the ratio of a held-out value is
    ``log N(phi; mean_un, std_un) - log N(phi; mean_re, std_re)``, and above 0 it is
    called unlearned (Hayes et al., with log-densities, a stated floor and every pair
    held out in turn). No threshold is fitted, and no model is scored by a Gaussian that
    it shaped: when both sides come from one law, the expected accuracy of every pair is
    0.5 exactly, for any S and any law. The pairs' fits overlap, so the pairs are not
    independent repetitions.

    Args:
      unlearned: ``[S, N]`` a statistic of S unlearned models at N samples that all of
        them forgot, one row per model: for class unlearning the
        :func:`~unlearn_jax.audit.signals.logit_margin` of the forgotten class on its
        training samples (evaluation mode, no augmentation). S at least 3.
      retrained: ``[S, N]`` the same of models retrained without them.
      min_std: least standard deviation, in the unit of phi; positive. A method that
        drives a probability to a constant gives a point mass; with the floor it is told
        apart from anything further than a few floors.

    Returns:
      Ratios, calls, accuracies and areas; permuting the pairs permutes them, permuting
      the samples permutes the columns.

    Raises:
      InputError: fewer than 3 models on a side, different shapes, NaN or infinite
        values, a floor that is not positive and finite.

    >>> far = ulira([[4.0, 5.0], [5.0, 4.0], [4.5, 4.5]], [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    >>> print(far.accuracy, far.auc)
    [1. 1. 1.] [1. 1. 1.]
    """
    unlearned, retrained = _read_sides(unlearned, retrained)
    if not 0 < min_std < np.inf:
        raise InputError(
            f"min_std is {min_std}: pass a positive standard deviation, such as 0.001"
        )
    moments = []
    for side in (unlearned, retrained):
        mean, std = _moments_of_others(side)
        moments.append((mean, np.maximum(std, min_std)))
    ratio_un, ratio_re = (
        _log_normal(values, *moments[0]) - _log_normal(values, *moments[1])
        for values in (unlearned, retrained)
    )
    called_un, called_re = np.heaviside(ratio_un, 0.5), np.heaviside(ratio_re, 0.5)
    accuracy = (called_un.mean(axis=1) + 1 - called_re.mean(axis=1)) / 2
    areas = np.array([_pair_auc(u, r) for u, r in zip(ratio_un, ratio_re, strict=True)])
    return ULira(ratio_un, ratio_re, called_un, called_re, accuracy, areas)


def ulira_kodge(unlearned: ArrayLike, retrained: ArrayLike) -> KodgeResult:
    """U-LiRA as the released code of Kodge et al. has it, to compare with numbers published in its style.

    Only the last pair of models is held out. The statistic is
    ``log(p / (1 - p + 1e-32) + 1e-32)``, computed here from phi without forming p.
    Densities are taken in probability space,
    ``N(phi; mean_un, std_un + 1e-32) / (N(phi; mean_re, std_re + 1e-32) + 1e-32)``: a
    value far from both Gaussians gets ratio 0, and point masses get ratios up to 4e63.
    The threshold is the point of the held-out pair's own ROC curve, among its corners,
    where ``|fpr + tpr - 1|`` is least, and ``accuracy`` is then the true positive rate
    of the same held-out model, although it is printed as a balanced accuracy. That code
    works in float32, where a point mass of exactly equal values is not a number and
    stops it; here all is float64. It also scores randomly augmented images, which is
    the caller's choice.

    Args:
      unlearned: ``[S, N]`` logit margins phi of the forgotten class, as for
        :func:`ulira`; S at least 3.
      retrained: ``[S, N]`` the same of models retrained without the samples.

    Returns:
      Area, the printed share, balanced accuracy and threshold. The first three are
      about 0.5 when the sides cannot be told apart, except that the share is 0 and the
      threshold infinite when all ratios are equal.

    Raises:
      InputError: as :func:`ulira`.

    >>> ulira_kodge([[4.0, 5.0], [5.0, 4.0], [4.5, 4.5]], [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]).accuracy
    1.0
    """
    from sklearn.metrics import roc_curve

    unlearned, retrained = (
        _kodge_statistic(side) for side in _read_sides(unlearned, retrained)
    )
    gaussians = [
        (side[:-1].mean(axis=0), side[:-1].std(axis=0, ddof=1))
        for side in (unlearned, retrained)
    ]
    ratio_un, ratio_re = (
        _density_ratio(side[-1], *gaussians) for side in (unlearned, retrained)
    )
    is_unlearned = np.repeat([True, False], ratio_un.size)
    fpr, tpr, thresholds = roc_curve(is_unlearned, np.concatenate([ratio_un, ratio_re]))
    threshold = thresholds[np.argmin(np.abs(fpr + tpr - 1))]
    hits, false_alarms = (ratio_un >= threshold).mean(), (ratio_re >= threshold).mean()
    balanced = (hits + 1 - false_alarms) / 2
    return KodgeResult(
        _pair_auc(ratio_un, ratio_re), float(hits), float(balanced), float(threshold)
    )


def _read_sides(unlearned: ArrayLike, retrained: ArrayLike) -> list[np.ndarray]:
    sides = []
    for name, values in (("unlearned", unlearned), ("retrained", retrained)):
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
            f"unlearned has shape {sides[0].shape} and retrained {sides[1].shape}: "
            "pass equally many models and the same samples"
        )
    return sides


def _moments_of_others(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and unbiased std over all rows but the own one, ``[S, N] -> [S, N], [S, N]``.

    Moments of the rows before and of the rows after are merged (Chan, Golub and LeVeque
    1983): linear in S like "sums minus own term", and without its cancellation when the
    own row is far from the others.
    """
    before, after = _running_moments(values[:-1]), _running_moments(values[:0:-1])
    means, stds = np.empty_like(values), np.empty_like(values)
    others = len(values) - 1
    for s in range(len(values)):
        (mean_a, squares_a), (mean_b, squares_b) = before[s], after[others - s]
        gap = mean_b - mean_a
        means[s] = mean_a + gap * ((others - s) / others)
        stds[s] = np.sqrt(
            (squares_a + squares_b + gap**2 * (s * (others - s) / others))
            / (others - 1)
        )
    return means, stds


def _running_moments(values: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Mean and sum of squared deviations of the first 0, 1, ..., S rows (Welford 1962); zeros for no row."""
    mean = squares = np.zeros(values.shape[1])
    moments = [(mean, squares)]
    for count, row in enumerate(values, start=1):
        gap = row - mean
        mean = mean + gap / count
        squares = squares + gap * (row - mean)
        moments.append((mean, squares))
    return moments


def _log_normal(values: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """``log N(values; mean, std)`` without the constant, which cancels in a ratio."""
    return -0.5 * ((values - mean) / std) ** 2 - np.log(std)


def _pair_auc(unlearned: np.ndarray, retrained: np.ndarray) -> float:
    """P(an unlearned model's ratio > a retrained one's), ties half."""
    return auc(
        np.concatenate([unlearned, retrained]), np.repeat([True, False], unlearned.size)
    )


def _kodge_statistic(phi: np.ndarray) -> np.ndarray:
    """``log(p / (1 - p + 1e-32) + 1e-32)`` of ``p = sigmoid(phi)``: phi between -73.7 and 73.7, flat outside."""
    floor = np.log(_KODGE_FLOOR)
    log_p = -np.logaddexp(0.0, -phi)
    return np.logaddexp(log_p - np.logaddexp(-np.logaddexp(0.0, phi), floor), floor)


def _density_ratio(
    values: np.ndarray,
    unlearned: tuple[np.ndarray, np.ndarray],
    retrained: tuple[np.ndarray, np.ndarray],
) -> np.ndarray:
    """Ratio of two normal densities ``(mean, std)`` with Kodge et al.'s additive floors."""

    def density(mean: np.ndarray, std: np.ndarray) -> np.ndarray:
        return np.exp(_log_normal(values, mean, std + _KODGE_FLOOR)) / np.sqrt(
            2 * np.pi
        )

    return density(*unlearned) / (density(*retrained) + _KODGE_FLOOR)
