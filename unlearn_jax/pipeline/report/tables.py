"""Table of a run: as a block, for the terminal, and as files for other programs."""

import csv
import io
import os
import pathlib
from collections.abc import Sequence

from unlearn_jax.pipeline.measure.records import COST, Metric, RowResult, RunResult
from unlearn_jax.pipeline.report.blocks import (
    Cell,
    Column,
    Table,
    is_known,
    render_latex,
    render_markdown,
    render_terminal,
)
from unlearn_jax.pipeline.report.verdict import overlaps
from unlearn_jax.pipeline.store.folders import write_text

GOALS = {
    "retrained": "as the retrained row",
    "50": "50, a coin toss",
    "0": "0, the lower the better",
}
"""Good values of a metric, in words."""
UNSEARCHED = "not searched"
"""Note at a row whose hyperparameters are as given alongside rows that were tuned."""
_FIELDS = ["row", "label", "kind", "method", "metric"]
_NUMBERS = ["mean", "std", "low", "high", "num_runs"]


def results_table(
    result: RunResult, metrics: Sequence[str] | None = None, *, title: str = ""
) -> Table:
    """Return the table of a run, the cost of each row in its last column, if known.

    Args:
      result: of a run.
      metrics: keys of the metrics to show, in this order; None shows all.
      title: of the table.

    Raises:
      InputError: a key that no metric has.
    """
    if metrics is None:
        shown = list(result.metrics)
    else:
        shown = [result.metric(key) for key in metrics]
    columns = ["", *(metric_column(metric) for metric in shown)]
    rows = []
    for row in result.rows:
        cells = [metric_cell(result, row, metric.key) for metric in shown]
        note = UNSEARCHED if result.is_unsearched(row) else ""
        rows.append([Cell(row.label, note), *cells])
    costs = [format_cost(row) for row in result.rows]
    if any(costs):
        columns.append(COST)
        for row, cost in zip(rows, costs, strict=True):
            row.append(cost)
    return Table(
        title,
        columns,
        rows,
        f"Mean ± std over runs, and in brackets the {100 * result.level:g} % interval"
        " of the mean.",
        [row.kind for row in result.rows],
    )


def metric_column(metric: Metric) -> Column:
    """Return the column of a metric, with two decimals."""
    goal = GOALS[metric.direction]
    text = f"{metric.description} Aim: {goal}."
    return Column(metric.label, metric.unit, text, digits=2)


def metric_cell(result: RunResult, row: RowResult, key: str, mark: str = "") -> Cell:
    """Return a row's estimate of a metric, or how many of its runs diverged."""
    if row.is_diverged:
        return Cell(f"diverged {row.num_diverged} of {result.design.runs}")
    return Cell(row.metrics.get(key), mark=mark)


def mark_near(result: RunResult, row: RowResult, key: str) -> str:
    """Return ≈ for an interval that overlaps the oracle's."""
    oracle = result.row_of_kind("oracle")
    if oracle is None or row.kind == "oracle":
        return ""
    return "≈" if overlaps(row.metrics.get(key), oracle.metrics.get(key)) else ""


def format_cost(row: RowResult) -> str | None:
    """Return a row's cost in gradients, as a multiple of retraining's, if known."""
    if row.cost is None:
        return None
    relative = row.cost.relative_gradients
    return f"{relative:.2f}" if relative >= 0.1 or relative == 0 else f"{relative:.2g}"


def csv_table(result: RunResult) -> str:
    """Return one line per row and metric with all digits, missing numbers empty.

    Returns:
      CSV (RFC 4180, Unix line ends) with a header: row, label, kind, method, metric,
      mean, std, low, high, num_runs, unit, the number of the row's runs that diverged,
      and its cost as a multiple of retraining's.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*_FIELDS, *_NUMBERS, "unit", "num_diverged", COST])
    for row in result.rows:
        cost = row.cost and row.cost.relative_gradients
        for metric in result.metrics:
            cell = row.metrics.get(metric.key)
            numbers = [getattr(cell, name, None) for name in _NUMBERS]
            numbers = [number if is_known(number) else "" for number in numbers]
            texts = [row.key, row.label, row.kind, row.method, metric.key]
            last = [metric.unit, row.num_diverged, cost if is_known(cost) else ""]
            writer.writerow([*texts, *numbers, *last])
    return stream.getvalue()


def write_tables(
    result: RunResult, folder: str | os.PathLike[str]
) -> list[pathlib.Path]:
    """Write ``table.txt``, ``table.csv``, ``table.tex`` and ``table.md``.

    Args:
      result: of a run.
      folder: made if it is not there; each file is written in one step.

    Returns:
      The files.
    """
    table = results_table(result)
    texts = {
        "table.txt": terminal_text(result) + "\n",
        "table.csv": csv_table(result),
        "table.tex": render_latex(table),
        "table.md": render_markdown(table),
    }
    for name, text in texts.items():
        write_text(pathlib.Path(folder) / name, text)
    return [pathlib.Path(folder) / name for name in texts]


def terminal_text(
    result: RunResult, metrics: Sequence[str] | None = None, *, width: int = 160
) -> str:
    """Return the table for a terminal, an interval below each number.

    Args:
      result: of a run.
      metrics: keys of the metrics to show, in this order; None shows all.
      width: columns of the terminal; a wider table is split.

    Raises:
      InputError: a key that no metric has.
    """
    runs = {cell.num_runs for row in result.rows for cell in row.metrics.values()}
    if runs == {1}:
        shown = "a single run, and below each number its"
    else:
        counts = "-".join(str(count) for count in sorted({*runs} or {0}))
        shown = f"mean ± std over {counts} runs, and below it the mean's"
    about = f"{result.title}: {shown} {100 * result.level:g} % interval"
    return f"{about}\n\n{render_terminal(results_table(result, metrics), width)}"
