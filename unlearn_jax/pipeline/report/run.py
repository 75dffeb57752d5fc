"""The page a researcher opens after a run: one HTML file with the verdict, the table, the figures and the facts.

The file needs nothing but a browser: figures are inline SVG that follow the light or
dark color scheme, there is no script, and nothing is requested from anywhere. All
numbers come from ``results``; ``arrays`` feeds the figures, and the shares of single
samples under the original and the retrained models.
"""

import json
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from markupsafe import Markup, escape

from unlearn_jax.pipeline.report import search as report_search
from unlearn_jax.pipeline.report import sections as report_sections
from unlearn_jax.pipeline.report import tables
from unlearn_jax.pipeline.report.figures import classes as plots_classes
from unlearn_jax.pipeline.report.figures import run as plots
from unlearn_jax.pipeline.report.figures import sections as plots_sections
from unlearn_jax.pipeline.report.figures.style import to_svg
from unlearn_jax.pipeline.report.tables import (
    Results,
    format_interval,
    format_level,
    format_number,
    format_spread,
)
from unlearn_jax.pipeline.report.verdict import find_row, place, verdict
from unlearn_jax.pipeline.store.folders import write_text

TARGETS = {
    "retrained": "as the retrained row",
    "50": "50, nothing to tell apart",
    "0": "0, the lower the better",
    "high": "the higher the better",
    "low": "the lower the better",
}
CAPTIONS = {
    "FT AUC": (
        "At 50 % (dotted) the attack cannot tell forget samples from unseen ones. A row"
        " whose bar stays clear of the gray band differs from retraining. A triangle at"
        " the edge stands for a row far outside, with its mean."
    ),
    "Accuracy and Avg Gap": (
        "Forgetting is easy when accuracy does not matter: every bar should reach the"
        " gray band, and the Avg Gap, the mean distance to retraining, should be small."
    ),
    "Both sides of privacy": (
        "To the right: retained samples are easier to recognize, the price that those"
        " who stay pay. Up: forgotten ones are. Good is near the retrained model,"
        " neither above nor to the right of the original. The table's RT TPR is the"
        " same for the few retained samples that an attacker is sure of."
    ),
    "ROC curves": (
        "Both axes are logarithmic, because an attack that is sure of a few samples is"
        " a leak even at an area of 50 %. The scores of all runs are pooled: the area"
        " can differ from the table's mean over runs."
    ),
    "Membership scores": (
        "Unlearned well, the filled histogram follows the solid line (never seen), not"
        " the dotted one (members). All runs are pooled."
    ),
    "Confidence": (
        "Unlearned well, a line follows the retrained one. Left of it: less sure than a"
        " model that never saw the samples; right of it: still too sure. All runs are"
        " pooled."
    ),
    "Where forgotten classes go": (
        "Test samples of the forgotten classes, by the class that a model gives them,"
        " in percent. A model that never saw the class sends them to its neighbors:"
        " unlearned well, a line looks like the two retrained ones on top."
    ),
    "Distance to retraining": (
        "Forgetting is easy when accuracy does not matter, and accuracy says nothing of"
        " where the forgotten class went: bars should reach the gray band in all of"
        " them."
    ),
    "Can it be told?": (
        "U-LiRA at 50 % (dotted) cannot tell unlearned from retrained models. MIA-NN's"
        " score should be the retrained models', and its gap as small as theirs."
    ),
    "Adversarial search": (
        "Many samples at the first radius: start smaller. Samples not found: allow more"
        " radii."
    ),
}
_COMPARED = ("unlearn_accuracy", "retain_accuracy", "test_accuracy", "avg_gap")


def write_report(
    results: Results, arrays: plots.Arrays, path: str | os.PathLike[str]
) -> None:
    """Writes the report as one self-contained HTML file, in one step.

    Args:
      results: of a run, as stored in ``results.json``.
      arrays: of the same run; a figure whose arrays are missing says so.
      path: of the file; its folder is made, an older report is replaced.
    """
    page = (
        environment()
        .get_template("report.html.j2")
        .render(
            results=results,
            level=format_level(results),
            verdict=verdict(results),
            table=_table(results),
            lost=any(tables.diverged(row) for row in results["rows"]),
            targets=[_described(metric) for metric in results["metrics"]],
            figures=_figures(results, arrays),
            sections=report_sections.make_sections(results, arrays),
            runs=[_run_table(results, row) for row in results["rows"]],
            config=json.dumps(
                results["config"], indent=2, ensure_ascii=False, default=str
            ),
        )
    )
    write_text(pathlib.Path(path), page)


