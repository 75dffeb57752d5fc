"""Page of a run.

The first screen answers whether the methods have forgotten, with a verdict in words, a
small table of the references and the methods, and one figure. Details follow.
"""

import os
import pathlib
from collections.abc import Sequence

from unlearn_jax.pipeline.measure.records import (
    COST,
    Confusion,
    RowResult,
    RunResult,
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
    render_html,
)
from unlearn_jax.pipeline.report.figures import classes as class_figures
from unlearn_jax.pipeline.report.figures import run as figures
from unlearn_jax.pipeline.report.figures import sections as section_figures
from unlearn_jax.pipeline.report.page import cost_table, provenance_blocks
from unlearn_jax.pipeline.report.sections import (
    chosen_options,
    format_options,
    make_sections,
)
from unlearn_jax.pipeline.report.tables import (
    GOALS,
    STATES,
    difference_cell,
    format_cost,
    mark_near,
    metric_cell,
    metric_column,
    missing_sentence,
    verdict_table,
)
from unlearn_jax.pipeline.report.verdict import (
    baseline_rows,
    best_rows,
    distances_sentence,
    find_difference,
    findings,
    headline,
    margins_sentence,
    verdict,
    verdict_sentences,
)
from unlearn_jax.pipeline.store.folders import write_text

MAX_METHODS = 8
"""Largest number of methods on the first screen: those with the smallest Avg Gaps."""
_READING = (
    "Unlearning means: behave like a model that was trained without the forget samples."
    " So the goal is the retrained row, not the best accuracy and not the lowest score."
    " A membership attack gives each sample a score, higher for those it takes for"
    " training data; F stands for forget, R for retain (training samples that are kept)"
    " and T for test."
)


def write_report(
    result: RunResult, arrays: figures.Arrays, path: str | os.PathLike[str]
) -> None:
    """Write the page as one self-contained HTML file, in one step.

    Args:
      result: results of a run.
      arrays: arrays of the same run. Where a figure's arrays are missing, a note takes
        its place.
      path: path of the file; its folder is created, and an older report is replaced.
    """
    write_text(pathlib.Path(path), render_html(run_page(result, arrays)))


def run_page(result: RunResult, arrays: figures.Arrays) -> Page:
    """Return the page of a run.

    Args:
      result: results of a run.
      arrays: arrays of the same run.
    """
    data = result.data
    design = result.design
    samples = "samples"
    if data.image_shape:
        samples = f"images of {' × '.join(map(str, data.image_shape))}"
    about = (
        f"{data.name}: {data.num_train:,} training and {data.num_test:,} test"
        f" {samples}, {data.num_classes} classes ·"
        f" {_count(design.originals, 'original')} ×"
        f" {_count(design.forget_sets, 'forget set')} ×"
        f" {_count(design.repeats, 'repeat')} · {design.references:,} reference models"
        f" · {result.date[:10]} · unlearn_jax {result.versions.get('unlearn_jax', '')}"
    )
    notes = [Text(text, kind="note") for text in result.notes]
    blocks: list[Block] = [_first_screen(result)]
    if verdict_sentences(result):
        blocks.append(Text(margins_sentence(result), kind="note"))
    blocks += [
        Text("\n\n".join(findings(result)), "In words"),
        Section("Results", [_main_table(result), *notes, _meanings(result)]),
        *_difference_sections(result),
        Section("Figures", _figures(result, arrays)),
        *make_sections(result, arrays),
        Section("Every run", _run_sections(result)),
    ]
    if result.checks:
        blocks.append(Section("Checks", result.checks))
    blocks.append(Section("Cost and provenance", _provenance(result)))
    return Page(verdict(result), blocks, result.title, about)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _first_screen(result: RunResult) -> Section:
    """Return the verdict on the best methods in five columns, and one figure."""
    rows = best_rows(result, MAX_METHODS)
    keys = headline(result)
    key = keys[0] if keys else "ft_auc"
    caption = "Each method less the retrained models, paired run by run."
    num_methods = sum(row.kind == "method" for row in result.rows)
    if num_methods > MAX_METHODS:
        caption += (
            f" Of {num_methods} methods the {MAX_METHODS} with the smallest Avg Gap."
        )
    figure = Figure(
        "",
        figures.forest_plot(
            result,
            [key],
            rows=rows,
            band="oracle" if result.confusion is None else "second_oracle",
            width=7.2,
        ),
        _describe(result, [key], rows),
        "Unlearned well, a row lies on the gray band. Rows share samples and runs, so"
        " their paired differences, in the table, are known better than their"
        " intervals show. A triangle at the edge stands for a row far outside, with its"
        " mean.",
    )
    blocks: list[Block] = [verdict_table(result, rows, caption), figure]
    return Section("", blocks, is_row=True)


