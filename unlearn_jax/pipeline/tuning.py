"""Choice of hyperparameters, on originals and forget sets that no table reports.

Every trial of a row is run on the same problems, and measured as the table's rows are;
the one with the lowest mean Avg Gap is taken. Every trial is kept.
"""

import dataclasses
import json
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from unlearn_jax import methods, values
from unlearn_jax.audit import Estimate
from unlearn_jax.data.splits import class_numbers
from unlearn_jax.pipeline.config.resolve import options_of
from unlearn_jax.pipeline.measure import records
from unlearn_jax.pipeline.measure.pool import AuditPool
from unlearn_jax.pipeline.measure.results import oracle_logits, plan_pool
from unlearn_jax.pipeline.measure.rows import estimate, measure_gaps, measure_row
from unlearn_jax.pipeline.measure.statistics import Measured
from unlearn_jax.pipeline.stages import models as stages
from unlearn_jax.pipeline.stages.plan import Plan, check_samples
from unlearn_jax.pipeline.store.artifact import Artifact
from unlearn_jax.types import InputError

REPLICATES = 100
"""Bootstrap replicates for a trial."""


class Search(NamedTuple):
    """Trials of one row.

    Attributes:
      trials: hyperparameters, in the order of the search.
      groups: trials that share their static hyperparameters, and so a program: these,
        and the positions of the trials.
    """

    trials: list[dict[str, Any]]
    groups: list[tuple[dict[str, Any], list[int]]]


def tuning_plan(plan: Plan) -> Plan | None:
    """Return the run to tune on: other originals and forget sets of the same data.

    Network, recipe and references are the same. Its forget sets share no sample with a
    reported one where the training set is large enough for that.

    Args:
      plan: of the reported run.

    Returns:
      None where nothing is to be tuned.

    Raises:
      InputError: originals or forget sets that the table reports, or nothing to tune
        on.
    """
    tuning = plan.tuning
    if not tuning.trials or not any(row.space for row in plan.rows.values()):
        return None
    is_random = plan.forgetting.kind == "random"
    if set(tuning.originals) & set(plan.seeds) or (
        is_random and set(tuning.seeds) & set(plan.forgetting.seeds)
    ):
        raise InputError(
            "tuning.originals and tuning.seeds must differ from replicas.originals and"
            " forget.seeds: never tune on what is reported"
        )
    if plan.is_class:
        forgetting = dataclasses.replace(
            plan.forgetting, classes=_other_classes(plan), requests=1
        )
    else:
        is_file = plan.forgetting.kind == "file"
        count = int(plan.forget.sum(1).max()) if is_file else plan.forgetting.count
        forgetting = dataclasses.replace(
            plan.forgetting, kind="random", seeds=tuning.seeds, requests=1, count=count
        )
    replicas = dataclasses.replace(plan.replicas, originals=tuning.originals, repeats=1)
    if len(tuning.originals) == 1 and any(
        attack.source == "other" for attack in plan.attacks.values()
    ):
        raise InputError(
            "attack.source=other needs two or more originals, of tuning.originals, too"
        )
    optional = ("mis", "klom", "theory", "norms", "targets", "lira", "ulira", "mia_nn")
    audit = dataclasses.replace(
        plan.audit, num_bootstrap=REPLICATES, **dict.fromkeys(optional, False)
    )
    own = dataclasses.replace(
        plan,
        forgetting=forgetting,
        replicas=replicas,
        audit=audit,
        original=None,
        avoid=plan.forget.any(0) if plan.forget_known else None,
    )
    check_samples(own)
    _ = own.originals, own.oracles  # raise on bad settings now
    return own


def _other_classes(plan: Plan) -> tuple[int, ...]:
    """Return classes to forget while tuning: none that is reported."""
    reported = set(plan.forgetting.classes)
    together = plan.forgetting.together
    wanted = len(reported) if together else 2
    sampled = np.intersect1d(plan.splits.train.labels, plan.splits.test.labels)
    others = tuple(int(c) for c in sampled if c not in reported)[:wanted]
    chosen = class_numbers(plan.tuning.classes, plan.splits.class_names)
    others = tuple(chosen) or others
    if len(set(others)) < len(others):
        raise InputError(
            f"tuning.classes repeat a class: {', '.join(map(str, others))}"
        )
    is_short = together and len(others) < wanted
    if set(others) & reported or not others or is_short:
        raise InputError(
            "tuning needs classes that the table does not report: set tuning.classes,"
            " forget fewer, or tuning.trials=0"
        )
    return others


def shared_samples(plan: Plan, own: Plan) -> float:
    """Return the fraction of the search's samples that are also in a reported set.

    Args:
      plan: of the reported run.
      own: of the tuning.
    """
    return float((own.forget & plan.forget.any(0)).sum() / own.forget.sum())


def check_tuning(plan: Plan) -> None:
    """Raise on a search that cannot work, before anything is trained.

    Args:
      plan: of the reported run.

    Raises:
      InputError: see :func:`tuning_plan` and :func:`make_search`.
    """
    if tuning_plan(plan) is not None:
        for name in plan.rows:
            make_search(plan, name)


