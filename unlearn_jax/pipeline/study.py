"""A study: variants of one run, side by side. Each has a folder and a report; all share one bank of models."""

import dataclasses
import json
import os
import pathlib
import urllib.parse
from collections.abc import Mapping
from typing import Any

import jax

from unlearn_jax.pipeline._run import run
from unlearn_jax.pipeline.config.resolve import banks_folder
from unlearn_jax.pipeline.config.schema import RunConfig
from unlearn_jax.pipeline.measure.records import RunResult
from unlearn_jax.pipeline.report import tables
from unlearn_jax.pipeline.report.plain import plain_results
from unlearn_jax.pipeline.report.tables import (
    Results,
    escape_markdown,
    format_interval,
    format_level,
    format_spread,
)
from unlearn_jax.pipeline.report.verdict import find_row, place
from unlearn_jax.pipeline.store import folders as store

_SHOWN = (
    "unlearn_accuracy",
    "retain_accuracy",
    "test_accuracy",
    "ft_auc",
    "fr_auc",
    "avg_gap",
)
_SHOWN += (
    "acc_r",
    "acc_f",
    "tv_forget",
    "ulira",
    "mia_nn",
    "mia_nn_gap",
)  # where classes are forgotten
_TERMS = {
    "delta": "Distance of the adversarial examples (L2)",
    "transfer": "Share of adversarial examples that fool the retrained model, too",
}
"""Terms of the theorem that a study compares, where its variants have them."""


def run_study(
    variants: Mapping[str, RunConfig],
    workdir: str | os.PathLike[str],
    *,
    preset: str = "",
    own: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, RunResult]:
    """Runs every variant, each in a sub-folder, and puts their tables side by side.

    Args:
      variants: by name.
      workdir: the study's folder; models are kept in ``banks`` beside it unless a
        configuration names another place.
      preset: name for the reports.
      own: by variant, a user's ``splits``, ``model`` and ``loss_fn``, see
        :func:`unlearn_jax.pipeline.run`.

    Returns:
      Every variant's results; nothing in all but the first of several processes.

    Raises:
      InputError: as :func:`unlearn_jax.pipeline.run`.
    """
    found = {}
    with store.Workdir(workdir).locked() as folder:
        for name, config in variants.items():
            own_parts = (own or {}).get(name, {})
            result = run(
                with_bank(config, folder), folder / name, preset=preset, **own_parts
            )
            if result is not None:
                found[name] = result
                pages = {key: plain_results(one) for key, one in found.items()}
                write_study(pages, folder)
            jax.clear_caches()  # a process can map only so many compiled programs, and the next variant needs others
    return found


def with_bank(config: RunConfig, workdir: str | os.PathLike[str]) -> RunConfig:
    """A variant's configuration with the bank that all variants share."""
    return dataclasses.replace(config, bank=str(banks_folder(config, workdir)))


def write_study(results: Mapping[str, Results], folder: pathlib.Path) -> None:
    """Writes ``study.md``, ``study.html`` and ``study.json`` of the variants that are done.

    Args:
      results: of every variant's run, by name.
      folder: of the study; the reports lie in its sub-folders.
    """
    store.write_text(folder / "study.md", study_markdown(results))
    store.write_text(folder / "study.html", study_html(results))
    rows = {
        name: {row["key"]: row["metrics"] for row in result["rows"]}
        for name, result in results.items()
    }
    store.write_text(folder / "study.json", json.dumps(rows, indent=1))


def study_markdown(results: Mapping[str, Results]) -> str:
    """One Markdown table per metric, and one of the costs: rows are methods, columns are variants; oracles are bold.

    Args:
      results: of every variant's run, by name.
    """
    lines = []
    names = [escape_markdown(name) for name in results]
    for table in _tables(results):
        lines += [f"**{escape_markdown(table['name'])}**", ""]
        lines += [f"| | {' | '.join(names)} |", f"| :--- |{' ---: |' * len(names)}"]
        for row in table["rows"]:
            label = escape_markdown(row["label"])
            cells = [
                f"{cell['text']} {cell['interval']}".strip() for cell in row["cells"]
            ]
            lines.append(
                f"| {f'**{label}**' if row['kind'] == 'oracle' else label} |"
                f" {' | '.join(cells)} |"
            )
        lines.append("")
    return "\n".join(lines)


def study_html(results: Mapping[str, Results]) -> str:
    """One self-contained page: a figure of the Avg Gaps and a table per metric, linked to every variant's report.

    Args:
      results: of every variant's run, by name.
    """
    from unlearn_jax.pipeline.report.figures.study import study_plot
    from unlearn_jax.pipeline.report.figures.style import to_svg
    from unlearn_jax.pipeline.report.run import environment

    shown = _tables(results)
    gaps = next((table for table in shown if table["key"] == "avg_gap"), {"rows": []})
    said = [
        f"{row['label']} {', '.join(cell['text'] for cell in row['cells'])}"
        for row in gaps["rows"]
    ]
    svg = to_svg(
        study_plot(results),
        "study",
        f"Avg Gap in {', '.join(results)}: {'; '.join(said)}.",
    )
    return (
        environment()
        .get_template("study.html.j2")
        .render(
            title=_title(results),
            level=format_level(next(iter(results.values()))),
            variants=[_variant(name, result) for name, result in results.items()],
            tables=shown,
            svg=svg,
        )
    )


