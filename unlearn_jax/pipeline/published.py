"""Published results: a small JSON file per experiment.

``experiments/results/NAME.json`` holds the numbers of one published experiment as they
are shown: decimals are part of a number, so ``1.00`` stays ``1.00``.
:mod:`unlearn_jax.pipeline.publish` writes these files from finished runs, and
:mod:`unlearn_jax.pipeline.pages` generates pages from them.
"""

import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from unlearn_jax.pipeline.store.folders import write_text
from unlearn_jax.types import InputError

SCHEMA = 1
"""Version of the files' layout."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Value:
    """Number of a table, in the unit of its column.

    Attributes:
      mean: the number, or its mean over runs.
      std: standard deviation over runs.
      low: lower end of the 95% interval of the mean.
      high: upper end of that interval.
    """

    mean: Decimal
    std: Decimal | None = None
    low: Decimal | None = None
    high: Decimal | None = None

    def __str__(self) -> str:
        """Return the number as tables show it."""
        text = f"{self.mean:f}"
        if self.std is not None:
            text += f" ± {self.std:f}"
        if self.low is not None and self.high is not None:
            text += f" [{self.low:f}, {self.high:f}]"
        return text


Cell = Value | str | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResultTable:
    """Published table.

    Attributes:
      title: title above the table; empty for the main table.
      columns: names of the columns. The first is the column of row labels; its name is
        not shown if it is "row".
      units: unit of each column: ``"%"``, ``"points"``, ``"nats"`` or empty.
      rows: rows with a cell for each column; None where there is no number.
      caption: explanation below the table.
    """

    title: str = ""
    columns: tuple[str, ...]
    units: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class System:
    """Row of the table of neighboring systems.

    Attributes:
      name: name of the system with its paper, in Markdown.
      works: "yes", or the part that works.
      where: modules, presets and notebooks, in Markdown.
      measured: main numbers, in a sentence or two.
    """

    name: str
    works: str
    where: str
    measured: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """Published experiment: the content of ``experiments/results/NAME.json``.

    Attributes:
      name: name of the preset or benchmark, and of the file.
      group: section of ``RESULTS.md``.
      title: title in one line.
      claim: question or claim that the experiment is about.
      command: shell command that repeats the measurement.
      date: date of the measurement, ``YYYY-MM-DD``; empty if not measured.
      device: machine, in words.
      versions: versions of unlearn_jax, Python and JAX.
      commit: commit of the measuring code, if published before digests were stored.
      code: digest of the measuring code by :mod:`unlearn_jax.pipeline.code_digest`;
        empty if unknown.
      checked: digest of later code, under which a smaller run gives the same numbers;
        empty if there is none. Written by ``experiments/benchmarks/same_numbers.py``.
      settings: digest of the configuration; empty if published before it was stored.
      time: duration and peak memory, in words.
      seeds: runs, seeds and sizes, in words.
      tables: tables of the numbers.
      chosen: hyperparameters that a search chose, by row, or a remark on choices.
      published: results that the source reports, in words.
      reading: findings, one sentence or paragraph each.
      notes: caveats, and disagreements between earlier copies.
      system: row of the table of neighboring systems, if any.
    """

    name: str
    group: str
    title: str
    claim: str = ""
    command: str = ""
    date: str = ""
    device: str = ""
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    commit: str = ""
    code: str = ""
    checked: str = ""
    settings: str = ""
    time: str = ""
    seeds: str = ""
    tables: tuple[ResultTable, ...] = ()
    chosen: Mapping[str, str] = dataclasses.field(default_factory=dict)
    published: tuple[str, ...] = ()
    reading: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    system: System | None = None


GROUPS = (
    "Forgetting samples",
    "Forgetting classes",
    "Smooth networks and ensembles",
    "Neighboring systems",
    "Speed and survival",
    "Not measured yet",
)
"""Sections of ``RESULTS.md``, in order."""


def folder() -> pathlib.Path:
    """Return ``experiments/results`` of a checkout, or of the installed package.

    Raises:
      InputError: there is no such folder.
    """
    package = pathlib.Path(__file__).resolve().parents[1]
    for experiments in (package.parent / "experiments", package / "experiments"):
        if (experiments / "results").is_dir():
            return experiments / "results"
    raise InputError("no experiments/results: run this in a checkout")


def read_result(path: pathlib.Path) -> Result:
    """Read one published result.

    Args:
      path: path of the JSON file.

    Raises:
      InputError: the file is damaged or has another layout.
    """
    try:
        text = path.read_text(encoding="utf-8")
        data = json.loads(text, parse_float=Decimal, parse_int=Decimal)
    except ValueError as error:
        raise InputError(f"{path} is damaged: {error}: restore it") from None
    if not isinstance(data, dict) or data.pop("schema", None) != SCHEMA:
        raise InputError(f"{path} is not a published result of layout {SCHEMA}")
    try:
        tables = tuple(_table_from_json(table) for table in data.pop("tables", ()))
        system = data.pop("system", None)
        for name in ("published", "reading", "notes"):
            data[name] = tuple(data.get(name, ()))
        return Result(
            **data, tables=tables, system=None if system is None else System(**system)
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: a field is missing, misspelled or of another type: {error!r}"
        ) from None


def published_time(name: str) -> str:
    """Return time, machine and date of a published result; empty without a time.

    Args:
      name: name of the preset.
    """
    try:
        path = folder() / f"{name}.json"
    except InputError:
        return ""
    if not path.is_file():
        return ""
    result = read_result(path)
    if not result.time:
        return ""
    return f"{result.time}, on {result.device}, {result.date}"


def published_plan(name: str) -> str:
    """Return the published plan of a preset on pods; empty without one.

    Args:
      name: name of the preset.
    """
    try:
        path = folder() / "compiled.json"
    except InputError:
        return ""
    if not path.is_file():
        return ""
    lines = []
    for table in read_result(path).tables:
        if table.title != "The plan of pods":
            continue
        for row in table.rows:
            preset, _, chip = str(row[0]).partition(", ")
            cells = dict(zip(table.columns, row, strict=True))
            if preset == name:
                lines.append(
                    f"  {row[1]} x {chip}: {cells['hours, bound']} h at the bound,"
                    f" {cells['who computes what']}; {cells['what breaks first']}"
                )
    if not lines:
        return ""
    head = (
        "On accelerators, the preset as it stands, compiled and not run (unlearn-jax"
        " compile --devices):"
    )
    return "\n".join([head, *lines])


def _table_from_json(table: Mapping[str, Any]) -> ResultTable:
    rows = []
    for row in table["rows"]:
        rows.append(tuple(_cell_from_json(cell) for cell in row))
    return ResultTable(
        title=table.get("title", ""),
        columns=tuple(table["columns"]),
        units=tuple(table["units"]),
        rows=tuple(rows),
        caption=table.get("caption", ""),
    )


def _cell_from_json(cell: Any) -> Cell:
    if isinstance(cell, Decimal):
        return Value(mean=cell)
    if isinstance(cell, dict):
        return Value(**cell)
    return cell


def write_result(result: Result, path: pathlib.Path) -> None:
    """Write one published result, with each row of a table on its own line.

    Args:
      result: result to write.
      path: path of the JSON file.
    """
    lines = [f'{{"schema": {SCHEMA}']
    for field in dataclasses.fields(result):
        value = getattr(result, field.name)
        if field.name == "tables":
            value = ",".join(_table_json(table) for table in value)
            lines.append(f'"tables": [{value}]')
        elif field.name == "system" and value is not None:
            lines.append(f'"system": {_json(dataclasses.asdict(value))}')
        elif value:
            indented = json.dumps(value, ensure_ascii=False, indent=1)
            lines.append(f'"{field.name}": {indented}')
    write_text(path, ",\n".join(lines) + "}\n")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _table_json(table: ResultTable) -> str:
    rows = []
    for row in table.rows:
        rows.append("   [" + ", ".join(_cell_json(cell) for cell in row) + "]")
    body = ",\n".join(rows)
    return (
        f'\n {{"title": {_json(table.title)}, "caption": {_json(table.caption)},'
        f'\n  "columns": {_json(table.columns)},'
        f'\n  "units": {_json(table.units)},'
        f'\n  "rows": [\n{body}]}}'
    )


def _cell_json(cell: Cell) -> str:
    if not isinstance(cell, Value):
        return _json(cell)
    if cell.std is None and cell.low is None:
        return f"{cell.mean:f}"
    members = []
    for name, number in dataclasses.asdict(cell).items():
        if number is not None:
            members.append(f'"{name}": {number:f}')
    return "{" + ", ".join(members) + "}"


def read_results(path: pathlib.Path | None = None) -> dict[str, Result]:
    """Read all published results, by name.

    Args:
      path: folder of the results; that of :func:`folder` if None.
    """
    files = sorted((path or folder()).glob("*.json"))
    return {file.stem: read_result(file) for file in files}


_NUMBER = r"-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?(?:e[-+]?\d+)?"
_CELL = re.compile(rf"({_NUMBER})(?: ± ({_NUMBER}))?(?: \[({_NUMBER}), ({_NUMBER})\])?")


def parse_cell(text: str) -> Cell:
    """Return the number in a cell's text; other text unchanged, None for a dash.

    Args:
      text: text of a cell.

    >>> str(parse_cell("50.10 ± 1.00 [49.00, 51.26]"))
    '50.10 ± 1.00 [49.00, 51.26]'
    >>> parse_cell("–"), parse_cell("3 of 4")
    (None, '3 of 4')
    """
    match = _CELL.fullmatch(text.strip())
    if match is None:
        return None if text.strip() in ("", "–") else text
    numbers = []
    for number in match.groups():
        numbers.append(None if number is None else Decimal(number.replace(",", "")))
    mean, std, low, high = numbers
    assert mean is not None
    return Value(mean=mean, std=std, low=low, high=high)
