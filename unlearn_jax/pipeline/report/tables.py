"""Table of a run, as a block, for the terminal, and as files for other programs."""

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
    distances_sentence,
    find_difference,
    format_difference,
    headline,
    join_names,
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
STATES = {
    "like": "forgotten",
    "different": "different",
    "undecided": "undecided",
}
"""Verdicts in words."""
UNSEARCHED = "not searched"
"""Note on a row that keeps its given hyperparameters while others were tuned."""
_FITTED = ("mis", "mia_", "avg_gap_mis")
"""Prefixes of the keys of metrics that come from a fitted classifier."""


def results_table(
    result: RunResult, metrics: Sequence[str] | None = None, *, title: str = ""
) -> Table:
    """Return the table of a run, with a column of costs if any row has one.

    Args:
      result: results of a run.
      metrics: keys of the metrics to show, in this order; None shows all.
      title: title of the table.

    Raises:
      InputError: a key that no metric has.
    """
    keys = [metric.key for metric in result.metrics] if metrics is None else metrics
    columns = ["", *(metric_column(result.metric(key)) for key in keys)]
    has_costs = any(row.cost is not None for row in result.rows)
    if has_costs:
        columns.append(COST)
    rows = []
    for row in result.rows:
        note = UNSEARCHED if result.is_unsearched(row) else ""
        cells: list[Value | Cell] = [Cell(row.label, note)]
        cells += [metric_cell(result, row, key) for key in keys]
        if has_costs:
            cells.append(format_cost(row))
        rows.append(cells)
    caption = (
        f"Mean ± std over runs, and in brackets the {100 * result.level:g}% interval"
        " of the mean."
    )
    for remark in (missing_sentence(result), distances_sentence(result)):
        caption += f" {remark}" if remark else ""
    kinds = [row.kind for row in result.rows]
    return Table(title, columns, rows, caption, kinds)


def missing_sentence(result: RunResult, keys: Sequence[str] | None = None) -> str:
    """Return a sentence on the columns without an interval; empty if each has one.

    Args:
      result: results of a run.
      keys: keys of the metrics in the table; all if None.
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
        f"Without an interval: {join_names(labels)}; the machine is fitted once to"
        " every model, and only audit.refits would fit it again in every replicate."
    )


def metric_column(metric: Metric) -> Column:
    """Return the column of a metric, with two decimals."""
    goal = GOALS[metric.direction]
    text = f"{metric.description} Aim: {goal}."
    return Column(metric.label, metric.unit, text, digits=2)


def metric_cell(result: RunResult, row: RowResult, key: str, mark: str = "") -> Cell:
    """Return a row's estimate of a metric, or the number of its runs that diverged."""
    if row.is_diverged:
        return Cell(f"diverged {row.num_diverged} of {result.design.runs}")
    return Cell(row.metrics.get(key), mark=mark)


def mark_near(result: RunResult, row: RowResult, key: str) -> str:
    """Return ≈ for a metric that is like the oracle's by an equivalence test.

    Distances, such as the Avg Gap, are compared with the seed floor's. Empty for other
    metrics, and if the row does not have the difference.
    """
    if key not in row.differences:
        return ""
    is_distance = result.metric(key).direction == "0"
    difference = find_difference(row, key, "floor" if is_distance else "oracle")
    return "≈" if difference and difference.state == "like" else ""


def verdict_table(
    result: RunResult, rows: Sequence[RowResult], caption: str = ""
) -> Table:
    """Return the verdicts in five columns: state, two differences, Avg Gap, cost.

    Args:
      result: results of a run.
      rows: rows to show.
      caption: caption of the table.
    """
    keys = headline(result)
    key = keys[0] if keys else "ft_auc"
    accuracy = "test_accuracy" if result.confusion is None else "acc_r"
    metrics = {metric.key: metric for metric in result.metrics}
    compared = [metrics[name] for name in (key, accuracy) if name in metrics]
    columns: list[str | Column] = ["Model", Column("Verdict", is_text=True)]
    for metric in compared:
        help_text = f"{metric.description} Here: less the retrained models', paired."
        columns.append(Column(f"Δ {metric.label}", "points", help_text, digits=2))
    if "avg_gap" in metrics:
        columns.append(metric_column(metrics["avg_gap"]))
    columns.append(Column("Cost", "×", "Multiple of the gradients of retraining."))
    table_rows = []
    for row in rows:
        cells: list[Value | Cell] = [row.label, _verdict_cell(row, key)]
        for metric in compared:
            difference = find_difference(row, metric.key)
            cells.append(difference_cell(difference, with_state=False))
        if "avg_gap" in metrics:
            gap = row.metrics.get("avg_gap")
            cells.append(gap and gap._replace(std=math.nan))
        cells.append(format_cost(row))
        table_rows.append(cells)
    return Table("", columns, table_rows, caption, [row.kind for row in rows])