def _main_table(result: RunResult) -> Table:
    """Return all metrics of all rows; ≈ marks metrics that are like the oracle's."""
    rows = []
    for row in result.rows:
        cells = [
            metric_cell(result, row, metric.key, mark_near(result, row, metric.key))
            for metric in result.metrics
        ]
        label = Cell(row.label, chosen_options(result, row.key))
        rows.append([label, *cells, format_cost(row)])
    caption = (
        f"Mean ± standard deviation over runs; below it the {100 * result.level:g}%"
        " interval of the mean over samples, originals and forget sets, at Student's t"
        f" ({result.num_bootstrap:,} bootstrap replicates of the samples)."
        " The highlighted row is the oracle, retrained without the forget samples; ≈"
        " marks a metric whose paired difference to it lies inside the seed floor's"
        " spread (equivalence test, corrected for the number of methods)."
    )
    if result.tuning:
        caption += " Below a model's name are the hyperparameters that a search chose."
    if any(row.is_diverged for row in result.rows):
        caption += (
            " Where a row diverged, some of its runs did not end in finite numbers: the"
            " others do not represent the method, so no mean is shown."
        )
    for remark in (missing_sentence(result), distances_sentence(result)):
        caption += f" {remark}" if remark else ""
    columns = [metric_column(metric) for metric in result.metrics]
    kinds = [row.kind for row in result.rows]
    return Table("", ["Model", *columns, _cost_column()], rows, caption, kinds)


def _difference_sections(result: RunResult) -> list[Section]:
    """Return a section of every stored paired difference, if there are any."""
    references = {
        "oracle": "less retrained",
        "floor": "less retrained again",
        "best": "less the best other method",
    }
    tables = []
    for metric in result.metrics:
        rows = [row for row in result.rows if row.differences.get(metric.key)]
        if not rows:
            continue
        lines = []
        for row in rows:
            cells = []
            for reference in references:
                difference = find_difference(row, metric.key, reference)
                like = STATES["like"] if reference == "oracle" else "alike"
                cells.append(difference_cell(difference, like=like))
            lines.append([row.label, *cells])
        unit = metric.unit_of_differences
        heads = [Column(name, unit) for name in references.values()]
        kinds = [row.kind for row in rows]
        tables.append(Table(metric.label, ["Model", *heads], lines, kinds=kinds))
    if not tables:
        return []
    text = Text(
        "Each cell: mean difference over runs, its interval for this row alone, and"
        " what the tests allow to say for all methods together (Holm): a row can be"
        " undecided although its interval excludes 0. Forgotten, or alike: the"
        " difference lies within the seed floor's own spread. The best other method is"
        " the one with the smallest Avg Gap.",
        kind="note",
    )
    return [Section("Paired differences", [text, *tables, *_baseline_tables(result)])]


def _baseline_tables(result: RunResult) -> list[Table]:
    """Return a table of the rows less their baselines, if there are any."""
    rows, metrics = baseline_rows(result)
    if not rows:
        return []
    lines = []
    for row in rows:
        cells = [
            difference_cell(find_difference(row, metric.key, "baseline"), like="alike")
            for metric in metrics
        ]
        lines.append([row.label, result.row(row.baseline).label, *cells])
    baseline = Column("Baseline", is_text=True)
    heads = [Column(metric.label, metric.unit_of_differences) for metric in metrics]
    return [Table("Less the baseline", ["Model", baseline, *heads], lines)]


def _cost_column() -> Column:
    help_text = (
        "Counted gradients of single samples over a retraining's; wall times are in the"
        " section Cost."
    )
    return Column(COST.partition(" (")[0], "× retraining", help_text)


