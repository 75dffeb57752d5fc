"""Published results: one small JSON file a table, and the pages generated from them.

``experiments/results/NAME.json`` holds the numbers of one published experiment as they
are shown: decimals are part of a number, so ``1.00`` stays ``1.00``. ``unlearn-jax
publish RUN`` writes such a file from a finished working directory, ``unlearn-jax
table`` regenerates everything that is made of them.
"""

import ast
import dataclasses
import hashlib
import json
import math
import os
import pathlib
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import cache
from typing import Any

from unlearn_jax.audit import Estimate
from unlearn_jax.pipeline.claims import HEADS, Claim, claim_cells, read_claims
from unlearn_jax.pipeline.measure.records import ExperimentResult, RunResult
from unlearn_jax.pipeline.report.blocks import Table, format_cell
from unlearn_jax.pipeline.report.page import page_of
from unlearn_jax.pipeline.report.reading import reading
from unlearn_jax.pipeline.report.tables import (
    STATES,
    missing_sentence,
    study_title,
)
from unlearn_jax.pipeline.report.verdict import distances_sentence, margins_sentence
from unlearn_jax.types import InputError

SCHEMA = 1
"""Version of the files' layout."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Value:
    """One number of a table, in the unit of its column.

    Attributes:
      mean: the number itself.
      std: standard deviation over runs.
      low: lower end of the 95% interval of the mean.
      high: upper end.
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
    """A published table.

    Attributes:
      title: above the table; empty for the main one.
      columns: names, that of the row labels first; it is not shown if it is "row".
      units: of each column: ``"%"``, ``"points"``, ``"nats"`` or empty.
      rows: as many cells as columns each; None where there is no number.
      caption: instructions for reading.
    """

    title: str = ""
    columns: tuple[str, ...]
    units: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class System:
    """A row of the table of systems.

    Attributes:
      name: with its paper, in Markdown.
      works: "yes", or in which part.
      where: modules, presets and notebooks, in Markdown.
      measured: the main numbers in a sentence or two.
    """

    name: str
    works: str
    where: str
    measured: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """One published experiment: the content of ``experiments/results/NAME.json``.

    Attributes:
      name: of the preset or benchmark, and of the file.
      group: section of ``RESULTS.md``.
      title: one line.
      claim: the question or claim that the experiment is about.
      command: shell command that measures it again.
      date: of the measurement, ``YYYY-MM-DD``; empty if not measured.
      device: machine in words.
      versions: of unlearn_jax, Python and JAX.
      commit: of the measuring code, if published before digests were stored.
      code: digest of the measuring code (:func:`code_digest`); empty if unknown.
      settings: digest of the configuration; empty if published before it was stored.
      time: duration and peak memory, in words.
      seeds: runs, seeds and sizes, in words.
      tables: the numbers.
      chosen: hyperparameters that a search chose, by row, or a remark on choices.
      published: what the source reports.
      reading: findings, one sentence or paragraph each.
      notes: caveats, and disagreements between earlier copies.
      system: row of the table of systems, if this experiment carries one.
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
      InputError: there is none.
    """
    package = pathlib.Path(__file__).resolve().parents[1]
    for experiments in (package.parent / "experiments", package / "experiments"):
        if (experiments / "results").is_dir():
            return experiments / "results"
    raise InputError("no experiments/results: run this in a checkout")


def read_result(path: pathlib.Path) -> Result:
    """Read one published result.

    Args:
      path: of the JSON file.

    Raises:
      InputError: a file of another layout.
    """
    data = json.loads(
        path.read_text(encoding="utf-8"), parse_float=Decimal, parse_int=Decimal
    )
    if data.pop("schema", None) != SCHEMA:
        raise InputError(f"{path} is not a published result of layout {SCHEMA}")
    tables = tuple(_table_from_json(table) for table in data.pop("tables", ()))
    system = data.pop("system", None)
    for name in ("published", "reading", "notes"):
        data[name] = tuple(data.get(name, ()))
    return Result(
        **data, tables=tables, system=None if system is None else System(**system)
    )