def difference_cell(
    difference: Difference | None,
    *,
    with_state: bool = True,
    like: str = STATES["like"],
) -> Cell:
    """Return a paired difference, with its interval and state below it.

    Args:
      difference: difference of a row; None shows a dash.
      with_state: whether to show the state, and two decimals instead of one.
      like: word for a difference within the margin.
    """
    if difference is None:
        return Cell(None)
    digits = 2 if with_state else 1
    mean, _, interval = format_difference(difference, digits).partition(" ")
    words = {**STATES, "like": like}
    state = f" {words[difference.state]}" if with_state else ""
    return Cell(mean, f"{interval}{state}")


def _verdict_cell(row: RowResult, key: str) -> Cell:
    """Return a row's verdict, with the number of runs that would decide below it.

    For a row without a verdict, such as the original, it is the state of the row's
    difference in the metric ``key``.
    """
    if row.is_diverged:
        return Cell("diverged")
    if row.kind == "oracle":
        return Cell("the goal")
    if row.kind == "second_oracle":
        return Cell("seed floor")
    if row.verdict is not None:
        more = format_more_runs(row.verdict.more_runs)
        return Cell(STATES[row.verdict.state], more)
    difference = find_difference(row, key)
    return Cell(STATES[difference.state] if difference else "")


def format_more_runs(count: int | None) -> str:
    """Return the number of further runs that would decide, for a cell; empty if None.

    >>> format_more_runs(1), format_more_runs(1200), format_more_runs(None)
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
    """Return one line per row and metric, with all digits; missing numbers are empty.

    Returns:
      CSV (RFC 4180, Unix line ends) with a header: row, label, kind, method, metric,
      mean, std, low, high, num_runs, unit, the number of the row's runs that diverged,
      and its cost as a multiple of retraining's.
    """
    texts = ["row", "label", "kind", "method", "metric"]
    numbers = ["mean", "std", "low", "high", "num_runs"]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*texts, *numbers, "unit", "num_diverged", COST])
    for row in result.rows:
        cost = row.cost.relative_gradients if row.cost else None
        for metric in result.metrics:
            estimate = row.metrics.get(metric.key)
            line = [row.key, row.label, row.kind, row.method, metric.key]
            line += [_known_or_empty(getattr(estimate, name, None)) for name in numbers]
            line += [metric.unit, row.num_diverged, _known_or_empty(cost)]
            writer.writerow(line)
    return stream.getvalue()


def _known_or_empty(number: float | None) -> float | str:
    return number if is_known(number) else ""


def write_tables(
    result: RunResult, folder: str | os.PathLike[str]
) -> list[pathlib.Path]:
    """Write ``table.txt``, ``table.csv``, ``table.tex`` and ``table.md``.

    Args:
      result: results of a run.
      folder: folder to write to, created if needed; each file is written in one step.

    Returns:
      Paths of the files.
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
    """Return the table for a terminal, with an interval below each number.

    Args:
      result: results of a run.
      metrics: keys of the metrics to show, in this order; None shows all.
      width: columns of the terminal; a wider table is split.

    Raises:
      InputError: a key that no metric has.
    """
    counts: set[int] = set()
    for row in result.rows:
        counts.update(estimate.num_runs for estimate in row.metrics.values())
    if counts == {1}:
        numbers = "a single run, and below each number its"
    else:
        num_runs = "-".join(map(str, sorted(counts or {0})))
        numbers = f"mean ± std over {num_runs} runs, and below it the mean's"
    about = f"{result.title}: {numbers} {100 * result.level:g}% interval"
    table = render_terminal(results_table(result, metrics), width)
    return f"{textwrap.fill(about, width)}\n\n{table}"


def terminal_verdict(result: RunResult, *, width: int = 80) -> str:
    """Return the verdicts on all rows for a terminal: a table, then sentences.

    Args:
      result: results of a run.
      width: columns of the terminal; with 80 or more the table is not split.
    """
    table = render_terminal(verdict_table(result, result.rows), width)
    texts = [result.title, table]
    if any(row.verdict for row in result.rows):
        texts.append(textwrap.fill(margins_sentence(result), width))
    texts.append(textwrap.fill(verdict(result), width))
    return "\n\n".join(texts)


def study_title(results: Mapping[str, RunResult]) -> str:
    """Return the words that the titles of all variants start with, or the preset."""
    titles = [result.title.split() for result in results.values()]
    shared = []
    for words in zip(*titles, strict=False):
        if len(set(words)) > 1:
            break
        shared.append(words[0])
    presets = {result.preset for result in results.values()}
    name = presets.pop() if len(presets) == 1 else ""
    return " ".join(shared).strip(" :,") or name or "Study"
