"""Auto-PGD and a small AutoAttack (Croce and Hein, arXiv 2003.01690).

Both adapt their step size during the attack.
"""

import math
from typing import Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from unlearn_jax.attacks._pgd import (
    UNDEFINED,
    AttackLoss,
    attack_result,
    check_attacked,
    is_flat,
    per_sample,
    predict_class,
    random_start,
    unattacked,
    widened,
)
from unlearn_jax.attacks.norms import Norm, linf
from unlearn_jax.attacks.parameters import check_functions
from unlearn_jax.attacks.search import retry_failures
from unlearn_jax.checks import (
    check_choice,
    check_counts,
    check_fractions,
    check_not_negative,
    check_positive,
)
from unlearn_jax.losses import cross_entropy
from unlearn_jax.types import ApplyFn, Array, AttackResult, InputError, PyTree, Status

_SMALL = 1e-12
"""Term that keeps the ratio finite if all logits are equal; from the released code."""


def difference_of_logits_ratio(logits: Array, labels: Array) -> Array:
    """Return the DLR loss, ``-(z_y - max_{i != y} z_i) / (z_(1) - z_(3))``.

    Equation 6 of arXiv 2003.01690. The loss does not change when the logits are shifted
    or scaled, so the gradients of a confident model do not vanish. It is positive
    exactly where the label is not the prediction.

    Args:
      logits: ``[..., C]`` logits with ``C >= 3``.
      labels: ``[...]`` integer classes to move away from.

    Returns:
      ``[...]``, at most 1.

    Raises:
      InputError: fewer than three classes.

    >>> float(difference_of_logits_ratio(jnp.array([4.0, 2.0, 1.0]), jnp.array(0)))
    -0.666...
    """
    chex.assert_rank(labels, logits.ndim - 1)
    chex.assert_equal_shape_prefix([logits, labels], logits.ndim - 1)
    if logits.shape[-1] < 3:
        raise InputError(
            f"the DLR loss compares three logits, got {logits.shape[-1]}: take"
            " loss='log_odds' or 'cross_entropy'"
        )
    is_label = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    of_label = jnp.sum(jnp.where(is_label, logits, 0.0), -1)
    of_other = jnp.max(jnp.where(is_label, -jnp.inf, logits), -1)
    largest = lax.top_k(logits, 3)[0]
    return -(of_label - of_other) / (largest[..., 0] - largest[..., 2] + _SMALL)


def targeted_difference_of_logits_ratio(
    logits: Array, labels: Array, targets: Array
) -> Array:
    """Return the targeted DLR loss, ``-(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2)``.

    Equation 7 of arXiv 2003.01690.

    Args:
      logits: ``[..., C]`` logits with ``C >= 4``.
      labels: ``[...]`` integer classes to move away from.
      targets: ``[...]`` integer classes to reach.

    Returns:
      ``[...]``.

    Raises:
      InputError: fewer than four classes.

    >>> logits = jnp.array([4.0, 2.0, 1.0, 0.0])
    >>> float(targeted_difference_of_logits_ratio(logits, jnp.array(0), jnp.array(2)))
    -0.857...
    """
    chex.assert_rank([labels, targets], logits.ndim - 1)
    chex.assert_equal_shape_prefix([logits, labels, targets], logits.ndim - 1)
    if logits.shape[-1] < 4:
        raise InputError(
            f"the targeted DLR loss compares four logits, got {logits.shape[-1]}: take"
            " loss='log_odds' or 'cross_entropy'"
        )
    is_label = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    is_target = jax.nn.one_hot(targets, logits.shape[-1], dtype=bool)
    of_label = jnp.sum(jnp.where(is_label, logits, 0.0), -1)
    of_target = jnp.sum(jnp.where(is_target, logits, 0.0), -1)
    largest = lax.top_k(logits, 4)[0]
    spread = largest[..., 0] - (largest[..., 2] + largest[..., 3]) / 2
    return -(of_label - of_target) / (spread + _SMALL)


class _Point(NamedTuple):
    """Iterates and their ``gradient``, ``[B, ...]``, with ``loss [B]`` and classes."""

    images: Array
    gradient: Array
    loss: Array
    labels: Array


class _Climb(NamedTuple):
    """State of the ascent after ``step`` steps.

    ``best`` has the highest loss so far; ``returned`` is the result if the ascent
    ends now. ``num_gradients [B]`` counts the gradients spent. ``rises`` counts the
    steps since the last checkpoint that raised the loss. ``halved`` and ``record`` are
    the decision and the highest loss at the last checkpoint.
    """

    step: Array
    point: _Point
    previous: Array
    best: _Point
    returned: _Point
    step_size: Array
    rises: Array
    halved: Array
    record: Array
    num_gradients: Array