def make_search(plan: Plan, name: str) -> Search:
    """Draw a row's trials.

    Args:
      plan: gives the row and the number of trials.
      name: of the row.

    Raises:
      InputError: unknown hyperparameters, or values that the method refuses.
    """
    row = plan.rows[name]
    known = options_of(row.method)
    for option, levels in row.space.items():
        if option not in known:
            raise InputError(
                f"row {name!r} searches {option!r}, which is no hyperparameter of"
                f" {row.name!r}"
            )
        if isinstance(levels, dict) and not values.is_traceable(row.method, option):
            raise InputError(
                f"row {name!r} searches {option!r} over a range: list choices for it"
                " instead"
            )
    try:
        trials = methods.draw_trials(row.space, plan.tuning.trials)
    except InputError as error:
        raise InputError(
            f"row {name!r}: {error} (tuning.trials is {plan.tuning.trials})"
        ) from error
    groups: dict[str, tuple[dict[str, Any], list[int]]] = {}
    for position, trial in enumerate(trials):
        row.replace(**trial)  # raises on values that the method refuses
        static = {
            option: given
            for option, given in trial.items()
            if not isinstance(row.space[option], dict)
        }
        groups.setdefault(json.dumps(static), (static, []))[1].append(position)
    return Search(trials, list(groups.values()))


def trials_of(plan: Plan, name: str) -> list[tuple[Artifact, list[int]]]:
    """Return a row's trials: artifacts of logits, and the trials in each.

    Args:
      plan: of the tuning.
      name: of the row.
    """
    search = make_search(plan, name)
    found = []
    for static, positions in search.groups:
        work = []
        for position in positions:
            trial = search.trials[position]
            traced = {key: trial[key] for key in trial if key not in static}
            work += [stages.Work(run, traced) for run in range(len(plan.runs))]
        method = plan.rows[name].replace(**static).method
        artifact = stages.unlearn_work(
            plan,
            name,
            f"tune-{name}",
            method,
            work,
            factory=partial(values.replace, method),
            settings={"trials": [search.trials[position] for position in positions]},
            logits_only=True,
        )
        found.append((artifact, positions))
    return found


def known_artifacts(plan: Plan, own: Plan | None = None) -> list[Artifact]:
    """Return the artifacts of a run that are known before any is made, in order.

    Args:
      plan: of the run.
      own: of the tuning; the rows that it searches are not known, but their trials.
    """
    artifacts = [plan.originals.artifact]
    if plan.num_references:
        artifacts.append(plan.references.artifact)
    searched = []
    if own is not None:
        searched = [name for name in own.rows if own.rows[name].space]
        artifacts += [own.originals.artifact, own.oracles.artifact]
        for name in searched:
            artifacts += [artifact for artifact, _ in trials_of(own, name)]
    if plan.forget_known:
        artifacts.append(plan.oracles.artifact)
        artifacts += [
            stages.unlearn(plan, name) for name in plan.rows if name not in searched
        ]
    return artifacts


def tune_row(plan: Plan, name: str, label: str) -> list[list[np.ndarray]]:
    """Run every trial of a row, and return the logits over the pool of its runs.

    Args:
      plan: of the tuning.
      name: of the row.
      label: of the cost.
    """
    num_runs = len(plan.runs)
    logits: dict[int, list[np.ndarray]] = {}
    for artifact, positions in trials_of(plan, name):
        found = plan.runner.make(artifact, label).each("logits")
        for place, position in enumerate(positions):
            trial = found[place * num_runs : (place + 1) * num_runs]
            logits[position] = stages.filter_outputs(plan, name, trial)
    return [logits[position] for position in sorted(logits)]


def choose(
    plan: Plan, logits: dict[str, list[list[np.ndarray]]], shared: float
) -> records.Tuning:
    """Measure every trial against the search's own oracles and take the best of a row.

    Args:
      plan: of the search.
      logits: of every row's trials' runs.
      shared: fraction of the samples tuned on that are also in a reported forget set.
    """
    pool = plan_pool(plan)
    # Both retrained models are the oracle.
    first, second = oracle_logits(plan)
    measured, _ = measure_row(pool, first, 1)
    again, _ = measure_row(pool, second, 0)
    oracle = {}
    for key, one in measured.items():
        value = (one.value + again[key].value) / 2
        oracle[key] = Measured(value, (one.replicates + again[key].replicates) / 2)
    originals = plan.originals.logits()
    original = _measure_trial(pool, oracle, [originals[o] for o in plan.runs[:, 0]])
    rows = {}
    for name, row in logits.items():
        search = make_search(plan, name)
        trials = []
        for options, runs in zip(search.trials, row, strict=True):
            metrics = _measure_trial(pool, oracle, runs)
            trials.append(records.Trial(options=options, metrics=metrics))
        gaps = np.array(
            [
                trial.metrics["avg_gap"].mean if trial.metrics else np.inf
                for trial in trials
            ]
        )
        rows[name] = records.RowSearch(
            space=plan.rows[name].space,
            trials=tuple(trials),
            chosen=int(np.nanargmin(gaps)) if np.isfinite(gaps).any() else None,
        )
    return records.Tuning(
        originals=plan.seeds,
        sets=tuple(plan.forget_names),
        shared=shared,
        original=original["avg_gap"],
        rows=rows,
    )


def _measure_trial(
    pool: AuditPool, oracle: Mapping[str, Measured], runs: list[np.ndarray]
) -> dict[str, Estimate]:
    """Return a trial's estimates; none if it diverged."""
    metrics, _ = measure_row(pool, runs)
    if not metrics:
        return {}
    metrics |= measure_gaps(pool, metrics, oracle)
    return {key: estimate(pool, metrics[key]) for key in pool.table.trial}
