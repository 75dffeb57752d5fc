"""Files of an experiment: its results, tables and page."""

import dataclasses
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
    render_html,
    render_markdown,
)
from unlearn_jax.pipeline.store import folders as store
from unlearn_jax.pipeline.store.clock import Cost
from unlearn_jax.pipeline.store.events import Events


def write_experiment(
    title: str,
    name: str,
    config: object,
    page: Page,
    costs: Sequence[Cost],
    folder: pathlib.Path,
    *,
    events: Events | None = None,
) -> ExperimentResult:
    """Write ``results.json``, ``table.md`` and ``report.html``, each in one step.

    Args:
      title: heading of the page.
      name: name of the experiment.
      config: configuration of the experiment.
      page: page with the findings.
      costs: costs of the artifacts.
      folder: folder to write to.
      events: TensorBoard events that the numbers of the tables are added to.

    Returns:
      The content of ``results.json``.

    Raises:
      ReportError: a file other than ``results.json`` cannot be written.
    """
    result = _experiment_result(title, name, config, page, costs)
    text = json.dumps(result.to_json(), indent=1, allow_nan=False)
    store.write_text(folder / "results.json", text)
    tables = page.find(Table)

    def save_table() -> None:
        markdown = "\n".join(render_markdown(table) for table in tables)
        store.write_text(folder / "table.md", markdown)

    def save_page() -> None:
        html = render_html(_with_provenance(page, result))
        store.write_text(folder / "report.html", html)

    def save_events() -> None:
        if events is not None:
            events.numbers(_numbers(tables))
            events.close()

    writers = {
        "table.md": save_table,
        "report.html": save_page,
        "the events": save_events,
    }
    store.write_each(writers, folder, result)
    return result


def _experiment_result(
    title: str, name: str, config: object, page: Page, costs: Sequence[Cost]
) -> ExperimentResult:
    origin = store.provenance()
    device = origin.device
    network = getattr(config, "model", None)
    if isinstance(network, ModelConfig):
        device = with_convolutions(device, plain_model(network))
    # checks may have NumPy's booleans, which JSON cannot encode
    checks = [
        dataclasses.replace(check, passed=bool(check.passed))
        for check in page.find(Check)
    ]
    return ExperimentResult(
        experiment=name,
        title=title,
        date=origin.date,
        summary=page.summary,
        tables=tuple(_table_record(table) for table in page.find(Table)),
        checks=tuple(checks),
        stages=tuple(costs),
        versions={**origin.versions, "devices": device},
        config=to_json(config),
        config_digest=digest(config),
        command=origin.command,
    )


def _with_provenance(page: Page, result: ExperimentResult) -> Page:
    """Return the page with a heading at the top, and costs and versions at the end."""
    facts = {"configuration hash": result.config_digest, **result.versions}
    provenance = [
        cost_table("Artifact", result.stages),
        *provenance_blocks(result.config, facts),
    ]
    package = f"unlearn_jax {result.versions['unlearn_jax']}"
    about = f"Experiment {result.experiment} · {result.date[:10]} · {package}"
    blocks = [*page.blocks, Section("Cost and provenance", provenance)]
    return dataclasses.replace(page, title=result.title, about=about, blocks=blocks)


def cost_table(name: str, costs: Sequence[Cost]) -> Table:
    """Return the table of time and memory of every stage or artifact.

    Args:
      name: heading of the first column.
      costs: costs of the stages or artifacts, in order.
    """
    columns = [
        name,
        Column("Seconds", digits=1),
        Column("Compiling", "seconds", "Seconds of compilation among them.", digits=1),
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
    """Return folded sections of the configuration and of the versions.

    Args:
      config: JSON-able values.
      facts: versions and digests by name.
    """
    text = json.dumps(config, indent=2, ensure_ascii=False, default=str)
    columns = ["", Column("", is_text=True)]
    rows = [[name, str(value)] for name, value in facts.items()]
    return [
        Section("Configuration", [Text(text, kind="code")], folded=True),
        Section("Versions and digests", [Table("", columns, rows)], folded=True),
    ]


def page_of(result: ExperimentResult) -> Page:
    """Return a page with the tables and checks of an experiment's stored results."""
    tables = [
        Table(table.title, table.columns, table.rows, table.caption)
        for table in result.tables
    ]
    return Page(result.summary, [*tables, *result.checks], result.title)


def _table_record(table: Table) -> TableResult:
    """Return the record of a table, with Python's numbers in place of NumPy's."""
    rows = []
    for _, cells in table.body:
        values = [cell.value for cell in cells]
        rows.append(tuple(v.item() if isinstance(v, np.generic) else v for v in values))
    return TableResult(
        title=table.title,
        columns=tuple(column.name for column in table.heads),
        rows=tuple(rows),
        caption=table.caption,
    )


def _numbers(tables: Sequence[Table]) -> dict[str, float]:
    """Return numbers, and means of estimates, by ``TABLE/ROW/COLUMN``."""
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