def checkpoints(num_steps: int) -> list[int]:
    """Return the steps after which APGD reconsiders its step size.

    Section 3 of arXiv 2003.01690.

    Args:
      num_steps: number of steps of the attack.

    Returns:
      Increasing, each ``ceil(p_j * num_steps)`` with ``p_0 = 0``, ``p_1 = 0.22`` and
      ``p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06)``, without the 0.

    >>> checkpoints(100)
    [22, 41, 57, 70, 80, 87, 93, 99]
    """
    previous = 0.0
    fraction = 0.22
    steps = set()
    while fraction <= 1:
        # Round first: 0.41 * 100 is slightly more than 41 in floating point.
        steps.add(math.ceil(round(fraction * num_steps, 9)))
        gap = fraction - previous
        previous = fraction
        fraction += max(gap - 0.03, 0.06)
    return sorted(steps)


def apgd(
    apply_fn: ApplyFn,
    variables: PyTree,
    images: Array,
    labels: Array,
    start: Array,
    *,
    epsilon: Array | float,
    num_steps: int = 100,
    norm: Norm = linf,
    bounds: tuple[float, float] = (0.0, 1.0),
    loss: AttackLoss = cross_entropy,
    momentum: float | Array = 0.75,
    min_rises: float | Array = 0.75,
    keep: Literal["first", "best"] = "first",
) -> AttackResult:
    """Ascend the loss in a ball with momentum, halving step sizes that stop helping.

    Algorithm 1 of arXiv 2003.01690. The first step size is ``2 * epsilon``. At each of
    the :func:`unlearn_jax.attacks._apgd.checkpoints`, a sample's step size is halved,
    and its ascent continues from its best point so far, in two cases: less than the
    fraction ``min_rises`` of the steps since the previous checkpoint raised the loss,
    or neither the step size nor the best loss changed since then. A sample's path does
    not depend on the rest of the batch. The function may be jitted, and vmapped over
    ``epsilon`` or over models.

    Args:
      apply_fn: ``(variables, images [B, ...]) -> logits [B, C]``, evaluation mode.
      variables: any pytree.
      images: ``[B, ...]`` clean float images within ``bounds``, the centers of the
        balls.
      labels: ``[B]`` integer labels to move away from.
      start: ``[B, ...]`` initial iterates: ``images`` itself, or points drawn by
        :func:`unlearn_jax.attacks.random_start`.
      epsilon: radius, ``[]`` or ``[B]``, in units of ``norm``.
      num_steps: maximum number of gradient steps.
      norm: the ball's norm.
      bounds: smallest and largest pixel value.
      loss: ``(logits [B, C], labels [B]) -> [B]``, loss to be increased;
        :func:`difference_of_logits_ratio` is the other loss of the paper.
      momentum: weight of the new step (alpha); the previous step has the rest.
      min_rises: fraction of rising steps below which the step size is halved (rho).
      keep: ``"first"`` returns the first misclassified iterate and stops once every
        sample has one; ``"best"`` takes all steps and returns the misclassified iterate
        with the highest loss, for attacks that must transfer.

    Returns:
      A result like that of :func:`unlearn_jax.attacks.pgd`. Failed samples keep the
      iterate with the highest loss.

    Raises:
      InputError: the causes listed for :func:`unlearn_jax.attacks.pgd`, no steps, or
        an unknown ``keep``.
      AssertionError: ``start`` and ``images`` of different shapes.
    """
    check_attacked(apply_fn, variables, images, labels, bounds)
    check_functions(norm=norm, loss=loss)
    check_choice("keep", keep, ("first", "best"))
    check_counts(num_steps=num_steps)
    check_not_negative(epsilon=epsilon)
    check_fractions(momentum=momentum, min_rises=min_rises)
    chex.assert_equal_shape([images, start])
    images = widened(images)
    start = widened(start)
    epsilon = jnp.broadcast_to(jnp.asarray(epsilon, images.dtype), labels.shape)

    def evaluate(points: Array) -> _Point:
        def total(points: Array) -> tuple[Array, tuple[Array, Array]]:
            logits = apply_fn(variables, points)
            chex.assert_rank(logits, 2)
            losses = loss(logits, labels)
            chex.assert_equal_shape([losses, labels])
            return jnp.sum(losses), (losses, predict_class(logits))

        gradient, (losses, predicted) = jax.grad(total, has_aux=True)(points)
        return _Point(points, gradient, losses, predicted)

    def restrict(points: Array) -> Array:
        delta = jax.vmap(norm.project)(points - images, epsilon)
        return jnp.clip(images + delta, *bounds)

    def is_done(climb: _Climb) -> Array:
        return (climb.returned.labels != labels) if keep == "first" else already

    def is_running(climb: _Climb) -> Array:
        return (climb.step < num_steps) & ~jnp.all(is_done(climb))

    def advance(climb: _Climb) -> _Climb:
        point = climb.point
        is_moving = ~is_done(climb)
        direction = jax.vmap(norm.direction)(point.gradient)
        stepped = restrict(
            point.images + per_sample(climb.step_size, images) * direction
        )
        weight = jnp.where(climb.step == 0, 1.0, momentum)
        moved = point.images + weight * (stepped - point.images)
        moved = restrict(moved + (1 - weight) * (point.images - climb.previous))
        new = evaluate(jnp.where(per_sample(is_moving, images), moved, point.images))
        is_wrong = new.labels != labels
        was_wrong = climb.returned.labels != labels
        is_higher = (is_wrong == was_wrong) & (new.loss > climb.returned.loss)
        is_better = is_moving & ((is_wrong & ~was_wrong) | is_higher)
        return climb._replace(
            step=climb.step + 1,
            point=new,
            previous=point.images,
            best=_choose(new.loss > climb.best.loss, new, climb.best),
            returned=_choose(is_better, new, climb.returned),
            rises=climb.rises + (new.loss > point.loss),
            num_gradients=climb.num_gradients + is_moving,
        )

    window = jnp.asarray(_windows(num_steps))
    first = evaluate(start)
    is_clean = jax.vmap(norm.measure)(start - images) == 0
    already = (first.labels != labels) & is_clean
    begin = _Climb(
        step=jnp.zeros((), jnp.int32),
        point=first,
        previous=start,
        best=first,
        returned=first,
        step_size=2 * epsilon,
        rises=jnp.zeros(labels.shape, jnp.int32),
        halved=jnp.zeros(labels.shape, bool),
        record=first.loss,
        num_gradients=jnp.ones(labels.shape, jnp.int32),
    )
    climbed = lax.while_loop(
        is_running,
        lambda climb: _reconsider(advance(climb), window, min_rises),
        begin,
    )
    last = climbed.returned
    return attack_result(
        images,
        last.images,
        is_flat(last.gradient, norm),
        last.labels,
        labels,
        already,
        epsilon=epsilon,
        norm=norm,
        num_gradients=climbed.num_gradients,
    )


