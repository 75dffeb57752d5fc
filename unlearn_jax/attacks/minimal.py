"""The closest adversarial example of every sample, by linearizing the margin.

DeepFool (Moosavi-Dezfooli et al., arXiv 1511.04599) reaches the boundary in a few
gradients; decoupled direction and norm (DDN; Rony et al., arXiv 1811.09600) moves along
it, closer to the clean image.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from unlearn_jax.attacks._pgd import (
    UNDEFINED,
    class_margin,
    is_flat,
    per_sample,
    predict_class,
    unattacked,
)
from unlearn_jax.attacks.norms import Norm
from unlearn_jax.types import ApplyFn, Array, AttackResult, PyTree, Status

_NUM_NEWTON = 8
"""Newton steps to the linearized boundary within the bounds.

A pixel that reaches a bound stays there in later steps."""

_SLACK = 0.1
"""Fraction of the linear estimate by which DDN's radius extends past the boundary."""

_MIN_SHRINKAGE = 1e-3
_MAX_SHRINKAGE = 0.1
"""Bounds on the fraction by which DDN's radius is below the closest distance so far."""

_ROUNDING = 32
_ROUNDING_OF_HALF = 2
"""Margin, in units in the last place of the largest logit, that an example must exceed.

Networks round differently for one image and for a batch. With smaller margins, two of
1,200 examples on CIFAR-10 were classified correctly again. Products of 16-bit types are
accumulated in float32, so the error of their logits is fewer of their own, larger
units."""


class _Slots(NamedTuple):
    """Samples being attacked, one per slot.

    ``row [W]`` is the index of the sample, or B in an empty slot. ``points [W, ...]``
    are evaluated next. ``best [W, ...]`` is the closest example so far, with its class
    ``labels`` and its ``distance``, which is infinite until an example is found. Linear
    steps aim at a margin of ``-excess``. ``is_last`` marks points of the depth step,
    beyond the closest example.
    """

    row: Array
    points: Array
    best: Array
    labels: Array
    distance: Array
    excess: Array
    num_gradients: Array
    num_polished: Array
    is_last: Array


