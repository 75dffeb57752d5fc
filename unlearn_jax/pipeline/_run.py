"""Run: all stages in order, then the table and the report."""

import dataclasses
import json
import os
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from unlearn_jax import targets
from unlearn_jax.data import Splits
from unlearn_jax.pipeline import presets, tuning
from unlearn_jax.pipeline.config.resolve import banks_folder
from unlearn_jax.pipeline.config.schema import RunConfig, digest
from unlearn_jax.pipeline.measure import records
from unlearn_jax.pipeline.measure.columns import outside_functions
from unlearn_jax.pipeline.measure.results import measure_run
from unlearn_jax.pipeline.report.tables import write_tables
from unlearn_jax.pipeline.stages import models as stages
from unlearn_jax.pipeline.stages.given import Given
from unlearn_jax.pipeline.stages.plan import Plan, check_plan, make_plan
from unlearn_jax.pipeline.stages.training import Training
from unlearn_jax.pipeline.store import clock, hosts, locks
from unlearn_jax.pipeline.store import folders as store
from unlearn_jax.pipeline.store.artifact import Artifact, Stored
from unlearn_jax.pipeline.store.events import Events
from unlearn_jax.pipeline.store.fingerprint import (
    code_digest,
    functions_digest,
    package_digest,
)
from unlearn_jax.pipeline.store.trees import tree_digest
from unlearn_jax.train import LossFn
from unlearn_jax.types import Model


def run(
    config: RunConfig,
    workdir: str | os.PathLike[str],
    *,
    preset: str = "",
    splits: Splits | None = None,
    model: Model | None = None,
    loss_fn: LossFn | None = None,
    original: Given | Sequence[Given] | None = None,
    events: str | os.PathLike[str] | None = None,
) -> records.RunResult | None:
    """Train, attack, unlearn, audit and report; repeat the call to resume a run.

    Args:
      config: configuration of the run.
      workdir: working directory. A new one is created, a run of this version is
        resumed, and a directory with other content is refused.
      preset: name of the preset, for the report.
      splits: a user's own data instead of ``config.data``.
      model: a user's own network instead of ``config.model``.
      loss_fn: a user's own training objective instead of cross-entropy.
      original: trained models to unlearn from, as variables or paths of files; the run
        then trains only the retrained models and the references.
      events: folder for TensorBoard events: losses by epoch, seconds by stage, and the
        table, or the table alone if the run is finished; needs the extra
        ``tensorboard``.

    Returns:
      The results, as in ``results.json``; None in every process but the first.

    Raises:
      InputError: unusable configuration, data or directory; nothing has been written
        in this case.
      DivergedError: training ended in numbers that are not finite. (A method that
        diverges is reported in its row instead.)
      ReportError: a column of another package failed, or a table, a figure or the
        report cannot be written. ``results.json`` has been written, and the error's
        ``result`` is the value that would have been returned.

    Warns:
      DamagedFileWarning: a stored file is damaged; its folder is moved aside and
        recomputed.
    """
    place = store.Workdir(workdir)
    process = hosts.current_process()
    place.check()
    plan = make_plan(
        config,
        banks_folder(config, workdir),
        splits=splits,
        model=model,
        loss_fn=loss_fn,
        original=original,
        workdir=place.path,
        check=False,
    )
    key = results_key(plan, preset)
    hosts.check_equal(digest(_deciding(plan)))
    finished = _finished_results(place, key) if process.first else None
    is_finished = np.array(finished is not None)
    if plan.runner.is_joint:
        is_finished = hosts.agreed(is_finished)
    if is_finished:
        if finished is not None and events is not None:
            _save_events(finished, Events(events))
        return finished
    check_plan(plan)
    tuning.check_tuning(plan)
    locks.make_folder(plan.bank_root)
    with place.locked() as folder:
        runner = plan.runner
        if process.first:
            parts = {
                "data": splits,
                "network": model,
                "loss": loss_fn,
                "originals": original,
            }
            given = [part for part, value in parts.items() if value is not None]
            # read back by presets.load, which cannot make these parts
            settings = plan.settings | ({presets.OWN_PARTS: given} if given else {})
            text = json.dumps(settings, indent=1)
            _warn_of_replaced_results(folder, text)
            store.write_text(folder / "config.json", text)
            clock.LOG.info("%s", about_data(plan.splits))
            runner.events = None if events is None else Events(events)
        try:
            tuning_run = tuning.tuning_plan(plan)
            search = None if tuning_run is None else tuning.Search(tuning_run)
            runner.expect(_stages(plan, search), _expected(plan, search))
            # the originals are trained next, so their programs compile when called
            _compile_ahead(plan, tuning.known_artifacts(plan, search)[1:])
            _train(plan.originals)
            if process.first:
                _warn_of_chance(plan.originals)
            _train(plan.references)
            plan, tuned = _tune(plan, search)
            runner.expect(_stages(plan, search), _expected(plan))
            _compile_ahead(plan, tuning.known_artifacts(plan))
            _train(plan.oracles)
            adversarial = _attack(plan)
            unlearned = _unlearn(plan)
        finally:
            runner.close()
        if not process.first:
            return None
        runner.say("audit", f"{len(plan.rows)} methods to measure")
        began = time.perf_counter()
        result, arrays = measure_run(
            plan,
            unlearned,
            adversarial,
            runner.costs,
            tuning=tuned,
            preset=preset,
            workdir=folder.name,
        )
        runner.say("audit", f"done in {clock.duration(time.perf_counter() - began)}")
        result = dataclasses.replace(result, folders=_folders(plan, folder))
        # OpenedRun.audit_arrays needs these
        arrays |= {"labels": plan.pool.labels, "member": plan.references.member}
        files = publish(result, arrays, folder, runner.events)
        files += [stored / store.MANIFEST for stored in runner.folders]
        files.append(folder / "config.json")
        store.seal(folder, files, {"artifact": "run", "key": key})
    return result


