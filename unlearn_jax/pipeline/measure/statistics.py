"""Metrics of runs under bootstrap weights, all in one pass over the weights."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np

from unlearn_jax import audit
from unlearn_jax.pipeline.store.folders import num_cores

_T = TypeVar("_T")
_R = TypeVar("_R")
_SAMPLES = 1 << 22
"""Number of samples, summed over runs, whose sorted copies are in memory at a time."""


class Measured(NamedTuple):
    """Metric before its interval.

    Attributes:
      value: ``[R]`` values on the original data.
      replicates: ``[B, R]`` values under the bootstrap's sample weights; None for a
        metric without an interval.
      num_samples: number of different samples behind the metric over all runs, for an
        AUC that of the smaller side; None if not known.
      influences: ``[R]`` numbers that replace the values in the variance over runs;
        None for the values themselves.
    """

    value: np.ndarray
    replicates: np.ndarray | None
    num_samples: int | None = None
    influences: np.ndarray | None = None


def subtract(one: Measured, other: Measured) -> Measured:
    """Return the paired difference of two metrics of the same runs and replicates.

    Args:
      one: metric of a row.
      other: metric of another row. If one of them has fewer replicates, only as many
        replicates of the other are used, the first ones.
    """
    replicates = None
    if one.replicates is not None and other.replicates is not None:
        count = min(len(one.replicates), len(other.replicates))
        replicates = one.replicates[:count] - other.replicates[:count]
    sizes = [n for n in (one.num_samples, other.num_samples) if n is not None]
    influences = [
        side.value if side.influences is None else side.influences
        for side in (one, other)
    ]
    return Measured(
        one.value - other.value,
        replicates,
        min(sizes, default=None),
        influences[0] - influences[1],
    )


class Statistics:
    """Metrics of one run, as functions of the samples' weights.

    Attributes:
      values: metrics on the original data, by key.
      sides: masks ``[N]`` of the samples that each metric compares or averages, by key.
    """

    def __init__(self) -> None:
        self.values: dict[str, float] = {}
        self.sides: dict[str, tuple[np.ndarray, ...]] = {}
        self._means: list[tuple[str, np.ndarray, np.ndarray]] = []
        self._fractions: list[tuple[str, int, int]] = []
        self._columns: list[np.ndarray] = []
        self._cells: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        self._curves: list[
            tuple[audit.Ranking, str, tuple[str, str], float | None]
        ] = []

    def mean(
        self,
        key: str,
        values: np.ndarray,
        mask: np.ndarray,
        *,
        value: float | None = None,
    ) -> None:
        """Add the mean of masked values.

        Args:
          key: key of the metric.
          values: ``[N]`` values to average; booleans are the fastest.
          mask: ``[N]`` bool, the samples to average over.
          value: metric on the original data; the mean of the masked values if None.
        """
        self.values[key] = values[mask].mean() if value is None else value
        self.sides[key] = (mask,)
        if values.dtype == bool:
            columns = self._column(values & mask), self._column(mask)
            self._fractions.append((key, *columns))
        else:
            self._means.append((key, values, mask))

    def roc(
        self,
        ranking: audit.Ranking,
        aucs: Mapping[str, tuple[str, str]],
        tprs: Mapping[str, tuple[str, str]] | None = None,
        *,
        max_fpr: float = 0.0,
    ) -> None:
        """Add AUCs and true positive rates of one ranking.

        Args:
          ranking: ranking of the run's samples.
          aucs: positive and negative part of each AUC, by key.
          tprs: positive and negative part of each true positive rate, by key.
          max_fpr: largest false positive rate for the true positive rates, in [0, 1].
        """
        for key, sides in aucs.items():
            self._curves.append((ranking, key, sides, None))
        for key, sides in (tprs or {}).items():
            self._curves.append((ranking, key, sides, max_fpr))
        for key, sides in {**aucs, **(tprs or {})}.items():
            masks = np.zeros((2, ranking.num_samples), bool)
            for mask, side in zip(masks, sides, strict=True):
                mask[ranking.samples[side]] = True
            self.sides[key] = tuple(masks)
        ones = np.ones((1, ranking.num_samples), np.uint8)
        drawn = self._roc(ones)
        for key in (*aucs, *(tprs or ())):
            self.values[key] = drawn[key][0]

    def weighted(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Return the metrics ``[B]`` under a block of weights, by key.

        Args:
          weights: ``[B, N]`` sample weights.
        """
        replicates = self._roc(weights)
        for key, values, mask in self._means:
            replicates[key] = audit.weighted_mean(values, mask, weights)
        if self._columns:
            sums = self._sums(weights)
            with np.errstate(invalid="ignore"):
                for key, part, whole in self._fractions:
                    replicates[key] = sums[:, part] / sums[:, whole]
        return replicates

    def _roc(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        curves: dict[audit.Ranking, audit.WeightedCurves] = {}
        replicates = {}
        for ranking, key, sides, max_fpr in self._curves:
            if ranking not in curves:
                curves[ranking] = ranking.weighted(weights)
            if max_fpr is None:
                replicates[key] = curves[ranking].auc(*sides)
            else:
                replicates[key] = curves[ranking].tpr(*sides, max_fpr=max_fpr)
        return replicates

    def _sums(self, weights: np.ndarray) -> np.ndarray:
        """Return the exact weight of every column's samples, ``[B, columns]``.

        Samples that belong to the same columns form a cell, so that each sample is read
        only once.
        """
        if self._cells is None:
            code = np.zeros(self._columns[0].shape, np.int64)
            for column in self._columns:
                code = 2 * code + column
            cells, first = np.unique(code, return_index=True)
            order = np.argsort(code, kind="stable")
            starts = np.searchsorted(code[order], cells)
            contains = np.array([column[first] for column in self._columns])
            self._cells = order, starts, contains.T.astype(np.int64)
        order, starts, contains = self._cells
        ordered = weights.take(order, axis=1)
        return np.add.reduceat(ordered, starts, axis=1, dtype=np.int64) @ contains

    def _column(self, mask: np.ndarray) -> int:
        """Return the position of a mask among the columns; a new mask is added."""
        for position, column in enumerate(self._columns):
            if np.array_equal(column, mask):
                return position
        self._columns.append(mask)
        return len(self._columns) - 1


def resample(
    runs: Sequence[int],
    statistics_of: Callable[[int], Statistics],
    weights: audit.SampleWeights,
) -> dict[str, Measured]:
    """Measure several runs on the original data and under all weights.

    Threads divide the runs, then the blocks of weights. As many runs as fit in memory
    are measured at a time.

    Args:
      runs: numbers of the runs.
      statistics_of: function from the number of a run to its statistics; all runs have
        the same metrics.
      weights: bootstrap weights of the samples.

    Returns:
      Values ``[R]`` and replicates ``[B, R]`` by key, in the order of ``runs``.
    """
    num_replicates, num_samples = weights.shape
    size = max(num_cores(), _SAMPLES // num_samples)
    parts = []
    sides: dict[str, tuple[np.ndarray, ...]] = {}
    for start in range(0, len(runs), size):
        statistics = in_threads(statistics_of, runs[start : start + size])

        def measure(
            number: int, statistics: list[Statistics] = statistics
        ) -> tuple[slice, list[dict[str, np.ndarray]]]:
            rows, block = weights.block(number)
            return rows, [one.weighted(block) for one in statistics]

        for one in statistics:
            for key, masks in one.sides.items():
                pairs = zip(masks, sides.get(key, masks), strict=True)
                sides[key] = tuple(mask | other for mask, other in pairs)
        values = {}
        replicates = {}
        for key in statistics[0].values:
            values[key] = np.array([one.values[key] for one in statistics])
            replicates[key] = np.empty((num_replicates, len(statistics)))
        for rows, resampled in in_threads(measure, range(len(weights))):
            for run, metrics in enumerate(resampled):
                for key, drawn in replicates.items():
                    drawn[rows, run] = metrics[key]
        parts.append((values, replicates))
    measured = {}
    for key in parts[0][0]:
        measured[key] = Measured(
            np.concatenate([values[key] for values, _ in parts]),
            np.concatenate([drawn[key] for _, drawn in parts], axis=1),
            num_samples=min(int(mask.sum()) for mask in sides[key]),
        )
    return measured


def in_threads(function: Callable[[_T], _R], items: Iterable[_T]) -> list[_R]:
    """Return the results of independent calls in the order of the items.

    Threads run in parallel, since NumPy and scikit-learn's SVCs release the
    interpreter's lock. Results do not depend on the number of threads.

    Args:
      function: function of an item.
      items: arguments of the calls.
    """
    with ThreadPoolExecutor(num_cores()) as threads:
        return list(threads.map(function, items))
