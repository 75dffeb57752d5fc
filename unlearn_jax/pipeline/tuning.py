"""Choice of hyperparameters, on originals and forget sets that no table reports.

A row's hyperparameters are searched one after the other, each at the best values of
those before it and at the published values of those after it. So a method with two
hyperparameters tries as many values of the first as a method with one. Every trial runs
on the same problems and is measured like the rows of the table. The trial with the
lowest mean Avg Gap is chosen; a trial that diverged on any problem never is. All trials
are stored.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np

from unlearn_jax import methods, values
from unlearn_jax.audit import Estimate
from unlearn_jax.data.splits import class_numbers
from unlearn_jax.pipeline.config.resolve import options_of
from unlearn_jax.pipeline.measure import records
from unlearn_jax.pipeline.measure.differences import compare
from unlearn_jax.pipeline.measure.pool import AuditPool
from unlearn_jax.pipeline.measure.results import oracle_logits, plan_pool
from unlearn_jax.pipeline.measure.rows import estimate, measure_gaps, measure_row
from unlearn_jax.pipeline.measure.statistics import Measured
from unlearn_jax.pipeline.stages import models as stages
from unlearn_jax.pipeline.stages.plan import Plan, check_samples
from unlearn_jax.pipeline.store import clock
from unlearn_jax.pipeline.store.artifact import Artifact
from unlearn_jax.types import InputError

REPLICATES = 100
"""Number of bootstrap replicates for a trial."""

Options = dict[str, Any]
"""Hyperparameters by name."""


def tuning_plan(plan: Plan) -> Plan | None:
    """Return the run to tune on: other originals and forget sets of the same data.

    Network, recipe and references are the same. Its forget sets share no sample with
    the reported ones if the training set is large enough.

    Args:
      plan: plan of the reported run.

    Returns:
      The plan; None if nothing is to be tuned.

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
    optional = ("mis", "klom", "theory", "norms", "targets", "lira", "ulira", "mia_nn")
    audit = dataclasses.replace(
        plan.audit,
        num_bootstrap=REPLICATES,
        refits=0,
        soft_margin="never",
        columns=(),
        **dict.fromkeys(optional, False),
    )
    tuning_run = dataclasses.replace(
        plan,
        forgetting=forgetting,
        replicas=replicas,
        audit=audit,
        original=None,
        avoid=plan.forget.any(0) if plan.forget_known else None,
    )
    check_samples(tuning_run)
    _ = tuning_run.originals, tuning_run.oracles  # raise on bad settings now
    return tuning_run


def _other_classes(plan: Plan) -> tuple[int, ...]:
    """Return classes to forget while tuning, none of which is reported."""
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


def shared_samples(plan: Plan, tuning_run: Plan) -> float:
    """Return the fraction of the search's samples that are also in a reported set.

    Args:
      plan: plan of the reported run.
      tuning_run: plan of the search.
    """
    is_shared = tuning_run.forget & plan.forget.any(0)
    return float(is_shared.sum() / tuning_run.forget.sum())


def check_tuning(plan: Plan) -> None:
    """Raise on a search that cannot work, before anything is trained.

    Args:
      plan: plan of the reported run.

    Raises:
      InputError: see :func:`tuning_plan` and :func:`draw_rounds`.
    """
    if tuning_plan(plan) is not None:
        for name in plan.rows:
            draw_rounds(plan, name)


def unsearched_rows(plan: Plan) -> list[str]:
    """Return the rows that keep their given hyperparameters while others are tuned.

    Args:
      plan: plan of the reported run.

    Returns:
      Names of rows; empty if nothing is searched. Rows without hyperparameters are left
      out, because they have nothing to search.
    """
    if not plan.tuning.trials or not any(row.space for row in plan.rows.values()):
        return []
    return [
        name
        for name, row in plan.rows.items()
        if options_of(row.method) and not row.space
    ]


def draw_rounds(plan: Plan, name: str) -> dict[str, list[Any]]:
    """Return the values to try for each hyperparameter of a row, in search order.

    Args:
      plan: plan with the row and the number of trials.
      name: name of the row.

    Returns:
      Values by hyperparameter, the published value first. The first hyperparameter has
      ``trials`` values, the others have ``trials`` in addition to the published one.
      Empty for a row that is not searched.

    Raises:
      InputError: unknown hyperparameters, or values that the method refuses.
    """
    row = plan.rows[name]
    known = options_of(row.method)
    rounds: dict[str, list[Any]] = {}
    for option, candidates in row.space.items():
        if option not in known:
            raise InputError(
                f"row {name!r} searches {option!r}, which is not a hyperparameter of"
                f" {row.name!r}"
            )
        is_range = isinstance(candidates, Mapping)
        if is_range and not values.is_traceable(row.method, option):
            raise InputError(
                f"row {name!r} searches {option!r} over a range: list choices for it"
                " instead"
            )
        num_levels = plan.tuning.trials + (1 if rounds else 0)
        try:
            rounds |= methods.draw_levels({option: candidates}, num_levels)
        except InputError as error:
            raise InputError(
                f"row {name!r}: {error} (tuning.trials is {plan.tuning.trials})"
            ) from error
    published = {option: levels[0] for option, levels in rounds.items()}
    for option, levels in rounds.items():
        for level in levels:
            row.replace(**{**published, option: level})  # raises on refused values
    return rounds


