"""l1-sparse unlearning (arXiv 2304.04934): fine-tune on the retained samples while weights are pulled to zero."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from unlearn_jax.methods.base import FineTuning, WrapTx, check_numbers, finetune_on
from unlearn_jax.train import fetch_from, steps_per_epoch
from unlearn_jax.types import (
    Array,
    InputError,
    Params,
    Problem,
    UnlearnFn,
    UnlearnInfo,
    Variables,
)

Schedule = Literal["linear", "amun_code"]


def l1_sparse(
    *, gamma: float | Array = 5e-4, schedule: Schedule = "linear", **tuning: Any
) -> UnlearnFn:
    """Minimizes ``CE(D_R) + gamma_t * sum|theta|``, from the original model; never reads a forget sample.

    The penalty counts every parameter (BatchNorm's and biases too) and enters as the
    gradient ``gamma_t * sign(theta)``, beside weight decay and before momentum. The
    reported losses leave it out. Published settings: 10 epochs, learning rate 0.01;
    gamma 5e-4 (AMUN's code), in [1e-6, 1e-4] in later searches.

    Args:
      gamma: weight of the penalty in the first epoch.
      schedule: its course over the epochs ``t = 0 .. T-1``: ``linear`` is the paper's
        ``gamma * (1 - t / T)``; ``amun_code`` is what AMUN's code does, which
        multiplies the weight by ``2 - 2 t / T`` after every epoch: up to 9.7 times
        ``gamma`` in the sixth and seventh of ten.
      **tuning: fields of :class:`unlearn_jax.methods.base.FineTuning`.

    Raises:
      InputError: unknown schedule, or unusable knobs.
    """
    check_numbers(low=0, gamma=gamma)
    if schedule not in ("linear", "amun_code"):
        raise InputError(f"unknown schedule {schedule!r}: choose linear or amun_code")
    knobs = FineTuning(**tuning)
    factors = penalty_factors(knobs.num_epochs, schedule)

    def run(key: Array, problem: Problem) -> tuple[Variables, UnlearnInfo]:
        steps = steps_per_epoch(problem.num_retain, knobs.batch_size)
        return finetune_on(
            key,
            problem,
            knobs,
            data=problem.train,
            member=problem.retain,
            num_samples=problem.num_retain,
            fetch=fetch_from(knobs.augment),
            wrap_tx=pull_to_zero(gamma * jnp.repeat(jnp.asarray(factors), steps)),
        )

    return run


def penalty_factors(num_epochs: int, schedule: Schedule) -> np.ndarray:
    """The penalty of each epoch over that of the first, ``[num_epochs]`` float32.

    >>> penalty_factors(4, "linear").tolist(), penalty_factors(4, "amun_code").tolist()
    ([1.0, 0.75, 0.5, 0.25], [1.0, 2.0, 3.0, 3.0])
    """
    course = 1 - np.arange(num_epochs, dtype=np.float32) / num_epochs
    return (
        course
        if schedule == "linear"
        else np.cumprod(np.append(np.float32(1), 2 * course[:-1]))
    )


def pull_to_zero(weights: Array) -> WrapTx:
    """Adds the gradient of an L1 penalty on all parameters to what an optimizer sees.

    Args:
      weights: ``[steps]``, the penalty's weight at each step.

    Returns:
      ``tx -> tx``, for :func:`unlearn_jax.methods.base.finetune_on`.
    """

    def init(params: Params) -> optax.OptState:
        del params
        return jnp.zeros((), jnp.int32)  # steps taken

    def update(
        updates: Params, state: optax.OptState, params: Params | None = None
    ) -> tuple[Params, optax.OptState]:
        steps: Any = state
        updates = jax.tree.map(
            lambda update, leaf: update + weights[steps] * jnp.sign(leaf),
            updates,
            params,
        )
        return updates, steps + 1

    return lambda tx: optax.chain(optax.GradientTransformation(init, update), tx)
