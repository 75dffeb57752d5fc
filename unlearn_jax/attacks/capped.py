"""An attack with a last radius, imitated from the result of one without: how many samples fail is chosen."""

import jax.numpy as jnp
from jax import lax
from jax.core import Tracer

from unlearn_jax.types import ApplyFn, Array, AttackResult, InputError, PyTree, Status

_NUM_HALVINGS = 16
"""After these the clean image itself is taken."""


def cap_failures(
    apply_fn: ApplyFn,
    variables: PyTree,
    x: Array,
    y: Array,
    result: AttackResult,
    *,
    share: float | Array,
    batch_size: int = 512,
) -> AttackResult:
    """What an attack would return if its radius were capped so that ``share`` of the samples fail.

    The cap is a quantile of the distances found: half-way between the largest that
    stays and the smallest that fails. A failing sample comes back inside the ball of
    that radius, on the segment from its image to its adversarial example: at the cap's
    distance, or, if that point is misclassified too, at half of it, a quarter and so on
    until it is not. So exactly ``round(share * B)`` samples fail and each of them
    really has the label to be left, with two exceptions: a sample that is misclassified
    from the start never fails, and one that failed before still does (it is counted
    first).

    Args:
      apply_fn: ``(variables, images [B, ...]) -> logits [B, C]``, evaluation mode, of
        the attacked model.
      variables: opaque.
      x: ``[B, ...]`` clean float images.
      y: ``[B]`` labels to leave.
      result: of an attack on them, of any norm.
      share: of the samples to fail, in [0, 1]; may be traced. 0 returns the result as
        it is.
      batch_size: images at a time; changes memory, not values.

    Returns:
      One row per sample. ``epsilon`` is at most the cap; failing rows hold the cap
      itself (those that failed before too, unless no other fails), their status is
      ``NOT_FOUND``, and ``labels`` is what the model says.

    Raises:
      InputError: a concrete share outside [0, 1].
    """
    if not isinstance(share, Tracer) and not 0 <= share <= 1:
        raise InputError(f"the share of samples to fail must be in [0, 1], got {share}")
    never = result.status == Status.ALREADY_WRONG
    reach = jnp.where(result.success, result.distance, jnp.inf)
    rank = jnp.argsort(jnp.argsort(jnp.where(never, -jnp.inf, reach), descending=True))
    fails = (rank < jnp.round(share * len(x))) & ~never
    outside = jnp.min(jnp.where(fails, reach, jnp.inf))
    inside = jnp.max(jnp.where(~fails & result.success, reach, 0.0))
    cap = (outside + inside) / 2  # infinite where none but old failures fail

    cut = fails & (result.success | (result.distance > cap))
    first = jnp.where(
        cut,
        jnp.minimum(1.0, cap / jnp.maximum(result.distance, jnp.finfo(x.dtype).tiny)),
        1.0,
    )

    def point(scale: Array) -> Array:
        scale = scale.reshape(-1, *(1,) * (x.ndim - 1))
        return jnp.where(scale < 1, x + scale * (result.images - x), result.images)

    def classify(scale: Array) -> Array:
        def one(image: Array) -> Array:
            return jnp.argmax(apply_fn(variables, image[None])[0]).astype(jnp.int32)

        return lax.map(one, point(scale), batch_size=min(batch_size, len(x)))

    def halve(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        turn, scale, labels = carry
        scale = jnp.where(
            cut & (labels != y), jnp.where(turn < _NUM_HALVINGS, scale / 2, 0.0), scale
        )
        return turn + 1, scale, classify(scale)

    _, scale, labels = lax.while_loop(
        lambda carry: jnp.any(cut & (carry[2] != y)) & (carry[0] <= _NUM_HALVINGS),
        halve,
        (jnp.zeros((), jnp.int32), first, classify(first)),
    )
    return AttackResult(
        images=point(scale),
        labels=jnp.where(cut, labels, result.labels),
        epsilon=jnp.minimum(result.epsilon, cap),
        distance=jnp.where(
            cut, jnp.minimum(scale * result.distance, cap), result.distance
        ),
        status=jnp.where(
            cut & result.success, jnp.int32(Status.NOT_FOUND), result.status
        ),
    )
