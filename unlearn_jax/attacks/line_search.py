"""The weak attack of AMUN's ablation: a straight line along one gradient.

AMUN, arXiv 2503.00917, appendix F.5.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from unlearn_jax.attacks._pgd import (
    UNDEFINED,
    AttackLoss,
    check_attacked,
    predict_class,
    widened,
)
from unlearn_jax.attacks.norms import Norm, linf
from unlearn_jax.attacks.parameters import check_functions
from unlearn_jax.attacks.search import in_batches
from unlearn_jax.checks import check_counts, check_positive
from unlearn_jax.losses import log_odds
from unlearn_jax.types import ApplyFn, Array, AttackResult, PyTree, Status


class _Line(NamedTuple):
    """State of the search for one sample.

    ``restart`` and ``step`` are the indices of the line and of its next step. ``image``
    is the last point, ``label`` its class, and ``radius`` the length walked to it.
    ``usable`` is true if the line's gradient had a direction.
    """

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
    images: Array,
    labels: Array,
    *,
    epsilon_init: float | Array = 0.04,
    num_steps: int = 20,
    num_restarts: int = 5,
    norm: Norm = linf,
    bounds: tuple[float, float] = (0.0, 1.0),
    loss: AttackLoss = log_odds,
    batch_size: int = 128,
) -> AttackResult:
    """Find an adversarial example of every sample along lines, at low cost.

    The gradient is computed once, at the clean image. The search moves along its
    direction (its sign, for ``linf``) in steps of ``epsilon_init`` until the predicted
    class changes. After ``num_steps`` steps without success, the search restarts, with
    a new gradient, at a point drawn uniformly from the ball of radius ``epsilon_init``
    around the clean image. The distances are mostly larger than those of a search over
    radii. All loops are bounded and run inside the compiled program. A sample's result
    does not depend on the rest of its batch. The function may be jitted, and mapped
    over models and ``epsilon_init``.

    The paper describes the attack in words, without sizes, and no code was released;
    the defaults are this library's.

    Args:
      key: PRNG key for the restarts; consumed.
      apply_fn: ``(variables, images [B, ...]) -> logits [B, C]``, evaluation mode.
      variables: any pytree.
      images: ``[B, ...]`` clean float images within ``bounds``.
      labels: ``[B]`` labels to move away from.
      epsilon_init: length of a step, in units of ``norm``. May be traced.
      num_steps: number of steps along one gradient.
      num_restarts: number of restarts after the first line.
      norm: norm of the direction, of the distance, and of the restarts' ball.
      bounds: smallest and largest pixel value.
      loss: ``(logits [B, C], labels [B]) -> [B]``, loss to be increased.
      batch_size: samples attacked at a time.

    Returns:
      One row per sample. ``epsilon`` is the length walked, in which a restart's
      displacement counts as one step. ``num_gradients`` is the number of lines.

    Raises:
      InputError: ``apply_fn`` is not a function, or unusable images or sizes.
      AssertionError: shapes that do not fit.
    """
    check_attacked(apply_fn, variables, images, labels, bounds)
    check_functions(norm=norm, loss=loss)
    check_line_search(epsilon_init, num_steps, num_restarts, batch_size)
    images = widened(images)

    def attack_one(image: Array, label: Array, key: Array) -> AttackResult:
        def logits(point: Array) -> Array:
            return apply_fn(variables, point[None])

        def loss_of(point: Array) -> Array:
            return loss(logits(point), label[None])[0]

        def aim(restart: Array) -> tuple[Array, Array]:
            """Return the first point of a line, and the line's direction."""
            key_restart = jax.random.fold_in(key, restart)
            point = norm.sample(key_restart, image.shape).astype(image.dtype)
            radius = jnp.asarray(epsilon_init, image.dtype)
            delta = norm.project(radius * point, radius)
            displaced = jnp.clip(image + delta, *bounds)
            start = jnp.where(restart == 0, image, displaced)
            return start, norm.direction(jax.grad(loss_of)(start))

        def visit(line: _Line, start: Array, direction: Array) -> _Line:
            """Move to the next point of the line; the first point is its start."""
            radius = jnp.asarray(
                epsilon_init * (line.step + (line.restart > 0)), images.dtype
            )
            delta = norm.project(
                start + epsilon_init * line.step * direction - image, radius
            )
            point = jnp.where(line.step == 0, start, jnp.clip(image + delta, *bounds))
            predicted = predict_class(logits(point)[0])
            return line._replace(
                step=line.step + 1, image=point, label=predicted, radius=radius
            )

        def follow(line: _Line) -> _Line:
            start, direction = aim(line.restart)
            begin = line._replace(
                step=jnp.zeros((), jnp.int32), usable=jnp.any(direction != 0)
            )
            last = lax.while_loop(
                lambda line: (line.step <= num_steps) & (line.label == label),
                lambda line: visit(line, start, direction),
                begin,
            )
            return last._replace(restart=last.restart + 1)

        zero = jnp.zeros((), jnp.int32)
        line = lax.while_loop(
            lambda line: (line.restart <= num_restarts) & (line.label == label),
            follow,
            _Line(zero, zero, image, label, jnp.zeros((), images.dtype), zero > 0),
        )
        distance = norm.measure(line.image - image)
        return _result(line, label, jnp.minimum(distance, line.radius))

    keys = jax.random.split(key, len(images))
    return in_batches(
        jax.vmap(attack_one),
        images,
        labels.astype(jnp.int32),
        keys,
        batch_size=batch_size,
    )


def check_line_search(
    epsilon_init: float | Array, num_steps: int, num_restarts: int, batch_size: int
) -> None:
    """Raise on unusable sizes of :func:`fast_adversarial_set`.

    Raises:
      InputError: sizes below 1, a negative number of restarts, or a step that is not
        positive.
    """
    check_counts(num_steps=num_steps, batch_size=batch_size)
    check_counts(0, num_restarts=num_restarts)
    check_positive(epsilon_init=epsilon_init)


def _result(line: _Line, label: Array, distance: Array) -> AttackResult:
    is_undefined = line.label == UNDEFINED
    success = line.label != label
    status = jnp.select(
        [is_undefined, success & (line.radius == 0), success, ~line.usable],
        [
            jnp.int32(Status.NOT_FINITE),
            jnp.int32(Status.ALREADY_WRONG),
            jnp.int32(Status.FOUND),
            jnp.int32(Status.ZERO_GRADIENT),
        ],
        jnp.int32(Status.NOT_FOUND),
    )
    return AttackResult(
        images=line.image,
        labels=jnp.where(is_undefined, label, line.label),
        epsilon=line.radius,
        distance=distance,
        status=status,
        num_gradients=line.restart,
    )
