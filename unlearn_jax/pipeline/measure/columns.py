"""Columns of a table that other packages bring: metrics and attacks."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from unlearn_jax import audit, extensions
from unlearn_jax.pipeline.measure.metrics import CLASSES, SAMPLES
from unlearn_jax.pipeline.measure.pool import AuditPool
from unlearn_jax.pipeline.measure.records import Metric
from unlearn_jax.pipeline.measure.statistics import Measured, Statistics
from unlearn_jax.types import InputError, first_line

Part = Literal["forget", "retain", "test", "forget_against_test"]


@dataclasses.dataclass(frozen=True)
class Column:
    """Column of one's own: a number of every sample, and what is made of them.

    Every row's models are measured by it, with the intervals of the other columns. Its
    name, ``package.module:attribute`` or an entry point of ``unlearn_jax.columns``, is
    given to ``audit.columns``.

    Attributes:
      label: heading.
      values: ``(logits [N, C], labels [N]) -> [N]`` of one model, on the host; samples
        are those of the training set, then of the test set.
      part: ``forget``, ``retain`` or ``test`` is the mean over those samples, in
        percent; ``forget_against_test`` the AUC of an attack whose scores are higher
        for members.
      direction: the good value: that of the ``retrained`` models, ``50`` or ``0``.
      description: meaning and good values, in words.
    """

    label: str
    values: Callable[[np.ndarray, np.ndarray], ArrayLike]
    part: Part = "forget"
    direction: Literal["retrained", "50", "0"] = "retrained"
    description: str = "A column from outside of the package."


def columns_of(names: Sequence[str]) -> dict[str, Column]:
    """Return columns by the keys of their metrics.

    Raises:
      InputError: an unknown name, no column, or one that is named as another.
    """
    taken = {one.key for table in (SAMPLES, CLASSES) for one in table.metrics}
    columns: dict[str, Column] = {}
    for name in names:
        key = name.rpartition(":")[2].lower()
        column = extensions.find("columns", name)
        if not isinstance(column, Column):
            raise InputError(
                f"audit.columns: {name} is a {type(column).__name__}: pass a"
                " pipeline.Column"
            )
        if key in taken:
            raise InputError(f"audit.columns: there is a column {key}: rename {name}")
        taken.add(key)
        columns[key] = column
    return columns


def metric_of(key: str, column: Column) -> Metric:
    """Return the head of a column."""
    return Metric(key, column.label, "%", column.direction, column.description)


def measure_columns(
    pool: AuditPool, logits: Sequence[np.ndarray]
) -> dict[str, Measured]:
    """Measure one row by the columns of ``pool.config``, as fractions.

    Args:
      pool: of the table.
      logits: ``[N, C]`` of every run.

    Returns:
      By key. A column that raises, or that does not give a finite number for every
      sample, is left out, and ``pool.faults`` says why.
    """
    columns = columns_of(pool.config.columns)

    def values_of(column: Column, run: int) -> np.ndarray:
        scores = column.values(np.asarray(logits[run]), pool.labels)
        values = np.asarray(scores, np.float64)
        if values.shape != pool.labels.shape or not np.isfinite(values).all():
            raise InputError(
                f"it gives shape {values.shape}: return a finite number for each of"
                f" {len(pool.labels)} samples"
            )
        return values

    usable = {}
    for key, column in columns.items():
        try:
            usable[key] = [values_of(column, run) for run in range(len(logits))]
        except Exception as error:
            # whatever another package's code does, the other columns stay
            pool.faults.setdefault(key, f"audit.columns: {key}: {first_line(error)}")
    if not usable:
        return {}

    def statistics_of(run: int) -> Statistics:
        forget = pool.forget[run]
        test = ~pool.train
        parts = {"forget": forget, "retain": pool.train & ~forget, "test": test}
        statistics = Statistics()
        for key, scores in usable.items():
            values = scores[run]
            column = columns[key]
            if column.part == "forget_against_test":
                sides = {"forget": forget, "test": test}
                ranking = audit.Ranking(values, sides)
                statistics.roc(ranking, {key: ("forget", "test")})
            else:
                statistics.mean(key, values, parts[column.part])
        return statistics

    return pool.measure(statistics_of)
