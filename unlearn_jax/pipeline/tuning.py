"""Choosing the methods' knobs: a search per method on originals and forget sets that no table reports.

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
from unlearn_jax.pipeline.config.checks import check_settings
from unlearn_jax.pipeline.config.resolve import make_row, options_of, registered_method
from unlearn_jax.pipeline.config.schema import RunConfig
from unlearn_jax.pipeline.measure import records
from unlearn_jax.pipeline.measure.pool import AuditPool, Measured
from unlearn_jax.pipeline.measure.results import oracle_logits, plan_pool
from unlearn_jax.pipeline.measure.rows import estimate, measure_gaps, measure_row
from unlearn_jax.pipeline.stages import models as stages
from unlearn_jax.pipeline.stages.plan import Plan, check_samples
from unlearn_jax.pipeline.store.artifact import Artifact
from unlearn_jax.types import InputError, UnlearnFn

REPLICATES = 100
"""Bootstrap replicates for a trial."""


class Search(NamedTuple):
    """What is tried for one row.

    Attributes:
      trials: settings, in the order of the search.
      groups: trials that share their static knobs, and so a program: (static knobs,
        positions of the trials).
    """

    trials: list[dict[str, Any]]
    groups: list[tuple[dict[str, Any], list[int]]]


def tuning_plan(plan: Plan) -> Plan | None:
    """The run to tune on: the same data, network, recipe and references, other originals and forget sets.

    Its forget sets share no sample with a reported one where the training set is large
    enough for that.

    Returns:
      None where nothing is to be tuned.

    Raises:
      InputError: originals or forget sets that the table reports, or nothing to tune
        on.
    """
    config, tuning = plan.config, plan.config.tuning
    if not tuning.trials or not any(searches(config, name) for name in plan.rows):
        return None
    if set(tuning.originals) & set(config.replicas.originals) or (
        config.forget.kind == "random" and set(tuning.seeds) & set(config.forget.seeds)
    ):
        raise InputError(
            "tuning.originals and tuning.seeds must differ from replicas.originals and"
            " forget.seeds: never tune on what is reported"
        )
    if config.forget.kind == "class":
        forget = dataclasses.replace(
            config.forget, classes=_other_classes(plan), requests=1
        )
    else:
        known = plan.forget_known and config.forget.kind == "file"
        count = int(plan.forget.sum(1).max()) if known else config.forget.count
        forget = dataclasses.replace(
            config.forget, kind="random", seeds=tuning.seeds, requests=1, count=count
        )
    replicas = dataclasses.replace(
        config.replicas, originals=tuning.originals, repeats=1
    )
    quick = dict.fromkeys(
        ("mis", "klom", "theory", "norms", "targets", "lira", "ulira", "mia_nn"), False
    )
    audit = dataclasses.replace(config.audit, num_bootstrap=REPLICATES, **quick)
    own = dataclasses.replace(
        plan,
        config=dataclasses.replace(
            config, forget=forget, replicas=replicas, audit=audit
        ),
        avoid=plan.forget.any(0) if plan.forget_known else None,
    )
    check_settings(own.config)
    check_samples(own)
    _ = own.rows, own.attacks, own.originals, own.oracles  # refuse bad settings now
    return own


def _other_classes(plan: Plan) -> tuple[int, ...]:
    """Classes to forget while tuning: none that is reported."""
    config, tuning = plan.config, plan.config.tuning
    reported = set(config.forget.classes)
    wanted = len(reported) if config.forget.together else 2
    sampled = np.intersect1d(plan.splits.train.labels, plan.splits.test.labels)
    others = (
        tuning.classes or tuple(int(c) for c in sampled if c not in reported)[:wanted]
    )
    if (
        set(others) & reported
        or not others
        or (config.forget.together and len(others) < wanted)
    ):
        raise InputError(
            "tuning needs classes that the table does not report: set tuning.classes,"
            " forget fewer, or tuning.trials=0"
        )
    return others


def shared_samples(plan: Plan, own: Plan) -> float:
    """Share of the samples in the search's forget sets that are also in a reported one."""
    return float((own.forget & plan.forget.any(0)).sum() / own.forget.sum())


