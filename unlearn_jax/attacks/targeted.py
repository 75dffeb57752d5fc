"""A second chance for samples without an adversarial example: a targeted attack within the radius that failed."""

from typing import Any

import jax
import jax.numpy as jnp

from unlearn_jax.attacks._pgd import pgd
from unlearn_jax.attacks.search import NO_CLASS, in_batches
from unlearn_jax.losses import log_odds
from unlearn_jax.types import ApplyFn, Array, AttackResult, InputError, PyTree


def target_runner_up(
    apply_fn: ApplyFn,
    variables: PyTree,
    x: Array,
    y: Array,
    result: AttackResult,
    *,
    num_steps: int = 50,
    batch_size: int = 128,
    **attack: Any,
) -> AttackResult:
    """Attacks the failed samples of a search once more, towards the class that comes second at the clean image.

    Runs :func:`unlearn_jax.attacks.pgd` from the clean image within the last radius of
    each failed sample, up the log-odds of that one class. Any class but ``y`` ends the
    attack, as everywhere. The failed samples are gathered into full batches, so that
    the work is about that of attacking them alone.

    Args:
      apply_fn: ``(variables, images [B, ...]) -> logits [B, C]``, evaluation mode.
      variables: opaque.
      x: ``[B, ...]`` clean float images.
      y: ``[B]`` labels to leave.
      result: of a search on them; rows that succeeded come back as they are.
      num_steps: gradient steps.
      batch_size: samples attacked at a time.
      **attack: further arguments of ``pgd``: ``norm`` (give the search's),
        ``step_ratio``, ``bounds``.

    Returns:
      One row per sample. Where this fails too, the row holds this attack's last
      iterate, and its status.

    Raises:
      InputError: sizes below 1.
    """
    if min(num_steps, batch_size) < 1:
        raise InputError("num_steps and batch_size must be positive")

    def attack_batch(images: Array, labels: Array, radius: Array) -> AttackResult:
        logits = apply_fn(variables, images)
        own = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
        target = jnp.argmax(jnp.where(own, -jnp.inf, logits), -1)

        def loss(logits: Array, _: Array) -> Array:
            return -log_odds(logits, target)

        knobs = {"epsilon": radius, "num_steps": num_steps, "loss": loss, **attack}
        return pgd(apply_fn, variables, images, labels, images, **knobs)

    order = jnp.argsort(result.success)  # stable: the failed first
    labels = jnp.where(result.success, NO_CLASS, y.astype(jnp.int32))
    retried = in_batches(
        attack_batch,
        x[order],
        labels[order],
        result.epsilon[order],
        batch_size=batch_size,
    )
    back = jnp.argsort(order)

    def keep(old: Array, new: Array) -> Array:
        return jnp.where(
            result.success.reshape(-1, *(1,) * (old.ndim - 1)), old, new[back]
        )

    return jax.tree.map(keep, result, retried)
