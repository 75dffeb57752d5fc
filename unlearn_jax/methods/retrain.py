"""Retraining without the forget samples: exact unlearning, the oracle of an audit."""

import jax.numpy as jnp

from unlearn_jax.methods.base import FineTuning, default_loss
from unlearn_jax.train import (
    fetch_from,
    init_state,
    steps_per_epoch,
    train_epochs,
)
from unlearn_jax.types import Array, Problem, UnlearnInfo, Variables
from unlearn_jax.values import value


@value
class Retrain(FineTuning):
    """Training from scratch on the retained samples.

    Reads neither the forget samples nor the original's variables; only a mask of
    ``constraints`` reads both, and sets the entries outside it to the original's before
    training. The result without constraints equals, bit for bit, that of
    :func:`unlearn_jax.train.fit` on the mask ``problem.retain`` with the same key and
    the recipe ``Retrain(...).recipe(problem.num_retain)``.
    """

    def __call__(self, key: Array, problem: Problem) -> tuple[Variables, UnlearnInfo]:
        """Train a new model.

        Args:
          key: PRNG key; consumed.
          problem: gives the architecture and D_R.
        """
        num_batches = steps_per_epoch(problem.num_retain, self.batch_size)
        restriction = self.restriction(problem)
        tx = restriction.wrap(self.tx(num_batches))
        state = init_state(key, problem.model, tx)
        state = state._replace(variables=restriction.project(state.variables))
        state, losses = train_epochs(
            default_loss(problem.model, self),
            tx,
            fetch_from(self.augmentation),
            state,
            key,
            problem.train,
            problem.retain,
            num_epochs=self.num_epochs,
            num_batches=num_batches,
            batch_size=self.batch_size,
        )
        cost = self.num_epochs * num_batches * self.batch_size
        return restriction.project(state.variables), UnlearnInfo(
            losses, jnp.asarray(cost + restriction.num_gradients, jnp.int32)
        )
