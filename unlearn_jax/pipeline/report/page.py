"""Files of an experiment: its page, its tables and its numbers."""

import dataclasses
import datetime
import json
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from unlearn_jax.audit import Estimate
from unlearn_jax.pipeline.config.resolve import plain_model, with_convolutions
from unlearn_jax.pipeline.config.schema import ModelConfig, digest, to_json
from unlearn_jax.pipeline.measure.records import ExperimentResult, TableResult
from unlearn_jax.pipeline.report.blocks import (
    Block,
    Check,
    Column,
    Page,
    Section,
    Table,
    Text,
    Value,
    render_html,
    render_markdown,
)
from unlearn_jax.pipeline.store import folders as store
from unlearn_jax.pipeline.store.clock import Cost
from unlearn_jax.pipeline.store.events import Events


def publish(
    title: str,
    name: str,
    config: object,
    page: Page,
    costs: Sequence[Cost],
    folder: pathlib.Path,
    *,
    events: Events | None = None,
) -> ExperimentResult:
    """Write ``results.json``, ``table.md`` and ``report.html``, each at once.

    Args:
      title: heading of the page.
      name: of the experiment.
      config: its configuration.
      page: its findings.
      costs: of the artifacts.
      folder: to write to.
      events: of TensorBoard, which get the numbers of the tables; None for none.

    Returns:
      The content of ``results.json``.

    Raises:
      ReportError: a file other than ``results.json`` cannot be written.
    """
    date = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    tables = page.find(Table)
    versions = store.versions()
    network = getattr(config, "model", None)
    if isinstance(network, ModelConfig):
        versions["devices"] = with_convolutions(
            versions["devices"], plain_model(network)
        )
    checks = [
        dataclasses.replace(check, passed=bool(check.passed))
        for check in page.find(Check)
    ]
    result = ExperimentResult(
        experiment=name,
        title=title,
        date=date,
        summary=page.summary,
        tables=tuple(map(_record, tables)),
        checks=tuple(checks),
        stages=tuple(costs),
        versions=versions,
        config=to_json(config),
        config_digest=digest(config),
    )
    provenance = [
        cost_table("Artifact", costs),
        *provenance_blocks(
            result.config, {"configuration hash": result.config_digest, **versions}
        ),
    ]
    whole = dataclasses.replace(
        page,
        title=title,
        about=(
            f"Experiment {name} · {date[:10]} · unlearn_jax {versions['unlearn_jax']}"
        ),
        blocks=[*page.blocks, Section("Cost and provenance", provenance)],
    )
    text = json.dumps(result.to_json(), indent=1, allow_nan=False)
    store.write_text(folder / "results.json", text)

    def save_table() -> None:
        markdown = "\n".join(render_markdown(table) for table in tables)
        store.write_text(folder / "table.md", markdown)

    def save_events() -> None:
        if events is not None:
            events.numbers(_numbers(tables))
            events.close()

    writers = {
        "table.md": save_table,
        "report.html": lambda: store.write_text(
            folder / "report.html", render_html(whole)
        ),
        "the events": save_events,
    }
    store.write_each(writers, folder, result)
    return result


def cost_table(name: str, costs: Sequence[Cost]) -> Table:
    """Return time and memory of every stage or artifact.

    Args:
      name: heading of the first column.
      costs: of each.
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
            cost.name,
            cost.seconds,
            cost.compile_seconds,
            cost.peak_memory_mb,
            "reused" if cost.cached else "computed",
        ]
        for cost in costs
    ]
    return Table("Time and memory", columns, rows)


def provenance_blocks(config: object, facts: Mapping[str, object]) -> list[Block]:
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


def page_of(result: ExperimentResult) -> Page:
    """Return the tables and the checks of an experiment's results."""
    tables = [
        Table(table.title, table.columns, table.rows, table.caption)
        for table in result.tables
    ]
    return Page(result.summary, [*tables, *result.checks], result.title)


def _record(table: Table) -> TableResult:
    rows = []
    for _, cells in table.body:
        rows.append(tuple(_plain(cell.value) for cell in cells))
    return TableResult(
        title=table.title,
        columns=tuple(column.name for column in table.heads),
        rows=tuple(rows),
        caption=table.caption,
    )


def _numbers(tables: Sequence[Table]) -> dict[str, float]:
    """Return the numbers of tables by ``table/row/column``, means of estimates."""
    numbers = {}
    for table in tables:
        heads = [column.name for column in table.heads]
        for _, cells in table.body:
            label = cells[0].value
            for head, cell in zip(heads[1:], cells[1:], strict=True):
                value = cell.value
                if isinstance(value, Estimate):
                    value = value.mean
                if isinstance(value, int | float | np.number):
                    numbers[f"{table.title}/{label}/{head}"] = float(value)
    return numbers


def _plain(value: Value) -> Value:
    return value.item() if isinstance(value, np.generic) else value
