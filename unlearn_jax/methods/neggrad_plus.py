"""NegGrad+: descent on D_R and ascent on D_F in each step."""

from typing import ClassVar

import jax
import jax.numpy as jnp

from unlearn_jax.checks import check_counts, check_fractions
from unlearn_jax.losses import cross_entropy
from unlearn_jax.methods.base import (
    FineTuning,
    forward_fn,
)
from unlearn_jax.methods.passes import PassLoss, finetune_on_pairs
from unlearn_jax.train import Batch
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
class NegGradPlus(FineTuning):
    """Descent on ``alpha * CE(D_R) - (1 - alpha) * CE(D_F)``, a batch of each per step.

    The baseline of the SCRUB paper (Kurmanji et al., arXiv 2302.09880). An epoch is one
    pass over D_R; D_F is read cyclically alongside it. The two batches go through the
    network one after the other, retained first, so BatchNorm never mixes them.
    Published settings: alpha 0.95, 10 epochs, SGD at 0.01 (its code); alpha 0.9 at 5e-4
    (RULI's code); retained batches of 64 with forget batches of 512 (the code of Kodge
    et al.).

    Attributes:
      alpha: weight of the retained samples, in [0, 1]. At 1 this is fine-tuning; forget
        samples then affect only BatchNorm.
      forget_batch_size: forget samples per step; ``batch_size`` if None.
    """

    is_padded: ClassVar[bool] = True

    alpha: Real = 0.95
    forget_batch_size: int | None = None

    def __post_init__(self) -> None:
        """Raise on values that no run could use."""
        super().__post_init__()
        check_fractions(alpha=self.alpha)
        if self.forget_batch_size is not None:
            check_counts(forget_batch_size=self.forget_batch_size)

    def __call__(self, key: Array, problem: Problem) -> tuple[Variables, UnlearnInfo]:
        """Train on the difference of the two losses.

        Args:
          key: PRNG key; consumed.
          problem: gives the model and the sets.
        """
        loss_fn = _difference_loss(problem.model, self, self.alpha)
        return finetune_on_pairs(
            key, problem, self, loss_fn, forget_batch_size=self.forget_batch_size
        )


def _difference_loss(model: Model, options: FineTuning, alpha: Real) -> PassLoss:
    """Return the loss of a retained batch minus that of a forget batch, weighted."""
    forward = forward_fn(model, options)

    def loss_fn(
        variables: Variables, batches: tuple[Batch, Batch], key: Array
    ) -> tuple[Array, ModelState]:
        retain_batch, forget_batch = batches
        key_retain, key_forget = jax.random.split(key)
        logits, state = forward(variables, retain_batch.images, key_retain)
        descent = jnp.mean(cross_entropy(logits, retain_batch.labels))
        # The forget batch starts from the statistics that the retained batch left.
        logits, state = forward(
            variables._replace(state=state), forget_batch.images, key_forget
        )
        ascent = jnp.mean(cross_entropy(logits, forget_batch.labels))
        return alpha * descent - (1 - alpha) * ascent, state

    return loss_fn