def _meanings(result: RunResult) -> Section:
    columns = ["Column", Column("Meaning", is_text=True), Column("Aim", is_text=True)]
    rows = [
        [f"{metric.label} ({metric.unit})", metric.description, GOALS[metric.direction]]
        for metric in result.metrics
    ]
    blocks = [Text(_READING), Table("", columns, rows)]
    return Section("Meaning of the columns", blocks, folded=True)


def _figures(result: RunResult, arrays: figures.Arrays) -> list[Figure]:
    """Return the figures of a run that forgets samples or classes.

    Args:
      result: results of a run.
      arrays: arrays of the same run.
    """
    if result.confusion is not None:
        return _class_figures(result, result.confusion, arrays)
    available = [metric.key for metric in result.metrics]
    keys = ("unlearn_accuracy", "retain_accuracy", "test_accuracy", "avg_gap")
    compared = [key for key in keys if key in available]
    drawn = []
    if len(best_rows(result, MAX_METHODS)) < len(result.rows):
        every_row = Figure(
            "Attack on every row",
            figures.forest_plot(result),
            _describe(result, ["ft_auc"]),
            "At 50% (dotted) the attack cannot distinguish forget samples from unseen"
            " ones. A row whose bar stays clear of the gray band differs from"
            " retraining. A triangle at the edge stands for a row far outside, with its"
            " mean.",
        )
        drawn.append(every_row)
    drawn += [
        Figure(
            "Accuracy and Avg Gap",
            figures.forest_plot(result, compared),
            _describe(result, compared),
            "Forgetting is easy when accuracy does not matter: every bar should reach"
            " the gray band, and the Avg Gap, the mean distance to retraining, should"
            " be small.",
        ),
        Figure(
            "Both sides of privacy",
            section_figures.privacy_plot(result),
            _describe(result, ["rt_auc", "ft_auc"]),
            "To the right: retained samples are easier to recognize, the price that"
            " they pay. Up: forgotten ones are. Good is near the retrained model,"
            " neither above nor to the right of the original. The table's RT TPR is the"
            " same for the few retained samples that an attacker is sure of.",
        ),
        Figure(
            "ROC curves",
            figures.roc_plot(result, arrays),
            "Log-log ROC curves of the membership attack, forget against test, one per"
            " row, and the diagonal.",
            "Both axes are logarithmic, because an attack that is sure of a few samples"
            " is a leak even at an area of 50%. The scores of all runs are pooled: the"
            " area can differ from the table's mean over runs.",
        ),
        Figure(
            "Membership scores",
            figures.score_histograms(result, arrays),
            "Histograms of membership scores of forget, retain and test samples, one"
            " panel per row.",
            "Unlearned well, the shaded histogram follows the solid line (never seen),"
            " not the dotted one (members). All runs are pooled.",
        ),
        Figure(
            "Confidence",
            figures.confidence_plot(result, arrays),
            "Cumulative distributions of the logit margin on the forget samples, one"
            " line per row.",
            "Unlearned well, a line follows the retrained one. Left of it: less sure"
            " than a model that never saw the samples; right of it: still too sure. All"
            " runs are pooled.",
        ),
    ]
    if "" in result.attacks:
        figure = Figure(
            "Adversarial search",
            figures.attack_plot(result, arrays),
            "Bars of the radii at which the search stopped, a histogram of the"
            " distances, and the outcomes.",
            "Many samples at the first radius: start smaller. Samples not found: allow"
            " more radii.",
        )
        drawn.append(figure)
    return drawn