def _finished_results(place: store.Workdir, key: str) -> records.RunResult | None:
    """Return the results of a finished run with this key; None if there are none.

    A run with changed files does not count as finished.
    """
    if not (place.path / store.MANIFEST).is_file():
        return None
    with place.locked() as folder:
        return stored_results(folder, key)


def stored_results(folder: pathlib.Path, key: str) -> records.RunResult | None:
    """Return the results that a folder holds; None if its run has not finished.

    Args:
      folder: working directory of the run.
      key: digest of what decides its results, see :func:`results_key`.
    """
    if not store.is_sealed(folder, key):
        return None
    text = (folder / "results.json").read_text(encoding="utf-8")
    return records.RunResult.from_json(json.loads(text))


def results_key(plan: Plan, preset: str) -> str:
    """Return a digest of everything that decides a run's results, including code.

    Args:
      plan: plan of the run.
      preset: name of the preset, for the report.
    """
    devices = jax.devices()
    return digest(
        *_deciding(plan),
        # XLA's programs depend on the number of devices, not on the number of cores
        store.versions() | {"devices": f"{len(devices)} x {devices[0].device_kind}"},
        [preset, plan.runner.folder.name],
    )


def _deciding(plan: Plan) -> list[Any]:
    """Return the settings, data and code that decide a run's results."""
    methods = [row.method for row in plan.rows.values()]
    attacks = [chosen.attack for chosen in plan.attacks.values()]
    return [
        # equal models from another folder give equal results
        plan.settings | {"bank": None},
        [plan.splits.name, plan.splits.digest, list(plan.splits.class_names)],
        plan.model_id,
        None if plan.original is None else tree_digest(plan.original),
        [code_digest(value) for value in (*methods, *attacks)],
        functions_digest(outside_functions(plan.audit)),
        package_digest(),
        store.switches(),
    ]


def about_data(splits: Splits) -> str:
    """Return a line about a data set: numbers of samples, and classes with their names.

    Args:
      splits: data set; names of classes after the twentieth are left out, and names
        that are the classes' numbers.
    """
    names = splits.class_names
    text = (
        f"data {splits.name}: {len(splits.train.labels)} training and"
        f" {len(splits.test.labels)} test samples, {splits.num_classes} classes"
    )
    if all(name == str(label) for label, name in enumerate(names)):
        return text
    classes = [f"{label} {name}" for label, name in enumerate(names)][:20]
    more = ", ..." if len(names) > len(classes) else ""
    return f"{text}: {', '.join(classes)}{more}"


def _stages(plan: Plan, search: tuning.Search | None) -> list[str]:
    """Return the labels of a run's stages, in order."""
    labels = [_label(plan.originals)]
    if plan.num_references:
        labels.append(_label(plan.references))
    if search is not None:
        tuning_run = search.plan
        labels.append(_label(tuning_run.originals, "tuning: "))
        labels.append(_label(tuning_run.oracles, "tuning: "))
        labels += [_attack_label(name, "tuning: ") for name in tuning_run.attacks]
        labels += [f"tune: {name}" for name in search.rows]
        labels.append("tuning: audit")
    # there is one hard forget set, known only once the references are trained
    sets = len(plan.forget) if plan.forget_known else 1
    labels.append(f"retrained ({2 * len(plan.seeds) * sets})")
    labels += [_attack_label(name) for name in plan.attacks]
    labels += [f"unlearn: {name}" for name in plan.rows]
    return [*labels, "audit"]


def _expected(plan: Plan, search: tuning.Search | None = None) -> list[Artifact]:
    """Return all artifacts of a run; none while its forget sets are unknown."""
    if not plan.forget_known:
        return []
    artifacts = tuning.known_artifacts(plan, search)
    return artifacts + [stages.unlearn(plan, name) for name in plan.rows]


def _folders(plan: Plan, folder: pathlib.Path) -> dict[str, str]:
    """Return the folders of the run's artifacts, relative to the working directory."""
    artifacts = [plan.originals.artifact, plan.oracles.artifact]
    if plan.num_references:
        artifacts.append(plan.references.artifact)
    artifacts += [stages.attack(plan, name) for name in plan.attacks]
    artifacts += [stages.unlearn(plan, name) for name in plan.rows]
    return {
        artifact.name: os.path.relpath(plan.runner.path(artifact), folder)
        for artifact in artifacts
    }


