"""l1-sparse unlearning (arXiv 2304.04934): fine-tuning with an L1 penalty."""

from typing import ClassVar, Literal

import jax.numpy as jnp
import numpy as np
import optax

from unlearn_jax.checks import check_not_negative
from unlearn_jax.methods.base import FineTuning, finetune_on
from unlearn_jax.train import fetch_from, steps_per_epoch
from unlearn_jax.transforms import add_l1
from unlearn_jax.types import Array, Problem, UnlearnInfo, Variables, most_of, value_of
from unlearn_jax.values import Real, value

Schedule = Literal["linear", "amun_code"]


@value
class L1Sparse(FineTuning):
    """Fine-tuning on ``CE(D_R) + gamma_t * sum|theta|``, from the original model.

    No forget sample is read. The penalty counts every parameter, including biases and
    those of BatchNorm. It adds the gradient ``gamma_t * sign(theta)``, as weight decay
    does, before momentum. The reported losses do not include the penalty. Published
    settings: 10 epochs, learning rate 0.01; gamma 5e-4 (AMUN's code), in [1e-6, 1e-4]
    in later searches.

    Attributes:
      gamma: weight of the penalty in the first epoch, not negative.
      schedule: course of the weight over the epochs ``t = 0 .. T-1``: ``linear`` is the
        paper's ``gamma * (1 - t / T)``; ``amun_code`` is that of AMUN's code, which
        multiplies the weight by ``2 - 2 t / T`` after every epoch. Of ten epochs, the
        sixth and seventh have the largest weight, 9.7 times ``gamma``.
    """

    is_padded: ClassVar[bool] = True

    gamma: Real = 5e-4
    schedule: Schedule = "linear"

    def __post_init__(self) -> None:
        """Raise on values that no run could use."""
        super().__post_init__()
        check_not_negative(gamma=self.gamma)

    def __call__(self, key: Array, problem: Problem) -> tuple[Variables, UnlearnInfo]:
        """Fine-tune with the penalty.

        Args:
          key: PRNG key; consumed.
          problem: gives the model and D_R.
        """
        num_batches = steps_per_epoch(problem.num_retain, self.batch_size)
        factors = jnp.asarray(penalty_factors(self.num_epochs, self.schedule))
        epoch = jnp.arange(self.num_epochs * most_of(num_batches))
        weights = self.gamma * factors[epoch // value_of(num_batches)]
        return finetune_on(
            key,
            problem,
            self,
            data=problem.train,
            member=problem.retain,
            num_samples=problem.num_retain,
            fetch=fetch_from(self.augmentation),
            wrap_tx=lambda tx: optax.chain(add_l1(weights), tx),
        )


def penalty_factors(num_epochs: int, schedule: Schedule) -> np.ndarray:
    """Return each epoch's penalty relative to the first, ``[num_epochs]`` float32.

    Args:
      num_epochs: number of epochs, T.
      schedule: course of the penalty, as in :class:`L1Sparse`.

    >>> penalty_factors(4, "linear").tolist(), penalty_factors(4, "amun_code").tolist()
    ([1.0, 0.75, 0.5, 0.25], [1.0, 2.0, 3.0, 3.0])
    """
    course = 1 - np.arange(num_epochs, dtype=np.float32) / num_epochs
    if schedule == "linear":
        return course
    return np.cumprod(np.append(np.float32(1), 2 * course[:-1]))