def check_tuning(plan: Plan) -> None:
    """Refuses a search that cannot work, before anything is trained.

    Raises:
      InputError: see :func:`tuning_plan` and :func:`make_search`.
    """
    if tuning_plan(plan) is not None:
        for name in plan.rows:
            make_search(plan.config, name)


def searches(config: RunConfig, name: str) -> dict[str, Any]:
    """The search of a row: its own, or its method's, without the knobs that the row gives a value of its own."""
    row = config.rows[name]
    space = row.get("search", methods.SPACES.get(row["method"], {}))
    default = options_of(row, config.training)
    return {
        option: levels
        for option, levels in space.items()
        if option not in row or row[option] == default.get(option)
    }


def make_search(config: RunConfig, name: str) -> Search:
    """Draws a row's trials.

    Raises:
      InputError: unknown knobs, or values that the method refuses.
    """
    row, space = config.rows[name], searches(config, name)
    _check_search(config, name, space)
    try:
        trials = methods.draw_trials(space, config.tuning.trials)
    except InputError as error:
        raise InputError(
            f"row {name!r}: {error} (tuning.trials is {config.tuning.trials})"
        ) from error
    groups: dict[str, tuple[dict[str, Any], list[int]]] = {}
    for position, trial in enumerate(trials):
        make_row(name, {**row, **trial}, config.training)  # refuse bad values now
        static = {
            knob: value
            for knob, value in trial.items()
            if not isinstance(space[knob], dict)
        }
        groups.setdefault(json.dumps(static), (static, []))[1].append(position)
    return Search(trials, list(groups.values()))


def _check_search(config: RunConfig, name: str, space: dict[str, Any]) -> None:
    method = registered_method(config.rows[name])
    known = values.fields_of(method)
    for option, levels in space.items():
        if option not in known:
            named = config.rows[name]["method"]
            raise InputError(
                f"row {name!r} searches {option!r}, which is no hyperparameter of"
                f" {named!r}"
            )
        if isinstance(levels, dict) and not values.is_traceable(method, option):
            raise InputError(
                f"row {name!r} searches {option!r} over a range: list choices for it"
                " instead"
            )


def trials_of(plan: Plan, name: str) -> list[tuple[Artifact, list[int]]]:
    """Return a row's trials: artifacts of logits, and the trials in each.

    Args:
      plan: of the tuning.
      name: of the row.
    """
    search = make_search(plan.config, name)
    row = plan.config.rows[name]
    found = []
    for static, positions in search.groups:
        work = []
        for position in positions:
            trial = search.trials[position]
            traced = {key: trial[key] for key in trial if key not in static}
            work += [stages.Work(run, traced) for run in range(len(plan.runs))]
        artifact = stages.unlearn_work(
            plan,
            name,
            f"tune-{name}",
            plan.make_row(name, {**row, **static}),
            work,
            factory=partial(_factory, name, {**row, **static}, plan),
            settings={"trials": [search.trials[position] for position in positions]},
            entries=("logits",),
        )
        found.append((artifact, positions))
    return found


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


def _factory(name: str, row: dict[str, Any], plan: Plan, **traced: Any) -> UnlearnFn:
    return plan.make_row(name, {**row, **traced})


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
        search = make_search(plan.config, name)
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
            space=searches(plan.config, name),
            trials=tuple(trials),
            chosen=int(np.nanargmin(gaps)) if np.isfinite(gaps).any() else None,
        )
    return records.Tuning(
        originals=plan.config.replicas.originals,
        sets=tuple(plan.forget_names),
        shared=shared,
        original=original["avg_gap"],
        rows=rows,
    )


def _measure_trial(
    pool: AuditPool, oracle: Mapping[str, Measured], runs: list[np.ndarray]
) -> dict[str, Estimate]:
    """Return a trial's estimates; none if it diverged."""
    if not pool.is_usable(runs):
        return {}
    metrics, _ = measure_row(pool, runs)
    metrics |= measure_gaps(pool, metrics, oracle)
    return {key: estimate(pool, metrics[key]) for key in pool.table.trial}
