"""Page and tables of a study: variants of one run side by side."""

import json
import pathlib
import urllib.parse
from collections.abc import Mapping

from unlearn_jax.pipeline.measure.records import (
    COST,
    RowResult,
    RunResult,
    Term,
    to_plain,
)
from unlearn_jax.pipeline.report.blocks import (
    Block,
    Cell,
    Column,
    Figure,
    Page,
    Section,
    Table,
    Text,
    format_cell,
    is_known,
    render_html,
    render_markdown,
)
from unlearn_jax.pipeline.report.figures.study import study_plot
from unlearn_jax.pipeline.report.tables import (
    STATES,
    format_cost,
    mark_near,
    metric_cell,
    missing_sentence,
    study_title,
)
from unlearn_jax.pipeline.report.verdict import difference_words, method_gaps
from unlearn_jax.pipeline.store.folders import write_text

SHOWN = (
    "unlearn_accuracy",
    "retain_accuracy",
    "test_accuracy",
    "ft_auc",
    "fr_auc",
    "avg_gap",
    "acc_r",
    "acc_f",
    "tv_forget",
    "ulira",
    "mia_nn",
    "mia_nn_gap",
)
"""Metrics that a study compares; the last six are of runs that forget classes."""
TERMS = {
    "delta": "Distance of the adversarial examples (L2)",
    "transfer": "Fraction of adversarial examples that also fool the retrained model",
}
"""Terms of the theorem that a study compares, where its variants have them."""
NORM = "Largest spectral norm"


def write_study(results: Mapping[str, RunResult], folder: pathlib.Path) -> None:
    """Write ``study.md``, ``study.json`` and ``study.html`` of the finished variants.

    Args:
      results: of every variant's run, by name.
      folder: of the study; the reports lie in its sub-folders.
    """
    tables = study_tables(results)
    markdown = "\n".join(render_markdown(table) for table in tables)
    write_text(folder / "study.md", markdown)
    rows = {}
    for name, result in results.items():
        rows[name] = {
            row.key: to_plain(
                {
                    "metrics": row.metrics,
                    "differences": row.differences,
                    "verdict": row.verdict,
                }
            )
            for row in result.rows
        }
    write_text(folder / "study.json", json.dumps(rows, indent=1, allow_nan=False))
    # last: it draws
    write_text(folder / "study.html", render_html(study_page(results)))


def study_page(results: Mapping[str, RunResult]) -> Page:
    """Return the page: a figure of the Avg Gaps, a table per metric, links to the runs.

    Args:
      results: of every variant's run, by name.
    """
    level = f"{100 * next(iter(results.values())).level:g} %"
    tables = study_tables(results)
    failed = sum(not one.passed for run in results.values() for one in run.checks)
    summary = f"A study of {len(results)} variants, each with a report of its own."
    if len(results) == 1:
        summary = "A study of one variant, with a report of its own."
    nearest = []
    for name, result in results.items():
        for label, gap in list(method_gaps(result).items())[:1]:
            nearest.append(f"{name}: {label}, {format_cell(gap.mean, 2)[0]}")
    if nearest:
        summary += f" Smallest Avg Gap to retraining: {'; '.join(nearest)}."
    if failed:
        summary += f" {failed} of their checks failed."
    gaps = [table for table in tables if table.title.startswith("Avg Gap (")]
    spoken = []
    for row in gaps[0].rows if gaps else []:
        cells = [cell if isinstance(cell, Cell) else Cell(cell) for cell in row]
        label, *numbers = (format_cell(cell.value, 2)[0] for cell in cells)
        spoken.append(f"{label} {', '.join(numbers)}")
    figure = Figure(
        "Avg Gap of every row",
        study_plot(results),
        f"Avg Gap in {', '.join(results)}: {'; '.join(spoken)}.",
        "The mean distance to the retrained models, a panel per variant, each on a"
        " scale of its own; the gray band is the seed floor, about as low as a method"
        " can get. A triangle at the edge stands for a row far outside, with its mean;"
        " a dash for a row that the variant lacks, or that diverged.",
    )
    caption = (
        f"Mean ± standard deviation over runs; below it the {level} interval of the"
        " mean. The highlighted row is the oracle of its variant, retrained without the"
        " forget samples; ≈ marks a metric whose paired difference to its variant's"
        " oracle lies inside the seed floor's spread (equivalence test). Intervals of"
        " one column can be compared; between columns the forget"
        " sets, data or networks differ."
    )
    blocks: list[Block] = [_variants_table(results), figure]
    blocks.append(Section("Tables", [Text(caption, kind="note"), *tables]))
    return Page(summary, blocks, study_title(results))


