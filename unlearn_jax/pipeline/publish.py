"""Published results of finished runs, studies and experiments."""

import dataclasses
import hashlib
import math
import os
import pathlib
import re
import shlex
from collections.abc import Mapping

from unlearn_jax.audit import Estimate
from unlearn_jax.pipeline import presets
from unlearn_jax.pipeline._open import check_finished, read_record
from unlearn_jax.pipeline.code_digest import code_digest
from unlearn_jax.pipeline.measure.records import (
    Difference,
    ExperimentResult,
    Klom,
    Requests,
    RunResult,
    Targets,
    Term,
)
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
    UNSEARCHED,
    format_more_runs,
    missing_sentence,
    study_title,
)
from unlearn_jax.pipeline.report.verdict import (
    baseline_rows,
    distances_sentence,
    find_difference,
    margins_sentence,
)
from unlearn_jax.pipeline.store import clock
from unlearn_jax.types import InputError


def publish(
    workdir: str | os.PathLike[str],
    to: str | os.PathLike[str] | None = None,
) -> tuple[pathlib.Path, Result]:
    """Write the published form of a finished run, study or experiment.

    If the file exists, its numbers are replaced, and so is the reading that
    :mod:`unlearn_jax.pipeline.report.reading` generates from them. Text written by hand
    is kept: title, claim, seeds, the source's results, tables whose titles begin with
    "Published", notes, and the row of the table of systems.

    Args:
      workdir: working directory of the finished run, study or experiment.
      to: file to write, ``NAME.json``; ``experiments/results/PRESET.json`` if None.

    Returns:
      The path of the file and its content.

    Raises:
      InputError: ``workdir`` has no finished results, or results of another version.
      DamagedFileError: ``results.json`` or ``config.json`` is damaged.
    """
    records = _read_records(pathlib.Path(os.path.expanduser(workdir)))
    first = next(iter(records.values()))
    if "rows" not in first and "tables" in first:
        result = _from_experiment(ExperimentResult.from_json(first))
    else:
        runs = {name: RunResult.from_json(record) for name, record in records.items()}
        result = _from_runs(dict(sorted(runs.items(), key=lambda run: run[1].date)))
    if to is not None:
        path = pathlib.Path(os.path.expanduser(to))
    elif not result.name:
        raise InputError("this run has no preset: name the file with --to NAME.json")
    elif not (folder().parents[1] / "pyproject.toml").is_file():
        raise InputError("not in a checkout: name the file with --to NAME.json")
    else:
        path = folder() / f"{result.name}.json"
    if path.suffix != ".json":
        raise InputError(f"--to needs a file NAME.json, got {path}")
    result = dataclasses.replace(
        result, name=path.stem, code=code_digest(result.name or path.stem)
    )
    if path.is_file():
        result = _keep_text(read_result(path), result)
    write_result(result, path)
    return path, result


def _read_records(workdir: pathlib.Path) -> dict[str, dict[str, object]]:
    """Return the stored results of a run, or of each variant of a study, by folder."""
    files = [workdir / "results.json"]
    if not files[0].is_file():
        files = sorted(workdir.glob("*/results.json"))
    if not files:
        raise InputError(f"{workdir} has no results.json: finish the run first")
    records = {file.parent.name: read_record(file) for file in files}
    names = sorted({str(record.get("preset", "")) for record in records.values()})
    if len(names) > 1:
        raise InputError(
            f"{workdir} holds runs of several presets ({', '.join(names)}): publish the"
            " folder of one"
        )
    is_study = not (workdir / "results.json").is_file()
    if is_study and names[0] in presets.names():
        unfinished = sorted(set(presets.load(names[0]).variants) - set(records))
        if unfinished:
            raise InputError(
                f"{', '.join(unfinished)} of the study in {workdir} did not finish: run"
                " the same command again"
            )
    for file in files:
        check_finished(file.parent, records[file.parent.name])
    return records


def _keep_text(earlier: Result, result: Result) -> Result:
    """Return a result with the hand-written text and tables of an earlier file."""
    published = [
        table for table in earlier.tables if table.title.startswith("Published")
    ]
    return dataclasses.replace(
        result,
        group=earlier.group if earlier.date else result.group,
        title=earlier.title,
        claim=earlier.claim,
        seeds=earlier.seeds or result.seeds,
        tables=(*result.tables, *published),
        published=earlier.published,
        notes=earlier.notes,
        system=earlier.system,
    )


