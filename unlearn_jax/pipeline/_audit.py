"""Audits of models, or of their logits alone, without a run."""

import dataclasses
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from unlearn_jax import audit, data, replicas
from unlearn_jax.pipeline._run import publish
from unlearn_jax.pipeline.arrays import AuditArrays
from unlearn_jax.pipeline.config.schema import AuditConfig, digest, to_json
from unlearn_jax.pipeline.measure import records, sections
from unlearn_jax.pipeline.measure.pool import ReferenceSignals, make_pool, margins
from unlearn_jax.pipeline.measure.results import LABELS, make_checks
from unlearn_jax.pipeline.measure.rows import (
    ORIGINAL,
    RETRAINED,
    RETRAINED_AGAIN,
    measure_rows,
)
from unlearn_jax.pipeline.store import clock, folders
from unlearn_jax.types import Dataset, InputError, Problem, ReportError, Variables


def audit_models(
    problem: Problem,
    splits: data.Splits,
    references: replicas.References | None,
    models: Mapping[str, Variables],
    config: AuditConfig | None = None,
    *,
    title: str = "Audit of models",
    folder: str | os.PathLike[str] | None = None,
) -> records.RunResult:
    """Audit unlearned models of one problem, with the table and the report of a run.

    Args:
      problem: unlearning problem, with the network, the original model and the forget
        set. Samples that it has removed, for earlier requests, are left out.
      splits: data whose training set is that of the problem.
      references: reference models of :func:`unlearn_jax.replicas.fit_references`. May
        be None where whole classes are forgotten and ``models`` has both retrained
        models.
      models: variables by row. ``retrained`` is the oracle that the gaps are measured
        to, and ``retrained_again`` a second oracle with another seed.
      config: options of the audit; see :func:`audit_arrays`.
      title: heading of the report.
      folder: new or empty folder for report, tables and results; nothing is written if
        None.

    Returns:
      The results in the form of a run's results, for example
      ``result.row("amun").metrics["ft_auc"]``. The original is the first row.
      :func:`unlearn_jax.pipeline.terminal_text` prints the table.

    Raises:
      InputError: no model to audit, data that does not belong to the problem, or input
        that :func:`audit_arrays` refuses.
    """
    num_train = len(splits.train.labels)
    if len(problem.train.labels) != num_train:
        raise InputError(
            f"the problem has {len(problem.train.labels)} training samples and the"
            f" data {num_train}: pass the splits that the problem was made from"
        )
    for name in ("labels", "images"):
        of_problem = np.asarray(getattr(problem.train, name))
        if not np.array_equal(of_problem, getattr(splits.train, name)):
            raise InputError(
                f"the training {name} of problem and data differ: pass the splits that"
                " the problem was made from"
            )
    if ORIGINAL in models:
        raise InputError(
            "the problem has the original already: leave it out of the models"
        )
    samples = data.pool(splits)
    train = data.pool_mask(splits)
    forget = data.pool_mask(splits, problem.forget)
    chosen = slice(None)
    if problem.removed is not None:
        # forgotten by earlier requests: neither forgotten now, nor retained, nor unseen
        chosen = ~data.pool_mask(splits, problem.removed)
        samples = Dataset(samples.images[chosen], samples.labels[chosen])
    apply_fn = problem.model.apply
    stacked = replicas.stack([problem.variables, *models.values()])
    logits = dict(
        zip(
            [ORIGINAL, *models],
            replicas.predict_many(apply_fn, stacked, samples.images),
            strict=True,
        )
    )
    given = {}
    for name in (ORIGINAL, RETRAINED, RETRAINED_AGAIN):
        if name in logits:
            given[name] = logits.pop(name)
    if references is not None:
        given["references"] = replicas.predict_many(
            apply_fn, references.variables, samples.images
        )
        given["member"] = references.member[:, chosen]
    arrays = AuditArrays(
        target=logits,
        labels=samples.labels,
        train=train[chosen],
        forget=forget[chosen],
        class_names=splits.class_names,
        **given,
    )
    command = "unlearn_jax.audit_models(...)"
    return audit_arrays(arrays, config, title=title, folder=folder, command=command)


