"""SCRUB (Kurmanji et al., arXiv 2302.09880): obey the original model on D_R, disobey it on D_F."""

from typing import Any

import jax.numpy as jnp

from unlearn_jax.losses import cross_entropy, kl_from_logits
from unlearn_jax.methods.base import FineTuning, check_numbers, forward_fn, is_zero
from unlearn_jax.methods.passes import Pass, finetune_passes
from unlearn_jax.train import Batch, LossFn, fetch_from
from unlearn_jax.types import (
    Array,
    InputError,
    ModelState,
    Problem,
    UnlearnFn,
    UnlearnInfo,
    Variables,
)


def scrub(
    *,
    gamma: float | Array = 0.99,
    alpha: float | Array = 0.001,
    temperature: float | Array = 4.0,
    max_epochs: int = 2,
    forget_batch_size: int = 32,
    num_epochs: int = 3,
    learning_rate: float | Array = 5e-4,
    **tuning: Any,
) -> UnlearnFn:
    """Alternates passes that leave the original on D_F with passes that stay near it on D_R.

    With ``KL_T = T**2 * mean KL(softmax(teacher / T) || softmax(student / T))``, the
    teacher being the original in evaluation mode and the student in training mode, on
    the same augmented images, an epoch is

    * max pass, in the first ``max_epochs`` epochs: over D_F, minimizing ``-KL_T``;
    * min pass: over D_R, minimizing ``gamma * CE + alpha * KL_T``.

    One optimizer serves both. As the student starts as its teacher, the very first max
    steps are driven by what sets the two apart: batch statistics, dropout and weight
    decay. SCRUB+R, which rewinds to the epoch whose forget error is nearest to a
    validation error, needs validation samples and is not offered.

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

    Args:
      gamma: weight of the cross-entropy on D_R.
      alpha: weight of the distance to the original on D_R.
      temperature: T.
      max_epochs: epochs with a max pass; 0 for none, then no forget sample is read.
      forget_batch_size: samples per step of the max pass.
      num_epochs: passes over D_R.
      learning_rate: of both passes.
      **tuning: other fields of :class:`unlearn_jax.methods.base.FineTuning`;
        ``batch_size`` is the min pass's.

    Returns:
      The method; its losses are those of the min passes.

    Raises:
      InputError: unusable knobs.
    """
    check_numbers(low=0, gamma=gamma, alpha=alpha)
    check_temperature(temperature)
    if max_epochs < 0 or forget_batch_size < 1:
        raise InputError(
            "scrub's max_epochs must not be negative, and forget_batch_size must be"
            " positive"
        )
    knobs = FineTuning(num_epochs=num_epochs, learning_rate=learning_rate, **tuning)

    def run(key: Array, problem: Problem) -> tuple[Variables, UnlearnInfo]:
        fetch = fetch_from(knobs.augment)
        leave = _teacher_loss(problem, knobs, temperature, gamma=0.0, alpha=-1.0)
        stay = _teacher_loss(problem, knobs, temperature, gamma=gamma, alpha=alpha)
        max_pass = Pass(
            leave,
            fetch,
            problem.train,
            problem.forget,
            problem.num_forget,
            forget_batch_size,
        )
        min_pass = Pass(stay, fetch, problem.train, problem.retain, problem.num_retain)
        return finetune_passes(
            key, problem, knobs, [max_pass._replace(until=max_epochs), min_pass]
        )

    return run


def check_temperature(temperature: float | Array) -> None:
    """Refuses a temperature that is not positive; a traced one passes unseen.

    Raises:
      InputError: saying so.
    """
    check_numbers(low=0, temperature=temperature)
    if is_zero(temperature):
        raise InputError("a method's temperature must be positive, got 0")


def _teacher_loss(
    problem: Problem,
    tuning: FineTuning,
    temperature: float | Array,
    *,
    gamma: float | Array,
    alpha: float | Array,
) -> LossFn:
    """``gamma * CE + alpha * KL_T`` of a student whose teacher is the original model."""
    forward = forward_fn(problem.model, tuning)

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
