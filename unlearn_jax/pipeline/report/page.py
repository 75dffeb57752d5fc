"""The page, the table and the numbers of an experiment that is not a run."""

import datetime
import json
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from tabulate import tabulate

from unlearn_jax.audit import Estimate
from unlearn_jax.pipeline.config.schema import digest, to_json
from unlearn_jax.pipeline.experiment import Cell, Page, Table
from unlearn_jax.pipeline.measure.records import to_plain
from unlearn_jax.pipeline.report import tables
from unlearn_jax.pipeline.report.figures.style import to_svg
from unlearn_jax.pipeline.report.run import environment
from unlearn_jax.pipeline.store import folders as store


def publish(
    title: str,
    name: str,
    config: Any,
    page: Page,
    costs: list[dict[str, Any]],
    folder: pathlib.Path,
) -> dict[str, Any]:
    """Writes ``report.html``, ``table.md`` and, last, ``results.json``, each in one step.

    Args:
      title: heading of the page.
      name: of the experiment.
      config: its configuration.
      page: what it found.
      costs: of the parts: name, seconds, compile_seconds, peak_memory_mb, cached.
      folder: to write to.

    Returns:
      What ``results.json`` holds.
    """
    results: Any = to_plain(
        {
            "experiment": name,
            "title": title,
            "created": (
                datetime.datetime.now().astimezone().isoformat(timespec="seconds")
            ),
            "summary": page.summary,
            "tables": [_table_json(table) for table in page.tables],
            "checks": [
                {**check._asdict(), "passed": bool(check.passed)}
                for check in page.checks
            ],
            "costs": costs,
            "versions": store.versions(),
            "config": to_json(config),
            "config_hash": digest(config),
        }
    )
    store.write_text(
        folder / "table.md", "\n".join(map(markdown_table, results["tables"]))
    )
    store.write_text(folder / "report.html", _html(results, page))
    store.write_text(
        folder / "results.json", json.dumps(results, indent=1, allow_nan=False)
    )
    return results


def format_cell(cell: Any) -> tuple[str, str]:
    """A cell of ``results.json`` as its number and its interval.

    >>> format_cell(3), format_cell(None), format_cell(0.00012345), format_cell("yes")
    (('3', ''), ('–', ''), ('0.000123', ''), ('yes', ''))
    >>> format_cell({"mean": 50.1234, "std": 1.0, "low": 49.0, "high": 51.256})
    ('50.12 ± 1.00', '[49.00, 51.26]')
    >>> format_cell({"mean": 2.7e-6, "std": 6.5e-7, "low": 2.1e-6, "high": 3.4e-6})
    ('2.7e-06 ± 6.5e-07', '[2.1e-06, 3.4e-06]')
    """
    if isinstance(cell, Mapping):
        shown = [
            cell[key] for key in ("mean", "low", "high") if tables.known(cell[key])
        ]
        write = _writer(max(map(abs, shown), default=0.0))
        spread = f" ± {write(cell['std'])}" if tables.known(cell["std"]) else ""
        both = tables.known(cell["low"]) and tables.known(cell["high"])
        ends = f"[{write(cell['low'])}, {write(cell['high'])}]" if both else ""
        return (
            write(cell["mean"]) if tables.known(cell["mean"]) else tables.MISSING
        ) + spread, ends
    if cell is None:
        return tables.MISSING, ""
    if isinstance(cell, float):
        return (f"{cell:.3g}" if abs(cell) < 1000 else f"{cell:,.0f}"), ""
    return (
        f"{cell:,}"
        if isinstance(cell, int) and not isinstance(cell, bool)
        else str(cell)
    ), ""


def _writer(largest: float) -> Callable[[float], str]:
    """How the numbers of a cell are written: three or four figures of the largest, tiny ones with an exponent."""
    if 0 < largest < 1e-3:
        return "{:.1e}".format
    digits = 2 if largest >= 1 or largest == 0 else 2 - math.floor(math.log10(largest))
    return lambda value: tables.format_number(value, digits)


def terminal_text(results: Mapping[str, Any]) -> str:
    """Summary, tables and checks for a terminal."""
    lines = [results["summary"], ""]
    for table in results["tables"]:
        rows = [
            [" ".join(filter(None, format_cell(cell))) for cell in row]
            for row in table["rows"]
        ]
        lines += [
            table["title"],
            tabulate(
                rows, headers=table["columns"], tablefmt="simple", disable_numparse=True
            ),
            "",
        ]
    lines += [
        f"{'ok  ' if c['passed'] else 'FAIL'}  {c['name']}. {c['detail']}".rstrip()
        for c in results["checks"]
    ]
    return "\n".join(lines)


def markdown_table(table: Mapping[str, Any]) -> str:
    """A table of ``results.json`` for a README."""
    lines = [f"**{tables.escape_markdown(table['title'])}**", ""]
    lines += [f"| {' | '.join(map(tables.escape_markdown, table['columns']))} |"]
    lines += [f"| :--- |{' ---: |' * (len(table['columns']) - 1)}"]
    for row in table["rows"]:
        cells = [
            (tables.escape_markdown(number), interval)
            for number, interval in map(format_cell, row)
        ]
        lines.append(
            f"| {' | '.join(' '.join(filter(None, cell)) for cell in cells)} |"
        )
    return "\n".join([*lines, ""])


def _table_json(table: Table) -> dict[str, Any]:
    if any(len(row) != len(table.columns) for row in table.rows):
        raise ValueError(
            f"table {table.title!r}: every row needs {len(table.columns)} cells"
        )
    return {
        **table._asdict(),
        "rows": [[_plain(cell) for cell in row] for row in table.rows],
    }


def _plain(cell: Cell) -> Any:
    if isinstance(cell, Estimate):
        return {key: _plain(value) for key, value in cell._asdict().items()}
    return cell.item() if isinstance(cell, np.generic) else cell


def _html(results: Mapping[str, Any], page: Page) -> str:
    shown = [
        {**table, "rows": [list(map(format_cell, row)) for row in table["rows"]]}
        for table in results["tables"]
    ]
    pictures = [
        {**picture._asdict(), "svg": to_svg(picture.figure, f"figure{i}", picture.alt)}
        for i, picture in enumerate(page.pictures)
    ]
    template = environment().get_template("experiment.html.j2")
    config = json.dumps(results["config"], indent=2, ensure_ascii=False)
    return template.render(
        results=results, tables=shown, pictures=pictures, config=config
    )
