"""The weak attack of AMUN's ablation: one gradient, followed in a straight line (arXiv 2503.00917, appendix F.5)."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from unlearn_jax.attacks._pgd import check_images
from unlearn_jax.attacks.norms import Norm, linf
from unlearn_jax.attacks.search import in_batches
from unlearn_jax.losses import log_odds
from unlearn_jax.types import ApplyFn, Array, AttackResult, InputError, PyTree, Status


class _Line(NamedTuple):
    """One sample on its way: the next ``step`` of the line of a ``restart``, the last point, its label and length."""

    restart: Array
    step: Array
    image: Array
    label: Array
    radius: Array
    usable: Array


def fast_adversarial_set(
    key: Array,
    apply_fn: ApplyFn,
    variables: PyTree,
    x: Array,
    y: Array,
    *,
    epsilon_init: float = 0.04,
    num_steps: int = 20,
    num_restarts: int = 5,
    norm: Norm = linf,
    bounds: tuple[float, float] = (0.0, 1.0),
    loss: Callable[[Array, Array], Array] = log_odds,
    batch_size: int = 128,
) -> AttackResult:
    """An adversarial example of every sample at low cost and, mostly, at a larger distance than a search over radii.

    Computes the gradient once, at the clean image, and moves along its direction (its
    sign, for ``linf``) in steps of ``epsilon_init`` until the predicted class changes.
    After ``num_steps`` steps without success it begins anew at a point drawn uniformly
    from the ball of radius ``epsilon_init`` around the clean image. All loops have a
    last turn and run inside the compiled program, and a sample's result does not depend
    on the rest of its batch. May be jitted and mapped over models.

    The paper describes the attack in words, without its sizes, and released no code of
    it; the defaults are ours.

    Args:
      key: for the new beginnings; consumed.
      apply_fn: ``(variables, images [B, ...]) -> logits [B, C]``, evaluation mode.
      variables: opaque.
      x: ``[B, ...]`` clean float images within ``bounds``.
      y: ``[B]`` labels to leave.
      epsilon_init: length of a step, in units of ``norm``.
      num_steps: steps along one gradient.
      num_restarts: new beginnings after the first line.
      norm: gives the direction, the distance, and the ball of the new beginnings.
      bounds: the image box.
      loss: ``(logits [B, C], y [B]) -> [B]``, to be increased.
      batch_size: samples attacked at a time.

    Returns:
      One row per sample; ``epsilon`` is the length walked, a beginning's displacement
      counted as one step.

    Raises:
      InputError: unusable images or sizes.
    """
    check_images(x, bounds)
    if min(num_steps, batch_size) < 1 or num_restarts < 0 or epsilon_init <= 0:
        raise InputError(
            "epsilon_init, num_steps and batch_size must be positive, and num_restarts"
            " not negative"
        )

    def attack_one(image: Array, label: Array, key: Array) -> AttackResult:
        def logits(point: Array) -> Array:
            return apply_fn(variables, point[None])

        def aim(restart: Array) -> tuple[Array, Array]:
            """Where a line begins, and its direction."""
            delta = epsilon_init * norm.sample(
                jax.random.fold_in(key, restart), image.shape
            )
            displaced = jnp.clip(
                image + norm.project(delta, jnp.asarray(epsilon_init)), *bounds
            )
            start = jnp.where(restart == 0, image, displaced)
            return start, norm.direction(
                jax.grad(lambda point: loss(logits(point), label[None])[0])(start)
            )

        def visit(line: _Line, start: Array, direction: Array) -> _Line:
            """The line's next point; its beginning is the first."""
            radius = jnp.asarray(
                epsilon_init * (line.step + (line.restart > 0)), x.dtype
            )
            delta = norm.project(
                start + epsilon_init * line.step * direction - image, radius
            )
            point = jnp.where(line.step == 0, start, jnp.clip(image + delta, *bounds))
            found = jnp.argmax(logits(point)[0]).astype(jnp.int32)
            return line._replace(
                step=line.step + 1, image=point, label=found, radius=radius
            )

        def follow(line: _Line) -> _Line:
            start, direction = aim(line.restart)
            last = lax.while_loop(
                lambda line: (line.step <= num_steps) & (line.label == label),
                lambda line: visit(line, start, direction),
                line._replace(
                    step=jnp.zeros((), jnp.int32), usable=jnp.any(direction != 0)
                ),
            )
            return last._replace(restart=last.restart + 1)

        zero = jnp.zeros((), jnp.int32)
        line = lax.while_loop(
            lambda line: (line.restart <= num_restarts) & (line.label == label),
            follow,
            _Line(zero, zero, image, label, jnp.zeros((), x.dtype), zero > 0),
        )
        return _result(
            line, label, jnp.minimum(norm.measure(line.image - image), line.radius)
        )

    keys = jax.random.split(key, len(x))
    return in_batches(
        jax.vmap(attack_one), x, y.astype(jnp.int32), keys, batch_size=batch_size
    )


def _result(line: _Line, label: Array, distance: Array) -> AttackResult:
    left = line.label != label
    status = jnp.select(
        [left & (line.radius == 0), left, ~line.usable],
        [
            jnp.int32(Status.ALREADY_WRONG),
            jnp.int32(Status.FOUND),
            jnp.int32(Status.ZERO_GRADIENT),
        ],
        jnp.int32(Status.NOT_FOUND),
    )
    return AttackResult(line.image, line.label, line.radius, distance, status)