def published_time(name: str) -> str:
    """Return the time and the machine of a published result; empty where it has none.

    Args:
      name: of the preset.
    """
    try:
        path = folder() / f"{name}.json"
    except InputError:
        return ""
    result = read_result(path) if path.is_file() else None
    if result is None or not result.time:
        return ""
    return f"{result.time}, on {result.device}, {result.date}"


def published_plan(name: str) -> str:
    """Return the published plan of a preset on pods; empty where there is none.

    Args:
      name: of the preset.
    """
    try:
        path = folder() / "compiled.json"
    except InputError:
        return ""
    tables = read_result(path).tables if path.is_file() else ()
    lines = []
    for table in tables:
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
    head = "On accelerators, compiled and not run (unlearn-jax compile --devices):"
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
    """Write one published result, a table row a line.

    Args:
      result: to write.
      path: of the JSON file.
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
    path.write_text(",\n".join(lines) + "}\n", encoding="utf-8")


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
    fields = dataclasses.asdict(cell).items()
    inside = ", ".join(f'"{key}": {x:f}' for key, x in fields if x is not None)
    return f"{{{inside}}}"


def read_results(path: pathlib.Path | None = None) -> dict[str, Result]:
    """Read all published results, by name.

    Args:
      path: their folder; that of :func:`folder` if None.
    """
    files = sorted((path or folder()).glob("*.json"))
    return {file.stem: read_result(file) for file in files}


# --- publishing a finished working directory ---

_NUMBER = r"-?\d[\d,]*\.?\d*(?:e[-+]?\d+)?"
_CELL = re.compile(rf"({_NUMBER})(?: ± ({_NUMBER}))?(?: \[({_NUMBER}), ({_NUMBER})\])?")


def parse_cell(text: str) -> Cell:
    """Return a cell's number as it is shown; other text unchanged, None for a dash.

    Args:
      text: of a cell.

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


def publish(
    workdir: str | os.PathLike[str],
    to: str | os.PathLike[str] | None = None,
) -> tuple[pathlib.Path, Result]:
    """Write the published form of a finished run, study or experiment.

    What an earlier file of that name has in words is kept: title, claim, seeds, what
    the source reports and its tables (whose titles begin with "Published"), notes, and
    its row of the table of systems. Numbers and the reading, which is generated from
    paired differences (:mod:`unlearn_jax.pipeline.report.reading`), are replaced.

    Args:
      workdir: of the finished run, study or experiment.
      to: file to write, ``NAME.json``; ``experiments/results/PRESET.json`` if None.

    Returns:
      The file and its content.

    Raises:
      InputError: nothing finished in ``workdir``, or results of another version.
    """
    place = pathlib.Path(os.path.expanduser(workdir))
    files = [place / "results.json"]
    if not files[0].is_file():
        files = sorted(place.glob("*/results.json"))
    if not files:
        raise InputError(f"{place} has no results.json: finish the run first")
    records = {}
    for file in files:
        try:
            records[file.parent.name] = json.loads(file.read_text())
        except ValueError:
            raise InputError(
                f"{file} is damaged: run the same command again, then publish"
            ) from None
    first = next(iter(records.values()))
    if "rows" not in first and "tables" in first:
        result = _of_experiment(ExperimentResult.from_json(first))
    else:
        runs = {name: RunResult.from_json(data) for name, data in records.items()}
        ordered = dict(sorted(runs.items(), key=lambda item: item[1].date))
        result = _of_runs(ordered)
    if not result.name and to is None:
        raise InputError("this run has no preset: name the file with --to NAME.json")
    if to is None and not (folder().parents[1] / "pyproject.toml").is_file():
        raise InputError("not in a checkout: name the file with --to NAME.json")
    path = folder() / f"{result.name}.json"
    if to is not None:
        path = pathlib.Path(os.path.expanduser(to))
    if path.suffix != ".json":
        raise InputError(f"--to needs a file NAME.json, got {path}")
    result = dataclasses.replace(
        result, name=path.stem, code=code_digest(result.name or path.stem)
    )
    if path.is_file():
        result = _with_words_of(read_result(path), result)
    write_result(result, path)
    return path, result