def _reconsider(climb: _Climb, window: Array, min_rises: float | Array) -> _Climb:
    """Halve step sizes that stopped helping at a checkpoint; reset to the best point.

    Algorithm 1 of arXiv 2003.01690, lines 13 to 17. A step size is halved if less than
    the fraction ``min_rises`` of the steps raised the loss, or if the best loss did not
    increase and the step size was not halved at the last checkpoint.
    """
    length = window[climb.step]
    is_checkpoint = length > 0
    is_stuck = ~climb.halved & (climb.best.loss <= climb.record)
    halve = (climb.rises < min_rises * length) | is_stuck
    halve_now = halve & is_checkpoint
    return climb._replace(
        point=_choose(halve_now, climb.best, climb.point),
        step_size=jnp.where(halve_now, climb.step_size / 2, climb.step_size),
        rises=jnp.where(is_checkpoint, 0, climb.rises),
        halved=jnp.where(is_checkpoint, halve, climb.halved),
        record=jnp.where(is_checkpoint, climb.best.loss, climb.record),
    )


def _choose(where: Array, one: _Point, other: _Point) -> _Point:
    return jax.tree.map(lambda a, b: jnp.where(per_sample(where, a), a, b), one, other)


def _windows(num_steps: int) -> np.ndarray:
    """Return the number of steps since the previous checkpoint, at each checkpoint.

    The result is ``[num_steps + 1]`` int32, zero at all other steps.
    """
    steps = checkpoints(num_steps)
    window = np.zeros(num_steps + 1, np.int32)
    window[steps] = np.diff([0, *steps])
    return window


