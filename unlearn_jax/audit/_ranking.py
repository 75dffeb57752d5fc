"""ROC statistics under many weightings of the samples, from one sort of the scores.

All statistics are ratios of cumulative weights along the sorted samples. Integer
weights have exact sums in float64, so the results do not depend on the order of
summation or on the side that is summed over.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from unlearn_jax.audit.inputs import mask_array, real_array, refuse_nan
from unlearn_jax.types import InputError


class Ranking:
    """Disjoint parts of the samples, each in descending order of one score.

    Args:
      scores: ``[N]``, higher = more likely positive; infinities are allowed. Only
        samples of the parts are read.
      parts: ``[N]`` bool masks by name, disjoint and not empty.
      steps: ``[N]`` non-decreasing function of the scores, such as the RMIA scores of
        RMIA ratios. AUCs are computed from ``steps``, TPRs from ``scores``; None uses
        the scores for both.

    Raises:
      InputError: masks that are not boolean, overlap or are empty, NaN scores in a
        part, or shapes that do not match.

    >>> positive = np.array([True, False, True, False])
    >>> ranking = Ranking([4, 3, 2, 1], {"forget": positive, "test": ~positive})
    >>> curves = ranking.weighted(np.ones((1, 4)))
    >>> print(curves.auc("forget", "test"), curves.tpr("forget", "test", max_fpr=0.5))
    [0.75] [1.]
    """

    def __init__(
        self,
        scores: ArrayLike,
        parts: Mapping[str, ArrayLike],
        *,
        steps: ArrayLike | None = None,
    ) -> None:
        array = real_array("scores", scores, ndim=(1,))
        coarse = array
        if steps is not None:
            coarse = real_array("steps", steps, ndim=(1,))
            if coarse.shape != array.shape:
                raise InputError(
                    f"steps have shape {coarse.shape} and scores {array.shape}: pass"
                    " one of each per sample"
                )
        masks = {
            name: mask_array(name, part, array.shape) for name, part in parts.items()
        }
        is_marked = np.zeros(array.shape, bool)
        for name, mask in masks.items():
            if (is_marked & mask).any():
                raise InputError(
                    f"{' and '.join(masks)} overlap: a sample can be on one side only"
                )
            if not mask.any():
                raise InputError(
                    f"{name} is empty: mark at least one sample on each side"
                )
            is_marked |= mask
        marked = np.flatnonzero(is_marked)
        refuse_nan("scores", array[marked])
        refuse_nan("steps", coarse[marked])
        order = marked[np.argsort(-array[marked])]
        self.num_samples = array.size
        self.samples = {}
        self._scores = {}
        self._steps = {}
        for name, mask in masks.items():
            samples = order[mask[order]]
            self.samples[name] = samples
            self._scores[name] = array[samples]
            self._steps[name] = coarse[samples]
        self._bounds: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]] = {}
        self._levels: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]] = {}

    def weighted(self, weights: ArrayLike) -> "WeightedCurves":
        """Return the curves under a block of weightings.

        Args:
          weights: ``[B, N]``, not negative.

        Raises:
          InputError: weights that do not match the number of samples.
        """
        weights = np.asarray(weights)
        if weights.ndim != 2 or weights.shape[1] != self.num_samples:
            raise InputError(
                f"weights have shape {weights.shape}: pass [B, {self.num_samples}],"
                " one weight per sample"
            )
        return WeightedCurves(self, weights)

    def bounds(self, part: str, other: str) -> tuple[np.ndarray, np.ndarray]:
        """Return for each sample of ``part`` the numbers of samples of ``other`` above.

        Both arrays are ``[size of part]``: the number of samples of ``other`` with
        larger steps, and the number with steps at least as large.
        """
        if (part, other) not in self._bounds:
            queries = -self._steps[part]
            among = -self._steps[other]
            self._bounds[part, other] = (
                np.searchsorted(among, queries, side="left"),
                np.searchsorted(among, queries, side="right"),
            )
        return self._bounds[part, other]

    def levels(self, part: str, other: str) -> tuple[np.ndarray, np.ndarray]:
        """Return counts of both parts at the L distinct scores of ``other``.

        The scores are in descending order. The first array ``[L]`` is the number of
        samples of ``other`` with at least the score. The second ``[L + 1]`` is the
        number of samples of ``part`` above the score; its last entry, for a threshold
        below all scores, is the size of ``part``.
        """
        if (part, other) not in self._levels:
            among = -self._scores[other]
            values = np.unique(among)
            reached = np.searchsorted(among, values, side="right")
            passed = np.searchsorted(-self._scores[part], values, side="left")
            passed = np.append(passed, self.samples[part].size)
            self._levels[part, other] = reached, passed
        return self._levels[part, other]


class WeightedCurves:
    """Statistics of the ROC curves of a :class:`Ranking` under a block of weightings.

    Args:
      ranking: ranking of the samples.
      weights: ``[B, N]``, not negative.
    """

    def __init__(self, ranking: Ranking, weights: np.ndarray) -> None:
        self._ranking = ranking
        self._weights = weights
        self._sums: dict[str, np.ndarray] = {}

    def auc(self, positive: str, negative: str) -> np.ndarray:
        """Return the AUC between two parts, ``[B]`` float64 in [0, 1].

        ``sum_ij w_i w_j ([s_i > s_j] + [s_i = s_j] / 2) / (sum_i w_i sum_j w_j)`` over
        positives i and negatives j; NaN where positives or negatives have no weight.

        Args:
          positive: name of the part that should score higher.
          negative: name of the part that should score lower.
        """
        ranking = self._ranking
        totals = self._above(positive)[:, -1], self._above(negative)[:, -1]
        # One binary search per sample of the smaller part. A positive wins against the
        # negatives below it, a negative loses to the positives above it; ties are half.
        is_few = ranking.samples[positive].size <= ranking.samples[negative].size
        few, many = (positive, negative) if is_few else (negative, positive)
        larger, reached = ranking.bounds(few, many)
        above = self._above(many)
        credit = above.take(larger, axis=1)
        if not np.array_equal(larger, reached):
            credit = (credit + above.take(reached, axis=1)) / 2
        if is_few:
            credit = above[:, -1:] - credit
        weights = self._weights.take(ranking.samples[few], axis=1)
        pairs = np.einsum("bp,bp->b", weights.astype(np.float64, copy=False), credit)
        with np.errstate(invalid="ignore"):
            return pairs / (totals[0] * totals[1])

    def tpr(self, positive: str, negative: str, *, max_fpr: float) -> np.ndarray:
        """Return the TPR at an FPR of at most ``max_fpr``, ``[B]`` in [0, 1].

        The TPR is that of the lowest threshold whose false positive rate is at most
        ``max_fpr``. Samples with equal scores are called together. The TPR is NaN where
        positives or negatives have no weight.

        Args:
          positive: name of the part that should score higher.
          negative: name of the part that should score lower.
          max_fpr: largest false positive rate, in [0, 1].
        """
        reached, passed = self._ranking.levels(positive, negative)
        hits = self._above(positive)
        alarms = self._above(negative)
        total = alarms[:, -1:]
        # With the tolerance, max_fpr = k / n allows k false alarms despite rounding.
        is_within = alarms[:, reached] <= max_fpr * total * (1 + 1e-12)
        last = passed[is_within.sum(axis=1)][:, None]
        with np.errstate(invalid="ignore", divide="ignore"):
            rate = np.take_along_axis(hits, last, axis=1)[:, 0] / hits[:, -1]
        return np.where(total[:, 0] > 0, rate, np.nan)

    def _above(self, part: str) -> np.ndarray:
        """Return the weights of the k highest samples, ``[B, size of part + 1]``."""
        if part not in self._sums:
            samples = self._ranking.samples[part]
            sums = np.zeros((len(self._weights), samples.size + 1))
            np.cumsum(
                self._weights.take(samples, axis=1),
                axis=1,
                dtype=np.float64,
                out=sums[:, 1:],
            )
            self._sums[part] = sums
        return self._sums[part]