def _class_figures(
    result: RunResult, confusion: Confusion, arrays: figures.Arrays
) -> list[Figure]:
    """Return the figures of a run that forgets classes."""
    sentences = []
    for forget_set in confusion.sets:
        predictions = []
        for key, rates in forget_set.rows.items():
            predictions.append(f"{key} {rates.index(max(rates))}")
        sentences.append(f"{forget_set.title}: {', '.join(predictions)}")
    distances = ["tv_forget", "acc_r", "avg_gap"]
    attacks = [
        metric.key
        for metric in result.metrics
        if metric.key.startswith(("ulira", "mia_nn"))
    ]
    drawn = [
        Figure(
            "Predictions on forgotten classes",
            class_figures.confusion_plot(result),
            f"The class most often given: {'; '.join(sentences)}.",
            "Test samples of the forgotten classes, by the class that a model gives"
            " them, in percent. A model that never saw the class sends them to its"
            " neighbors: unlearned well, a line looks like the two retrained ones on"
            " top.",
        ),
        Figure(
            "Distance to retraining",
            figures.forest_plot(result, distances),
            _describe(result, distances),
            "Forgetting is easy when accuracy does not matter, and accuracy does not"
            " show where the forgotten class went: bars should reach the gray band in"
            " all of them.",
        ),
    ]
    if attacks:
        figure = Figure(
            "Attacks on the forgotten classes",
            figures.forest_plot(result, attacks),
            _describe(result, attacks),
            "U-LiRA at 50% (dotted) cannot distinguish unlearned from retrained"
            " models. MIA-NN's score should be the retrained models', and its gap as"
            " small as theirs.",
        )
        drawn.append(figure)
    figure = Figure(
        "Confidence",
        figures.confidence_plot(result, arrays),
        "Cumulative distributions of the forgotten class's log-odds on its training"
        " samples, one line per row.",
        "Unlearned well, a line follows the retrained one. Left of it: less sure than a"
        " model that never saw the samples; right of it: still too sure. All runs are"
        " pooled.",
    )
    drawn.append(figure)
    return drawn


def _describe(
    result: RunResult, keys: Sequence[str], rows: Sequence[RowResult] | None = None
) -> str:
    """Return the numbers of a forest plot in words.

    Args:
      result: results of a run.
      keys: keys of the metrics in the plot.
      rows: rows in the plot; all if None.
    """
    sentences = []
    for metric in result.metrics:
        if metric.key not in keys:
            continue
        values = []
        for row in result.rows if rows is None else rows:
            estimate = row.metrics.get(metric.key)
            if estimate is not None:
                number = format_cell(estimate.mean, 2)[0]
                interval = format_cell(estimate, 2)[1]
                values.append(f"{row.label} {number} {interval}".strip())
        sentences.append(f"{metric.label} ({metric.unit}): {', '.join(values)}.")
    return "Means with intervals. " + " ".join(sentences)


def _run_sections(result: RunResult) -> list[Section]:
    """Return the values of every run, in a folded table for each row."""
    names = [
        f"original {run.original}, forget set {run.forget_set}, repeat {run.repeat}"
        for run in result.runs
    ]
    columns = [Column(metric.label, metric.unit, digits=2) for metric in result.metrics]
    sections = []
    for row in result.rows:
        values = [row.values.get(metric.key, ()) for metric in result.metrics]
        num_runs = max(map(len, values), default=0)
        if not num_runs:
            continue
        labels = names
        if len(names) != num_runs:
            # the row does not have all runs of the design
            labels = [f"run {i}" for i in range(num_runs)]
        padded = [[*column, *[None] * (num_runs - len(column))] for column in values]
        lines = list(zip(labels, *padded, strict=True))
        table = Table("", ["Run", *columns], lines)
        sections.append(Section(row.label, [table], folded=True))
    return sections


def _provenance(result: RunResult) -> list[Block]:
    columns = [
        "Model",
        Column("Method", is_text=True),
        Column("Hyperparameters", is_text=True),
        Column("Gradients", digits=0),
        Column("Cost", "× retraining"),
        Column("Wall time", "seconds", digits=2),
    ]
    rows = []
    for row in result.rows:
        options = dict(row.options)
        if row.attack:
            options["attack"] = row.attack
        cells = [
            row.label,
            row.method,
            format_options(options),
            int(row.cost.gradients) if row.cost else None,
            format_cost(row),
            row.cost.seconds if row.cost else None,
        ]
        rows.append(cells)
    facts = {
        "preset": result.preset,
        "configuration digest": result.config_digest,
        "data digest": result.data.digest,
        "device": result.device,
        **result.versions,
    }
    return [
        Table("Rows", columns, rows),
        cost_table("Stage", result.stages),
        Text(result.command, "Command", kind="code"),
        *provenance_blocks(result.config, facts),
    ]