def _from_experiment(record: ExperimentResult) -> Result:
    """Return the published form of an experiment."""
    page = page_of(record)
    tables = []
    for table in page.find(Table):
        rows = []
        for _, row in table.body:
            label, *texts = [" ".join(format_cell(cell.value)).strip() for cell in row]
            rows.append((label, *map(parse_cell, texts)))
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
    name = record.experiment
    return Result(
        name=name,
        group="Neighboring systems",
        title=record.title.rstrip(".") + ".",
        command=_portable_command(
            record.command or f"unlearn-jax run {name} --workdir runs/{name}", name
        ),
        date=record.date[:10],
        device=record.versions.get("devices", ""),
        versions=_main_versions(record.versions),
        settings=record.config_digest[:12],
        time=clock.duration(sum(stage.seconds for stage in record.stages)),
        tables=tuple(tables),
        reading=(page.summary,),
    )


def _split_unit(head: str) -> tuple[str, str]:
    """Return a heading's name and the unit in parentheses after it."""
    match = re.fullmatch(r"(.*) \((%|points|nats|seconds|ms|MB)\)", head)
    return (match[1], match[2]) if match else (head, "")


def _main_versions(versions: Mapping[str, str]) -> dict[str, str]:
    """Return the versions of the package, of Python (major and minor) and of JAX."""
    main = {}
    if "unlearn_jax" in versions:
        main["unlearn_jax"] = versions["unlearn_jax"]
    if "python" in versions:
        main["Python"] = ".".join(versions["python"].split(".")[:2])
    if "jax" in versions:
        main["JAX"] = versions["jax"]
    return main


