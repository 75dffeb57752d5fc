"""A study: variants of one run, side by side. Each has a folder and a report; all share one bank of models."""

import dataclasses
import html
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from unlearn_jax.pipeline import store
from unlearn_jax.pipeline.config import RunConfig
from unlearn_jax.pipeline.run import run
from unlearn_jax.pipeline.tables import format_interval, format_spread

_SHOWN = ("unlearn_accuracy", "retain_accuracy", "test_accuracy", "ft_auc", "avg_gap")
_HEAD = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark"><title>%s</title><style>
body{font:16px/1.5 system-ui,sans-serif;max-width:75rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;margin:1rem 0}th,td{padding:.3rem .8rem;text-align:right;border-bottom:1px solid #8884}
th:first-child,td:first-child{text-align:left}td small{display:block;opacity:.7}tr.oracle{font-weight:600}
div{overflow-x:auto}</style>"""


def run_study(
    variants: Mapping[str, RunConfig], workdir: str | os.PathLike[str], *, preset: str = "", **own: Any
) -> dict[str, dict[str, Any]]:
    """Runs every variant, each in a sub-folder, and puts their tables side by side.

    Args:
      variants: by name.
      workdir: the study's folder; ``banks`` in it holds the models unless a configuration names another place.
      preset: name for the reports.
      **own: a user's ``splits``, ``model`` and ``loss_fn``, see :func:`unlearn_jax.pipeline.run`.

    Returns:
      What every variant's ``results.json`` holds.

    Raises:
      InputError: as :func:`unlearn_jax.pipeline.run`.
    """
    place = store.Workdir(workdir)
    found = {}
    with place.locked() as folder:
        for name, config in variants.items():
            config = dataclasses.replace(config, bank=config.bank or str(folder / "banks"))
            found[name] = run(config, folder / name, preset=preset, **own)
            write_study(found, folder)
    return found


def write_study(results: Mapping[str, Mapping[str, Any]], folder: pathlib.Path) -> None:
    """Writes ``study.md``, ``study.html`` and ``study.json`` of the variants that are done."""
    store.write_text(folder / "study.md", study_markdown(results))
    store.write_text(folder / "study.html", study_html(results))
    rows = {name: {row["key"]: row["metrics"] for row in result["rows"]} for name, result in results.items()}
    store.write_text(folder / "study.json", json.dumps(rows, indent=1))


def _metrics(results: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    first = next(iter(results.values()))
    return [(m["key"], f"{m['name']} ({m['unit']})") for m in first["metrics"] if m["key"] in _SHOWN]


def study_markdown(results: Mapping[str, Mapping[str, Any]]) -> str:
    """One Markdown table per metric: rows are methods, columns are variants."""
    labels = {row["key"]: row["label"] for result in results.values() for row in result["rows"]}
    lines = []
    for key, title in _metrics(results):
        lines += [f"**{title}**", "", f"| | {' | '.join(results)} |", f"| :--- |{' ---: |' * len(results)}"]
        for row, label in labels.items():
            cells = [_cell(result, row, key) for result in results.values()]
            shown = [f"{format_spread(cell)} {format_interval(cell)}".strip() for cell in cells]
            lines.append(f"| {label} | {' | '.join(shown)} |")
        lines.append("")
    return "\n".join(lines)


def study_html(results: Mapping[str, Mapping[str, Any]]) -> str:
    """One page: a table per metric, linked to every variant's report."""
    title = html.escape(os.path.commonprefix([result["title"] for result in results.values()]).strip(" :,") or "Study")
    labels = {row["key"]: (row["label"], row["kind"]) for result in results.values() for row in result["rows"]}
    links = "".join(
        f'<th scope="col"><a href="{html.escape(name)}/report.html">{html.escape(name)}</a></th>' for name in results
    )
    page = [_HEAD % title, f"<h1>{title}</h1>", "<p>Mean ± standard deviation over runs; below it the interval.</p>"]
    for key, metric in _metrics(results):
        page.append(f'<h2>{html.escape(metric)}</h2><div><table><tr><th scope="col">Method</th>{links}</tr>')
        for row, (label, kind) in labels.items():
            cells = [_cell(result, row, key) for result in results.values()]
            shown = "".join(f"<td>{format_spread(c)}<small>{format_interval(c)}</small></td>" for c in cells)
            page.append(f'<tr class="{kind}"><td>{html.escape(label)}</td>{shown}</tr>')
        page.append("</table></div>")
    return "\n".join([*page, "</html>"])


def _cell(result: Mapping[str, Any], row: str, key: str) -> Any:
    return next((other["metrics"].get(key) for other in result["rows"] if other["key"] == row), None)
