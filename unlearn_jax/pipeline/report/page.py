"""Files of an experiment: its page, its tables and its numbers."""

import dataclasses
import datetime
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unlearn_jax.audit import Estimate
from unlearn_jax.pipeline.config.schema import digest, to_json
from unlearn_jax.pipeline.measure.records import to_plain
from unlearn_jax.pipeline.report.blocks import (
    Block,
    Check,
    Column,
    Page,
    Section,
    Table,
    Text,
    render_html,
    render_markdown,
)
from unlearn_jax.pipeline.store import folders as store


def publish(
    title: str,
    name: str,
    config: Any,
    page: Page,
    costs: Sequence[Mapping[str, Any]],
    folder: pathlib.Path,
) -> dict[str, Any]:
    """Write ``report.html``, ``table.md`` and, last, ``results.json``, each at once.

    Args:
      title: heading of the page.
      name: of the experiment.
      config: its configuration.
      page: its findings.
      costs: of the parts: name, seconds, compile_seconds, peak_memory_mb, cached.
      folder: to write to.

    Returns:
      The content of ``results.json``.
    """
    now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    tables = page.find(Table)
    versions = store.versions()
    results: Any = to_plain(
        {
            "experiment": name,
            "title": title,
            "created": now,
            "summary": page.summary,
            "tables": [_table_json(table) for table in tables],
            "checks": [
                {**dataclasses.asdict(check), "passed": bool(check.passed)}
                for check in page.find(Check)
            ],
            "costs": costs,
            "versions": versions,
            "config": to_json(config),
            "config_hash": digest(config),
        }
    )
    version = versions["unlearn_jax"]
    about = f"Experiment {name} · {now[:10]} · unlearn_jax {version}"
    provenance = [
        cost_table("Artifact", costs),
        *provenance_blocks(
            results["config"], {"configuration hash": digest(config), **versions}
        ),
    ]
    whole = dataclasses.replace(
        page,
        title=title,
        about=about,
        blocks=[*page.blocks, Section("Cost and provenance", provenance)],
    )
    markdown = "\n".join(render_markdown(table) for table in tables)
    store.write_text(folder / "table.md", markdown)
    store.write_text(folder / "report.html", render_html(whole))
    text = json.dumps(results, indent=1, allow_nan=False)
    store.write_text(folder / "results.json", text)
    return results


def cost_table(name: str, costs: Sequence[Mapping[str, Any]]) -> Table:
    """Return time and memory of every stage or part.

    Args:
      name: heading of the first column.
      costs: name, seconds, compile_seconds, peak_memory_mb and cached of each.
    """
    columns = [
        name,
        Column("Seconds", digits=1),
        Column("Compiling", "seconds", "Seconds of compilation among them.", 1),
        Column("Peak memory", "MB", digits=0),
        Column("Origin", is_text=True),
    ]
    rows = [
        [
            cost["name"],
            cost["seconds"],
            cost["compile_seconds"],
            cost["peak_memory_mb"],
            "reused" if cost["cached"] else "computed",
        ]
        for cost in costs
    ]
    return Table("Time and memory", columns, rows)


def provenance_blocks(config: Any, facts: Mapping[str, Any]) -> list[Block]:
    """Return the configuration and the versions, folded.

    Args:
      config: values for JSON.
      facts: name and value of each line.
    """
    text = json.dumps(config, indent=2, ensure_ascii=False, default=str)
    columns = ["", Column("", is_text=True)]
    rows = [[name, str(value)] for name, value in facts.items()]
    return [
        Section("Configuration", [Text(text, kind="code")], folded=True),
        Section("Versions and digests", [Table("", columns, rows)], folded=True),
    ]


def read_page(results: Mapping[str, Any]) -> Page:
    """Return the tables and the checks that ``results.json`` of an experiment holds."""
    tables = []
    for table in results["tables"]:
        rows = [[_value(cell) for cell in row] for row in table["rows"]]
        tables.append(Table(table["title"], table["columns"], rows, table["caption"]))
    checks = [Check(**check) for check in results["checks"]]
    return Page(results["summary"], [*tables, *checks], results["title"])


def _table_json(table: Table) -> dict[str, Any]:
    rows = [[_plain(cell.value) for cell in cells] for _, cells in table.body]
    return {
        "title": table.title,
        "columns": [column.name for column in table.heads],
        "rows": rows,
        "caption": table.caption,
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Estimate):
        return {key: _plain(number) for key, number in value._asdict().items()}
    return value.item() if isinstance(value, np.generic) else value


def _value(value: Any) -> Any:
    if isinstance(value, Mapping):
        numbers: dict[str, Any] = {
            key: math.nan if v is None else v for key, v in value.items()
        }
        return Estimate(**numbers)
    return value
