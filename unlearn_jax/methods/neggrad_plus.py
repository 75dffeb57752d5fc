"""NegGrad+: descend on the retained samples and ascend on the forget samples, in the same step."""

from typing import Any

import jax
import jax.numpy as jnp

from unlearn_jax.losses import cross_entropy
from unlearn_jax.methods.base import FineTuning, check_numbers, forward_fn
from unlearn_jax.methods.passes import Pass, PassLoss, finetune_passes
from unlearn_jax.train import Batch, fetch_from
from unlearn_jax.types import (
    Array,
    Model,
    ModelState,
    Problem,
    UnlearnFn,
    UnlearnInfo,
    Variables,
)


def neggrad_plus(
    *, alpha: float | Array = 0.95, forget_batch_size: int | None = None, **tuning: Any
) -> UnlearnFn:
    """Minimizes ``alpha * CE(D_R) - (1 - alpha) * CE(D_F)``, a batch of each per step.

    The baseline of the SCRUB paper (Kurmanji et al., arXiv 2302.09880). An epoch is one
    pass over D_R; D_F is read round and round beside it. The two batches go through the
    network one after the other, retained first, so BatchNorm never mixes them.
    Published settings: alpha 0.95, 10 epochs, SGD at 0.01 (its code); alpha 0.9 at 5e-4
    (RULI's code); retained batches of 64 beside forget batches of 512 (the code of
    Kodge et al.).

    Args:
      alpha: weight of the retained samples, in [0, 1]; at 1 this is fine-tuning, forget
        samples being read by BatchNorm alone.
      forget_batch_size: forget samples per step; as many as ``batch_size`` if None.
      **tuning: fields of :class:`unlearn_jax.methods.base.FineTuning`.

    Raises:
      InputError: unusable knobs.
    """
    check_numbers(low=0, high=1, alpha=alpha)
    knobs = FineTuning(**tuning)

    def run(key: Array, problem: Problem) -> tuple[Variables, UnlearnInfo]:
        part = Pass(
            _difference_loss(problem.model, knobs, alpha),
            fetch_from(knobs.augment),
            problem.train,
            problem.retain,
            problem.num_retain,
            beside=problem.forget,
            beside_size=forget_batch_size,
        )
        return finetune_passes(key, problem, knobs, [part])

    return run


def _difference_loss(
    model: Model, tuning: FineTuning, alpha: float | Array
) -> PassLoss:
    forward = forward_fn(model, tuning)

    def loss_fn(
        variables: Variables, pair: tuple[Batch, Batch], key: Array
    ) -> tuple[Array, ModelState]:
        retained, forgotten = pair
        key_retain, key_forget = jax.random.split(key)
        logits, state = forward(variables, retained.images, key_retain)
        descent = jnp.mean(cross_entropy(logits, retained.labels))
        logits, state = forward(
            variables._replace(state=state), forgotten.images, key_forget
        )
        ascent = jnp.mean(cross_entropy(logits, forgotten.labels))
        return alpha * descent - (1 - alpha) * ascent, state

    return loss_fn
