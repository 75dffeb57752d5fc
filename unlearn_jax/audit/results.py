"""Result types shared by the audit's host and device functions."""

from typing import NamedTuple, cast

import jax.numpy as jnp
import numpy as np

from unlearn_jax.audit.inputs import check_level, is_traced
from unlearn_jax.checks import check_counts
from unlearn_jax.types import Array, InputError

AnyArray = np.ndarray | Array


class Interval(NamedTuple):
    """Confidence interval.

    It prints both ends, also in a given format: ``f"{interval:.2f}"``.

    Attributes:
      low: lower end; NaN if no replicate had a value.
      high: upper end; NaN if no replicate had a value.

    >>> low, high = Interval(0.4871, 0.5242)
    >>> print(f"{Interval(low, high):.2f}", Interval(low, high))
    [0.49, 0.52] [0.4871, 0.5242]
    """

    low: float
    high: float

    def __format__(self, spec: str) -> str:
        """Return both ends in brackets, each in the format of a float."""
        return f"[{self.low:{spec}}, {self.high:{spec}}]"

    def __str__(self) -> str:
        """Return both ends in brackets."""
        return f"{self:}"


def clopper_pearson(count: int, total: int, *, level: float = 0.95) -> Interval:
    """Return the exact binomial interval of a rate (Clopper and Pearson 1934).

    One use is the TPR at a fixed threshold.

    Args:
      count: number of successes, in 0..total.
      total: number of trials, at least 1.
      level: confidence level, in (0, 1).

    Returns:
      The interval in [0, 1]; its coverage is at least ``level`` for every rate.

    Raises:
      InputError: a count outside 0..total, no trials, or a level outside (0, 1).

    >>> print(f"{clopper_pearson(0, 100):.4f}")
    [0.0000, 0.0362]
    """
    # scipy.stats.binomtest agrees to 5e-13, but its search takes 4 ms per call.
    from scipy.special import betaincinv

    check_level(level)
    check_counts(0, count=count, total=total)
    if total < 1 or not 0 <= count <= total:
        raise InputError(
            f"{count} of {total} is not a rate: pass 0 <= count <= total with total at"
            " least 1"
        )
    tail = (1 - level) / 2
    low = float(betaincinv(count, total - count + 1, tail)) if count else 0.0
    high = 1.0
    if count < total:
        high = float(betaincinv(count + 1, total - count, 1 - tail))
    return Interval(low, high)


class RocCurve(NamedTuple):
    """ROC curve, with one point per distinct score after a first point at (0, 0).

    ``jax.vmap`` of :func:`~unlearn_jax.audit.roc` gives a batch of curves, in which
    each field has leading axes; the methods then return one number per curve.

    Attributes:
      fpr: ``[P]``, fraction of non-members called members, ascending from 0 to 1.
      tpr: ``[P]``, fraction of members called members, ascending from 0 to 1.
      thresholds: ``[P]``, descending; point 0, where no sample is called a member, has
        threshold infinity.
      auc: area under the curve, which is the Mann-Whitney statistic: P(member's score >
        non-member's score), with ties counted half.
    """

    fpr: AnyArray
    tpr: AnyArray
    thresholds: AnyArray
    auc: float | Array

    def tpr_at_fpr(self, max_fpr: float) -> float:
        """Return the largest TPR of any threshold whose FPR is at most ``max_fpr``.

        The curve is read conservatively, without interpolation. So with fewer than
        ``1 / max_fpr`` non-members this is the TPR without any false positive.

        Args:
          max_fpr: largest false positive rate, in [0, 1]; may be traced.

        Returns:
          The TPR, in [0, 1]: a float for one curve, an array ``[...]`` for a batch of
          curves or under a JAX trace. NaN where a traced ``max_fpr`` is outside [0, 1]
          or a curve of a batch has no members or no non-members.

        Raises:
          InputError: ``max_fpr`` outside [0, 1].
        """
        is_concrete = not is_traced(max_fpr)
        if is_concrete and not 0 <= max_fpr <= 1:
            raise InputError(
                f"max_fpr is {max_fpr}: pass a rate in [0, 1], such as 0.001"
            )
        # A Python number takes the dtype of the rates, so that the rate 1 / 10 is at
        # most 0.1 in float32 too.
        rate = float(max_fpr) if is_concrete else max_fpr
        xp = np if is_concrete and isinstance(self.fpr, np.ndarray) else jnp
        best = xp.where(self.fpr <= rate, self.tpr, 0).max(axis=-1)
        # At the last point all samples are called; it is NaN where a class is empty.
        is_empty = xp.isnan(self.fpr[..., -1] + self.tpr[..., -1])
        is_outside = (rate < 0) | (rate > 1)
        return _float_of_one(xp.where(is_empty | is_outside, np.nan, best))

    @property
    def balanced_accuracy(self) -> float:
        """Largest ``(TPR + 1 - FPR) / 2`` over thresholds, an optimistic estimate.

        A float for one curve, an array ``[...]`` for a batch of curves or under a JAX
        trace.
        """
        return _float_of_one((self.tpr + 1 - self.fpr).max(axis=-1) / 2)

    def __str__(self) -> str:
        """Return AUC and TPRs of a curve as papers print them, or a batch's shapes."""
        if is_traced(*self) or np.ndim(self.auc):
            shapes = ", ".join(
                f"{name} {np.shape(values)}"
                for name, values in zip(self._fields, self, strict=True)
            )
            return f"RocCurve of shapes {shapes}"
        rates = ", ".join(
            f"TPR {self.tpr_at_fpr(rate):.4f} at FPR {rate:g}" for rate in (0.001, 0.01)
        )
        return f"AUC {self.auc:.4f}, {rates}"


def _float_of_one(values: AnyArray) -> float:
    """Return a concrete number as a float, a batch or a traced value unchanged."""
    if is_traced(values) or np.ndim(values):
        return cast(float, values)
    return float(values)


class ULira(NamedTuple):
    """Result of U-LiRA, with each pair of models held out once.

    Attributes:
      target: ``[S, N]`` log-likelihood ratio
        ``log p(phi | unlearned) - log p(phi | retrained)`` of each held-out unlearned
        model, in nats; higher = more likely unlearned, that is, once a member.
      reference: ``[S, N]`` the same ratio of each held-out retrained model.
      target_called: ``[S, N]`` 1 where ``target`` is above 0, 0 where below, 0.5 at 0.
      reference_called: ``[S, N]`` the same for ``reference``; 1 means that the attacker
        wrongly calls the retrained model "unlearned".
      accuracy: ``[S]`` balanced accuracy of each pair, the mean over samples of
        ``(target_called + 1 - reference_called) / 2``, in [0, 1]; 0.5 is chance.
      auc: ``[S]`` area under the ROC curve of each pair's ratios, samples pooled.
    """

    target: AnyArray
    reference: AnyArray
    target_called: AnyArray
    reference_called: AnyArray
    accuracy: AnyArray
    auc: AnyArray