def autoattack_small(
    key: Array,
    apply_fn: ApplyFn,
    variables: PyTree,
    images: Array,
    labels: Array,
    *,
    epsilon: float | Array,
    num_steps: int = 100,
    num_targets: int = 9,
    norm: Norm = linf,
    bounds: tuple[float, float] = (0.0, 1.0),
    batch_size: int = 128,
) -> AttackResult:
    """Attack by APGD on cross-entropy, then on targeted DLR losses.

    This is the white-box half of AutoAttack. The first attack runs on every sample that
    is classified correctly. Then one attack per target runs on the samples that still
    are; the targets are the other classes, in descending order of the clean logits.
    A sample's first success is returned, so the success rate is the worst case over all
    attacks. Each attack starts from its own point, drawn uniformly from the ball. FAB
    and Square, the other half, are missing: a model that hides its gradients (rounding,
    noise, zero gradients) looks more robust here than under the full AutoAttack, so
    read the statuses.

    Args:
      key: PRNG key for the random starts; consumed.
      apply_fn: ``(variables, images [B, ...]) -> logits [B, C]``, evaluation mode.
      variables: any pytree.
      images: ``[B, ...]`` clean float images within ``bounds``.
      labels: ``[B]`` labels to move away from.
      epsilon: radius in units of ``norm``. May be traced.
      num_steps: maximum number of gradient steps per attack.
      num_targets: number of targeted attacks, capped at ``C - 1``; 0 for none.
      norm: the ball's norm.
      bounds: smallest and largest pixel value.
      batch_size: samples attacked at a time; changes memory, not values.

    Returns:
      One row per sample, in the order given.

    Raises:
      InputError: the causes listed for :func:`unlearn_jax.attacks.pgd`, unusable
        sizes, or targeted attacks with fewer than four classes, for which their loss is
        undefined.
    """
    check_attacked(apply_fn, variables, images, labels, bounds)
    check_functions(norm=norm)
    check_autoattack(epsilon, num_steps, num_targets, batch_size)
    num_classes = jax.eval_shape(apply_fn, variables, images[:1]).shape[-1]
    if num_targets and num_classes < 4:
        raise InputError(
            f"the targeted DLR loss needs four classes, there are {num_classes}: pass"
            " num_targets=0, or use apgd with loss=difference_of_logits_ratio"
        )
    batch_size = min(batch_size, len(images))
    images = widened(images)
    labels = labels.astype(jnp.int32)

    def attack_batch(images: Array, labels: Array, start: Array) -> AttackResult:
        return apgd(
            apply_fn,
            variables,
            images,
            labels,
            start,
            epsilon=epsilon,
            num_steps=num_steps,
            norm=norm,
            bounds=bounds,
        )

    def attack_target(
        images: Array, labels: Array, start: Array, targets: Array
    ) -> AttackResult:
        def loss(logits: Array, labels: Array) -> Array:
            return targeted_difference_of_logits_ratio(logits, labels, targets)

        return apgd(
            apply_fn,
            variables,
            images,
            labels,
            start,
            epsilon=epsilon,
            num_steps=num_steps,
            norm=norm,
            bounds=bounds,
            loss=loss,
        )

    def starts(stage: Array | int) -> Array:
        key_stage = jax.random.fold_in(key, stage)
        return random_start(
            key_stage, images, epsilon=epsilon, norm=norm, bounds=bounds
        )

    logits = lax.map(
        lambda image: apply_fn(variables, image[None])[0], images, batch_size=batch_size
    )
    is_label = jax.nn.one_hot(labels, num_classes, dtype=bool)
    ranks = jnp.argsort(jnp.where(is_label, -jnp.inf, logits), descending=True)
    result = retry_failures(
        attack_batch,
        _unattacked(images, logits, labels, epsilon),
        images,
        labels,
        starts(0),
        batch_size=batch_size,
    )
    if num_targets == 0:
        return result

    def attack_rank(rank: Array, result: AttackResult) -> AttackResult:
        return retry_failures(
            attack_target,
            result,
            images,
            labels,
            starts(1 + rank),
            ranks[:, rank],
            batch_size=batch_size,
        )

    return lax.fori_loop(0, min(num_targets, num_classes - 1), attack_rank, result)


def check_autoattack(
    epsilon: float | Array, num_steps: int, num_targets: int, batch_size: int
) -> None:
    """Raise on unusable sizes of :func:`autoattack_small`.

    Raises:
      InputError: sizes below 1, a negative number of targets, or a radius that is not
        positive.
    """
    check_counts(num_steps=num_steps, batch_size=batch_size)
    check_counts(0, num_targets=num_targets)
    check_positive(epsilon=epsilon)


def _unattacked(
    images: Array, logits: Array, labels: Array, epsilon: float | Array
) -> AttackResult:
    """Return clean images as the result of an attack that has not begun."""
    predicted = predict_class(logits)
    is_undefined = predicted == UNDEFINED
    is_wrong = ~is_undefined & (predicted != labels)
    status = jnp.where(is_wrong, Status.ALREADY_WRONG, Status.NOT_FOUND)
    return unattacked(images, labels)._replace(
        labels=jnp.where(is_undefined, labels, predicted),
        epsilon=jnp.where(is_wrong, 0.0, epsilon).astype(images.dtype),
        status=status.astype(jnp.int32),
    )
