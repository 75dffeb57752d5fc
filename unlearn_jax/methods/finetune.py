"""Fine-tuning on the retained samples (FT): forget by going on without."""

from typing import Any

from unlearn_jax.methods.base import FineTuning, finetune_on
from unlearn_jax.train import fetch_from
from unlearn_jax.types import Array, Problem, UnlearnFn, UnlearnInfo, Variables


def finetune(**tuning: Any) -> UnlearnFn:
    """Goes on training on the retained samples alone, in the hope of catastrophic forgetting.

    Minimizes the mean cross-entropy over D_R from the original's variables. Never reads
    a forget sample. Published ranges: 10 epochs, learning rate in [1e-3, 1e-1].

    Args:
      **tuning: fields of :class:`unlearn_jax.methods.base.FineTuning`.

    Raises:
      InputError: unusable knobs.
    """
    knobs = FineTuning(**tuning)

    def run(key: Array, problem: Problem) -> tuple[Variables, UnlearnInfo]:
        return finetune_on(
            key,
            problem,
            knobs,
            data=problem.train,
            member=problem.retain,
            num_samples=problem.num_retain,
            fetch=fetch_from(knobs.augment),
        )

    return run
