"""Estimate of a run's cost before it starts."""

import os
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax.data import Splits
from unlearn_jax.data.stand_in import SHAPES
from unlearn_jax.pipeline import tuning
from unlearn_jax.pipeline._run import results_key, stored_results
from unlearn_jax.pipeline.config.resolve import banks_folder, load_data
from unlearn_jax.pipeline.config.schema import RunConfig
from unlearn_jax.pipeline.measure.columns import outside_functions
from unlearn_jax.pipeline.stages import models as stages
from unlearn_jax.pipeline.stages.given import Given
from unlearn_jax.pipeline.stages.plan import Plan, make_plan
from unlearn_jax.pipeline.store.folders import Workdir
from unlearn_jax.replicas import Mapper, fit_many
from unlearn_jax.train import LossFn, Recipe, steps_per_epoch
from unlearn_jax.types import Array, Dataset, InputError, Model


def estimate_speed(plan: Plan) -> float:
    """Return the training samples per second of the references on this machine.

    A few steps are timed, without compilation.

    Args:
      plan: plan of the run.
    """
    training = plan.references if plan.num_references else plan.originals
    num_models = min(plan.group, len(training.member), 2 * len(jax.local_devices()))
    return training_speed(
        training.model,
        training.pool,
        training.recipe,
        keys=jax.random.wrap_key_data(jnp.asarray(training.keys[:num_models])),
        member=training.member[:num_models],
        mapper=plan.mapper(num_models),
    )


def training_speed(
    model: Model,
    data: Dataset,
    recipe: Recipe,
    *,
    keys: Array,
    member: np.ndarray,
    mapper: Mapper | None = None,
) -> float:
    """Return the samples per second of training several models on this machine.

    A few steps are timed, without compilation.

    Args:
      model: network to train.
      data: ``[N]`` samples.
      recipe: training recipe; one epoch of at most eight batches is timed.
      keys: ``[M]`` PRNG keys, one for each model.
      member: ``[M, N]`` bool; only the shape matters.
      mapper: mapper of the models.
    """
    batch_size = recipe.batch_size
    member = np.zeros_like(member)
    member[:, : min(8 * batch_size, member.shape[1])] = True
    short = Recipe(1, batch_size, recipe.tx, recipe.augment)
    num_steps = steps_per_epoch(int(member[0].sum()), batch_size)
    seconds = 0.0
    for _ in range(2):
        began = time.perf_counter()
        fit_many(jax.random.clone(keys), model, data, member, short, mapper=mapper)
        seconds = time.perf_counter() - began
    return len(member) * num_steps * batch_size / seconds


def dry_run(
    config: RunConfig,
    workdir: str | os.PathLike[str],
    *,
    preset: str = "",
    splits: Splits | None = None,
    model: Model | None = None,
    loss_fn: LossFn | None = None,
    original: Given | Sequence[Given] | None = None,
) -> str:
    """Return a table of a run's artifacts: stored, missing, and the time they take.

    Nothing is written. A data set that is not available is replaced by its shapes, if
    these are known (:data:`SHAPES`). The estimate times a few training steps. It counts
    a gradient of the attack as a training sample, and two radii for every forget
    sample.

    A search leaves two things unknown until the run has finished. The methods are shown
    with the hyperparameters that they have before the search. The trials of second
    hyperparameters are shown as if the published value of the first were the best. The
    text also names the rows that are not searched.

    Args:
      config: configuration of the run.
      workdir: working directory of the run.
      preset: name of the preset, as given to the run.
      splits: a user's own data instead of ``config.data``.
      model: a user's own network instead of ``config.model``.
      loss_fn: a user's own training objective instead of cross-entropy.
      original: trained models to unlearn from.

    Raises:
      InputError: see :func:`unlearn_jax.pipeline.run`.
    """
    place = Workdir(workdir)
    place.check()
    no_data = ""
    if splits is None:
        try:
            splits = load_data(config.data)
        except InputError as error:
            if config.data.name not in SHAPES:
                raise
            splits = load_data(config.data, by_shape=True)
            no_data = (
                f"The data set is not here ({error}): planned from its shapes alone,"
                " and no time is estimated."
            )
    plan = make_plan(
        config,
        banks_folder(config, workdir),
        splits=splits,
        model=model,
        loss_fn=loss_fn,
        original=original,
        workdir=place.path,
    )
    # raises on columns or a signal that cannot be imported
    outside_functions(plan.audit)
    tuning_run = tuning.tuning_plan(plan)
    search = None
    if tuning_run is not None:
        finished = stored_results(place.path, results_key(plan, preset))
        tuned = None if finished is None else finished.tuning
        choices = {} if tuned is None else tuned.choices
        search = tuning.Search(tuning_run, choices)
        plan = tuning.with_choices(plan, choices)
    artifacts = tuning.known_artifacts(plan, search)
    if plan.forget_known:
        artifacts += [stages.unlearn(plan, name) for name in plan.rows]
    speed = 0.0 if no_data else estimate_speed(plan)
    lines = [plan.runner.plan(artifacts, speed), ""]
    methods = f"{len(plan.rows)} methods on {plan.splits.name}"
    if no_data:
        lines += [f"{methods}.", no_data]
    else:
        lines.append(
            f"{methods}, at {speed:,.0f} samples/s here; compilation and the audit come"
            " on top."
        )
    if not plan.forget_known:
        lines.append(
            "The rest is known once the references have chosen the forget set."
        )
    if search is not None:
        lines += _search_lines(plan, search)
    lines.append(f"Models are kept in {plan.bank_root}")
    return "\n".join(lines)


def _search_lines(plan: Plan, search: tuning.Search) -> list[str]:
    """Return lines on the rows that are searched, and on those that are not."""
    counts = []
    for name in search.rows:
        rounds = list(tuning.draw_rounds(search.plan, name).values())
        num_trials = 1 + sum(len(levels) - 1 for levels in rounds)
        counts.append(f"{name} {num_trials}")
    lines = [
        f"Trials of the search, each on {len(search.plan.runs)} runs:"
        f" {', '.join(counts)}."
    ]
    unsearched = tuning.unsearched_rows(plan)
    if unsearched:
        lines.append(
            f"Not searched: {', '.join(unsearched)}. Give a row a search,"
            " or its method an entry in methods.SPACES."
        )
    return lines
