"""Gradient ascent (GA): undo training by climbing the loss of the forget samples."""

from typing import Any

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
    UnlearnFn,
    UnlearnInfo,
    Variables,
)


def gradient_ascent(
    *,
    retain: bool = False,
    num_epochs: int = 5,
    learning_rate: float | Array = 1e-4,
    **tuning: Any,
) -> UnlearnFn:
    """Maximizes the mean cross-entropy over D_F, starting from the original model.

    The baseline called "negative gradient" by Golatkar et al. (arXiv 1911.04933) and GA
    by the literature on l1-sparse and SalUn, which credits Thudi et al. (arXiv
    2109.13398) and Graves et al. (arXiv 2010.10981). Nothing bounds the loss: a rate
    slightly too large destroys the model, one slightly too small does nothing.
    Published ranges: 5 epochs at 1e-4 (code of l1-sparse, whose authors advise 5e-4 to
    1e-3 where nothing is forgotten); AMUN searches the rate in [1e-6, 1e-1] with 10
    epochs.

    Args:
      retain: AMUN's released variant: every epoch is one pass of cross-entropy over
        D_R, then the ascent over D_F. (Its pass over D_R keeps the order of the data;
        here it is shuffled.) False reads no retained sample.
      num_epochs: passes over D_F.
      learning_rate: of the ascent, and of the pass over D_R.
      **tuning: other fields of :class:`unlearn_jax.methods.base.FineTuning`.

    Returns:
      The method; its losses are minus the cross-entropy on D_F.

    Raises:
      InputError: unusable knobs.
    """
    knobs = FineTuning(num_epochs=num_epochs, learning_rate=learning_rate, **tuning)

    def run(key: Array, problem: Problem) -> tuple[Variables, UnlearnInfo]:
        fetch = fetch_from(knobs.augment)
        ascent = Pass(
            _ascent_loss(problem.model, knobs),
            fetch,
            problem.train,
            problem.forget,
            problem.num_forget,
        )
        descent = Pass(
            default_loss(problem.model, knobs),
            fetch,
            problem.train,
            problem.retain,
            problem.num_retain,
        )
        return finetune_passes(
            key, problem, knobs, [descent, ascent] if retain else [ascent]
        )

    return run


def _ascent_loss(model: Model, tuning: FineTuning) -> LossFn:
    forward = forward_fn(model, tuning)

    def loss_fn(
        variables: Variables, batch: Batch, key: Array
    ) -> tuple[Array, ModelState]:
        logits, state = forward(variables, batch.images, key)
        return -jnp.mean(cross_entropy(logits, batch.labels)), state

    return loss_fn
