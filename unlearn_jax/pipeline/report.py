"""The page a researcher opens after a run: one HTML file with the verdict, the table, the figures and the facts.

The file needs nothing but a browser: figures are inline SVG that follow the light or dark colour scheme, there is no
script, and nothing is requested from anywhere. All numbers come from ``results``; ``arrays`` only feeds the figures.
"""

import html
import importlib.resources
import io
import json
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import matplotlib
from matplotlib.figure import Figure

from unlearn_jax.pipeline import plots, tables
from unlearn_jax.pipeline.store import write_text
from unlearn_jax.pipeline.tables import Results, format_interval, format_level, format_number, format_spread, known

TARGETS = {
    "retrained": "as the retrained row",
    "50": "50, nothing to tell apart",
    "0": "0, the lower the better",
    "high": "the higher the better",
    "low": "the lower the better",
}
STATUSES = {
    "found": "an input within the radius gets another label",
    "already_wrong": "the clean image was misclassified to begin with",
    "not_found": "still classified correctly after the last radius",
    "zero_gradient": "the loss gave no direction to search in",
}
CAPTIONS = {
    "FT AUC": "At 50 % (dotted) the attack cannot tell forget samples from unseen ones. A row whose bar stays clear of "
    "the grey band differs from retraining.",
    "Accuracy and Avg Gap": "Forgetting is easy when accuracy does not matter: every bar should reach the grey "
    "band, and the Avg Gap, the mean distance to retraining, should be small.",
    "ROC curves": "Both axes are logarithmic, because an attack that is sure of a few samples is a leak even at an "
    "area of 50 %. The scores of all runs are pooled: the area can differ from the table's mean over runs.",
    "Membership scores": "Unlearned well, the filled histogram follows the solid line (never seen), not the dotted one "
    "(members). All runs are pooled.",
    "Confidence": "Unlearned well, a line follows the black one. Left of it: less sure than a model that never saw the "
    "samples; right of it: still too sure. All runs are pooled.",
    "Adversarial search": "Many samples at the first radius: start smaller. Samples not found: allow more radii.",
}
_FIFTY: Mapping[str, Any] = {"low": 50, "high": 50}
_MAX_NAMED = 6
_COMPARED = ("unlearn_accuracy", "retain_accuracy", "test_accuracy", "avg_gap")


