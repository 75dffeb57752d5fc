"""Table of a run: as a block, for the terminal, and as files for other programs."""

import csv
import io
import math
import os
import pathlib
import textwrap
from collections.abc import Mapping, Sequence

from unlearn_jax.pipeline.measure.records import (
    COST,
    Difference,
    Metric,
    RowResult,
    RunResult,
)
from unlearn_jax.pipeline.report.blocks import (
    Cell,
    Column,
    Table,
    Value,
    has_interval,
    is_known,
    render_latex,
    render_markdown,
    render_terminal,
)
from unlearn_jax.pipeline.report.verdict import (
    difference_words,
    distances_sentence,
    headline,
    join,
    margins_sentence,
    verdict,
)
from unlearn_jax.pipeline.store.folders import write_text

GOALS = {
    "retrained": "as the retrained row",
    "50": "50, a coin toss",
    "0": "0, the lower the better",
}
"""Good values of a metric, in words."""
UNSEARCHED = "not searched"
"""Note at a row whose hyperparameters are as given alongside rows that were tuned."""
_FITTED = ("mis", "mia_", "avg_gap_mis")
"""How the keys of metrics begin that a machine is fitted for."""
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
    caption = (
        f"Mean ± std over runs, and in brackets the {100 * result.level:g} % interval"
        " of the mean."
    )
    remarks = [caption, missing_sentence(result), distances_sentence(result)]
    return Table(
        title,
        columns,
        rows,
        " ".join(filter(None, remarks)),
        [row.kind for row in result.rows],
    )


def missing_sentence(result: RunResult, keys: Sequence[str] | None = None) -> str:
    """Return which columns of fitted machines have no interval, and why; may be empty.

    Args:
      result: of a run.
      keys: of the metrics in question; all if None.
    """
    labels = []
    for metric in result.metrics:
        is_fitted = metric.key.startswith(_FITTED)
        if not is_fitted or (keys is not None and metric.key not in keys):
            continue
        cells = [row.metrics.get(metric.key) for row in result.rows]
        if any(cells) and not any(has_interval(cell) for cell in cells):
            labels.append(metric.label)
    if not labels:
        return ""
    return (
        f"Without an interval: {join(labels)}; the machine is fitted once to every"
        " model, and only audit.refits would fit it again in every replicate."
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
    """Return ≈ for a metric that is like the oracle's, by an equivalence test.

    Of the Avg Gap and of other distances, like the seed floor's. Nothing where the run
    lacks the metric, as a study's other variants may not.
    """
    if key not in row.differences:
        return ""
    is_distance = result.metric(key).direction == "0"
    reference = "floor" if is_distance else "oracle"
    one = row.differences[key].get(reference)
    return "≈" if one and one.state == "like" else ""


STATES = {
    "like": "forgotten",
    "different": "different",
    "undecided": "undecided",
}
"""Verdicts in words."""


def verdict_table(
    result: RunResult, rows: Sequence[RowResult], caption: str = ""
) -> Table:
    """Return the verdicts in five columns: state, two differences, Avg Gap, cost.

    Args:
      result: of a run.
      rows: to show.
      caption: of the table.
    """
    keys = headline(result)[:1] or ("ft_auc",)
    accuracy = "test_accuracy" if result.confusion is None else "acc_r"
    shown = [one for one in result.metrics if one.key in (*keys, accuracy)]
    shown.sort(key=lambda one: one.key not in keys)
    gap = [one for one in result.metrics if one.key == "avg_gap"]
    columns: list[str | Column] = ["Model", Column("Verdict", is_text=True)]
    for metric in shown:
        help_text = f"{metric.description} Here: less the retrained models', paired."
        columns.append(Column(f"Δ {metric.label}", "points", help_text, digits=2))
    columns += [metric_column(metric) for metric in gap]
    columns.append(Column("Cost", "×", "Multiple of the gradients of retraining."))
    lines = []
    for row in rows:
        cells: list[Value | Cell] = [Cell(*_state(row, keys[0]))]
        for metric in shown:
            one = row.differences.get(metric.key, {}).get("oracle")
            cells.append(difference_cell(one, with_state=False))
        for metric in gap:
            cell = row.metrics.get(metric.key)
            cells.append(cell and cell._replace(std=math.nan))
        lines.append([row.label, *cells, format_cost(row)])
    return Table("", columns, lines, caption, [row.kind for row in rows])


def difference_cell(one: Difference | None, *, with_state: bool = True) -> Cell:
    """Return a paired difference and its interval, with its state and more digits."""
    if one is None:
        return Cell(None)
    digits = 2 if with_state else 1
    mean, _, interval = difference_words(one, digits).partition(" ")
    state = f" {STATES[one.state]}" if with_state else ""
    return Cell(mean, f"{interval}{state}")


def _state(row: RowResult, key: str) -> tuple[str, str]:
    """Return in a few words how a row compares with retraining, and a remark."""
    if row.is_diverged:
        return "diverged", ""
    if row.kind == "oracle":
        return "the goal", ""
    if row.kind == "second_oracle":
        return "seed floor", ""
    if row.verdict is None:
        one = row.differences.get(key, {}).get("oracle")
        return STATES[one.state] if one else "", ""
    return STATES[row.verdict.state], more_runs(row.verdict.more_runs)


def more_runs(count: int | None) -> str:
    """Return the runs that would decide, as cells show them; empty if they would not.

    >>> more_runs(1), more_runs(1200), more_runs(None)
    ('+1 run', '+1,200 runs', '')
    """
    if count is None:
        return ""
    return f"+{count:,} run{'' if count == 1 else 's'}"


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
    about = textwrap.fill(about, width)
    return f"{about}\n\n{render_terminal(results_table(result, metrics), width)}"


def terminal_verdict(result: RunResult, *, width: int = 80) -> str:
    """Return the verdicts of all rows for a terminal, in words and five columns.

    Args:
      result: of a run.
      width: columns of the terminal, 80 or more for one table.
    """
    table = render_terminal(verdict_table(result, result.rows), width)
    texts = [result.title, table]
    if any(row.verdict for row in result.rows):
        texts.append(textwrap.fill(margins_sentence(result), width))
    texts.append(textwrap.fill(verdict(result), width))
    return "\n\n".join(texts)


def study_title(results: Mapping[str, RunResult]) -> str:
    """Return the words that all titles start with."""
    titles = [result.title.split() for result in results.values()]
    shared = []
    for words in zip(*titles, strict=False):
        if len(set(words)) > 1:
            break
        shared.append(words[0])
    return " ".join(shared).strip(" :,") or "Study"