def _compile_ahead(plan: Plan, artifacts: list[Artifact]) -> None:
    """Compile programs of later stages while the current stage computes.

    Does nothing on a GPU, whose compiler times programs on the device, and with mappers
    that call a program for each model.
    """
    if targets.platform() != "gpu" and plan.replicas.mapper not in ("loop", "split"):
        plan.runner.compile_ahead(artifacts)


def _train(*trainings: Training, prefix: str = "") -> None:
    """Train the models that are missing."""
    for training in trainings:
        if len(training.member):
            training.runner.make(training.artifact, _label(training, prefix))


def _warn_of_replaced_results(folder: pathlib.Path, settings: str) -> None:
    """Warn of results of other settings in the working directory."""
    path = folder / "config.json"
    if not (path.is_file() and (folder / "results.json").is_file()):
        return
    if path.read_text(encoding="utf-8") != settings:
        clock.LOG.warning(
            "%s holds the results of other settings: results.json, report and tables"
            " are replaced; models are kept, and the earlier command writes its results"
            " again",
            folder,
        )


def _warn_of_chance(originals: Training) -> None:
    """Warn, before anything else is trained, of originals that have learned nothing.

    Such an original has closed less than a tenth of the distance between the answer
    that is right most often and all answers right, on its own training set.
    """
    labels = originals.pool.labels
    models = zip(originals.logits(), originals.member, strict=True)
    for position, (logits, member) in enumerate(models):
        trained_on = labels[member]
        accuracy = np.mean(np.argmax(logits[member], -1) == trained_on)
        constant = np.bincount(trained_on).max() / len(trained_on)
        if accuracy < constant + 0.1 * (1 - constant):
            clock.LOG.warning(
                "original %d is right on %.0f%% of its training set, one and the same"
                " answer would be on %.0f%%: there is nothing to forget; try another"
                " learning rate or more epochs",
                position,
                100 * accuracy,
                100 * constant,
            )


def _label(training: Training, prefix: str = "") -> str:
    return f"{prefix}{training.name} ({len(training.member)})"


def _attack_label(name: str | None, prefix: str = "") -> str:
    return f"{prefix}adversarial sets" + (f": {name}" if name else "")


def _attack(plan: Plan, prefix: str = "") -> dict[str | None, Stored]:
    """Return the adversarial sets that the rows need, by name of the attack."""
    sets = {}
    for name in plan.attacks:
        label = _attack_label(name, prefix)
        sets[name] = plan.runner.make(stages.attack(plan, name), label)
    return sets


def _unlearn(plan: Plan) -> dict[str, Stored]:
    """Return the unlearned models of all rows, by name."""
    unlearned = {}
    for name in plan.rows:
        artifact = stages.unlearn(plan, name)
        unlearned[name] = plan.runner.make(artifact, f"unlearn: {name}")
    return unlearned


def _tune(
    plan: Plan, search: tuning.Search | None
) -> tuple[Plan, records.Tuning | None]:
    """Return the plan with the chosen hyperparameters, and the search's trials."""
    if search is None:
        return plan, None
    tuning_run = search.plan
    _train(tuning_run.originals, tuning_run.oracles, prefix="tuning: ")
    _attack(tuning_run, "tuning: ")
    outcome = search.run(tuning.shared_samples(plan, tuning_run))
    return tuning.with_choices(plan, outcome.choices), outcome


def _save_events(result: records.RunResult, events: Events) -> None:
    """Write the means of a table, and close the file of events."""
    means = {
        f"{metric}/{row.key}": estimate.mean
        for row in result.rows
        for metric, estimate in row.metrics.items()
    }
    events.numbers(means)
    events.close()


def publish(
    result: records.RunResult,
    arrays: dict[str, np.ndarray],
    folder: pathlib.Path,
    events: Events | None = None,
) -> list[pathlib.Path]:
    """Write ``results.json``, then tables, arrays and report; return the files.

    Raises:
      ReportError: a file other than ``results.json`` cannot be written, or the result
        has faults; all other files have been written.
    """

    def write_arrays(draft: pathlib.Path) -> None:
        np.savez_compressed(draft, **arrays)  # pyright: ignore[reportArgumentType]

    def save_tables() -> None:
        files.extend(write_tables(result, folder))

    def save_arrays() -> None:
        store.write_file(folder / "arrays.npz", write_arrays)
        files.append(folder / "arrays.npz")

    def save_report() -> None:
        # imported only when needed, since it imports matplotlib
        from unlearn_jax.pipeline.report.run import write_report

        write_report(result, arrays, folder / "report.html")
        files.append(folder / "report.html")

    def save_events() -> None:
        if events is not None:
            _save_events(result, events)

    text = json.dumps(result.to_json(), indent=1, allow_nan=False)
    # the seal of earlier results
    (folder / store.MANIFEST).unlink(missing_ok=True)
    store.write_text(folder / "results.json", text)
    files = [folder / "results.json"]
    writers = {
        "the tables": save_tables,
        "arrays.npz": save_arrays,
        "report.html": save_report,
        "the events": save_events,
    }
    store.write_each(writers, folder, result, result.faults)
    return files
