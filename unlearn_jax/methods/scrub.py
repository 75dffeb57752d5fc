"""SCRUB (Kurmanji et al., arXiv 2302.09880): leave the original on D_F, not on D_R."""

from typing import ClassVar

import jax.numpy as jnp

from unlearn_jax.losses import cross_entropy, kl_from_logits
from unlearn_jax.methods.base import (
    FineTuning,
    check_numbers,
    check_positive,
    forward_fn,
)
from unlearn_jax.methods.passes import Pass, finetune_passes
from unlearn_jax.train import Batch, LossFn, fetch_from
from unlearn_jax.types import (
    Array,
    InputError,
    ModelState,
    Problem,
    UnlearnInfo,
    Variables,
)
from unlearn_jax.values import Real, value


@value
class SCRUB(FineTuning):
    """Passes that leave the original on D_F, in turn with passes that keep it on D_R.

    With ``KL_T = T**2 * mean KL(softmax(teacher / T) || softmax(student / T))``, the
    teacher being the original in evaluation mode and the student in training mode, on
    the same augmented images, an epoch is

    * max pass, in the first ``num_max_epochs`` epochs: over D_F, minimizing ``-KL_T``;
    * min pass: over D_R, minimizing ``gamma * CE + alpha * KL_T``.

    One optimizer serves both, and the reported losses are those of the min passes. As
    the student starts as its teacher, the very first max steps are driven by what sets
    the two apart: batch statistics, dropout and weight decay. SCRUB+R, which rewinds to
    the epoch whose forget error is nearest to a validation error, needs validation
    samples and is not offered.

    ================  ===================  ===================  =====================
    of the code       large scale (here)   small scale          membership inference
    ================  ===================  ===================  =====================
    gamma, alpha, T   0.99, 0.001, 4       1, 0.5, 2            1, 0.5, 4
    epochs, of max    3, 2                 10, 3                5, 3
    optimizer         SGD 5e-4             Adam 5e-4            SGD 5e-4
    weight decay      5e-4                 0.1                  5e-4
    batches D_R, D_F  128, 32              32, 64
    rate / 10 after   3, 5, 9              5, 8, 9              3, 5, 9
    ================  ===================  ===================  =====================

    The rate is searched in [1e-4, 1e-1] over 10 epochs in later comparisons.
    ``decay_every`` stands for the code's list of epochs (at large scale that list is
    never reached).

    Attributes:
      gamma: weight of the cross-entropy on D_R, not negative.
      alpha: weight of the distance to the original on D_R, not negative.
      temperature: T, positive.
      num_max_epochs: epochs with a max pass; 0 for none, then no forget sample is read.
      forget_batch_size: samples per step of the max pass; ``batch_size`` is the min
        pass's.
      num_epochs: passes over D_R.
      learning_rate: of both passes.
    """

    is_padded: ClassVar[bool] = True

    gamma: Real = 0.99
    alpha: Real = 0.001
    temperature: Real = 4.0
    num_max_epochs: int = 2
    forget_batch_size: int = 32
    num_epochs: int = 3
    learning_rate: Real = 5e-4

    def __post_init__(self) -> None:
        """Refuse values that no run could use."""
        super().__post_init__()
        check_numbers(low=0, gamma=self.gamma, alpha=self.alpha)
        check_positive("temperature", self.temperature)
        if self.num_max_epochs < 0 or self.forget_batch_size < 1:
            raise InputError(
                "SCRUB's num_max_epochs must not be negative, and forget_batch_size"
                " must be positive"
            )

    def __call__(self, key: Array, problem: Problem) -> tuple[Variables, UnlearnInfo]:
        """Alternate max and min passes.

        Args:
          key: consumed.
          problem: gives the original model and the sets.
        """
        fetch = fetch_from(self.augmentation)
        max_pass = Pass(
            _teacher_loss(problem, self, gamma=0.0, alpha=-1.0),
            fetch,
            problem.train,
            problem.forget,
            problem.num_forget,
            batch_size=self.forget_batch_size,
            num_epochs=self.num_max_epochs,
        )
        min_pass = Pass(
            _teacher_loss(problem, self, gamma=self.gamma, alpha=self.alpha),
            fetch,
            problem.train,
            problem.retain,
            problem.num_retain,
        )
        return finetune_passes(key, problem, self, [max_pass, min_pass])


def _teacher_loss(
    problem: Problem, options: SCRUB, *, gamma: Real, alpha: Real
) -> LossFn:
    """Return ``gamma * CE + alpha * KL_T``, the original model being the teacher."""
    forward = forward_fn(problem.model, options)
    temperature = options.temperature

    def loss_fn(
        variables: Variables, batch: Batch, key: Array
    ) -> tuple[Array, ModelState]:
        logits, state = forward(variables, batch.images, key)
        teacher = problem.model.apply(problem.variables, batch.images)
        distance = kl_from_logits(teacher / temperature, logits / temperature)
        losses = (
            gamma * cross_entropy(logits, batch.labels)
            + alpha * temperature**2 * distance
        )
        return jnp.mean(losses), state

    return loss_fn