def environment() -> jinja2.Environment:
    """Templates of this package; text is escaped, a name that is not given is an error."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("unlearn_jax", "pipeline/report/templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["number"] = format_number
    made.filters["subscripts"] = lambda text: Markup(
        re.sub(r"_(\w+)", r"<sub>\1</sub>", str(escape(text)))
    )
    made.filters["count"] = lambda value: (
        tables.MISSING if value is None else f"{value:,}"
    )
    return made


def write_tables(results: Results, folder: str | os.PathLike[str]) -> None:
    """Writes ``table.txt``, ``table.csv``, ``table.tex`` and ``table.md``, each in one step.

    Args:
      results: of a run.
      folder: made if it is not there.
    """
    folder = pathlib.Path(folder)
    write_text(folder / "table.txt", tables.terminal_table(results) + "\n")
    write_text(folder / "table.csv", tables.csv_table(results))
    write_text(folder / "table.tex", tables.latex_table(results))
    write_text(folder / "table.md", tables.markdown_table(results))


def _described(metric: Mapping[str, Any]) -> dict[str, Any]:
    return {**metric, "goal": TARGETS.get(str(metric["target"]), str(metric["target"]))}


def _table(results: Results) -> list[dict[str, Any]]:
    """Rows of the main table; a cell is ``near`` when its interval overlaps the oracle's."""
    oracle = find_row(results, "oracle")
    rows = []
    for row in results["rows"]:
        cells = []
        for metric in results["metrics"]:
            cell = row["metrics"].get(metric["key"])
            goal = oracle["metrics"].get(metric["key"]) if oracle else None
            comparable = row["kind"] != "oracle" and bool(
                format_interval(cell) and format_interval(goal)
            )
            near = comparable and place(cell, goal or {}) == "within"
            cells.append(
                {
                    "spread": format_spread(cell),
                    "interval": format_interval(cell),
                    "near": near,
                }
            )
        more = {
            "cells": cells,
            "relative": tables.format_cost(row),
            "knob_text": report_search.format_knobs(row.get("knobs") or {}),
            "note": tables.kind_note(row),
            "search": report_search.chosen_knobs(results, row["key"]),
        }
        rows.append({**row, **more})
    return rows


def _run_table(results: Results, row: Mapping[str, Any]) -> dict[str, Any]:
    """Every run of a row; runs are numbered where the row does not have one value for each run of the design."""
    columns = [
        (row["metrics"].get(metric["key"]) or {}).get("values") or []
        for metric in results["metrics"]
    ]
    count = max((len(column) for column in columns), default=0)
    names = [
        f"original {run['original']}, forget set {run['forget_set']}, repeat"
        f" {run['repeat']}"
        for run in results["runs"]
    ]
    if len(names) != count:
        names = [f"run {i}" for i in range(count)]
    lines = [
        (
            name,
            [
                format_number(column[i] if i < len(column) else None)
                for column in columns
            ],
        )
        for i, name in enumerate(names)
    ]
    return {"label": row["label"], "lines": lines}


def _figures(results: Results, arrays: plots.Arrays) -> list[dict[str, str]]:
    """Drawn figures, what they show for those who do not see them, and how to read them."""
    available = [metric["key"] for metric in results["metrics"]]
    if results.get("confusion"):
        return _render(_class_figures(results, arrays, available))
    compared = [key for key in _COMPARED if key in available]
    drawn = {
        "FT AUC": (plots.forest_plot(results), _alt(results, ["ft_auc"])),
        "Accuracy and Avg Gap": (
            plots.forest_plot(results, compared),
            _alt(results, compared),
        ),
        "Both sides of privacy": (
            plots_sections.privacy_plot(results),
            _alt(results, ["rt_auc", "ft_auc"]),
        ),
        "ROC curves": (
            plots.roc_plot(results, arrays),
            (
                "Log-log ROC curves of the membership attack, forget against test, one"
                " per row, beside the diagonal."
            ),
        ),
        "Membership scores": (
            plots.score_histograms(results, arrays),
            (
                "Histograms of membership scores of forget, retain and test samples,"
                " one panel per row."
            ),
        ),
        "Confidence": (
            plots.confidence_plot(results, arrays),
            (
                "Cumulative distributions of the logit margin on the forget samples,"
                " one line per row."
            ),
        ),
    }
    if results.get("attack"):
        drawn["Adversarial search"] = (
            plots.attack_plot(results, arrays),
            (
                "Bars of the radii at which the search stopped, a histogram of the"
                " distances, and the outcomes."
            ),
        )
    return _render(drawn)


def _class_figures(
    results: Results, arrays: plots.Arrays, available: Sequence[str]
) -> dict[str, Any]:
    """The figures of a run that forgets classes."""
    telling = [key for key in ("ulira", "mia_nn", "mia_nn_gap") if key in available]
    apart = ["tv_forget", "acc_r", "avg_gap"]
    went = "; ".join(
        f"{one['title']}: "
        + ", ".join(
            f"{key} {max(range(len(v)), key=v.__getitem__)}"
            for key, v in one["rows"].items()
        )
        for one in results["confusion"]["sets"]
    )
    drawn = {
        "Where forgotten classes go": (
            plots_classes.confusion_plot(results),
            f"The class most often given: {went}.",
        ),
        "Distance to retraining": (
            plots.forest_plot(results, apart),
            _alt(results, apart),
        ),
        "Can it be told?": (
            plots.forest_plot(results, telling),
            _alt(results, telling),
        ),
        "Confidence": (
            plots.confidence_plot(results, arrays),
            (
                "Cumulative distributions of the forgotten class's log-odds on its"
                " training samples, one line per row."
            ),
        ),
    }
    return (
        drawn
        if telling
        else {
            title: pair for title, pair in drawn.items() if title != "Can it be told?"
        }
    )


def _render(drawn: Mapping[str, Any]) -> list[dict[str, str]]:
    return [
        {
            "title": title,
            "svg": to_svg(figure, f"figure{i}", alt),
            "caption": CAPTIONS[title],
        }
        for i, (title, (figure, alt)) in enumerate(drawn.items())
    ]


def _alt(results: Results, metrics: Sequence[str]) -> str:
    """The numbers of a forest plot in words."""
    names = {
        metric["key"]: f"{metric['name']} ({metric['unit']})"
        for metric in results["metrics"]
    }
    said = []
    for key in (key for key in metrics if key in names):
        cells = [(row["label"], row["metrics"].get(key)) for row in results["rows"]]
        values = [
            f"{label} {format_number(c['mean'])} {format_interval(c)}".strip()
            for label, c in cells
            if c
        ]
        said.append(f"{names[key]}: {', '.join(values)}.")
    return "Means with intervals. " + " ".join(said)
