"""Retraining without the forget samples: exact unlearning, and the oracle that every other method is held against."""

from typing import Any

import jax.numpy as jnp

from unlearn_jax.methods.base import FineTuning
from unlearn_jax.train import (
    Recipe,
    cross_entropy_loss,
    fetch_from,
    init_state,
    steps_per_epoch,
    train_epochs,
)
from unlearn_jax.types import Array, Problem, UnlearnFn, UnlearnInfo, Variables


def retrain(*, recipe: Recipe | None = None, **training: Any) -> UnlearnFn:
    """Trains from scratch on the retained samples.

    Never reads a forget sample, nor the original's variables. Equals
    :func:`unlearn_jax.train.fit` on the mask ``problem.retain`` with the same key and
    recipe, bit for bit.

    Args:
      recipe: the recipe that trained the original.
      **training: instead of a recipe, the fields of
        :class:`unlearn_jax.methods.base.FineTuning`.

    Raises:
      InputError: unusable knobs.
    """
    knobs = FineTuning(**training)

    def run(key: Array, problem: Problem) -> tuple[Variables, UnlearnInfo]:
        images = problem.train.images
        how = recipe or knobs.recipe(problem.num_retain, problem.model, images)
        num_batches = steps_per_epoch(problem.num_retain, how.batch_size)
        state, losses = train_epochs(
            cross_entropy_loss(problem.model),
            how.tx,
            fetch_from(how.augment),
            init_state(key, problem.model, how.tx),
            key,
            problem.train,
            problem.retain,
            num_epochs=how.num_epochs,
            num_batches=num_batches,
            batch_size=how.batch_size,
        )
        variables = (
            state.variables
            if recipe
            else knobs.settled(state.variables, problem.model, images)
        )
        cost = how.num_epochs * num_batches * how.batch_size
        return variables, UnlearnInfo(losses, jnp.asarray(cost, jnp.int32))

    return run
