"""Page and tables of a study, with variants of one run side by side."""

import json
import pathlib
import urllib.parse
from collections.abc import Mapping, Sequence

from unlearn_jax.pipeline.measure.metrics import CLASSES, SAMPLES
from unlearn_jax.pipeline.measure.records import (
    COST,
    Metric,
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
from unlearn_jax.pipeline.report.verdict import (
    deciding_difference,
    format_difference,
    methods_by_gap,
    quote_name,
)
from unlearn_jax.pipeline.store.folders import write_text

METRICS = (
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
"""Metrics that a study compares; the last six are for runs that forget classes."""
TERMS = {
    "delta": "Distance of the adversarial examples (L2)",
    "transfer": "Fraction of adversarial examples that also fool the retrained model",
}
"""Terms of the theorem that a study compares, if its variants have them."""
NORM = "Largest spectral norm"


def write_study(results: Mapping[str, RunResult], folder: pathlib.Path) -> None:
    """Write ``study.md``, ``study.json`` and ``study.html`` of the finished variants.

    Args:
      results: results by name of the variant.
      folder: folder of the study; its sub-folders have the reports of the variants.
    """
    tables = study_tables(results)
    markdown = "\n".join(render_markdown(table) for table in tables)
    write_text(folder / "study.md", markdown)
    records: dict[str, dict[str, object]] = {}
    for name, result in results.items():
        records[name] = {}
        for row in result.rows:
            record = {
                "metrics": row.metrics,
                "differences": row.differences,
                "verdict": row.verdict,
            }
            records[name][row.key] = to_plain(record)
    write_text(folder / "study.json", json.dumps(records, indent=1, allow_nan=False))
    # last, since drawing may fail
    write_text(folder / "study.html", render_html(study_page(results)))


def study_page(results: Mapping[str, RunResult]) -> Page:
    """Return the page: a figure of Avg Gaps, a table per metric, links to the runs.

    Args:
      results: results by name of the variant.
    """
    tables = study_tables(results)
    figure = Figure(
        "Avg Gap of every row",
        study_plot(results),
        f"Avg Gap in {', '.join(results)}: {_describe_gaps(tables)}.",
        "The mean distance to the retrained models, a panel per variant, each on a"
        " scale of its own; the gray band is the seed floor, about as low as a method"
        " can get. A triangle at the edge stands for a row far outside, with its mean;"
        " a dash for a row that the variant lacks, or that diverged.",
    )
    level = next(iter(results.values())).level
    caption = (
        f"Mean ± standard deviation over runs; below it the {100 * level:g}% interval"
        " of the mean. The highlighted row is the oracle of its variant, retrained"
        " without the forget samples; ≈ marks a metric whose paired difference to its"
        " variant's oracle lies inside the seed floor's spread (equivalence test)."
        " Intervals of one column can be compared; between columns the forget"
        " sets, data or networks differ."
    )
    blocks: list[Block] = [_variants_table(results), figure]
    blocks.append(Section("Tables", [Text(caption, kind="note"), *tables]))
    return Page(_summary(results), blocks, study_title(results))


def _summary(results: Mapping[str, RunResult]) -> str:
    """Return the number of variants, the nearest method of each, and failed checks."""
    text = f"A study of {len(results)} variants, each with a report of its own."
    owner = "their"
    if len(results) == 1:
        text = "A study of one variant, with a report of its own."
        owner = "its"
    nearest = []
    num_failed = 0
    for name, result in results.items():
        num_failed += sum(not check.passed for check in result.checks)
        methods = methods_by_gap(result)
        if methods:
            gap = format_cell(methods[0].metrics["avg_gap"].mean, 2)[0]
            nearest.append(f"{name}: {quote_name(methods[0].label)}, {gap}")
    if nearest:
        text += f" Smallest Avg Gap to retraining: {'; '.join(nearest)}."
    if num_failed:
        text += f" {num_failed} of {owner} checks failed."
    return text


def _describe_gaps(tables: Sequence[Table]) -> str:
    """Return the numbers of the table of Avg Gaps in words."""
    phrases = []
    for table in tables:
        if not table.title.startswith("Avg Gap ("):
            continue
        for _, cells in table.body:
            label, *numbers = [format_cell(cell.value, 2)[0] for cell in cells]
            phrases.append(f"{label} {', '.join(numbers)}")
    return "; ".join(phrases)


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
        label = Cell(name, link=f"{urllib.parse.quote(name)}/report.html")
        rows.append([label, result.data.name, *sizes, design.references, state])
    return Table("Variants", columns, rows)


def study_tables(results: Mapping[str, RunResult]) -> list[Table]:
    """Return the verdicts, a table per compared metric, and the costs.

    The compared metrics are those of :data:`METRICS` that any variant has, then the
    user's columns. The cell of a variant that lacks the row is a dash.

    Args:
      results: results by name of the variant.
    """
    rows: dict[str, RowResult] = {}
    metrics: dict[str, Metric] = {}
    for result in results.values():
        rows |= {row.key: row for row in result.rows}
        metrics |= {metric.key: metric for metric in result.metrics}
    tables = _verdict_tables(results, rows)
    known = {metric.key for table in (SAMPLES, CLASSES) for metric in table.metrics}
    for key in (*METRICS, *(key for key in metrics if key not in known)):
        if key in metrics:
            tables.append(_metric_table(results, rows, metrics[key]))
    tables += _term_tables(results, rows)
    tables += _norm_tables(results, rows)
    tables.append(_cost_table(results, rows))
    return tables


def _find_row(result: RunResult, key: str) -> RowResult | None:
    return next((row for row in result.rows if row.key == key), None)


def _columns(results: Mapping[str, RunResult]) -> list[str | Column]:
    return ["Model", *(Column(name, digits=2) for name in results)]


def _verdict_tables(
    results: Mapping[str, RunResult], rows: Mapping[str, RowResult]
) -> list[Table]:
    """Return the table of verdicts; no table if no variant has a verdict."""
    lines = []
    for key, row in rows.items():
        variants = [_find_row(result, key) for result in results.values()]
        if any(variant and variant.verdict for variant in variants):
            cells = [variant and _verdict_cell(variant) for variant in variants]
            lines.append([row.label, *cells])
    if not lines:
        return []
    columns = ["Model", *(Column(name, is_text=True) for name in results)]
    caption = (
        "On paired differences to the retrained models of the same variant, corrected"
        " for the number of methods (Holm); the variant's report states the margin."
        " Below each, the difference in its first metric."
    )
    return [Table("Verdict", columns, lines, caption)]


def _verdict_cell(row: RowResult) -> Cell:
    """Return the verdict on a row, with the deciding difference below it."""
    if row.verdict is None:
        return Cell("diverged" if row.is_diverged else None)
    difference = format_difference(deciding_difference(row))
    return Cell(STATES[row.verdict.state], difference)


def _metric_table(
    results: Mapping[str, RunResult], rows: Mapping[str, RowResult], metric: Metric
) -> Table:
    """Return the estimates of a metric, with a line per row, a column per variant."""
    lines = []
    for key, row in rows.items():
        cells = []
        for result in results.values():
            variant = _find_row(result, key)
            if variant is None:
                cells.append(Cell(None))
            else:
                mark = mark_near(result, variant, metric.key)
                cells.append(metric_cell(result, variant, metric.key, mark))
        lines.append([row.label, *cells])
    title = f"{metric.label} ({metric.unit})"
    remarks = {missing_sentence(result, [metric.key]) for result in results.values()}
    caption = " ".join([metric.description, *filter(None, sorted(remarks))])
    kinds = [row.kind for row in rows.values()]
    return Table(title, _columns(results), lines, caption, kinds)


def _term_tables(
    results: Mapping[str, RunResult], rows: Mapping[str, RowResult]
) -> list[Table]:
    """Return a table of each term of the theorem that any variant has."""
    theories = [result.theory for result in results.values()]
    tables = []
    for name, title in TERMS.items():
        lines = []
        for key, row in rows.items():
            terms = [
                theory.rows.get(key, {}).get(name) if theory else None
                for theory in theories
            ]
            if any(terms):
                cells = [term and _format_term(term) for term in terms]
                lines.append([row.label, *cells])
        if lines:
            tables.append(Table(title, _columns(results), lines))
    return tables


def _format_term(term: Term) -> str:
    """Return mean and standard deviation of a term."""
    mean = format_cell(term.mean, 2)[0]
    return f"{mean} ± {format_cell(term.std, 2)[0]}" if is_known(term.std) else mean


def _norm_tables(
    results: Mapping[str, RunResult], rows: Mapping[str, RowResult]
) -> list[Table]:
    """Return the table of the largest norms; no table if no variant has norms."""
    norms = [result.norms for result in results.values()]
    if not any(norms):
        return []
    lines = []
    for key, row in rows.items():
        cells = []
        for variant in norms:
            layers = variant.rows.get(key, {}) if variant else {}
            cells.append(max((layer.high for layer in layers.values()), default=None))
        lines.append([row.label, *cells])
    caption = (
        "The largest singular value of any layer of any model of the row, by Lanczos"
        " iteration."
    )
    return [Table(NORM, _columns(results), lines, caption)]


def _cost_table(
    results: Mapping[str, RunResult], rows: Mapping[str, RowResult]
) -> Table:
    lines = []
    for key, row in rows.items():
        variants = [_find_row(result, key) for result in results.values()]
        costs = [variant and format_cost(variant) for variant in variants]
        lines.append([row.label, *costs])
    kinds = [row.kind for row in rows.values()]
    return Table(COST, _columns(results), lines, kinds=kinds)
