"""Cost of a joint training step without compilation, for all arms in turn."""

import time
from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax.ensembles import Ensemble, joint_training
from unlearn_jax.train import Recipe
from unlearn_jax.types import Dataset


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
        begin, run = joint_training(ensemble, recipe, num_batches=num_steps)
        run = partial(run, num_epochs=1)
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