def linearized_set(
    apply_fn: ApplyFn,
    variables: PyTree,
    images: Array,
    labels: Array,
    *,
    radii: Array,
    norm: Norm,
    bounds: tuple[float, float],
    num_linear: int,
    num_polish: int,
    overshoot: Array | float,
    depth: Array | float,
    batch_size: int,
) -> AttackResult:
    """Find examples by linear steps on the margin, then polish them.

    The margin ``m(x) = z_y - max_{i != y} z_i`` is nearly linear between an image and
    the boundary. (The log-odds are not: linear steps on them found only a third of the
    examples.)

    1. *Linear steps* follow the shortest path within the bounds to the point where
       the linearized margin is ``-overshoot * m(x)``, or lower if that is within the
       rounding error. They are repeated until the class changes.
    2. *Polish*: a step down the gradient of the margin, then back to a sphere around
       the clean image. The step is as long as the sphere's radius at first and decays
       by a cosine schedule. The sphere touches the linearized boundary; in DDN, its
       radius changes by a fixed factor instead.
    3. *Depth*: ``x + (1 + depth) (x' - x)`` replaces the closest example ``x'`` of the
       image ``x``.

    A fixed number of slots is evaluated together, in one loop of one program. When a
    sample is done, the next one takes its slot, so the work is about the sum of the
    work that each sample needs.

    Args:
      apply_fn: ``(variables, images [B, ...]) -> logits [B, C]``, evaluation mode.
      variables: any pytree.
      images: ``[B, ...]`` clean float images within ``bounds``.
      labels: ``[B]`` int32 labels to move away from.
      radii: ``[K]`` ascending radii; no example lies beyond the last.
      norm: norm of the distance.
      bounds: smallest and largest pixel value.
      num_linear: maximum number of linear steps.
      num_polish: number of polish steps.
      overshoot: fraction of the clean image's margin by which linear steps aim past the
        boundary.
      depth: fraction of the closest example's distance by which the result lies beyond
        it; not negative.
      batch_size: maximum number of slots.

    Returns:
      One row per sample. Where the class did not change, the row holds the clean image
      and the status ``NOT_FOUND``.
    """
    count = len(images)
    width = min(batch_size, count)

    def advance(
        carry: tuple[Array, _Slots, AttackResult],
    ) -> tuple[Array, _Slots, AttackResult]:
        next_row, slots, result = carry
        image = images[slots.row]
        label = labels[slots.row]
        margin, rounding, predicted, gradient = _evaluate(
            apply_fn, variables, slots.points, label
        )
        is_first = slots.num_gradients == 0
        num_gradients = slots.num_gradients + 1
        excess = jnp.where(is_first, overshoot * margin, slots.excess)

        # The closest example so far; a valid point of the depth step replaces it.
        reach = jax.vmap(norm.measure)(slots.points - image)
        is_defined = predicted != UNDEFINED
        already = is_first & is_defined & (predicted != label)
        is_wrong = already | (margin < -rounding)
        is_best = is_wrong & is_defined & (reach <= radii[-1])
        is_best &= slots.is_last | (reach < slots.distance)
        best = jnp.where(per_sample(is_best, images), slots.points, slots.best)
        best_labels = jnp.where(is_best, predicted, slots.labels)
        num_polished = slots.num_polished + jnp.isfinite(slots.distance)
        distance = jnp.where(is_best, reach, slots.distance)
        has_example = jnp.isfinite(distance)

        is_polished = has_example & (num_polished >= num_polish) & ~already
        goes_deeper = is_polished & ~slots.is_last & (depth > 0)
        is_stuck = ~is_defined | is_flat(gradient, norm)
        fails = ~has_example & (is_wrong | is_stuck | (num_gradients > num_linear))
        is_done = already | fails | (is_polished & ~goes_deeper)
        is_done &= slots.row < count

        status = jnp.where(has_example, Status.FOUND, Status.NOT_FOUND)
        epsilon = radii[jnp.searchsorted(radii[:-1], distance)]
        rows = AttackResult(
            images=jnp.where(per_sample(has_example, images), best, image),
            labels=jnp.where(has_example, best_labels, label),
            epsilon=jnp.where(has_example & ~already, epsilon, 0.0),
            distance=jnp.where(has_example, distance, 0.0),
            status=jnp.where(already, Status.ALREADY_WRONG, status).astype(jnp.int32),
            num_gradients=num_gradients,
        )
        # Rows out of range are dropped: samples that are not done write nothing.
        leaving = jnp.where(is_done, slots.row, count)
        result = jax.tree.map(
            lambda old, new: old.at[leaving].set(new, mode="drop"), result, rows
        )

        linear = jax.vmap(
            lambda point, gradient, drop: _to_boundary(
                point, gradient, drop, norm, bounds
            )
        )(slots.points, gradient, margin + jnp.maximum(excess, 2 * rounding))
        step_ratio = (1 + jnp.cos(jnp.pi * num_polished / max(num_polish, 1))) / 2
        polished = jax.vmap(lambda *arrays: _polish(*arrays, norm=norm, bounds=bounds))(
            slots.points, image, gradient, margin, distance, step_ratio
        )
        deeper = jnp.clip(image + (1 + depth) * (best - image), *bounds)
        points = jnp.where(per_sample(has_example, images), polished, linear)
        points = jnp.where(per_sample(goes_deeper, images), deeper, points)
        arriving = jnp.minimum(next_row + jnp.cumsum(is_done) - 1, count)
        points = jnp.where(per_sample(is_done, images), images[arriving], points)
        slots = _Slots(
            row=jnp.where(is_done, arriving, slots.row),
            points=points.astype(images.dtype),
            best=best,
            labels=best_labels,
            distance=jnp.where(is_done, jnp.inf, distance),
            excess=excess.astype(images.dtype),
            num_gradients=jnp.where(is_done, 0, num_gradients),
            num_polished=jnp.where(is_done, 0, num_polished),
            is_last=goes_deeper,
        )
        return next_row + jnp.sum(is_done), slots, result

    zeros = jnp.zeros(width, images.dtype)
    none = jnp.zeros(width, jnp.int32)
    slots = _Slots(
        row=jnp.arange(width),
        points=images[:width],
        best=images[:width],
        labels=labels[:width],
        distance=zeros + jnp.inf,
        excess=zeros,
        num_gradients=none,
        num_polished=none,
        is_last=none > 0,
    )
    begin = (jnp.asarray(width), slots, unattacked(images, labels))
    return lax.while_loop(lambda carry: jnp.any(carry[1].row < count), advance, begin)[
        2
    ]


