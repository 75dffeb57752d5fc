"""Published results of finished runs, studies and experiments."""

import dataclasses
import hashlib
import json
import math
import os
import pathlib
import re
import shlex
from collections.abc import Mapping

from unlearn_jax.audit import Estimate
from unlearn_jax.pipeline.code_digest import code_digest
from unlearn_jax.pipeline.measure.records import ExperimentResult, RunResult
from unlearn_jax.pipeline.published import (
    Cell,
    Result,
    ResultTable,
    folder,
    parse_cell,
    read_result,
    write_result,
)
from unlearn_jax.pipeline.report.blocks import Table, format_cell
from unlearn_jax.pipeline.report.page import page_of
from unlearn_jax.pipeline.report.reading import reading
from unlearn_jax.pipeline.report.tables import (
    STATES,
    missing_sentence,
    more_runs,
    study_title,
)
from unlearn_jax.pipeline.report.verdict import distances_sentence, margins_sentence
from unlearn_jax.types import InputError


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


def _with_words_of(before: Result, result: Result) -> Result:
    quoted = tuple(one for one in before.tables if one.title.startswith("Published"))
    return dataclasses.replace(
        result,
        group=before.group if before.date else result.group,
        title=before.title,
        claim=before.claim,
        seeds=before.seeds or result.seeds,
        tables=result.tables + quoted,
        published=before.published,
        notes=before.notes,
        system=before.system,
    )


def _versions(versions: Mapping[str, str]) -> dict[str, str]:
    shown = {"unlearn_jax": "unlearn_jax", "Python": "python", "JAX": "jax"}
    named = {name: versions[key] for name, key in shown.items() if key in versions}
    if "Python" in named:
        named["Python"] = ".".join(named["Python"].split(".")[:2])
    return named


def _of_experiment(record: ExperimentResult) -> Result:
    page = page_of(record)
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
    seconds = sum(stage.seconds for stage in record.stages)
    versions = record.versions
    name = record.experiment
    return Result(
        name=name,
        group="Neighboring systems",
        title=record.title.rstrip(".") + ".",
        command=f"unlearn-jax run {name} --workdir runs/{name}",
        date=record.date[:10],
        device=versions.get("devices", ""),
        versions=_versions(versions),
        settings=record.config_digest[:12],
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
        klom_rows = run.klom.rows.items()
        rows = []
        for key, by_part in klom_rows:
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
                klom = Estimate(
                    scale * one.mean, scale * one.std, math.nan, math.nan, 0, 0
                )
                cells[row] = _estimate(klom, 2 if scale == 1 else 1)
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
        more = more_runs(row.verdict.more_runs)
        state = STATES[row.verdict.state]
        cells: list[Cell] = [f"{state} ({more})" if more else state]
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
