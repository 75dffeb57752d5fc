"""Cost of a joint training step without compilation, for all arms in turn."""

import time
from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax.ensembles import (
    Ensemble,
    EnsembleState,
    ensemble_epochs,
    init_ensemble,
)
from unlearn_jax.train import Recipe, fetch_from
from unlearn_jax.types import Dataset, PyTree


def joint_training(
    ensemble: Ensemble, recipe: Recipe, *, num_epochs: int, num_batches: int
) -> tuple[Callable[..., EnsembleState], Callable[..., PyTree]]:
    """Return a function that starts joint training, and one that trains for epochs.

    Args:
      ensemble: members and objective.
      recipe: training recipe of every member.
      num_epochs: epochs per call.
      num_batches: steps per epoch.

    Returns:
      ``(key, sample=)``, which returns the first state, and ``(state, key, data,
      member)``, which returns the next state and the losses.
    """
    txs = (recipe.tx,) * len(ensemble.models)
    begin = partial(init_ensemble, ensemble=ensemble, txs=txs)
    run = partial(
        ensemble_epochs,
        ensemble,
        txs,
        fetch_from(recipe.augment),
        num_epochs=num_epochs,
        num_batches=num_batches,
        batch_size=recipe.batch_size,
    )
    return begin, run


def step_seconds(
    runs: Mapping[str, tuple[Ensemble, Recipe]],
    data: Dataset,
    *,
    num_steps: int,
    num_repeats: int = 9,
) -> tuple[np.ndarray, np.ndarray]:
    """Time the same number of steps of several ensembles.

    The ensembles are measured in alternation, so that other jobs disturb all of them
    alike.

    Args:
      runs: ensembles and their recipes, by name.
      data: samples, at least one batch.
      num_steps: steps per measurement.
      num_repeats: measurements per ensemble.

    Returns:
      Seconds per step ``[A, num_repeats]``, and seconds of compilation ``[A]``, for A
      ensembles.
    """
    placed = jax.tree.map(jnp.asarray, data)
    sample = jnp.zeros((1, *data.images.shape[1:]))
    member = jnp.ones(len(data.labels), bool)
    programs = []
    compiling = []
    for ensemble, recipe in runs.values():
        begin, run = joint_training(
            ensemble, recipe, num_epochs=1, num_batches=num_steps
        )
        state = jax.jit(begin)(jax.random.key(0), sample=sample)
        began = time.perf_counter()
        compiled = (
            jax.jit(run).lower(state, jax.random.key(1), placed, member).compile()
        )
        compiling.append(time.perf_counter() - began)
        programs.append((compiled, state))
    seconds = np.zeros((len(programs), num_repeats))
    # The first round warms up.
    for repeat in range(-1, num_repeats):
        for i, (compiled, state) in enumerate(programs):
            began = time.perf_counter()
            jax.block_until_ready(compiled(state, jax.random.key(1), placed, member))
            seconds[i, max(repeat, 0)] = (time.perf_counter() - began) / num_steps
    return seconds, np.array(compiling)