class Search:
    """Search of the hyperparameters of all rows.

    Attributes:
      plan: plan of the search.
      rows: names of the rows that are searched.
      chosen: hyperparameters that the search is known to choose, by row.
    """

    def __init__(
        self, plan: Plan, chosen: Mapping[str, records.Plain] = MappingProxyType({})
    ) -> None:
        self.plan = plan
        self.rows = [name for name, row in plan.rows.items() if row.space]
        self.chosen = chosen
        # Rounds that share their choices share a program, which is compiled once.
        self._programs: dict[tuple[str, str], Callable[..., Any]] = {}

    def artifacts(self, name: str) -> list[Artifact]:
        """Return the artifacts of a row's trials.

        Trials of the second and later hyperparameters depend on results of earlier
        trials. Unless the row's choice is known, the earlier hyperparameters have their
        published values instead.

        Args:
          name: name of the row.
        """
        rounds = draw_rounds(self.plan, name)
        best = {option: levels[0] for option, levels in rounds.items()}
        chosen = self.chosen.get(name, best)
        made = []
        for number, option in enumerate(rounds):
            trials = _round(rounds, option, best, is_first=number == 0)
            made += [artifact for artifact, _ in self._trials(name, trials)]
            # later trials keep the choice of earlier ones
            best[option] = chosen[option]
        return made

    def run(self, shared: float) -> records.Tuning:
        """Run and measure the trials of every row, and choose the best of each.

        The originals and the retrained models of the search must be trained already.

        Args:
          shared: fraction of the samples tuned on that are also in a reported set.
        """
        plan = self.plan
        costs = plan.runner.costs
        with clock.stopwatch("tuning: audit") as watch:
            pool = plan_pool(plan)
            oracle = _both_oracles(plan, pool)
            originals = plan.originals.logits()
            runs = [originals[o] for o in plan.runs[:, 0]]
            original = _measure_trial(pool, oracle, runs)
            original_gap = original["avg_gap"]
        audits = [watch.cost]
        rows = {}
        for name in self.rows:
            rounds = draw_rounds(plan, name)
            best = {option: levels[0] for option, levels in rounds.items()}
            trials: list[records.Trial] = []
            chosen = None
            for option in rounds:
                drawn = _round(rounds, option, best, is_first=not trials)
                logits = self.logits(name, drawn)
                with clock.stopwatch("tuning: audit") as watch:
                    for options, runs in zip(drawn, logits, strict=True):
                        measured = _measure_trial(pool, oracle, runs)
                        gains = {}
                        if measured:
                            gap = {name: measured["avg_gap"]}
                            gains = compare(pool, gap, original_gap, None)
                        trials.append(
                            records.Trial(
                                options=options,
                                metrics=_estimates(pool, measured),
                                gain=gains.get(name),
                                num_diverged=0 if measured else pool.num_diverged(runs),
                            )
                        )
                audits.append(watch.cost)
                chosen = _best(trials)
                if chosen is not None:
                    best = dict(trials[chosen].options)
            space = plan.rows[name].space
            rows[name] = records.RowSearch(
                space=space, trials=tuple(trials), chosen=chosen
            )
        costs.append(clock.total(audits, "tuning: audit"))
        return records.Tuning(
            originals=plan.seeds,
            sets=tuple(plan.forget_names),
            shared=shared,
            original=_estimates(pool, original)["avg_gap"],
            rows=rows,
        )

    def logits(self, name: str, trials: list[Options]) -> list[list[np.ndarray]]:
        """Return the logits over the pool of every trial's runs.

        Args:
          name: name of the row.
          trials: hyperparameters of each trial.
        """
        num_runs = len(self.plan.runs)
        logits: dict[int, list[np.ndarray]] = {}
        for artifact, positions in self._trials(name, trials):
            outputs = self.plan.runner.make(artifact, f"tune: {name}").each("logits")
            for place, position in enumerate(positions):
                runs = outputs[place * num_runs : (place + 1) * num_runs]
                logits[position] = stages.filter_outputs(self.plan, name, runs)
        return [logits[position] for position in sorted(logits)]

    def _trials(
        self, name: str, trials: list[Options]
    ) -> list[tuple[Artifact, list[int]]]:
        """Return artifacts, each of trials with equal choices, and their positions."""
        plan = self.plan
        row = plan.rows[name]
        ranges = [key for key in row.space if isinstance(row.space[key], Mapping)]
        groups: dict[str, list[int]] = {}
        for position, trial in enumerate(trials):
            choices = {key: trial[key] for key in trial if key not in ranges}
            groups.setdefault(json.dumps(choices), []).append(position)
        artifacts = []
        for text, positions in groups.items():
            method = row.replace(**json.loads(text)).method
            if (name, text) not in self._programs:
                make_method = partial(values.replace, method)
                self._programs[name, text] = stages.unlearning(plan, name, make_method)
            work = []
            for position in positions:
                traced = {key: trials[position][key] for key in ranges}
                work += [stages.Work(run, traced) for run in range(len(plan.runs))]
            artifact = stages.unlearn_work(
                plan,
                name,
                f"tune-{name}",
                method,
                work,
                self._programs[name, text],
                settings={"trials": [trials[position] for position in positions]},
                logits_only=True,
            )
            artifacts.append((artifact, positions))
        return artifacts


