"""Attacks with a capped radius, simulated from results of attacks without a cap."""

import chex
import jax.numpy as jnp
from jax import lax

from unlearn_jax.attacks._pgd import per_sample, predicted_classes
from unlearn_jax.checks import check_counts, check_fractions
from unlearn_jax.types import (
    ApplyFn,
    Array,
    AttackResult,
    PyTree,
    Status,
    check_apply_fn,
)

_NUM_HALVINGS = 16
"""Halvings of the perturbation before the clean image itself is used."""


def cap_failures(
    apply_fn: ApplyFn,
    variables: PyTree,
    images: Array,
    labels: Array,
    result: AttackResult,
    *,
    fraction: float | Array,
    batch_size: int = 512,
) -> AttackResult:
    """Return an attack's result with the radius capped so that a fraction fails.

    The cap is a quantile of the distances, halfway between the largest that remains a
    success and the smallest that becomes a failure. A failing sample is moved into the
    ball of the capped radius, along the segment from its image to its adversarial
    example. It is placed at the cap's distance or, while that point is misclassified
    too, at half that distance, a quarter, and so on. So exactly ``round(fraction * B)``
    samples fail, and the model really gives each of them its label, with two
    exceptions: a sample that is misclassified from the start never fails, and a sample
    that failed before still fails (such samples are counted first).

    Args:
      apply_fn: ``(variables, images [B, ...]) -> logits [B, C]``, evaluation mode;
        the attacked model.
      variables: any pytree.
      images: ``[B, ...]`` clean float images.
      labels: ``[B]`` labels to move away from.
      result: result of an attack on these samples, in any norm.
      fraction: fraction of the samples to fail, in [0, 1]; may be traced. 0 returns
        the result unchanged.
      batch_size: images classified at a time; changes memory, not values.

    Returns:
      One row per sample. ``epsilon`` is at most the cap. In failing rows it is the cap
      itself, also in rows that failed before, unless there are no new failures. New
      failures have the status ``NOT_FOUND``, and their ``labels`` are the model's
      predictions.

    Raises:
      InputError: ``apply_fn`` is not a function, or a concrete fraction outside [0, 1].
      AssertionError: shapes that do not fit.
    """
    check_apply_fn(apply_fn)
    check_fractions(fraction=fraction)
    check_counts(batch_size=batch_size)
    chex.assert_equal_shape([images, result.images])
    chex.assert_equal_shape([labels, result.status])
    never = result.status == Status.ALREADY_WRONG
    reach = jnp.where(result.success, result.distance, jnp.inf)
    ranked = jnp.where(never, -jnp.inf, reach)
    rank = jnp.argsort(jnp.argsort(ranked, descending=True))
    fails = (rank < jnp.round(fraction * len(images))) & ~never
    outside = jnp.min(jnp.where(fails, reach, jnp.inf))
    inside = jnp.max(jnp.where(~fails & result.success, reach, 0.0))
    cap = (outside + inside) / 2  # infinite if only earlier failures fail

    is_cut = fails & (result.success | (result.distance > cap))
    length = jnp.maximum(result.distance, jnp.finfo(images.dtype).tiny)
    first = jnp.where(is_cut, jnp.minimum(1.0, cap / length), 1.0)

    def points(scale: Array) -> Array:
        scale = per_sample(scale, images)
        on_segment = images + scale * (result.images - images)
        return jnp.where(scale < 1, on_segment, result.images)

    def classify(scale: Array) -> Array:
        return predicted_classes(apply_fn, variables, points(scale), batch_size)

    def is_running(carry: tuple[Array, Array, Array]) -> Array:
        turn, _, predicted = carry
        return jnp.any(is_cut & (predicted != labels)) & (turn <= _NUM_HALVINGS)

    def halve(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        turn, scale, predicted = carry
        smaller = jnp.where(turn < _NUM_HALVINGS, scale / 2, 0.0)
        scale = jnp.where(is_cut & (predicted != labels), smaller, scale)
        return turn + 1, scale, classify(scale)

    begin = (jnp.zeros((), jnp.int32), first, classify(first))
    _, scale, predicted = lax.while_loop(is_running, halve, begin)
    distance = jnp.minimum(scale * result.distance, cap)
    not_found = jnp.int32(Status.NOT_FOUND)
    return AttackResult(
        images=points(scale),
        labels=jnp.where(is_cut, predicted, result.labels),
        epsilon=jnp.minimum(result.epsilon, cap),
        distance=jnp.where(is_cut, distance, result.distance),
        status=jnp.where(is_cut & result.success, not_found, result.status),
        num_gradients=result.num_gradients,
    )