def write_report(results: Results, arrays: plots.Arrays, path: str | os.PathLike[str]) -> None:
    """Writes the report as one self-contained HTML file, in one step.

    Args:
      results: of a run, as stored in ``results.json``.
      arrays: of the same run; a figure whose arrays are missing says so.
      path: of the file; its folder is made, an older report is replaced.
    """
    template = importlib.resources.files("unlearn_jax.pipeline").joinpath("report.html.j2").read_text("utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = format_number
    environment.filters["count"] = lambda value: tables.MISSING if value is None else f"{value:,}"
    page = environment.from_string(template).render(
        results=results,
        statuses=_statuses(results.get("attack")),
        level=format_level(results),
        verdict=verdict(results),
        table=_table(results),
        targets=[_described(metric) for metric in results["metrics"]],
        figures=_figures(results, arrays),
        runs=[_run_table(results, row) for row in results["rows"]],
        config=json.dumps(results["config"], indent=2, ensure_ascii=False, default=str),
    )
    write_text(pathlib.Path(path), page)


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


def verdict(results: Results) -> str:
    """What the numbers say, and do not say, in a paragraph of plain words.

    Two rows are called different only when their intervals do not overlap, and never called equal.

    Args:
      results: of a run.

    Returns:
      The paragraph.
    """
    design, data = results["design"], results["data"]
    runs = "a single run" if design["runs"] == 1 else f"{design['runs']} runs"
    sentences = [f"{design['num_forget']:,} of {data['num_train']:,} training samples are to be forgotten, in {runs}."]
    failed = [check for check in results.get("checks", []) if not check["passed"]]
    if failed:
        start = "A check was not passed: read it" if len(failed) == 1 else f"{len(failed)} checks failed: read them"
        sentences.insert(0, f"{start} below before you trust a number.")
    sentences += _say_references(results) + _say_methods(results) + _say_gap(results)
    if design["runs"] == 1:
        sentences.append(
            "With a single run the intervals know of the samples that were drawn, but not of how much another "
            "forget set or another training would change."
        )
    return " ".join(sentences)


def _say_references(results: Results) -> list[str]:
    """How the attack does on the models whose answer is known: before unlearning, and retrained."""
    said = []
    for row in results["rows"]:
        cell = row["metrics"].get("ft_auc")
        if row["kind"] not in ("original", "oracle") or not format_interval(cell):
            continue
        place = _place(cell, _FIFTY)
        unseen = "although it never saw the forget samples: compare with this row, not with 50 %"
        meaning = {
            ("original", "above"): "so the attack does recognise training samples",
            ("original", "within"): "so the attack hardly works here, and its failure on other rows proves little",
            ("original", "below"): "so the attack points the wrong way here: do not trust it on other rows",
            ("oracle", "above"): f"above 50 % {unseen}",
            (
                "oracle",
                "within",
            ): "an interval that contains 50 %, as it should for a model that never saw the forget samples",
            ("oracle", "below"): f"below 50 % {unseen}",
        }[row["kind"], place]
        said.append(f"{row['label']} has an FT AUC of {_in_words(cell, '%')}, {meaning}.")
    return said


def _say_methods(results: Results) -> list[str]:
    """Which methods the attack tells from the oracle (from 50 %, when there is none)."""
    name, goal = "50 %", _FIFTY
    oracle = _find(results, "oracle")
    if oracle and format_interval(oracle["metrics"].get("ft_auc")):
        name, goal = f"that of {oracle['label']}", oracle["metrics"]["ft_auc"]
    groups: dict[str, list[str]] = {"within": [], "above": [], "below": []}
    fifty = []
    for row in results["rows"]:
        cell = row["metrics"].get("ft_auc")
        if row["kind"] == "method" and format_interval(cell):
            groups[_place(cell, goal)].append(row["label"])
            if _place(cell, _FIFTY) == "within":
                fifty.append(row["label"])
    said = []
    if groups["within"]:
        one = len(groups["within"]) == 1
        said.append(
            f"The FT AUC interval{'' if one else 's'} of {_join(groups['within'])} overlap{'s' if one else ''} {name}: "
            "no difference was found, which is not a proof that there is none."
        )
    elif groups["above"] or groups["below"]:
        said.append(f"No method has an FT AUC interval that overlaps {name}.")
    if groups["above"]:
        said.append(
            f"Above it, so still recognisable as training data: the forget samples of {_join(groups['above'])}."
        )
    if groups["below"]:
        said.append(
            f"Below it, so less familiar than data never seen, which gives them away too: those of "
            f"{_join(groups['below'])}."
        )
    if said and name != "50 %":
        said.append(f"50 % itself lies in {f'the interval of {_join(fifty)}' if fifty else 'no interval of a method'}.")
    return said


def _say_gap(results: Results) -> list[str]:
    """The method with the smallest Avg Gap, and whether its lead is clear."""
    gaps = [
        (row["metrics"]["avg_gap"], row["label"])
        for row in results["rows"]
        if row["kind"] == "method" and format_interval(row["metrics"].get("avg_gap"))
    ]
    if not gaps:
        return []
    best, label = min(gaps, key=lambda pair: pair[0]["mean"])
    said = f"{_join([label])} has the smallest Avg Gap to retraining, {_in_words(best, 'percentage points')}"
    tied = [other for cell, other in gaps if other != label and cell["low"] <= best["high"]]
    if tied:
        said += f", with an interval that overlaps that of {_join(tied)}"
    again = _find(results, "second_oracle")
    floor = again["metrics"].get("avg_gap") if again else None
    if again and format_interval(floor):
        said += f"; {again['label']}, about what a perfect method would reach, has {_in_words(floor, '')}"
    return [f"{said}."]


def _place(cell: Mapping[str, Any] | None, goal: Mapping[str, Any]) -> str:
    """Where an interval lies: ``above``, ``below`` or (when they share a point) ``within`` the goal's."""
    cell = cell or {}
    return "above" if cell["low"] > goal["high"] else "below" if cell["high"] < goal["low"] else "within"


def _in_words(cell: Mapping[str, Any] | None, unit: str) -> str:
    cell = cell or {}
    return f"{format_number(cell['mean'])} {unit} {format_interval(cell)}".replace("  ", " ")


def _join(names: Sequence[str]) -> str:
    """A list in words; a long one, as of a sweep, is cut, and names with commas are quoted."""
    names = [f"“{name}”" if "," in name else name for name in names]
    if len(names) > _MAX_NAMED + 1:
        names = [*names[:_MAX_NAMED], f"{len(names) - _MAX_NAMED} others"]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _find(results: Results, kind: str) -> Mapping[str, Any] | None:
    return next((row for row in results["rows"] if row["kind"] == kind), None)


def _described(metric: Mapping[str, Any]) -> dict[str, Any]:
    return {**metric, "goal": TARGETS.get(str(metric["target"]), str(metric["target"]))}


def _table(results: Results) -> list[dict[str, Any]]:
    """Rows of the main table; a cell is ``near`` when its interval overlaps the oracle's."""
    oracle = _find(results, "oracle")
    rows = []
    for row in results["rows"]:
        cells = []
        for metric in results["metrics"]:
            cell = row["metrics"].get(metric["key"])
            goal = oracle["metrics"].get(metric["key"]) if oracle else None
            comparable = row["kind"] != "oracle" and bool(format_interval(cell) and format_interval(goal))
            near = comparable and _place(cell, goal or {}) == "within"
            cells.append({"spread": format_spread(cell), "interval": format_interval(cell), "near": near})
        relative: Any = (row.get("cost") or {}).get("relative")
        cost = f"{100 * relative:.3g} %" if known(relative) else tables.MISSING
        knobs = ", ".join(f"{name}={value}" for name, value in (row.get("knobs") or {}).items())
        rows.append({**row, "cells": cells, "relative": cost, "knob_text": knobs, "note": tables.kind_note(row)})
    return rows


def _run_table(results: Results, row: Mapping[str, Any]) -> dict[str, Any]:
    """Every run of a row; runs are numbered where the row does not have one value for each run of the design."""
    columns = [(row["metrics"].get(metric["key"]) or {}).get("values") or [] for metric in results["metrics"]]
    count = max((len(column) for column in columns), default=0)
    names = [
        f"original {run['original']}, forget set {run['forget_set']}, repeat {run['repeat']}" for run in results["runs"]
    ]
    if len(names) != count:
        names = [f"run {i}" for i in range(count)]
    lines = [
        (name, [format_number(column[i] if i < len(column) else None) for column in columns])
        for i, name in enumerate(names)
    ]
    return {"label": row["label"], "lines": lines}


def _statuses(attack: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    if not attack:
        return []
    total = max(sum(attack["status"].values()), 1)
    return [
        {
            "name": name.replace("_", " "),
            "count": f"{count:,}",
            "share": f"{100 * count / total:.1f} %",
            "meaning": STATUSES.get(name, ""),
        }
        for name, count in attack["status"].items()
    ]


def _figures(results: Results, arrays: plots.Arrays) -> list[dict[str, str]]:
    """Drawn figures, what they show for those who do not see them, and how to read them."""
    available = [metric["key"] for metric in results["metrics"]]
    compared = [key for key in _COMPARED if key in available]
    drawn = {
        "FT AUC": (plots.forest_plot(results), _alt(results, ["ft_auc"])),
        "Accuracy and Avg Gap": (plots.forest_plot(results, compared), _alt(results, compared)),
        "ROC curves": (
            plots.roc_plot(results, arrays),
            "Log-log ROC curves of the membership attack, forget against test, one per row, beside the diagonal.",
        ),
        "Membership scores": (
            plots.score_histograms(results, arrays),
            "Histograms of membership scores of forget, retain and test samples, one panel per row.",
        ),
        "Confidence": (
            plots.confidence_plot(results, arrays),
            "Cumulative distributions of the logit margin on the forget samples, one line per row.",
        ),
    }
    if results.get("attack"):
        drawn["Adversarial search"] = (
            plots.attack_plot(results, arrays),
            "Bars of the radii at which the search stopped, a histogram of the distances, and the outcomes.",
        )
    return [
        {"title": title, "svg": _svg(figure, f"figure{i}", alt), "caption": CAPTIONS[title]}
        for i, (title, (figure, alt)) in enumerate(drawn.items())
    ]


def _alt(results: Results, metrics: Sequence[str]) -> str:
    """The numbers of a forest plot in words."""
    names = {metric["key"]: f"{metric['name']} ({metric['unit']})" for metric in results["metrics"]}
    said = []
    for key in (key for key in metrics if key in names):
        cells = [(row["label"], row["metrics"].get(key)) for row in results["rows"]]
        values = [f"{label} {format_number(c['mean'])} {format_interval(c)}".strip() for label, c in cells if c]
        said.append(f"{names[key]}: {', '.join(values)}.")
    return "Means with intervals. " + " ".join(said)


def _svg(figure: Figure, prefix: str, alt: str) -> str:
    """The figure as an SVG element for a page: its ids unique, its ink the colour of the text around it."""
    stream = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": prefix}):
        figure.savefig(stream, format="svg", facecolor="none", metadata={"Date": None})
    text = stream.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r' (xmlns(:\w+)?|version)="[^"]*"', "", text, count=3)
    text = text.replace("xlink:href=", "href=").replace(plots.INK, "currentColor")
    text = re.sub(r'\b(id="|href="#|url\(#)', rf"\1{prefix}-", text)
    return text.replace("<svg", f'<svg role="img" aria-label="{html.escape(alt)}"', 1)
