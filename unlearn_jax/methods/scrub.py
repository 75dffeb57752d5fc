"""SCRUB (Kurmanji et al., arXiv 2302.09880): diverge from the original on D_F only."""

from typing import ClassVar

import jax.numpy as jnp

from unlearn_jax.checks import check_counts, check_not_negative, check_positive
from unlearn_jax.losses import cross_entropy, kl_from_logits
from unlearn_jax.methods.base import (
    FineTuning,
    forward_fn,
)
from unlearn_jax.methods.passes import Pass, finetune_passes
from unlearn_jax.train import Batch, LossFn, fetch_from
from unlearn_jax.types import (
    Array,
    ModelState,
    Problem,
    UnlearnInfo,
    Variables,
)
from unlearn_jax.values import Real, value


@value
class SCRUB(FineTuning):
    """Alternating passes: away from the original on D_F, towards it on D_R.

    Let ``KL_T = T**2 * mean KL(softmax(teacher / T) || softmax(student / T))``, where
    the teacher is the original in evaluation mode and the student is in training mode,
    on the same augmented images. An epoch consists of

    * a max pass over D_F, in the first ``num_max_epochs`` epochs, minimizing ``-KL_T``;
    * a min pass over D_R, minimizing ``gamma * CE + alpha * KL_T``.

    Both passes share one optimizer, and the reported losses are those of the min
    passes. Since the student starts as a copy of its teacher, the first max steps are
    driven only by batch statistics, dropout and weight decay. SCRUB+R, which rewinds to
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

    Later comparisons search the rate in [1e-4, 1e-1] over 10 epochs. ``decay_every``
    replaces the code's list of epochs (which is never reached at large scale).

    Attributes:
      gamma: weight of the cross-entropy on D_R, not negative.
      alpha: weight of the distance to the original on D_R, not negative.
      temperature: T, positive.
      num_max_epochs: number of epochs with a max pass; 0 for none, and then no forget
        sample is read.
      forget_batch_size: samples per step of the max pass; ``batch_size`` is that of the
        min pass.
      num_epochs: passes over D_R.
      learning_rate: learning rate of both passes.
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
        """Raise on values that no run could use."""
        super().__post_init__()
        check_not_negative(gamma=self.gamma, alpha=self.alpha)
        check_positive(temperature=self.temperature)
        check_counts(0, num_max_epochs=self.num_max_epochs)
        check_counts(forget_batch_size=self.forget_batch_size)

    def __call__(self, key: Array, problem: Problem) -> tuple[Variables, UnlearnInfo]:
        """Alternate max and min passes.

        Args:
          key: PRNG key; consumed.
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
    """Return ``gamma * CE + alpha * KL_T`` with the original model as the teacher."""
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
