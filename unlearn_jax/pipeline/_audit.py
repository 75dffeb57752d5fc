"""Audit of models by their logits alone: the table and the report of a run."""

import dataclasses
import datetime
import os
import pathlib
import shlex
import sys
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import ArrayLike

from unlearn_jax import audit
from unlearn_jax.pipeline._run import publish
from unlearn_jax.pipeline.arrays import AuditArrays
from unlearn_jax.pipeline.config.schema import AuditConfig, digest, to_json
from unlearn_jax.pipeline.measure import records, sections
from unlearn_jax.pipeline.measure.pool import References, make_pool, margins
from unlearn_jax.pipeline.measure.results import LABELS, make_checks
from unlearn_jax.pipeline.measure.rows import (
    ORIGINAL,
    RETRAINED,
    RETRAINED_AGAIN,
    measure_rows,
)
from unlearn_jax.pipeline.store import clock, folders
from unlearn_jax.types import InputError


def audit_arrays(
    arrays: AuditArrays,
    config: AuditConfig | None = None,
    *,
    title: str = "Audit of logits",
    folder: str | os.PathLike[str] | None = None,
) -> records.RunResult:
    """Audit models by their logits alone.

    Args:
      arrays: of the audit.
      config: options of the audit; the defaults if None. Analyses that need models
        (norms, theory, targets) are left out.
      title: heading of the report.
      folder: to write ``report.html``, the tables, ``arrays.npz`` and ``results.json``
        to; nothing is written if None.

    Returns:
      The results, as those of a run.

    Raises:
      InputError: options that do not suit the arrays, or a folder that is not empty.
    """
    config = config or AuditConfig()
    place = None if folder is None else pathlib.Path(folder).absolute()
    has_files = place is not None and place.is_dir() and any(place.iterdir())
    if has_files or (place is not None and place.is_file()):
        raise InputError(f"{place} is not empty: choose another folder")
    runs = np.asarray(arrays.runs)
    train = np.asarray(arrays.train)
    num_train = int(train.sum())
    # a pool has the training set first
    order = np.argsort(~train, kind="stable")
    labels = np.asarray(arrays.labels)[order]
    forget = np.asarray(arrays.forget)[:, order][:, :num_train]
    stacks = {
        name: np.asarray(getattr(arrays, name))
        for name in (ORIGINAL, RETRAINED, RETRAINED_AGAIN)
        if getattr(arrays, name) is not None
    }
    logits = {}
    assert isinstance(arrays.target, Mapping)
    for name, stacked in {**stacks, **arrays.target}.items():
        logits[name] = [one[order] for one in stacked]
    references = None
    member = np.zeros((0, len(labels)), bool)
    if arrays.references is not None:
        member = np.asarray(arrays.member)[:, order]
    oracles = None
    if arrays.is_class:
        oracles = (logits[RETRAINED], logits[RETRAINED_AGAIN])
    with clock.stopwatch("audit") as watch:
        if arrays.references is not None:
            margin = None
            if config.lira:
                margin = margins(_ordered(arrays.references, order), labels)
            signal = audit.model_signals(
                config.signal, _ordered(arrays.references, order), labels
            )
            references = References(signal, margin)
        pool = make_pool(
            config, labels, forget, runs, references, member, oracles=oracles
        )
        measured = measure_rows(pool, logits)
        analyses = sections.analyze_rows(
            pool, measured.arrays, list(arrays.class_names or ())
        )
        figures = {**measured.arrays, **analyses.arrays}
    rows = []
    for row in measured.rows:
        label = LABELS.get(row.key, row.key)
        rows.append(dataclasses.replace(row, label=label))
    versions = folders.versions()
    result = records.RunResult(
        title=title,
        command=shlex.join(["unlearn-jax", *sys.argv[1:]]),
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        workdir="" if place is None else place.name,
        device=versions.pop("devices"),
        versions=versions,
        config={"audit": to_json(config)},
        config_digest=digest(config),
        data=records.DataSummary(
            name=title,
            num_train=num_train,
            num_test=len(labels) - num_train,
            num_classes=len(arrays.class_names or ()),
            image_shape=(),
            digest=arrays.digest,
        ),
        design=records.Design(
            forget_kind="class" if arrays.is_class else "file",
            originals=len(np.unique(runs[:, 0])),
            forget_sets=len(np.unique(runs[:, 1])),
            repeats=1,
            runs=len(runs),
            num_forget=int(forget.sum(1).max()),
            references=len(member),
        ),
        level=config.level,
        num_bootstrap=config.num_bootstrap,
        metrics=measured.metrics,
        rows=tuple(rows),
        runs=tuple(
            records.RunName(original=int(o), forget_set=int(s), repeat=0)
            for o, s in runs
        ),
        stages=(watch.cost,),
        checks=tuple(make_checks(pool, rows, is_exchangeable=not arrays.is_class)),
        vulnerability=analyses.vulnerability,
        confusion=analyses.confusion,
        klom=analyses.klom,
    )
    if place is not None:
        publish(result, figures, place)
    return result


def _ordered(logits: ArrayLike, order: np.ndarray) -> Iterator[np.ndarray]:
    """Yield every model's logits with the samples in another order."""
    for one in np.asarray(logits):
        yield one[order]