def _round(
    rounds: Mapping[str, list[Any]], option: str, best: Options, *, is_first: bool
) -> list[Options]:
    """Return a hyperparameter's trials; the first round includes the published value.

    Later rounds leave it out, because an earlier trial has it already.
    """
    levels = rounds[option] if is_first else rounds[option][1:]
    return [{**best, option: level} for level in levels]


def _best(trials: list[records.Trial]) -> int | None:
    """Return the position of the lowest Avg Gap; None if every trial diverged."""
    gaps = [
        trial.metrics["avg_gap"].mean if trial.metrics else np.inf for trial in trials
    ]
    return int(np.nanargmin(gaps)) if np.isfinite(gaps).any() else None


def known_artifacts(plan: Plan, search: Search | None = None) -> list[Artifact]:
    """Return the artifacts of a run that are known before any is computed, in order.

    Args:
      plan: plan of the run.
      search: search of hyperparameters; the final models of the rows that it searches
        are not known, so the artifacts of their trials are returned.
    """
    artifacts = [plan.originals.artifact]
    if plan.num_references:
        artifacts.append(plan.references.artifact)
    searched = []
    if search is not None:
        searched = search.rows
        artifacts += [search.plan.originals.artifact, search.plan.oracles.artifact]
        for name in searched:
            artifacts += search.artifacts(name)
    if plan.forget_known:
        artifacts.append(plan.oracles.artifact)
        artifacts += [
            stages.unlearn(plan, name) for name in plan.rows if name not in searched
        ]
    return artifacts


def with_choices(plan: Plan, choices: Mapping[str, records.Plain]) -> Plan:
    """Return a plan with the hyperparameters that a search has chosen.

    Args:
      plan: plan of the reported run.
      choices: hyperparameters by row; other rows keep theirs.
    """
    rows = {
        name: row.replace(**choices.get(name, {})) for name, row in plan.rows.items()
    }
    return dataclasses.replace(plan, rows=rows)


def _both_oracles(plan: Plan, pool: AuditPool) -> dict[str, Measured]:
    """Return the mean metrics of both retrained models, the oracle of a search."""
    first, second = oracle_logits(plan)
    measured, _ = measure_row(pool, first, 1)
    again, _ = measure_row(pool, second, 0)
    oracle = {}
    for key, one in measured.items():
        other = again[key]
        drawn = None
        if one.replicates is not None and other.replicates is not None:
            drawn = (one.replicates + other.replicates) / 2
        oracle[key] = Measured((one.value + other.value) / 2, drawn)
    return oracle


def _measure_trial(
    pool: AuditPool, oracle: Mapping[str, Measured], runs: list[np.ndarray]
) -> dict[str, Measured]:
    """Return a trial's metrics and gaps; empty if it diverged."""
    metrics, _ = measure_row(pool, runs)
    return metrics | measure_gaps(pool, metrics, oracle) if metrics else {}


def _estimates(
    pool: AuditPool, measured: Mapping[str, Measured]
) -> dict[str, Estimate]:
    """Return the stored estimates of a trial."""
    if not measured:
        return {}
    units = {metric.key: metric.unit for metric in pool.table.metrics}
    return {key: estimate(pool, measured[key], units[key]) for key in pool.table.trial}
