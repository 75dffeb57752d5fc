"""Fine-tuning on the retained samples (FT): training continued without D_F."""

from typing import ClassVar

from unlearn_jax.methods.base import FineTuning, finetune_on
from unlearn_jax.train import fetch_from
from unlearn_jax.types import Array, Problem, UnlearnInfo, Variables
from unlearn_jax.values import value


@value
class FineTune(FineTuning):
    """Fine-tuning on the retained samples, in the hope of catastrophic forgetting.

    Minimizes the mean cross-entropy over D_R, starting from the original's variables.
    No forget sample is read. Published ranges: 10 epochs, learning rate in [1e-3,
    1e-1].
    """

    is_padded: ClassVar[bool] = True

    def __call__(self, key: Array, problem: Problem) -> tuple[Variables, UnlearnInfo]:
        """Fine-tune the original model.

        Args:
          key: PRNG key; consumed.
          problem: gives the model and D_R.
        """
        return finetune_on(
            key,
            problem,
            self,
            data=problem.train,
            member=problem.retain,
            num_samples=problem.num_retain,
            fetch=fetch_from(self.augmentation),
        )