def audit_arrays(
    arrays: AuditArrays,
    config: AuditConfig | None = None,
    *,
    title: str = "Audit of logits",
    folder: str | os.PathLike[str] | None = None,
    command: str = "unlearn_jax.audit_arrays(...)",
) -> records.RunResult:
    """Audit models by their logits alone.

    Args:
      arrays: logits, labels and masks.
      config: options of the audit; the defaults if None. Analyses that need models
        (norms, theory, targets) are left out.
      title: heading of the report.
      folder: new or empty folder for ``report.html``, the tables, ``arrays.npz`` and
        ``results.json``; nothing is written if None.
      command: command that the report shows.

    Returns:
      The results, in the form of a run's results.

    Raises:
      InputError: options that do not suit the arrays, or a folder that is not empty.
      ReportError: see :func:`unlearn_jax.pipeline.run`.
    """
    config = config or AuditConfig()
    place = None if folder is None else _new_folder(folder)
    samples = _to_pool_order(arrays)
    labels = samples.labels
    runs = np.asarray(arrays.runs)
    is_ensemble = len(runs) > 1 and len(np.unique(runs[:, 1])) == 1
    if config.klom and (arrays.retrained is None or not is_ensemble):
        raise InputError(
            "audit.klom compares ensembles for one forget set: give retrained, and two"
            " or more runs of one forget set"
        )
    class_names = tuple(arrays.class_names or ())
    oracles = None
    if arrays.is_class:
        oracles = (samples.logits[RETRAINED], samples.logits[RETRAINED_AGAIN])
    with clock.stopwatch("audit") as watch:
        references = None
        if arrays.references is not None:
            references = _signals(config, arrays.references, samples.order, labels)
        pool = make_pool(
            config,
            labels,
            samples.forget,
            runs,
            references,
            samples.member,
            oracles=oracles,
        )
        measured = measure_rows(pool, samples.logits)
        analyses = sections.analyze_rows(pool, measured.arrays, class_names)
    rows = []
    for row in measured.rows:
        label = LABELS.get(row.key, row.key)
        rows.append(dataclasses.replace(row, label=label))
    num_train = samples.forget.shape[1]
    origin = folders.provenance()
    result = records.RunResult(
        title=title,
        command=command,
        date=origin.date,
        workdir="" if place is None else place.name,
        device=origin.device,
        versions=origin.versions,
        config={"audit": to_json(config)},
        config_digest=digest(config),
        data=records.DataSummary(
            name=title,
            num_train=num_train,
            num_test=len(labels) - num_train,
            num_classes=len(class_names),
            image_shape=(),
            digest=arrays.digest,
            class_names=class_names,
        ),
        design=records.Design(
            forget_kind="class" if arrays.is_class else "file",
            originals=len(np.unique(runs[:, 0])),
            forget_sets=len(np.unique(runs[:, 1])),
            repeats=1,
            runs=len(runs),
            num_forget=int(samples.forget.sum(1).max()),
            references=len(samples.member),
        ),
        level=config.level,
        num_bootstrap=config.num_bootstrap,
        metrics=measured.metrics,
        rows=tuple(rows),
        runs=tuple(
            records.RunName(
                original=int(original), forget_set=int(forget_set), repeat=0
            )
            for original, forget_set in runs
        ),
        stages=(watch.cost,),
        faults=tuple(pool.faults.values()),
        checks=tuple(
            make_checks(
                pool, rows, measured.arrays, is_exchangeable=not arrays.is_class
            )
        ),
        vulnerability=analyses.vulnerability,
        confusion=analyses.confusion,
        klom=analyses.klom,
    )
    if place is not None:
        publish(result, {**measured.arrays, **analyses.arrays}, place)
    elif result.faults:
        raise ReportError("; ".join(result.faults), result)
    return result


class _PoolArrays(NamedTuple):
    """Arrays of an audit in the order of a pool: the training set comes first.

    Attributes:
      order: ``[N]`` positions of the samples in the arrays given.
      labels: ``[N]`` labels.
      forget: ``[R, N_train]`` bool, each run's forget set.
      member: ``[M, N]`` bool, the references' training sets; ``M`` may be 0.
      logits: ``[N, C]`` logits of every run, by row.
    """

    order: np.ndarray
    labels: np.ndarray
    forget: np.ndarray
    member: np.ndarray
    logits: dict[str, list[np.ndarray]]


def _to_pool_order(arrays: AuditArrays) -> _PoolArrays:
    """Return the arrays of an audit with the training set first."""
    train = np.asarray(arrays.train)
    order = np.argsort(~train, kind="stable")
    labels = np.asarray(arrays.labels)[order]
    forget = np.asarray(arrays.forget)[:, order][:, : int(train.sum())]
    member = np.zeros((0, len(labels)), bool)
    if arrays.references is not None:
        member = np.asarray(arrays.member)[:, order]
    stacks: dict[str, ArrayLike] = {}
    for name in (ORIGINAL, RETRAINED, RETRAINED_AGAIN):
        if getattr(arrays, name) is not None:
            stacks[name] = getattr(arrays, name)
    assert isinstance(arrays.target, Mapping)
    logits = {}
    for name, stacked in {**stacks, **arrays.target}.items():
        logits[name] = list(_ordered(stacked, order))
    return _PoolArrays(order, labels, forget, member, logits)


def _new_folder(folder: str | os.PathLike[str]) -> pathlib.Path:
    """Return the path of a folder to write to; raise if the folder has files."""
    place = pathlib.Path(os.path.expanduser(folder)).absolute()
    if place.exists() and not place.is_dir():
        raise InputError(f"{place} is a file: choose a folder")
    if place.is_dir() and any(place.iterdir()):
        raise InputError(f"{place} is not empty: choose another folder")
    return place


def _ordered(logits: ArrayLike, order: np.ndarray) -> Iterator[np.ndarray]:
    """Yield every model's logits with the samples in another order."""
    for model_logits in np.asarray(logits):
        yield model_logits[order]


def _signals(
    config: AuditConfig, logits: ArrayLike, order: np.ndarray, labels: np.ndarray
) -> ReferenceSignals:
    """Return the signals of the reference models that an audit needs."""
    signal = audit.model_signals(config.signal, _ordered(logits, order), labels)
    margin = None
    if config.lira:
        margin = margins(_ordered(logits, order), labels)
    soft_margin = None
    # the methods behind the logits are unknown: some may be free of gradients
    if config.wants_soft_margin(is_gradient_free=True):
        ordered = _ordered(logits, order)
        soft_margin = audit.model_signals("soft_margin", ordered, labels)
    return ReferenceSignals(signal, margin, soft_margin)