def _link(name: str) -> str:
    return f"{urllib.parse.quote(name)}/report.html"


def _variants_table(results: Mapping[str, RunResult]) -> Table:
    columns = [
        "Variant",
        Column("Data", is_text=True),
        "To forget",
        "Training samples",
        "Runs",
        "References",
        Column("Checks", is_text=True),
    ]
    rows = []
    for name, result in results.items():
        design = result.design
        failed = [check.name for check in result.checks if not check.passed]
        state = f"✗ failed: {'; '.join(failed)}" if failed else "✓ passed"
        sizes = [design.num_forget, result.data.num_train, design.runs]
        label = Cell(name, link=_link(name))
        rows.append([label, result.data.name, *sizes, design.references, state])
    return Table("Variants", columns, rows)


def study_tables(results: Mapping[str, RunResult]) -> list[Table]:
    """Return a table per metric that any variant has, and one of the costs.

    A cell of a variant without the row is a dash.

    Args:
      results: of every variant's run, by name.
    """
    every: dict[str, RowResult] = {}
    metrics = {}
    rows = {}
    for name, result in results.items():
        every |= {row.key: row for row in result.rows}
        metrics |= {metric.key: metric for metric in result.metrics}
        rows[name] = {row.key: row for row in result.rows}
    kinds = [row.kind for row in every.values()]
    columns = ["Model", *(Column(name, digits=2) for name in results)]
    tables = []
    lines = []
    for row in every.values():
        of_variants = [rows[name].get(row.key) for name in results]
        if any(one and one.verdict for one in of_variants):
            lines.append([row.label, *(one and _verdict(one) for one in of_variants)])
    if lines:
        caption = (
            "On paired differences to the retrained models of the same variant,"
            " corrected for the number of methods (Holm); the variant's report states"
            " the margin. Below each, the difference in its first metric."
        )
        heads = ["Model", *(Column(name, is_text=True) for name in results)]
        tables.append(Table("Verdict", heads, lines, caption))
    for key in SHOWN:
        if key not in metrics:
            continue
        lines = []
        for row in every.values():
            cells = []
            for name, result in results.items():
                one = rows[name].get(row.key)
                if one is None:
                    cells.append(Cell(None))
                else:
                    mark = mark_near(result, one, key)
                    cells.append(metric_cell(result, one, key, mark))
            lines.append([row.label, *cells])
        title = f"{metrics[key].label} ({metrics[key].unit})"
        caption = metrics[key].description
        remarks = {missing_sentence(result, [key]) for result in results.values()}
        caption = " ".join([caption, *filter(None, sorted(remarks))])
        tables.append(Table(title, columns, lines, caption, kinds))
    tables += _term_tables(results, every, columns)
    costs = []
    for row in every.values():
        of_variants = [rows[name].get(row.key) for name in results]
        costs.append([row.label, *(one and format_cost(one) for one in of_variants)])
    return [*tables, Table(COST, columns, costs, kinds=kinds)]


def _verdict(row: RowResult) -> Cell:
    """Return the verdict on a row, and its difference in the first metric."""
    if row.verdict is None:
        return Cell("diverged" if row.is_diverged else None)
    first = row.differences[row.verdict.metrics[0]]["oracle"]
    return Cell(STATES[row.verdict.state], difference_words(first))


def _term_tables(
    results: Mapping[str, RunResult],
    every: Mapping[str, RowResult],
    columns: list[str | Column],
) -> list[Table]:
    """Return tables of the theorem's terms and of the largest norms."""
    tables = []
    theories = [result.theory for result in results.values()]
    for key, title in TERMS.items():
        lines = []
        for row in every.values():
            terms = [one and one.rows.get(row.key, {}).get(key) for one in theories]
            if any(terms):
                lines.append([row.label, *(term and _spread(term) for term in terms)])
        if lines:
            tables.append(Table(title, columns, lines))
    norms = [result.norms for result in results.values()]
    if any(norms):
        lines = []
        for row in every.values():
            cells = []
            for one in norms:
                layers = one.rows.get(row.key, {}) if one else {}
                largest = [layer.high for layer in layers.values()]
                cells.append(max(largest, default=None))
            lines.append([row.label, *cells])
        caption = (
            "The largest singular value of any layer of any model of the row, by"
            " Lanczos iteration."
        )
        tables.append(Table(NORM, columns, lines, caption))
    return tables


def _spread(term: Term) -> str:
    """Return mean and standard deviation of a term."""
    mean = format_cell(term.mean, 2)[0]
    return f"{mean} ± {format_cell(term.std, 2)[0]}" if is_known(term.std) else mean
