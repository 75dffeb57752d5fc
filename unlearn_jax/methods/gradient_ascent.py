"""Gradient ascent (GA): undo training by climbing the loss of the forget samples."""

from typing import ClassVar

import jax.numpy as jnp

from unlearn_jax.losses import cross_entropy
from unlearn_jax.methods.base import FineTuning, default_loss, forward_fn
from unlearn_jax.methods.passes import Pass, finetune_passes
from unlearn_jax.train import Batch, LossFn, fetch_from
from unlearn_jax.types import (
    Array,
    Model,
    ModelState,
    Problem,
    UnlearnInfo,
    Variables,
)
from unlearn_jax.values import Real, value


@value
class GradientAscent(FineTuning):
    """Ascent on the mean cross-entropy over D_F, starting from the original model.

    The baseline called "negative gradient" by Golatkar et al. (arXiv 1911.04933) and GA
    by the literature on l1-sparse and SalUn, which credits Thudi et al. (arXiv
    2109.13398) and Graves et al. (arXiv 2010.10981). Nothing bounds the loss: a rate
    that is slightly too large destroys the model, and one that is slightly too small
    has no effect. Published ranges: 5 epochs at 1e-4 (code of l1-sparse, whose authors
    advise 5e-4 to 1e-3 where nothing is forgotten); AMUN searches the rate in [1e-6,
    1e-1] with 10 epochs. The reported losses are minus the cross-entropy on D_F.

    Attributes:
      retain: begin every epoch with a pass of cross-entropy over D_R, before the ascent
        over D_F: AMUN's released variant. (Its pass over D_R keeps the order of the
        data; here it is shuffled.) False reads no retained sample.
      num_epochs: passes over D_F.
      learning_rate: learning rate of the ascent and of the pass over D_R.
    """

    is_padded: ClassVar[bool] = True

    retain: bool = False
    num_epochs: int = 5
    learning_rate: Real = 1e-4

    def __call__(self, key: Array, problem: Problem) -> tuple[Variables, UnlearnInfo]:
        """Climb the loss of the forget samples.

        Args:
          key: PRNG key; consumed.
          problem: gives the model and the sets.
        """
        fetch = fetch_from(self.augmentation)
        ascent = Pass(
            _ascent_loss(problem.model, self),
            fetch,
            problem.train,
            problem.forget,
            problem.num_forget,
        )
        descent = Pass(
            default_loss(problem.model, self),
            fetch,
            problem.train,
            problem.retain,
            problem.num_retain,
        )
        passes = [descent, ascent] if self.retain else [ascent]
        return finetune_passes(key, problem, self, passes)


def _ascent_loss(model: Model, options: FineTuning) -> LossFn:
    """Return minus the mean cross-entropy."""
    forward = forward_fn(model, options)

    def loss_fn(
        variables: Variables, batch: Batch, key: Array
    ) -> tuple[Array, ModelState]:
        logits, state = forward(variables, batch.images, key)
        return -jnp.mean(cross_entropy(logits, batch.labels)), state

    return loss_fn