def _with_words_of(before: Result, now: Result) -> Result:
    quoted = tuple(one for one in before.tables if one.title.startswith("Published"))
    return dataclasses.replace(
        now,
        group=before.group if before.date else now.group,
        title=before.title,
        claim=before.claim,
        seeds=before.seeds or now.seeds,
        tables=now.tables + quoted,
        published=before.published,
        notes=before.notes,
        system=before.system,
    )


def _versions(versions: Mapping[str, str]) -> dict[str, str]:
    shown = {"unlearn_jax": "unlearn_jax", "Python": "python", "JAX": "jax"}
    found = {name: versions[key] for name, key in shown.items() if key in versions}
    if "Python" in found:
        found["Python"] = ".".join(found["Python"].split(".")[:2])
    return found


def _of_experiment(found: ExperimentResult) -> Result:
    page = page_of(found)
    tables = []
    for table in page.find(Table):
        rows = []
        for _, row in table.body:
            texts = [" ".join(format_cell(cell.value)).strip() for cell in row]
            rows.append((texts[0], *map(parse_cell, texts[1:])))
        heads = [_split_unit(column.name) for column in table.heads]
        tables.append(
            ResultTable(
                title=table.title,
                columns=tuple(name or "row" for name, _ in heads),
                units=tuple(unit for _, unit in heads),
                rows=tuple(rows),
                caption=table.caption,
            )
        )
    seconds = sum(stage.seconds for stage in found.stages)
    versions = found.versions
    name = found.experiment
    return Result(
        name=name,
        group="Neighboring systems",
        title=found.title.rstrip(".") + ".",
        command=f"unlearn-jax run {name} --workdir runs/{name}",
        date=found.date[:10],
        device=versions.get("devices", ""),
        versions=_versions(versions),
        settings=found.config_digest[:12],
        time=_duration(seconds),
        tables=tuple(tables),
        reading=(page.summary,),
    )


def _split_unit(head: str) -> tuple[str, str]:
    """Return a heading's name and the unit in parentheses after it."""
    match = re.fullmatch(r"(.*) \((%|points|nats|seconds|ms|MB)\)", head)
    return (match[1], match[2]) if match else (head, "")


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.1f} minutes" if seconds >= 60 else f"{seconds:.0f} seconds"


def _of_runs(runs: Mapping[str, RunResult]) -> Result:
    first = next(iter(runs.values()))
    tables = []
    chosen = {}
    titles = variant_titles(runs)
    for name, run in runs.items():
        title = titles[name] if len(runs) > 1 else ""
        tables += _run_tables(run, title)
        for row in run.rows:
            if run.is_unsearched(row):
                chosen[row.label + (f", {title}" if title else "")] = "not searched"
        for key, search in run.tuning.rows.items() if run.tuning else ():
            label = run.row(key).label + (f", {title}" if title else "")
            if search.chosen is not None:
                options = search.trials[search.chosen].options.items()
                values = [f"{option} {_plain(value)}" for option, value in options]
                chosen[label] = ", ".join(values)
    seconds = sum(stage.seconds for run in runs.values() for stage in run.stages)
    settings = hashlib.sha256()
    for run in runs.values():
        settings.update(run.config_digest.encode())
    design = first.design
    of_classes = design.forget_kind == "class"
    sets = "classes" if of_classes else "forget sets"
    return Result(
        name=first.preset,
        group="Forgetting classes" if of_classes else "Forgetting samples",
        title=first.title.rstrip(".") + ".",
        command=_command(first),
        date=first.date[:10],
        device=first.device,
        versions=_versions(first.versions),
        settings=settings.hexdigest()[:12],
        time=_duration(seconds),
        seeds=(
            f"{design.runs} runs ({design.originals} originals x {design.forget_sets}"
            f" {sets} of {design.num_forget} samples), {design.references} references."
            " Cost: gradients of single samples over a retraining's."
        ),
        tables=tuple(tables),
        chosen=chosen,
        reading=reading({titles[name]: run for name, run in runs.items()}),
        notes=first.notes,
    )


