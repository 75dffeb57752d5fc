"""From scores to a ROC curve, its area, and the true positive rate at a small false positive rate.

A sample is called a member when its score is **at least** the threshold. Equal scores
move together, so ties can never be won by the order in which samples are stored.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from unlearn_jax.audit.bootstrap import Interval, interval, sample_weights, weighted_auc
from unlearn_jax.audit.inputs import (
    check_level,
    check_seed,
    mask_array,
    real_array,
    refuse_nan,
)
from unlearn_jax.types import InputError


class RocCurve(NamedTuple):
    """A ROC curve, one point per distinct score and one before them all.

    Attributes:
      fpr: ``[P]`` float64, share of non-members called members, ascending from 0 to 1.
      tpr: ``[P]`` float64, share of members called members, ascending from 0 to 1.
      thresholds: ``[P]`` float64, descending; point 0 (nobody is called a member) has
        threshold infinity.
      auc: area under the curve, which is the Mann-Whitney statistic: P(member's score >
        non-member's), ties half.
    """

    fpr: np.ndarray
    tpr: np.ndarray
    thresholds: np.ndarray
    auc: float

    def tpr_at_fpr(self, max_fpr: float) -> float:
        """Largest TPR of any threshold whose FPR is at most ``max_fpr``.

        A conservative step: no interpolation, so with fewer than ``1 / max_fpr``
        non-members this is the TPR at no false positive at all.

        Args:
          max_fpr: in [0, 1].

        Returns:
          The TPR, in [0, 1].

        Raises:
          InputError: ``max_fpr`` outside [0, 1].
        """
        if not 0 <= max_fpr <= 1:
            raise InputError(
                f"max_fpr is {max_fpr}: pass a rate in [0, 1], such as 0.001"
            )
        return float(self.tpr[np.searchsorted(self.fpr, max_fpr, side="right") - 1])

    @property
    def balanced_accuracy(self) -> float:
        """Largest ``(TPR + 1 - FPR) / 2`` over thresholds, in [0.5, 1]; optimistic: chosen on the data."""
        return float((self.tpr + 1 - self.fpr).max() / 2)


def roc(scores: ArrayLike, is_member: ArrayLike) -> RocCurve:
    """ROC curve of a membership score.

    Args:
      scores: ``[N]``, higher = more likely member; infinities are allowed.
      is_member: ``[N]`` bool.

    Returns:
      The curve. Computed from integer counts, so the area is exact up to one rounding.

    Raises:
      InputError: NaN scores, a mask that is not boolean, only one class, shapes that do
        not fit.

    >>> curve = roc([0.9, 0.8, 0.8, 0.1], [True, True, False, False])
    >>> curve.auc, curve.tpr_at_fpr(0.1), curve.balanced_accuracy
    (0.875, 0.5, 0.75)
    """
    scores, is_member = _read(scores, is_member)
    order = np.argsort(-scores)
    ordered = scores[order]
    members = np.cumsum(is_member[order])
    last_of_ties = np.append(ordered[1:] != ordered[:-1], True)
    true_positives = np.append(0, members[last_of_ties])
    called = np.append(0, 1 + np.flatnonzero(last_of_ties))
    false_positives = called - true_positives
    heights = true_positives[1:] + true_positives[:-1]
    pairs = int(true_positives[-1]) * int(false_positives[-1])
    area = int(heights @ np.diff(false_positives)) / (2 * pairs)
    return RocCurve(
        fpr=false_positives / false_positives[-1],
        tpr=true_positives / true_positives[-1],
        thresholds=np.append(np.inf, ordered[last_of_ties]),
        auc=area,
    )


def auc(scores: ArrayLike, is_member: ArrayLike) -> float:
    """Area under the ROC curve: the Mann-Whitney statistic, half credit for ties.

    Args:
      scores: ``[N]``, higher = more likely member; infinities are allowed.
      is_member: ``[N]`` bool.

    Returns:
      P(member's score > non-member's) + P(equal) / 2, in [0, 1].

    Raises:
      InputError: as :func:`roc`.

    >>> auc([3.0, 1.0, 1.0], [True, True, False])
    0.75
    """
    return roc(scores, is_member).auc


def auc_interval(
    scores: ArrayLike,
    is_member: ArrayLike,
    *,
    level: float = 0.95,
    num_replicates: int = 1000,
    seed: int = 0,
) -> Interval:
    """Bootstrap percentile interval of one AUC, members and non-members redrawn separately.

    For one model's scores. Tables over many runs need
    :mod:`~unlearn_jax.audit.bootstrap`.

    Args:
      scores: ``[N]``, higher = more likely member.
      is_member: ``[N]`` bool.
      level: confidence level, in (0, 1).
      num_replicates: bootstrap replicates, at least 1.
      seed: the same seed gives the same interval.

    Returns:
      The interval, which contains the AUC. It has no width when the scores separate the
      classes perfectly.

    Raises:
      InputError: as :func:`roc`, a level outside (0, 1), a negative seed, or no
        replicates.
    """
    check_level(level)
    check_seed(seed)
    scores, is_member = _read(scores, is_member)
    weights = sample_weights(np.random.default_rng(seed), num_replicates, is_member)
    replicates = weighted_auc(scores, is_member, ~is_member, weights)
    return interval(replicates, auc(scores, is_member), level=level)


def clopper_pearson(count: int, total: int, *, level: float = 0.95) -> Interval:
    """Exact binomial interval (Clopper and Pearson 1934) of a rate, such as the TPR at a fixed threshold.

    Args:
      count: successes, in 0..total.
      total: trials, at least 1.
      level: confidence level, in (0, 1).

    Returns:
      The interval in [0, 1]; its coverage is at least ``level`` for every rate.

    Raises:
      InputError: a count outside 0..total, no trials, or a level outside (0, 1).

    >>> low, high, _ = clopper_pearson(0, 100)
    >>> round(low, 4), round(high, 4)
    (0.0, 0.0362)
    """
    from scipy.special import betaincinv

    check_level(level)
    if total < 1 or not 0 <= count <= total:
        raise InputError(
            f"{count} of {total} is no rate: pass 0 <= count <= total with total at"
            " least 1"
        )
    tail = (1 - level) / 2
    low = float(betaincinv(count, total - count + 1, tail)) if count else 0.0
    high = (
        float(betaincinv(count + 1, total - count, 1 - tail)) if count < total else 1.0
    )
    return Interval(low, high)


def _read(scores: ArrayLike, is_member: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    scores = real_array("scores", scores, ndim=(1,)).astype(np.float64, copy=False)
    is_member = mask_array("is_member", is_member, scores.shape)
    refuse_nan("scores", scores)
    if is_member.all() or not is_member.any():
        raise InputError("is_member has only one class: pass members and non-members")
    return scores, is_member
