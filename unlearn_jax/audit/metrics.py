"""Numbers of an unlearning table: accuracies, AUCs between parts, and the Avg Gap."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from unlearn_jax.audit._roc import auc
from unlearn_jax.audit.inputs import (
    class_logits,
    mask_array,
    real_array,
    refuse_infinite,
    refuse_nan,
)
from unlearn_jax.checks import check_range
from unlearn_jax.types import InputError


class ForgetAucs(NamedTuple):
    """Areas under the ROC curve between the parts of the pool, in [0, 1].

    Attributes:
      ft: forget (positive) against test; 0.5 when forget samples look like samples
        never seen.
      fr: retain (positive) against forget; higher when forget samples look unlike
        members.
      rt: retain (positive) against test; the attack's power on this model, the worst
        case for ``ft``.
    """

    ft: float
    fr: float
    rt: float


def accuracy(
    logits: ArrayLike, labels: ArrayLike, mask: ArrayLike | None = None
) -> float:
    """Return the accuracy: how often the largest logit (the first of equals) is right.

    Args:
      logits: ``[N, C]``.
      labels: ``[N]`` integers.
      mask: ``[N]`` bool, the samples to count; None counts all.

    Returns:
      The accuracy in [0, 1]. On the forget samples this is AMUN's "unlearn accuracy";
      papers that report "UA" print 1 minus it.

    Raises:
      InputError: NaN among the masked logits, an empty mask, shapes that do not fit,
        fewer than two classes, or masked labels outside 0..C-1.

    >>> accuracy([[2.0, 1.0], [0.0, 1.0], [3.0, 0.0]], [0, 1, 1])
    0.6666666666666666
    """
    logits = class_logits(logits)
    labels = np.asarray(labels)
    if labels.shape != logits.shape[:1] or labels.dtype.kind not in "iu":
        raise InputError(
            f"labels are {labels.dtype} of shape {labels.shape}: pass {logits.shape[0]}"
            " integers, one per row"
        )
    if mask is not None:
        is_selected = mask_array("mask", mask, labels.shape)
        logits = logits[is_selected]
        labels = labels[is_selected]
        if not labels.size:
            raise InputError("mask is empty: mark at least one sample")
    refuse_nan("logits", logits)
    check_range(labels, logits.shape[1], "accuracy")
    return float((logits.argmax(axis=1) == labels).mean())


def forget_aucs(
    scores: ArrayLike, forget: ArrayLike, retain: ArrayLike, test: ArrayLike
) -> ForgetAucs:
    """Return the three AUCs of AMUN's audit.

    Ebrahimpour-Boroojeny et al. 2025 (arXiv 2503.00917).
    All samples of both sides are used; the paper's released code averages three random
    subsamples of equal size, which has the same expectation and more noise.

    Args:
      scores: ``[N]`` membership scores of the pool, higher = more likely member.
      forget: ``[N]`` bool.
      retain: ``[N]`` bool.
      test: ``[N]`` bool; the three masks are disjoint, and together need not cover the
        pool.

    Returns:
      ``(ft, fr, rt)``.

    Raises:
      InputError: overlapping or empty masks, NaN scores on marked samples, shapes that
        do not fit.

    >>> parts = np.eye(3, dtype=bool)
    >>> forget_aucs([0.2, 0.9, 0.2], *parts)
    ForgetAucs(ft=0.5, fr=1.0, rt=1.0)
    """
    scores = real_array("scores", scores, ndim=(1,))
    masks = {"forget": forget, "retain": retain, "test": test}
    masks = {name: mask_array(name, mask, scores.shape) for name, mask in masks.items()}
    for name, mask in masks.items():
        if not mask.any():
            raise InputError(f"{name} is empty: mark at least one sample")
    if (sum(mask.astype(int) for mask in masks.values()) > 1).any():
        raise InputError(
            "forget, retain and test overlap: a sample belongs to one part only"
        )

    def between(positive: str, negative: str) -> float:
        is_compared = masks[positive] | masks[negative]
        return auc(scores[is_compared], masks[positive][is_compared])

    return ForgetAucs(
        between("forget", "test"),
        between("retain", "forget"),
        between("retain", "test"),
    )


def avg_gap(values: ArrayLike, reference: ArrayLike) -> np.ndarray:
    """Return AMUN's Avg Gap: each run's mean distance to the retrained models.

    ``gap_r = mean_k |values[r, k] - mean_q reference[q, k]|`` for k in (unlearn
    accuracy, retain accuracy, test accuracy, FT AUC): absolute differences to the
    **mean** of the retrained runs, taken per run; a table prints the mean and spread of
    ``gap_r`` over runs. Since a mean of absolute differences is at least the difference
    of means, it is at least what the printed means of the four columns give.

    The paper's Table 1 at 10 % follows from its printed means by this formula within
    rounding; several of its rows at 50 % do not (printed 0.33 for AMUN, where the
    printed means give 0.57), so compare with the columns there.

    Args:
      values: ``[R, 4]`` (any number of columns) numbers of a method's runs, in the
        unit of ``reference``.
      reference: ``[Q, 4]`` the same numbers of the retrained models; Q need not be R.

    Returns:
      ``[R]`` float64, at least 0, in the unit of the inputs; 0 is retraining itself.

    Raises:
      InputError: NaN or infinite numbers, different numbers of columns.

    >>> avg_gap([[95.45, 99.57, 93.45, 50.18]], [[94.49, 100.0, 94.33, 50.0]]).round(2)
    array([0.61])
    """
    values = real_array("values", values, ndim=(2,))
    reference = real_array("reference", reference, ndim=(2,))
    if values.shape[1] != reference.shape[1]:
        raise InputError(
            f"values have {values.shape[1]} columns and reference"
            f" {reference.shape[1]}: pass the same metrics"
        )
    refuse_infinite("values", values)
    refuse_infinite("reference", reference)
    gaps = np.abs(values - reference.mean(axis=0, dtype=np.float64))
    return gaps.mean(axis=1, dtype=np.float64)
