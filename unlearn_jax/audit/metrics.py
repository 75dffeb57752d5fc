"""Metrics of an unlearning table: accuracy, AUCs between parts, and the Avg Gap."""

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
      ft: forget (positive) against test; 0.5 if forget samples look like samples that
        the model was not trained on.
      fr: retain (positive) against forget; higher if forget samples look less like
        members.
      rt: retain (positive) against test; the power of the attack on this model, and the
        worst case for ``ft``.
    """

    ft: float
    fr: float
    rt: float


def accuracy(
    logits: ArrayLike, labels: ArrayLike, mask: ArrayLike | None = None
) -> float:
    """Return the fraction of samples whose largest logit is that of the true class.

    Args:
      logits: ``[N, C]``; the first of several equal largest logits is the prediction.
      labels: ``[N]`` integers in 0..C-1, the true classes.
      mask: ``[N]`` bool, the samples to count; None counts all.

    Returns:
      The accuracy in [0, 1]. On the forget samples this is AMUN's "unlearn accuracy";
      papers that report "UA" print 1 minus this number.

    Raises:
      InputError: NaN among the masked logits, an empty mask, shapes that do not match,
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

    Ebrahimpour-Boroojeny et al. 2025 (arXiv 2503.00917). All samples of both sides are
    used. The paper's released code averages over three random subsamples of equal size,
    which has the same expectation and more noise.

    Args:
      scores: ``[N]`` membership scores of the pool, higher = more likely member.
      forget: ``[N]`` bool, the forget samples.
      retain: ``[N]`` bool, the retain samples.
      test: ``[N]`` bool, the test samples. The three masks are disjoint and need not
        cover the pool.

    Returns:
      ``(ft, fr, rt)``.

    Raises:
      InputError: overlapping or empty masks, NaN scores of masked samples, or shapes
        that do not match.

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
    """Return AMUN's Avg Gap, the mean distance of each run to the retrained models.

    ``gap_r = mean_k |values[r, k] - mean_q reference[q, k]|`` for k in (unlearn
    accuracy, retain accuracy, test accuracy, FT AUC). Absolute differences to the
    **mean** of the retrained runs are taken per run; a table prints the mean and spread
    of ``gap_r`` over runs. A mean of absolute differences is at least the absolute
    difference of means, so the printed Avg Gap is at least the gap computed from the
    printed means of the columns.

    In the paper's Table 1, the rows at 10% agree with this formula applied to the
    printed means, within rounding. Several rows at 50% do not (printed 0.33 for AMUN,
    where the printed means give 0.57), so compare the other columns there.

    Args:
      values: ``[R, 4]`` (any number of columns) metrics of a method's runs, in the
        units of ``reference``.
      reference: ``[Q, 4]`` the same metrics of the retrained models; Q need not be R.

    Returns:
      ``[R]`` float64, at least 0, in the unit of the inputs; 0 equals the mean of the
      retrained models.

    Raises:
      InputError: NaN or infinite numbers, or different numbers of columns.

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