def _title(results: Mapping[str, Results]) -> str:
    """The words that all titles start with."""
    words = [result["title"].split() for result in results.values()]
    same = 0
    while (
        same < min(map(len, words))
        and len({tuple(title[: same + 1]) for title in words}) == 1
    ):
        same += 1
    return " ".join(words[0][:same]).strip(" :,") or "Study"


def _variant(name: str, result: Results) -> dict[str, Any]:
    return {
        "name": name,
        "link": f"{urllib.parse.quote(name)}/report.html",
        "data": result["data"]["name"],
        "num_train": result["data"]["num_train"],
        "num_forget": result["design"]["num_forget"],
        "runs": result["design"]["runs"],
        "references": result["design"]["references"],
        "failed": [
            check["name"] for check in result.get("checks", []) if not check["passed"]
        ],
    }


def _tables(results: Mapping[str, Results]) -> list[dict[str, Any]]:
    """A table per metric that any variant has, and one of the costs; a cell of a variant without the row is a dash."""
    about = {row["key"]: row for result in results.values() for row in result["rows"]}
    metrics = {
        metric["key"]: metric
        for result in results.values()
        for metric in result["metrics"]
    }
    found = {
        name: {row["key"]: row for row in result["rows"]}
        for name, result in results.items()
    }
    shown = [
        {
            "key": key,
            "name": f"{metrics[key]['name']} ({metrics[key]['unit']})",
            "help": metrics[key]["help"],
            "rows": [
                {
                    **_about(row),
                    "cells": [
                        _cell(results[name], found[name].get(row["key"]), key)
                        for name in results
                    ],
                }
                for row in about.values()
            ],
        }
        for key in _SHOWN
        if key in metrics
    ]
    costs = [
        {
            **_about(row),
            "cells": [
                {
                    "text": tables.format_cost(found[name].get(row["key"], {})),
                    "interval": "",
                    "near": False,
                }
                for name in results
            ],
        }
        for row in about.values()
    ]
    shown += [
        {
            "key": key,
            "name": name,
            "help": "",
            "rows": [
                {
                    **_about(row),
                    "cells": [_term(r, row["key"], key) for r in results.values()],
                }
                for row in given
            ],
        }
        for key, name in _TERMS.items()
        if (
            given := [
                row
                for row in about.values()
                if any(_has_terms(r, row["key"]) for r in results.values())
            ]
        )
    ]
    if any(result.get("norms") for result in results.values()):
        largest = [
            {
                **_about(row),
                "cells": [
                    _largest_norm(result, row["key"]) for result in results.values()
                ],
            }
            for row in about.values()
        ]
        help_text = (
            "The largest singular value of any layer of any model of the row, by"
            " Lanczos iteration."
        )
        shown.append(
            {
                "key": "norm",
                "name": "Largest spectral norm",
                "help": help_text,
                "rows": largest,
            }
        )
    return [*shown, {"key": "cost", "name": tables.COST, "help": "", "rows": costs}]


def _about(row: Mapping[str, Any]) -> dict[str, Any]:
    note = "" if row["kind"] == "method" else tables.kind_note(row)
    return {"label": row["label"], "kind": row["kind"], "note": note}


def _has_terms(result: Results, key: str) -> bool:
    return key in (result.get("theory") or {}).get("rows", {})


def _term(result: Results, key: str, term: str) -> dict[str, Any]:
    """A row's term of the theorem, mean and deviation over runs."""
    text = (
        format_spread(result["theory"]["rows"][key][term])
        if _has_terms(result, key)
        else tables.MISSING
    )
    return {"text": text, "interval": "", "near": False}


def _largest_norm(result: Results, key: str) -> dict[str, Any]:
    """The largest norm of any layer of any model of a row."""
    layers = (result.get("norms") or {}).get("rows", {}).get(key, {})
    largest = max((layer["high"] for layer in layers.values()), default=None)
    return {"text": tables.format_number(largest), "interval": "", "near": False}


def _cell(result: Results, row: Mapping[str, Any] | None, key: str) -> dict[str, Any]:
    """A row's metric in one variant; ``near`` when its interval overlaps the one of that variant's oracle."""
    if row is None:
        return {"text": tables.MISSING, "interval": "", "near": False}
    if tables.diverged(row):
        return {"text": "diverged", "interval": "", "near": False}
    cell, goal = (
        row["metrics"].get(key),
        (find_row(result, "oracle") or {"metrics": {}})["metrics"].get(key),
    )
    comparable = row["kind"] != "oracle" and bool(
        format_interval(cell) and format_interval(goal)
    )
    near = comparable and place(cell, goal or {}) == "within"
    return {
        "text": format_spread(cell),
        "interval": format_interval(cell),
        "near": near,
    }
