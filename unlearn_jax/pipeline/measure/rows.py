"""Measurements of the rows of a table, from logits, masks and labels alone."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import SupportsFloat

import numpy as np

from unlearn_jax import audit
from unlearn_jax.audit import Estimate
from unlearn_jax.pipeline.measure.classes import measure_classes
from unlearn_jax.pipeline.measure.columns import (
    columns_of,
    measure_columns,
    metric_of,
)
from unlearn_jax.pipeline.measure.differences import (
    combine,
    compare,
    equivalence_margin,
)
from unlearn_jax.pipeline.measure.pool import AuditPool, margins
from unlearn_jax.pipeline.measure.records import (
    Difference,
    Metric,
    RowKind,
    RowResult,
)
from unlearn_jax.pipeline.measure.statistics import Measured, Statistics
from unlearn_jax.pipeline.store import clock

ORIGINAL = "original"
RETRAINED = "retrained"
RETRAINED_AGAIN = "retrained_again"
KINDS: dict[str, RowKind] = {
    ORIGINAL: "original",
    RETRAINED: "oracle",
    RETRAINED_AGAIN: "second_oracle",
}
"""Kinds of the rows that are not unlearning methods."""
BOUNDS = {"%": (0.0, 100.0), "points": (0.0, np.inf), "nats": (0.0, np.inf)}
"""Least and largest value of a metric, by its unit."""
DECIMALS = 4
"""Number of decimals of stored percentages, points and nats."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Measurements:
    """Measured rows.

    Attributes:
      metrics: columns that at least one row has, in the table's order.
      rows: rows in the given order; rows that diverged have no metrics.
      arrays: arrays for figures: ``forget [R, N_train]``, and by row ``scores/ROW``,
        ``ratio/ROW`` and ``margin/ROW``, ``[R, N]`` each. Where classes are forgotten,
        rows have ``margin/ROW [R, N]`` and ``confusion/ROW [R, C]`` instead.
    """

    metrics: tuple[Metric, ...]
    rows: tuple[RowResult, ...]
    arrays: Mapping[str, np.ndarray]


def measure_rows(
    pool: AuditPool,
    logits: Mapping[str, Sequence[np.ndarray]],
    baselines: Mapping[str, str] | None = None,
) -> Measurements:
    """Measure every row of a table.

    Args:
      pool: pool of the table.
      logits: ``[N, C]`` logits of every run, by row. The rows ``original``,
        ``retrained`` and ``retrained_again`` are the references of the table; gaps need
        ``retrained``.
      baselines: row that a row is compared with, by row; rows may have none.

    Returns:
      The rows, with their names as labels.
    """
    measured: dict[str, dict[str, Measured]] = {}
    num_diverged = dict.fromkeys(logits, 0)
    num_train = int(pool.train.sum())
    arrays = {"forget": pool.forget[:, :num_train]}
    for name, runs in clock.progress("audit", logits.items(), unit="row"):
        measured[name], figures = measure_row(pool, runs, int(name == RETRAINED))
        if not measured[name]:
            num_diverged[name] = pool.num_diverged(runs)
        arrays |= {f"{kind}/{name}": array for kind, array in figures.items()}
    for metrics in measured.values():
        # a column that fails for one row has no numbers to compare
        for key in pool.faults:
            metrics.pop(key, None)
    oracle = measured.get(RETRAINED)
    units = {metric.key: metric.unit for metric in pool.table.metrics}
    for metrics in measured.values():
        if oracle and metrics:
            metrics |= measure_gaps(pool, metrics, oracle)
    differences = measure_differences(pool, measured, baselines or {})
    rows = []
    for name, metrics in measured.items():
        compared = differences.get(name, {})
        to_oracle = {
            key: compared[key]["oracle"]
            for key in pool.table.headline
            if "oracle" in compared.get(key, {})
        }
        rows.append(
            RowResult(
                key=name,
                label=name,
                kind=KINDS.get(name, "method"),
                metrics={
                    key: estimate(pool, one, units.get(key, ""))
                    for key, one in metrics.items()
                },
                values={key: round_all(one.value) for key, one in metrics.items()},
                differences=compared,
                verdict=combine(to_oracle) if name not in KINDS else None,
                num_diverged=num_diverged[name],
            )
        )
    present = {key for row in rows for key in row.metrics}
    columns = columns_of(pool.config.columns).items()
    known = (*pool.table.metrics, *(metric_of(*pair) for pair in columns))
    return Measurements(
        metrics=tuple(one for one in known if one.key in present),
        rows=tuple(rows),
        arrays=arrays,
    )