def variant_titles(runs: Mapping[str, RunResult]) -> dict[str, str]:
    """Return each run's title without the words that all share, or else its name.

    Args:
      runs: by name.
    """
    shared = study_title(runs)
    titles = {}
    for name, run in runs.items():
        titles[name] = run.title.removeprefix(shared).strip(" :,") or name
    return titles


def _plain(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _estimate(value: Estimate | None, digits: int) -> Cell:
    return parse_cell(" ".join(format_cell(value, digits)).strip())


def _run_tables(run: RunResult, title: str) -> list[ResultTable]:
    """Return the tables of a run; the titles of a variant's begin with its own."""

    def titled(name: str) -> str:
        return f"{title}: {name}" if title else name

    labels = {row.key: row.label for row in run.rows}
    columns = ["row", *(metric.label for metric in run.metrics), "Cost"]
    units = ["", *(metric.unit for metric in run.metrics), ""]
    further = _further_columns(run)
    rows = []
    for row in run.rows:
        count = f"diverged {row.num_diverged} of {run.design.runs}"
        cells: list[Cell] = []
        for metric in run.metrics:
            cell = _estimate(row.metrics.get(metric.key), 1)
            cells.append(count if row.is_diverged else cell)
        cost = None if row.cost is None else row.cost.relative_gradients
        cells.append(None if cost is None else parse_cell(f"{cost:.2f}"))
        cells += [values.get(row.key) for _, _, values in further]
        rows.append((row.label, *cells))
    remarks = (missing_sentence(run), distances_sentence(run))
    tables = [
        ResultTable(
            title=title,
            columns=(*columns, *(name for name, _, _ in further)),
            units=(*units, *(unit for _, unit, _ in further)),
            rows=tuple(rows),
            caption=" ".join(filter(None, remarks)),
        )
    ]
    if any(row.verdict for row in run.rows):
        table = _verdict_table(run)
        tables.append(dataclasses.replace(table, title=titled(table.title)))
    if run.klom is not None:
        parts = list(next(iter(run.klom.rows.values())))
        found = run.klom.rows.items()
        rows = []
        for key, by_part in found:
            cells = [_estimate(by_part[part].mean, 1) for part in parts]
            rows.append((labels.get(key, key), *cells))
        tables.append(
            ResultTable(
                title=titled(f"KLoM of {run.klom.num_models} models"),
                columns=("row", *(part.capitalize() for part in parts)),
                units=("", *("nats",) * len(parts)),
                rows=tuple(rows),
            )
        )
    if run.requests is not None:
        rows = []
        for key, scores in run.requests.rows.items():
            cells = [_estimate(score.score, 0) for score in scores]
            rows.append((labels.get(key, key), *cells))
        requests = [f"Request {i + 1}" for i in range(run.requests.count)]
        tables.append(
            ResultTable(
                title=titled("Score after each request: FR AUC minus FT AUC"),
                columns=("row", *requests),
                units=("", *("points",) * run.requests.count),
                rows=tuple(rows),
            )
        )
    if run.targets is not None:
        rows = []
        for one in run.targets.rows:
            cells = [parse_cell(f"{value:.2f}") for value in one.values]
            cells += [None] * (len(run.targets.betas) - len(cells))
            rows.append((one.name[0].upper() + one.name[1:], *cells))
        tables.append(
            ResultTable(
                title=titled("KL(retrained || target), before any training"),
                columns=("target", *(f"beta {beta:g}" for beta in run.targets.betas)),
                units=("", *("nats",) * len(run.targets.betas)),
                rows=tuple(rows),
                caption=(
                    "On the samples to forget, means over runs; a target without a"
                    " strength has its number in the first column."
                ),
            )
        )
    return tables


def _further_columns(run: RunResult) -> list[tuple[str, str, dict[str, Cell]]]:
    """Return name, unit and cells by row of the theorem's terms and largest norms."""
    further = []
    for key, name, unit, scale in (
        ("delta", "Distance (L2)", "", 1.0),
        ("transfer", "Transfer to the oracle", "%", 100.0),
    ):
        cells = {}
        for row, terms in (run.theory.rows if run.theory else {}).items():
            if key in terms:
                one = terms[key]
                found = Estimate(
                    scale * one.mean, scale * one.std, math.nan, math.nan, 0, 0
                )
                cells[row] = _estimate(found, 2 if scale == 1 else 1)
        if cells:
            further.append((name, unit, cells))
    if run.norms is not None:
        cells = {}
        for row, layers in run.norms.rows.items():
            largest = max(one.high for one in layers.values())
            cells[row] = parse_cell(f"{largest:.2f}")
        further.append(("Largest norm", "", cells))
    return further


def _verdict_table(run: RunResult) -> ResultTable:
    """Return the methods' verdicts and paired differences to retrained models."""
    methods = [row for row in run.rows if row.verdict]
    stored = set().union(*(row.differences for row in methods))
    shown = []
    for metric in run.metrics:
        if metric.key not in stored:
            continue
        if metric.direction == "0":
            shown.append((metric, "floor", "retrained again"))
            shown.append((metric, "best", "best other"))
        else:
            shown.append((metric, "oracle", "retrained"))
    rows = []
    for row in methods:
        assert row.verdict is not None
        more = row.verdict.more_runs
        state = STATES[row.verdict.state]
        cells: list[Cell] = [state if more is None else f"{state} (+{more} runs)"]
        for metric, reference, _ in shown:
            one = row.differences.get(metric.key, {}).get(reference)
            if one is None:
                cells.append(None)
                continue
            shown_one = Estimate(one.mean, math.nan, one.low, one.high, 0, 0)
            cells.append(_estimate(shown_one, 1))
        rows.append((row.label, *cells))
    units = ["points" if one.unit == "%" else one.unit for one, _, _ in shown]
    return ResultTable(
        title="Paired differences and verdicts",
        columns=(
            "row",
            "Verdict",
            *(f"{one.label} less {name}" for one, _, name in shown),
        ),
        units=("", "", *units),
        rows=tuple(rows),
        caption=margins_sentence(run),
    )


# --- the code that measured ---

_MEASURING = ("config", "stages", "measure", "tuning.py")
"""Parts of ``pipeline`` that decide numbers; the others store and show them."""


def _command(run: RunResult) -> str:
    """Return the command of a run, the folders of its machine replaced."""
    words = shlex.split(run.command)
    for i, word in enumerate(words):
        flag, _, value = word.rpartition("=")
        if i and words[i - 1] == "--workdir":
            words[i] = f"runs/{run.preset}"
        elif flag == "--workdir":
            words[i] = f"--workdir=runs/{run.preset}"
        elif pathlib.PurePath(value).is_absolute():
            words[i] = f"{flag}=DIR" if flag else "DIR"
    return shlex.join(words)


def code_digest(name: str, root: pathlib.Path | None = None) -> str:
    """Return a digest of the code that decides an experiment's numbers.

    It covers the library, the folders of the pipeline that plan, train and measure,
    the experiment's own file, and, if that file imports a study, the study's folder and
    ``contrib``. Docstrings, comments and layout do not count.

    Args:
      name: of the preset or benchmark.
      root: of a checkout; this package and its experiments if None.
    """
    package = root / "unlearn_jax" if root else pathlib.Path(__file__).parents[1]
    experiments = root / "experiments" if root else folder().parent
    files = [path for path in sorted(package.rglob("*.py")) if _decides(path, package)]
    for file in (f"{name}.py", f"benchmarks/{name}.py"):
        own = experiments / file
        if own.is_file():
            files.append(own)
            studies = re.findall(r"unlearn_jax\.studies\.(\w+)", own.read_text())
            studies += re.findall(r"unlearn_jax\.studies import (\w+)", own.read_text())
            for study in sorted(set(studies)):
                files += sorted((package / "studies" / study).glob("*.py"))
            if studies:
                files += sorted((package / "contrib").rglob("*.py"))
    digest = hashlib.sha256()
    for file in files:
        place = experiments if file.is_relative_to(experiments) else package
        digest.update(str(file.relative_to(place)).encode())
        digest.update(_file_digest(file, file.stat().st_mtime_ns))
    return digest.hexdigest()[:12]


def _decides(path: pathlib.Path, package: pathlib.Path) -> bool:
    parts = path.relative_to(package).parts
    if parts[0] == "pipeline":
        return parts[1] in _MEASURING
    others = (
        "cli.py",
        "__main__.py",
        "contrib",
        "studies",
        "experiments",
        "figures",
    )
    return parts[0] not in others


@cache
def _file_digest(file: pathlib.Path, changed: int) -> bytes:
    """Return a file's digest, computed once per change of the file."""
    del changed
    return source_digest(file.read_text(encoding="utf-8"))


def source_digest(source: str) -> bytes:
    """Return a digest of a module's syntax, without docstrings, comments and layout.

    Args:
      source: Python.

    >>> source_digest("x = 1  # one") == source_digest("'Module.'; x = (1)")
    True
    >>> source_digest("x = 1") == source_digest("x = 2")
    False
    """
    return hashlib.sha256("\n".join(_syntax(ast.parse(source))).encode()).digest()


def _syntax(node: Any) -> Iterator[str]:
    """Yield a tree's fields, empty ones left out: the same on every Python."""
    if isinstance(node, ast.AST):
        yield type(node).__name__
        for name, value in ast.iter_fields(node):
            if name == "body" and isinstance(value, list):
                value = [line for line in value if not _is_text(line)]
            if isinstance(node, ast.JoinedStr):
                # Python 3.12 ends some of them with an empty string
                value = [part for part in value if not _is_empty(part)]
            if value is not None and value != [] and name not in ("kind", "ctx"):
                yield name
                yield from _syntax(value)
    elif isinstance(node, list):
        for item in node:
            yield from _syntax(item)
        yield "end"
    else:
        yield repr(node)


def _is_empty(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value == ""


def _is_text(node: ast.AST) -> bool:
    """Return True for a statement that is a docstring."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


# --- the pages ---


def markdown_table(table: ResultTable, columns: Iterable[str] | None = None) -> str:
    """Return a table in Markdown.

    Args:
      table: to write.
      columns: names of those to show; all if None.
    """
    wanted = [
        i
        for i, name in enumerate(table.columns)
        if columns is None or i == 0 or name in columns
    ]
    head = []
    for i in wanted:
        unit = f" ({table.units[i]})" if table.units[i] else ""
        name = "" if table.columns[i] == "row" else table.columns[i]
        head.append(name + unit)
    lines = [_line(head), _line([":---"] + ["---:"] * (len(wanted) - 1))]
    for row in table.rows:
        lines.append(_line(["–" if row[i] is None else str(row[i]) for i in wanted]))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def provenance(result: Result, digest: str | None = None) -> str:
    """Return where, when and by which code a result was measured.

    Args:
      result: published.
      digest: of today's code; computed if None.
    """
    if not result.date:
        return "Not measured yet."
    versions = dict(result.versions)
    measured_by = "unlearn_jax " + versions.pop("unlearn_jax", "of an unknown version")
    mark = result.code or result.commit
    if mark:
        measured_by += f" ({mark})"
    others = ", ".join(f"{name} {version}" for name, version in versions.items())
    text = f"Measured {result.date} by {measured_by}, {result.device}, {others}"
    text += f"; {result.time}." if result.time else "."
    if not result.code or result.code != (digest or code_digest(result.name)):
        text += " The code has changed since."
    return text


def results_page(results: Mapping[str, Result], claims: Sequence[Claim]) -> str:
    """Return ``experiments/RESULTS.md``.

    Args:
      results: all that are published.
      claims: of the sources.
    """
    lines = [
        "# Results",
        "",
        "Generated from `experiments/results/*.json` by `unlearn-jax table`; do not"
        " edit. Cells are mean ± standard deviation over runs, with the 95% interval of"
        " the mean in brackets. Read every row against the retrained one: a retrained"
        " model never saw the forget set, and *retrained again*, a second retraining"
        " with another seed, is as close as any method can be asked to come."
        " [README.md](README.md) explains the columns.",
        "",
    ]
    for group in GROUPS:
        found = [result for result in results.values() if result.group == group]
        lines.append(f"* **{group}:** " + ", ".join(_link(result) for result in found))
    lines += ["", "## Claims of the sources", "", claims_table(claims, results), ""]
    lines += ["## Neighboring systems at a glance", "", systems_table(results), ""]
    for group in GROUPS:
        lines += [f"## {group}", ""]
        for result in results.values():
            if result.group == group:
                lines += [result_section(result), ""]
    return "\n".join(lines)


def _link(result: Result) -> str:
    return f"[{result.name}](#{result.name})"


def result_section(result: Result) -> str:
    """Return the section of one result, in Markdown.

    Args:
      result: published.
    """
    blocks = [f"### {result.name}", f"**{result.title}**"]
    if result.claim:
        blocks.append(f"Claim: {result.claim}")
    if result.command:
        blocks.append(f"```sh\n{result.command}\n```")
    blocks.append(provenance(result))
    if result.seeds:
        blocks.append(result.seeds)
    for table in result.tables:
        if table.title:
            blocks.append(f"*{table.title}*")
        blocks.append(markdown_table(table))
        if table.caption:
            blocks.append(table.caption)
    named = (
        ("Published", result.published),
        ("Reading", result.reading),
        ("Notes", result.notes),
    )
    for name, sentences in named:
        if sentences:
            blocks.append(f"{name}:")
            blocks.append("\n".join(f"* {sentence}" for sentence in sentences))
    if result.chosen:
        rows = "\n".join(f"* {row}: {text}" for row, text in result.chosen.items())
        summary = "<details><summary>Chosen hyperparameters</summary>"
        blocks.append(f"{summary}\n\n{rows}\n\n</details>")
    return "\n\n".join(blocks)


def claims_table(claims: Sequence[Claim], results: Mapping[str, Result]) -> str:
    """Return the table of claims, in Markdown.

    Args:
      claims: in order.
      results: all that are published.

    Raises:
      InputError: as :func:`unlearn_jax.pipeline.claims.claim_cells`.
    """
    lines = [_line(HEADS), _line([":---"] * len(HEADS))]
    for claim in claims:
        lines.append(_line(claim_cells(claim, results)))
    return "\n".join(lines)


def systems_table(results: Mapping[str, Result]) -> str:
    """Return the table of neighboring systems, in Markdown.

    Args:
      results: all that are published.
    """
    lines = [_line(["system", "works", "where", "measured"]), _line([":---"] * 4)]
    for result in results.values():
        if result.system is not None:
            lines.append(_line(list(dataclasses.astuple(result.system))))
    return "\n".join(lines)


EXCERPT = (
    "digits",
    ("Unlearn acc", "Test acc", "FT AUC", "Avg Gap"),
    (
        "Original (unchanged)",
        "Retrained (oracle)",
        "Retrained again (seed floor)",
        "AMUN",
    ),
)
"""Table, columns and rows that the README shows."""


def readme_excerpt(results: Mapping[str, Result]) -> str:
    """Return the README's table of four rows.

    Args:
      results: all that are published.
    """
    name, columns, rows = EXCERPT
    table = results[name].tables[0]
    shown = tuple(row for row in table.rows if row[0] in rows)
    return markdown_table(dataclasses.replace(table, rows=shown), columns)


SOURCES = {
    "identity": ("", "nothing"),
    "retrain": ("", "D_R"),
    "finetune": ("", "D_R"),
    "gradient_ascent": ("1911.04933", "D_F; D_R with `retain=True`"),
    "neggrad_plus": ("2302.09880", "D_R, D_F"),
    "random_label": ("1911.04933", "D_F; D_R unless `retain=False`"),
    "boundary_shrink": ("2303.11570", "D_F; D_R with `retain=True`"),
    "boundary_expand": ("2303.11570", "D_F; D_R with `retain=True`"),
    "l1_sparse": ("2304.04934", "D_R"),
    "salun": ("2310.12508", "D_F; D_R unless `retain=False`"),
    "scar": ("2404.12922", "D_F, D_R"),
    "uam": ("NeurIPS 2025", "D_R, D_F"),
    "scrub": ("2302.09880", "D_R, D_F"),
    "bad_teacher": ("2205.08096", "D_R, D_F"),
    "ssd": ("2308.07707", "D_R, D_F"),
    "svd_projection": ("2312.00761", "D_R, D_F"),
    "unsir": ("2111.08947", "D_R, labels of D_F"),
    "l2ul": ("2301.11578", "D_F"),
    "delete": ("CVPR 2025", "D_F; D_R with `retain=True`"),
    "trw": ("2512.06993", "D_F; D_R unless `retain=False`"),
    "influence_target": ("2512.06993", "D_R, D_F"),
    "influence": ("2304.04934", "D_R, D_F"),
    "ntk_influence": ("2605.11239", "D_R, D_F"),
    "fisher": ("1911.04933", "D_R"),
    "masked_small_gradients": ("2410.01276", "D_R, D_F"),
    "convolution_transpose": ("2410.01276", "D_R"),
    "amun": ("2503.00917", "D_F; D_R unless `retain=False`"),
    "amun_salun": ("2503.00917", "D_F; D_R unless `retain=False`"),
}
"""Paper and data that each registered method reads."""


def methods_table(methods: Mapping[str, Any]) -> str:
    """Return the table of methods, in Markdown.

    Args:
      methods: registered values, :data:`unlearn_jax.methods.METHODS`.
    """
    head = ["name", "what it does", "paper", "reads"]
    lines = [_line(head), _line([":---"] * 4)]
    for name, method in methods.items():
        summary = (type(method).__doc__ or "").strip().splitlines()[0]
        summary = summary.replace("``", "`")
        for constraint in getattr(method, "constraints", ()):
            summary += f" Limited by `{constraint}`."
        paper, reads = SOURCES.get(name, ("", ""))
        if re.fullmatch(r"\d{4}\.\d{5}", paper):
            paper = f"[{paper}](https://arxiv.org/abs/{paper})"
        lines.append(_line([f"`{name}`", summary, paper, reads]))
    return "\n".join(lines)


def between_markers(text: str, name: str, content: str) -> str:
    """Return a page with the content between two markers replaced.

    Args:
      text: of the page, with ``<!-- NAME: generated -->`` and ``<!-- end -->``.
      name: of the markers.
      content: to place between them.

    Raises:
      InputError: a page without the markers.
    """
    pattern = re.compile(
        rf"(<!-- {re.escape(name)}: generated -->\n).*?(<!-- end -->)", re.DOTALL
    )
    if not pattern.search(text):
        raise InputError(f"the page has no marker <!-- {name}: generated -->")
    return pattern.sub(lambda match: match[1] + content + "\n" + match[2], text)


def make_pages(root: pathlib.Path | None = None) -> dict[pathlib.Path, str]:
    """Return all generated pages of a checkout, by path.

    Args:
      root: of the checkout; this one's if None.

    Raises:
      InputError: the package is installed without its checkout.
    """
    from unlearn_jax.methods import METHODS

    root = root or folder().parents[1]
    if not (root / "pyproject.toml").is_file():
        raise InputError("the pages are those of a checkout: run this in one")
    results = read_results(root / "experiments" / "results")
    claims = read_claims(root / "experiments" / "claims.json")
    readme = root / "README.md"
    methods = root / "unlearn_jax" / "methods" / "README.md"
    return {
        root / "experiments" / "RESULTS.md": results_page(results, claims),
        readme: between_markers(
            readme.read_text(encoding="utf-8"), "results", readme_excerpt(results)
        ),
        methods: between_markers(
            methods.read_text(encoding="utf-8"), "methods", methods_table(METHODS)
        ),
    }


def write_pages(root: pathlib.Path | None = None, *, check: bool = False) -> list[str]:
    """Write all generated pages of a checkout.

    Args:
      root: of the checkout; this one's if None.
      check: compare only, write nothing.

    Returns:
      The paths of pages that differ from the written ones, relative to the root.
    """
    root = root or folder().parents[1]
    stale = []
    for path, text in make_pages(root).items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(str(path.relative_to(root)))
            if not check:
                path.write_text(text, encoding="utf-8")
    return stale
