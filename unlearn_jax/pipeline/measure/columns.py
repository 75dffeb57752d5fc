"""Columns of a table from other packages: metrics and attacks."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from unlearn_jax import audit, extensions
from unlearn_jax.pipeline.config.resolve import outside_signal
from unlearn_jax.pipeline.config.schema import AuditConfig
from unlearn_jax.pipeline.measure.metrics import CLASSES, SAMPLES
from unlearn_jax.pipeline.measure.pool import AuditPool
from unlearn_jax.pipeline.measure.records import Metric
from unlearn_jax.pipeline.measure.statistics import Measured, Statistics
from unlearn_jax.types import InputError, first_line

Part = Literal["forget", "retain", "test", "forget_against_test"]


@dataclasses.dataclass(frozen=True)
class Column:
    """User-defined column: a number for every sample, and a summary of them.

    It measures the models of every row, with intervals like those of the other columns.
    ``audit.columns`` takes its name, which is ``package.module:attribute`` or an entry
    point of ``unlearn_jax.columns``.

    Attributes:
      label: heading.
      values: function ``(logits [N, C], labels [N]) -> [N]`` of one model, on the host;
        the samples are the training set, then the test set.
      part: ``forget``, ``retain`` or ``test`` for the mean over those samples, in
        percent; ``forget_against_test`` for the AUC of an attack whose scores are
        higher for members.
      direction: good value: that of the ``retrained`` models, ``50`` or ``0``.
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
      InputError: an unknown name, a name of something that is not a column, or two
        columns with the same key.
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


def outside_functions(config: AuditConfig) -> list[Callable[..., ArrayLike]]:
    """Return the functions from outside of the package that an audit calls.

    Raises:
      InputError: a column or a signal cannot be imported.
    """
    functions = [column.values for column in columns_of(config.columns).values()]
    signal = outside_signal(config.signal)
    return functions if signal is None else [*functions, signal]


def metric_of(key: str, column: Column) -> Metric:
    """Return the metric of a column, which describes it in the table."""
    return Metric(key, column.label, "%", column.direction, column.description)


def measure_columns(
    pool: AuditPool, logits: Sequence[np.ndarray]
) -> dict[str, Measured]:
    """Measure one row by the columns of ``pool.config``, as fractions.

    Args:
      pool: pool of the table.
      logits: ``[N, C]`` logits of every run.

    Returns:
      The metrics by key. A column that raises, or that does not return a finite number
      for every sample, is left out, and the reason is added to ``pool.faults``.
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
            # errors in another package's code must not cost the other columns
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