def _evaluate(
    apply_fn: ApplyFn, variables: PyTree, points: Array, labels: Array
) -> tuple[Array, Array, Array, Array]:
    """Return the points' margins, rounding errors, classes and margin gradients."""

    def total(points: Array) -> tuple[Array, tuple[Array, Array, Array]]:
        logits = apply_fn(variables, points)
        margins = class_margin(logits, labels)
        info = jnp.finfo(logits.dtype)
        units = _ROUNDING if info.bits > 16 else _ROUNDING_OF_HALF
        # logits of minus infinity, which rule out their classes, are not rounded
        sizes = jnp.where(jnp.isfinite(logits), jnp.abs(logits), 0)
        rounding = units * info.eps * jnp.max(sizes, -1)
        predicted = predict_class(logits)
        return jnp.sum(margins), (margins, rounding, predicted)

    gradient, values = jax.grad(total, has_aux=True)(points)
    return *values, gradient


def _to_boundary(
    point: Array,
    gradient: Array,
    drop: Array,
    norm: Norm,
    bounds: tuple[float, float],
) -> Array:
    """Lower a linear function by ``drop`` along the shortest path within the bounds.

    The path is ``clip(point - length * direction)``. The drop along the path is concave
    in the length, so Newton's method never passes the solution, and its first step is
    exact if no pixel reaches a bound. If there is no solution, the result is the
    function's lowest point in the box.
    """
    unit = norm.direction(gradient)

    def lengthen(_: Array, length: Array) -> Array:
        moved = point - length * unit
        is_free = (moved >= bounds[0]) & (moved <= bounds[1])
        missing = drop + jnp.sum(gradient * (jnp.clip(moved, *bounds) - point))
        slope = jnp.sum(jnp.where(is_free, gradient * unit, 0.0))
        step = missing / jnp.where(slope > 0, slope, 1.0)
        return length + jnp.where(slope > 0, jnp.maximum(step, 0.0), 0.0)

    length = lax.fori_loop(0, _NUM_NEWTON, lengthen, jnp.zeros_like(drop))
    return jnp.clip(point - length * unit, *bounds)


def _polish(
    point: Array,
    image: Array,
    gradient: Array,
    margin: Array,
    distance: Array,
    step_ratio: Array,
    *,
    norm: Norm,
    bounds: tuple[float, float],
) -> Array:
    """Step down the margin, then move to the sphere at the linearized boundary."""
    # Pixels that would leave the box cannot move: exclude them from the direction.
    is_stuck = (point <= bounds[0]) & (gradient > 0)
    is_stuck |= (point >= bounds[1]) & (gradient < 0)
    gradient = jnp.where(is_stuck, 0.0, gradient)
    unit = norm.direction(gradient)
    tiny = jnp.finfo(point.dtype).tiny
    slope = jnp.maximum(jnp.sum(gradient * unit), tiny)
    reach = norm.measure(point - image)
    radius = jnp.clip(
        reach + (margin + _SLACK * jnp.abs(margin)) / slope,
        (1 - _MAX_SHRINKAGE) * jnp.minimum(reach, distance),
        (1 - _MIN_SHRINKAGE) * distance,
    )
    delta = point - step_ratio * radius * unit - image
    length = jnp.maximum(norm.measure(delta), tiny)
    delta = norm.project(delta * jnp.maximum(1.0, radius / length), radius)
    return jnp.clip(image + delta, *bounds)