def _from_runs(runs: Mapping[str, RunResult]) -> Result:
    """Return the published form of a run, or of the variants of a study."""
    first = next(iter(runs.values()))
    titles = variant_titles(runs)
    tables: list[ResultTable] = []
    chosen: dict[str, str] = {}
    stages: list[clock.Cost] = []
    settings = hashlib.sha256()
    for name, run in runs.items():
        variant = titles[name] if len(runs) > 1 else ""
        for table in _run_tables(run):
            title = ": ".join(filter(None, [variant, table.title]))
            tables.append(dataclasses.replace(table, title=title))
        for label, options in _chosen_options(run).items():
            chosen[", ".join(filter(None, [label, variant]))] = options
        for stage in run.stages:
            # variants that share a stored stage all state the cost of its computation
            cost = dataclasses.replace(stage, cached=False)
            if not stage.cached or cost not in stages:
                stages.append(cost)
        settings.update(run.config_digest.encode())
    design = first.design
    forgets_classes = design.forget_kind == "class"
    sets = "classes" if forgets_classes else "forget sets"
    return Result(
        name=first.preset,
        group="Forgetting classes" if forgets_classes else "Forgetting samples",
        title=first.title.rstrip(".") + ".",
        command=_portable_command(first.command, first.preset),
        date=first.date[:10],
        device=first.device,
        versions=_main_versions(first.versions),
        settings=settings.hexdigest()[:12],
        time=clock.duration(sum(stage.seconds for stage in stages)),
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
    """Return each run's title without the words that all titles share, or its name.

    Args:
      runs: results by name of the run.
    """
    shared = study_title(runs)
    titles = {}
    for name, run in runs.items():
        titles[name] = run.title.removeprefix(shared).strip(" :,") or name
    return titles


def _chosen_options(run: RunResult) -> dict[str, str]:
    """Return the hyperparameters that a search chose, by label of the row.

    Rows with hyperparameters that were not searched come first.
    """
    if run.tuning is None:
        return {}
    chosen = {row.label: UNSEARCHED for row in run.rows if run.is_unsearched(row)}
    for key, options in run.tuning.choices.items():
        values = []
        for name, value in options.items():
            text = f"{value:.3g}" if isinstance(value, float) else str(value)
            values.append(f"{name} {text}")
        chosen[run.row(key).label] = ", ".join(values)
    return chosen


def _published_cell(value: Estimate | None, digits: int) -> Cell:
    """Return an estimate, rounded as tables show it."""
    return parse_cell(" ".join(format_cell(value, digits)).strip())


def _run_tables(run: RunResult) -> list[ResultTable]:
    """Return the tables of a run; the main one has no title."""
    tables = [_main_table(run)]
    if any(row.verdict for row in run.rows):
        tables.append(_verdict_table(run))
    if baseline_rows(run)[0]:
        tables.append(_baseline_table(run))
    if run.klom is not None:
        tables.append(_klom_table(run, run.klom))
    if run.requests is not None:
        tables.append(_requests_table(run, run.requests))
    if run.targets is not None:
        tables += _targets_tables(run.targets)
    return tables


def _main_table(run: RunResult) -> ResultTable:
    """Return the table of metrics and costs, with terms and norms if there are any."""
    analyses = _analysis_columns(run)
    rows = []
    for row in run.rows:
        cells: list[Cell] = []
        for metric in run.metrics:
            if row.is_diverged:
                cells.append(f"diverged {row.num_diverged} of {run.design.runs}")
            else:
                cells.append(_published_cell(row.metrics.get(metric.key), 1))
        cost = row.cost
        cells.append(parse_cell(f"{cost.relative_gradients:.2f}") if cost else None)
        cells += [column.cells.get(row.key) for column in analyses]
        rows.append((row.label, *cells))
    columns = ["row", *(metric.label for metric in run.metrics), "Cost"]
    units = ["", *(metric.unit for metric in run.metrics), ""]
    remarks = (missing_sentence(run), distances_sentence(run))
    return ResultTable(
        columns=(*columns, *(column.name for column in analyses)),
        units=(*units, *(column.unit for column in analyses)),
        rows=tuple(rows),
        caption=" ".join(filter(None, remarks)),
    )


@dataclasses.dataclass(frozen=True)
class _AnalysisColumn:
    """Column of the main table from an analysis, its cells by key of the row."""

    name: str
    unit: str
    cells: Mapping[str, Cell]


def _analysis_columns(run: RunResult) -> list[_AnalysisColumn]:
    """Return columns of adversarial distances, their transfer, and largest norms."""
    distances: dict[str, Cell] = {}
    transfers: dict[str, Cell] = {}
    norms: dict[str, Cell] = {}
    for key, terms in run.theory.rows.items() if run.theory else ():
        if "delta" in terms:
            distances[key] = _term_cell(terms["delta"], 1.0, 2)
        if "transfer" in terms:
            transfers[key] = _term_cell(terms["transfer"], 100.0, 1)
    for key, layers in run.norms.rows.items() if run.norms else ():
        norms[key] = parse_cell(f"{max(layer.high for layer in layers.values()):.2f}")
    columns = [
        _AnalysisColumn("Distance (L2)", "", distances),
        _AnalysisColumn("Transfer to the oracle", "%", transfers),
        _AnalysisColumn("Largest norm", "", norms),
    ]
    return [column for column in columns if column.cells]


def _term_cell(term: Term, scale: float, digits: int) -> Cell:
    """Return mean and standard deviation of a theorem's term, times ``scale``."""
    mean = scale * term.mean
    std = scale * term.std
    return _published_cell(Estimate(mean, std, math.nan, math.nan, 0, 0), digits)


def _verdict_table(run: RunResult) -> ResultTable:
    """Return the methods' verdicts and paired differences.

    Distances, such as the Avg Gap, are compared with those of the seed floor and of the
    best other method. Other metrics are compared with those of the retrained models.
    """
    methods = [row for row in run.rows if row.verdict]
    keys = set().union(*(row.differences for row in methods))
    compared: list[tuple[str, str]] = []
    columns = ["row", "Verdict"]
    units = ["", ""]
    for metric in run.metrics:
        if metric.key not in keys:
            continue
        references = {"oracle": "retrained"}
        if metric.direction == "0":
            references = {"floor": "retrained again", "best": "best other"}
        for reference, name in references.items():
            compared.append((metric.key, reference))
            columns.append(f"{metric.label} less {name}")
            units.append(metric.unit_of_differences)
    rows = []
    for row in methods:
        assert row.verdict is not None
        state = STATES[row.verdict.state]
        more = format_more_runs(row.verdict.more_runs)
        cells: list[Cell] = [f"{state} ({more})" if more else state]
        for key, reference in compared:
            difference = find_difference(row, key, reference)
            cells.append(_difference_cell(difference) if difference else None)
        rows.append((row.label, *cells))
    return ResultTable(
        title="Paired differences and verdicts",
        columns=tuple(columns),
        units=tuple(units),
        rows=tuple(rows),
        caption=margins_sentence(run),
    )


def _baseline_table(run: RunResult) -> ResultTable:
    """Return the paired differences of rows to their baselines."""
    compared, metrics = baseline_rows(run)
    rows = []
    for row in compared:
        cells: list[Cell] = []
        for metric in metrics:
            difference = find_difference(row, metric.key, "baseline")
            cells.append(_difference_cell(difference) if difference else None)
        rows.append((row.label, run.row(row.baseline).label, *cells))
    units = [metric.unit_of_differences for metric in metrics]
    return ResultTable(
        title="Paired differences to a baseline",
        columns=("row", "Baseline", *(metric.label for metric in metrics)),
        units=("", "", *units),
        rows=tuple(rows),
    )


def _difference_cell(difference: Difference) -> Cell:
    interval = (difference.low, difference.high)
    return _published_cell(Estimate(difference.mean, math.nan, *interval, 0, 0), 1)


def _klom_table(run: RunResult, klom: Klom) -> ResultTable:
    labels = {row.key: row.label for row in run.rows}
    parts = list(next(iter(klom.rows.values())))
    rows = []
    for key, distances in klom.rows.items():
        cells = [_published_cell(distances[part].mean, 1) for part in parts]
        rows.append((labels.get(key, key), *cells))
    return ResultTable(
        title=f"KLoM of {klom.num_models} models",
        columns=("row", *(part.capitalize() for part in parts)),
        units=("", *("nats",) * len(parts)),
        rows=tuple(rows),
    )


def _requests_table(run: RunResult, requests: Requests) -> ResultTable:
    labels = {row.key: row.label for row in run.rows}
    rows = []
    for key, scores in requests.rows.items():
        cells = [_published_cell(score.score, 0) for score in scores]
        rows.append((labels.get(key, key), *cells))
    return ResultTable(
        title="Score after each request: FR AUC minus FT AUC",
        columns=("row", *(f"Request {i + 1}" for i in range(requests.count))),
        units=("", *("points",) * requests.count),
        rows=tuple(rows),
    )


def _targets_tables(targets: Targets) -> list[ResultTable]:
    """Return the distances of targets, and their differences to the untilted target."""
    rows = []
    differences = []
    for target in targets.rows:
        name = target.name[0].upper() + target.name[1:]
        cells = [parse_cell(f"{value:.2f}") for value in target.values]
        empty = [None] * (len(targets.betas) - len(cells))
        rows.append((name, *cells, *empty))
        if target.less:
            texts = []
            for mean, low, high in target.differences:
                texts.append(f"{mean:.2f} [{low:.2f}, {high:.2f}]")
            differences.append((name, *map(parse_cell, texts), *empty))
    table = ResultTable(
        title="KL(retrained || target), before any training",
        columns=("target", *(f"beta {beta:g}" for beta in targets.betas)),
        units=("", *("nats",) * len(targets.betas)),
        rows=tuple(rows),
        caption=(
            "On the samples to forget, means over runs; a target without a strength has"
            " its number in the first column."
        ),
    )
    if not differences:
        return [table]
    less = dataclasses.replace(
        table,
        title="Less the target without a tilt",
        rows=tuple(differences),
        caption=(
            "Paired run by run, with the 95% interval of the mean over originals and"
            " forget sets; negative is nearer to retraining."
        ),
    )
    return [table, less]


def _portable_command(command: str, preset: str) -> str:
    """Return the command of a run without the folders of its machine.

    Args:
      command: command line; a call from Python stays as it is.
      preset: name of the preset.
    """
    words = shlex.split(command)
    if words[:1] != ["unlearn-jax"]:
        return command
    for i, word in enumerate(words):
        flag, _, value = word.rpartition("=")
        path = pathlib.PurePath(value)
        if words[i - 1] == "--workdir":
            words[i] = f"runs/{preset}"
        elif flag == "--workdir":
            words[i] = f"--workdir=runs/{preset}"
        elif i == 2 and path.suffix == ".py":
            words[i] = path.name
        elif path.is_absolute():
            words[i] = f"{flag}=DATA_DIR" if flag else "DATA_DIR"
    return shlex.join(words)
