"""Bad teacher (Chundawat et al., arXiv 2205.08096): learn D_F from a network that knows nothing."""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from unlearn_jax.losses import kl_from_logits
from unlearn_jax.methods.base import FineTuning, check_numbers, finetune_on, forward_fn
from unlearn_jax.methods.scrub import check_temperature
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

Reduction = Literal["batch", "element"]


def bad_teacher(
    *,
    temperature: float | Array = 1.0,
    retain_share: float = 0.3,
    reduction: Reduction = "batch",
    num_epochs: int = 1,
    batch_size: int = 256,
    learning_rate: float | Array = 1e-4,
    weight_decay: float | Array = 0.0,
    optimizer: Literal["sgd", "adam"] = "adam",
    **tuning: Any,
) -> UnlearnFn:
    """Minimizes the divergence from a random network on D_F and from the original on part of D_R.

    ``mean of KL(softmax(teacher / T) || softmax(student / T))`` over D_F and a random
    share of D_R, shuffled together, where a forget sample's teacher is a freshly
    initialized network of the same architecture and a retained sample's is the
    original, both fixed and in evaluation mode. No label is read.

    Published settings: Adam at 1e-4, T 1, batches of 256, 1 epoch, 30% of D_R (the
    authors' code); Adam at 0.01, 10 epochs, all of D_R, T searched up to 5 (the
    benchmark of arXiv 2410.01276).

    Args:
      temperature: T.
      retain_share: of D_R that is drawn, once, to be trained on, in [0, 1] (static: it
        sets the number of steps); 0 reads no retained sample.
      reduction: ``batch`` sums the divergence over classes (its definition);
        ``element`` takes the mean over classes too, as the released code does: C times
        less, which Adam hardly notices and SGD does.
      num_epochs: see above.
      batch_size: see above.
      learning_rate: see above.
      weight_decay: see above.
      optimizer: see above.
      **tuning: other fields of :class:`unlearn_jax.methods.base.FineTuning`.

    Raises:
      InputError: unknown reduction, or unusable knobs.
    """
    check_temperature(temperature)
    check_numbers(low=0, high=1, retain_share=retain_share)
    if reduction not in ("batch", "element"):
        raise InputError(f"unknown reduction {reduction!r}: choose batch or element")
    knobs = FineTuning(
        num_epochs=num_epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        optimizer=optimizer,
        **tuning,
    )

    def run(key: Array, problem: Problem) -> tuple[Variables, UnlearnInfo]:
        key, key_teacher, key_share = jax.random.split(key, 3)
        num_kept = round(retain_share * problem.num_retain)
        return finetune_on(
            key,
            problem,
            knobs,
            data=problem.train,
            member=problem.forget | draw_share(key_share, problem.retain, num_kept),
            num_samples=problem.num_forget + num_kept,
            fetch=fetch_from(knobs.augment),
            loss_fn=_two_teachers(
                problem, problem.model.init(key_teacher), knobs, temperature, reduction
            ),
        )

    return run


def draw_share(key: Array, member: Array, count: int) -> Array:
    """``count`` of the members, drawn uniformly without replacement.

    Args:
      key: consumed.
      member: ``[N]`` bool with at least ``count`` True.
      count: how many (static).

    Returns:
      ``[N]`` bool.
    """
    order = jnp.argsort(jnp.where(member, jax.random.uniform(key, member.shape), 2.0))
    return jnp.zeros_like(member).at[order[:count]].set(True)


def _two_teachers(
    problem: Problem,
    ignorant: Variables,
    tuning: FineTuning,
    temperature: float | Array,
    reduction: Reduction,
) -> LossFn:
    """The divergence from ``ignorant`` on forget samples, from the original on others."""
    forward = forward_fn(problem.model, tuning)

    def loss_fn(
        variables: Variables, batch: Batch, key: Array
    ) -> tuple[Array, ModelState]:
        logits, state = forward(variables, batch.images, key)
        teacher = jnp.where(
            problem.forget[batch.position, None],
            problem.model.apply(ignorant, batch.images),
            problem.model.apply(problem.variables, batch.images),
        )
        loss = jnp.mean(kl_from_logits(teacher / temperature, logits / temperature))
        return (loss / logits.shape[-1] if reduction == "element" else loss), state

    return loss_fn