def measure_row(
    pool: AuditPool, logits: Sequence[np.ndarray], against: int = 0
) -> tuple[dict[str, Measured], dict[str, np.ndarray]]:
    """Measure all metrics of one row except the gaps, which need the oracle.

    Args:
      pool: pool of the table.
      logits: ``[N, C]`` logits of every run.
      against: 0 to compare with each run's first retrained model, 1 with its second;
        ignored unless classes are forgotten.

    Returns:
      Metrics ``[R]`` by key, in the units of the table, and arrays for figures (see
      :class:`Measurements`). Both are empty if a model has diverged.
    """
    signals = pool.usable_signals(logits)
    if signals is None:
        return {}, {}
    if pool.classes is None:
        measured, arrays = _measure_samples(pool, logits, signals)
    else:
        measured, arrays = measure_classes(pool, pool.classes, logits, signals, against)
    measured |= measure_columns(pool, logits)
    units = {metric.key: metric.unit for metric in pool.table.metrics}
    metrics = {}
    for key, one in measured.items():
        scale = 1 if units.get(key) == "nats" else 100
        drawn = one.replicates
        influences = one.influences
        metrics[key] = one._replace(
            value=scale * one.value,
            replicates=None if drawn is None else scale * drawn,
            influences=None if influences is None else scale * influences,
        )
    return metrics, arrays


def _measure_samples(
    pool: AuditPool, logits: Sequence[np.ndarray], signals: np.ndarray
) -> tuple[dict[str, Measured], dict[str, np.ndarray]]:
    config = pool.config
    test = ~pool.train
    margin = margins(logits, pool.labels)
    ratio, scores = pool.rmia(signals)
    soft = pool.soft_rmia(logits)
    # Where ratios are negative, scores by quotients do not increase with the ratio:
    # the scores themselves have to rank the samples.
    is_product = config.comparison == "product"
    lira = pool.lira(margin)

    def statistics_of(run: int) -> Statistics:
        forget = pool.forget[run]
        parts = {"forget": forget, "retain": pool.train & ~forget, "test": test}
        right = np.asarray(logits[run]).argmax(-1) == pool.labels
        statistics = Statistics()
        statistics.mean("unlearn_accuracy", right, forget)
        statistics.mean("retain_accuracy", right, parts["retain"])
        statistics.mean("test_accuracy", right, test)
        # RMIA's scores are a step function of the ratio. At a low false positive rate
        # the ratio itself is needed, since the steps are ties.
        statistics.roc(
            audit.Ranking(ratio[run], parts, steps=scores[run])
            if is_product
            else audit.Ranking(scores[run], parts),
            {
                "ft_auc": ("forget", "test"),
                "fr_auc": ("retain", "forget"),
                "rt_auc": ("retain", "test"),
            },
            {"ft_tpr": ("forget", "test"), "rt_tpr": ("retain", "test")},
            max_fpr=config.max_fpr,
        )
        sides = {"forget": forget, "test": test}
        for key, others in (("ft_auc_soft", soft), ("lira_auc", lira)):
            if others is not None:
                ranking = audit.Ranking(others[run], sides)
                statistics.roc(ranking, {key: ("forget", "test")})
        return statistics

    metrics = pool.measure(statistics_of)
    if config.mis:
        metrics["mis"] = pool.mis(margin, np.broadcast_to(test, pool.forget.shape))
    return metrics, {
        "scores": scores.astype(np.float32),
        "ratio": ratio.astype(np.float32),
        "margin": margin,
    }


def measure_gaps(
    pool: AuditPool, row: Mapping[str, Measured], oracle: Mapping[str, Measured]
) -> dict[str, Measured]:
    """Measure the Avg Gaps of a row to the oracle's mean over runs.

    The replicates of a gap compare replicates of the row with replicates of the
    oracle's mean on the same samples. The oracle's mean is itself an estimate. So the
    influence of a run on the mean gap (delta method) includes the oracle's deviation
    from its mean, with the sign of the row's distance.

    A mean of absolute values is never negative, so noise adds to it: compare it with
    the gap of the second retrained models. Where classes are forgotten, the runs of
    each forget set have their own mean.
    """
    num_runs = len(pool.forget)
    groups = [np.arange(num_runs)]
    if pool.classes is not None:
        groups = [np.array(one.runs) for one in pool.classes.sets]
    gaps = {}
    for key, parts in pool.table.gaps.items():
        if not set(parts) <= set(oracle):
            continue
        value = np.zeros(num_runs)
        influences = np.zeros(num_runs)
        drawn = [row[part].replicates for part in parts]
        centers = [oracle[part].replicates for part in parts]
        replicates = None
        if all(one is not None for one in (*drawn, *centers)):
            replicates = np.zeros((pool.sample_weights.shape[0], num_runs))
        for runs in groups:
            values = np.stack([row[part].value[runs] for part in parts], 1)
            targets = np.stack([oracle[part].value[runs] for part in parts], 1)
            value[runs] = audit.avg_gap(values, targets)
            deviations = targets - targets.mean(0)
            slopes = np.sign(values - targets.mean(0)).mean(0)
            influences[runs] = value[runs] - (slopes * deviations).mean(1)
            if replicates is None:
                continue
            distances = []
            for one, center in zip(drawn, centers, strict=True):
                assert one is not None
                assert center is not None
                mean = center[:, runs].mean(1, keepdims=True)
                distances.append(np.abs(one[:, runs] - mean))
            replicates[:, runs] = np.mean(distances, axis=0)
        gaps[key] = Measured(value, replicates, influences=influences)
    return gaps


