"""Bad teacher (Chundawat et al., arXiv 2205.08096): distill an untrained network."""

from typing import Literal

import jax
import jax.numpy as jnp

from unlearn_jax.checks import check_fractions, check_positive
from unlearn_jax.losses import kl_from_logits
from unlearn_jax.methods.base import (
    FineTuning,
    finetune_on,
    forward_fn,
)
from unlearn_jax.optimizers import Adam, Optimizer
from unlearn_jax.train import Batch, LossFn, fetch_from
from unlearn_jax.types import (
    Array,
    ModelState,
    Problem,
    UnlearnInfo,
    Variables,
)
from unlearn_jax.values import Real, static, value

Reduction = Literal["batch", "element"]


@value
class BadTeacher(FineTuning):
    """Distillation of a random network on D_F and of the original on part of D_R.

    Minimizes the mean of ``KL(softmax(teacher / T) || softmax(student / T))`` over D_F
    and a random fraction of D_R, shuffled together. The teacher of a forget sample is a
    freshly initialized network of the same architecture; that of a retained sample is
    the original. Both teachers are fixed and in evaluation mode. No label is read.

    Published settings: Adam at 1e-4, T 1, batches of 256, 1 epoch, 30% of D_R (the
    authors' code); Adam at 0.01, 10 epochs, all of D_R, T searched up to 5 (the
    benchmark of arXiv 2410.01276).

    Attributes:
      temperature: T, positive.
      retain_fraction: fraction of D_R to train on, in [0, 1], drawn once (static: it
        sets the number of steps); 0 reads no retained sample.
      reduction: ``batch`` sums the divergence over classes (its definition);
        ``element`` takes the mean over classes too, as the released code does. The loss
        is then C times smaller, which hardly affects Adam but does affect SGD.
      num_epochs: passes over D_F and the fraction of D_R.
      batch_size: samples per step, of both sets together.
      learning_rate: learning rate of the optimizer.
      weight_decay: L2 penalty, added to the gradient.
      optimizer: ``Adam()`` in both published settings.
    """

    temperature: Real = 1.0
    retain_fraction: float = static(default=0.3)
    reduction: Reduction = "batch"
    num_epochs: int = 1
    batch_size: int = 256
    learning_rate: Real = 1e-4
    weight_decay: Real = 0.0
    optimizer: Optimizer = Adam()

    def __post_init__(self) -> None:
        """Raise on values that no run could use."""
        super().__post_init__()
        check_positive(temperature=self.temperature)
        check_fractions(retain_fraction=self.retain_fraction)

    def __call__(self, key: Array, problem: Problem) -> tuple[Variables, UnlearnInfo]:
        """Train on the predictions of the two teachers.

        Args:
          key: PRNG key; consumed.
          problem: gives the original model and the sets.
        """
        key, key_teacher, key_fraction = jax.random.split(key, 3)
        num_drawn = round(self.retain_fraction * problem.num_retain)
        drawn = draw_members(key_fraction, problem.retain, num_drawn)
        untrained = problem.model.init(key_teacher)
        return finetune_on(
            key,
            problem,
            self,
            data=problem.train,
            member=problem.forget | drawn,
            num_samples=problem.num_forget + num_drawn,
            fetch=fetch_from(self.augmentation),
            loss_fn=_distillation_loss(problem, untrained, self),
        )


def draw_members(key: Array, member: Array, count: int) -> Array:
    """Draw a number of members, uniformly without replacement.

    Args:
      key: PRNG key; consumed.
      member: ``[N]`` bool with at least ``count`` True.
      count: number of members to draw (static).

    Returns:
      ``[N]`` bool.
    """
    order = jnp.argsort(jnp.where(member, jax.random.uniform(key, member.shape), 2.0))
    return jnp.zeros_like(member).at[order[:count]].set(True)


def _distillation_loss(
    problem: Problem, untrained: Variables, options: BadTeacher
) -> LossFn:
    """Return the divergence from each sample's teacher.

    Args:
      problem: problem whose original model teaches the retained samples.
      untrained: variables of the teacher of the forget samples.
      options: the method, for its temperature and reduction.
    """
    forward = forward_fn(problem.model, options)
    temperature = options.temperature

    def loss_fn(
        variables: Variables, batch: Batch, key: Array
    ) -> tuple[Array, ModelState]:
        logits, state = forward(variables, batch.images, key)
        teacher = jnp.where(
            problem.forget[batch.position, None],
            problem.model.apply(untrained, batch.images),
            problem.model.apply(problem.variables, batch.images),
        )
        loss = jnp.mean(kl_from_logits(teacher / temperature, logits / temperature))
        if options.reduction == "element":
            loss = loss / logits.shape[-1]
        return loss, state

    return loss_fn