def measure_differences(
    pool: AuditPool,
    measured: Mapping[str, Mapping[str, Measured]],
    baselines: Mapping[str, str],
) -> dict[str, dict[str, dict[str, Difference]]]:
    """Measure the paired differences of every method, by row, metric and reference.

    Args:
      pool: pool of the table.
      measured: metrics by row, including the gaps.
      baselines: row that a row is compared with, by row; rows may have none.

    Returns:
      Differences of methods to the ``oracle``, to the ``floor``, to the ``best`` other
      method (the one with the smallest Avg Gap) and to the ``baseline``. The floor and
      the original have differences to the oracle only. References that the table lacks
      are left out.
    """
    directions = {metric.key: metric.direction for metric in pool.table.metrics}
    methods = [name for name, one in measured.items() if name not in KINDS and one]
    gaps = {
        name: float(measured[name]["avg_gap"].value.mean())
        for name in methods
        if "avg_gap" in measured[name]
    }
    order = sorted(gaps, key=lambda name: gaps[name])
    best = {}
    for name in order if len(order) > 1 else ():
        best[name] = order[0] if name != order[0] else order[1]
    differences: dict[str, dict[str, dict[str, Difference]]] = {}
    for key in pool.table.compared:
        columns = {name: one[key] for name, one in measured.items() if key in one}
        oracle = columns.get(RETRAINED)
        floor = columns.get(RETRAINED_AGAIN)
        margin = None
        if oracle and floor:
            is_distance = directions[key] == "0"
            margin = equivalence_margin(oracle, floor, is_distance=is_distance)
        references: dict[str, Measured | Mapping[str, Measured] | None] = {
            "oracle": oracle,
            "floor": floor,
            "best": {
                name: columns[other] for name, other in best.items() if other in columns
            },
            "baseline": {
                name: columns[other]
                for name, other in baselines.items()
                if other in columns
            },
        }
        rows = {name: columns[name] for name in methods if name in columns}
        others = {
            name: columns[name]
            for name in (ORIGINAL, RETRAINED_AGAIN)
            if name in columns
        }
        for reference, other in references.items():
            if not other:
                continue
            compared = compare(pool, rows, other, margin)
            if reference == "oracle":
                for name, one in others.items():
                    compared |= compare(pool, {name: one}, other, margin)
            for name, one in compared.items():
                differences.setdefault(name, {}).setdefault(key, {})[reference] = one
    return differences


def estimate(pool: AuditPool, measured: Measured, unit: str = "") -> Estimate:
    """Return a metric's mean over runs, spread and interval, rounded.

    Args:
      pool: pool of the table.
      measured: metric; without replicates it has no interval.
      unit: unit of the metric. Percentages lie between 0 and 100, points and nats are
        not negative.
    """
    bounds = BOUNDS.get(unit)
    factors = pool.factors if measured.replicates is not None else None
    summary = audit.summarize(
        measured.value,
        measured.replicates,
        factors,
        level=pool.config.level,
        bounds=bounds,
        num_samples=measured.num_samples,
        influences=measured.influences,
    )
    return rounded(summary)


def rounded(summary: Estimate) -> Estimate:
    """Return an estimate rounded to the decimals that are stored."""
    mean, std, low, high = round_all(summary[:4])
    return summary._replace(mean=mean, std=std, low=low, high=high)


def round_all(values: Iterable[SupportsFloat]) -> tuple[float, ...]:
    """Return numbers rounded to the decimals that are stored."""
    numbers = [round(float(value), DECIMALS) for value in values]
    # Always the same NaN object, as when read from JSON, so that equal records compare
    # equal.
    return tuple(math.nan if math.isnan(number) else number for number in numbers)
