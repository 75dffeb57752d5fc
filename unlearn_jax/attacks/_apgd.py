"""Auto-PGD and a small AutoAttack (Croce and Hein, arXiv 2003.01690): attacks without a step size to choose."""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from unlearn_jax.attacks._pgd import check_images, random_start
from unlearn_jax.attacks.norms import Norm, linf
from unlearn_jax.attacks.search import NO_CLASS, in_batches
from unlearn_jax.losses import cross_entropy
from unlearn_jax.types import ApplyFn, Array, AttackResult, InputError, PyTree, Status

_SMALL = 1e-12


def difference_of_logits_ratio(logits: Array, label: Array) -> Array:
    """DLR loss, ``-(z_y - max_{i != y} z_i) / (z_(1) - z_(3))`` (arXiv 2003.01690, equation 6).

    Does not change when the logits are shifted or scaled, so that a confident model
    hides no gradient. Positive exactly where the label is not the prediction.

    Args:
      logits: ``[..., C]`` with ``C >= 3``.
      label: ``[...]`` integer classes to leave.

    Returns:
      ``[...]``, at most 1.

    >>> float(difference_of_logits_ratio(jnp.array([4.0, 2.0, 1.0]), jnp.array(0)))
    -0.666...
    """
    is_label = jax.nn.one_hot(label, logits.shape[-1], dtype=bool)
    own = jnp.sum(jnp.where(is_label, logits, 0.0), -1)
    other = jnp.max(jnp.where(is_label, -jnp.inf, logits), -1)
    largest = lax.top_k(logits, 3)[0]
    return -(own - other) / (largest[..., 0] - largest[..., 2] + _SMALL)


def targeted_difference_of_logits_ratio(
    logits: Array, label: Array, target: Array
) -> Array:
    """Targeted DLR loss, ``-(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2)`` (arXiv 2003.01690, equation 7).

    Args:
      logits: ``[..., C]`` with ``C >= 4``.
      label: ``[...]`` integer classes to leave.
      target: ``[...]`` integer classes to reach.

    Returns:
      ``[...]``.

    >>> float(targeted_difference_of_logits_ratio(jnp.array([4.0, 2.0, 1.0, 0.0]), jnp.array(0), jnp.array(2)))
    -0.857...
    """
    own, aim = (
        jax.nn.one_hot(chosen, logits.shape[-1], dtype=bool)
        for chosen in (label, target)
    )
    gap = jnp.sum(jnp.where(own, logits, 0.0), -1) - jnp.sum(
        jnp.where(aim, logits, 0.0), -1
    )
    largest = lax.top_k(logits, 4)[0]
    return -gap / (largest[..., 0] - (largest[..., 2] + largest[..., 3]) / 2 + _SMALL)


class _Point(NamedTuple):
    """Iterates ``images [B, ...]`` with ``gradient`` alike, ``loss [B]`` and ``labels [B]``."""

    images: Array
    gradient: Array
    loss: Array
    labels: Array


class _Climb(NamedTuple):
    """Where the ascent stands after ``step`` steps.

    ``best`` has the highest loss so far; ``kept`` is what will be returned. ``rises``
    counts the steps since the last checkpoint that raised the loss, ``halved`` and
    ``record`` are the last checkpoint's decision and highest loss.
    """

    step: Array
    point: _Point
    previous: Array
    best: _Point
    kept: _Point
    step_size: Array
    rises: Array
    halved: Array
    record: Array


def checkpoints(num_steps: int) -> list[int]:
    """The steps after which APGD reconsiders its step size (arXiv 2003.01690, section 3).

    Args:
      num_steps: budget.

    Returns:
      Increasing, each ``ceil(p_j * num_steps)`` with ``p_0 = 0``, ``p_1 = 0.22`` and
      ``p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06)``; 0 itself is left out.

    >>> checkpoints(100)
    [22, 41, 57, 70, 80, 87, 93, 99]
    """
    last, share, found = 0.0, 0.22, []
    while share <= 1:
        found.append(math.ceil(round(share * num_steps, 9)))
        last, share = share, share + max(share - last - 0.03, 0.06)
    return sorted(set(found))


def apgd(
    apply_fn: ApplyFn,
    variables: PyTree,
    x: Array,
    y: Array,
    start: Array,
    *,
    epsilon: Array | float,
    num_steps: int = 100,
    norm: Norm = linf,
    bounds: tuple[float, float] = (0.0, 1.0),
    loss: Callable[[Array, Array], Array] = cross_entropy,
    momentum: float = 0.75,
    min_rises: float = 0.75,
    keep: Literal["first", "best"] = "first",
) -> AttackResult:
    """Projected gradient ascent with momentum whose step, ``2 * epsilon`` at first, is halved where it stops paying.

    Algorithm 1 of arXiv 2003.01690. At each of the :func:`checkpoints` a sample's step
    is halved, and the ascent goes on from the best point so far, if fewer than
    ``min_rises`` of the steps since the last one raised the loss, or if neither the
    step nor the best loss changed since then. A sample's path does not depend on the
    rest of the batch. May be jitted, vmapped over ``epsilon`` or over models.

    Args:
      apply_fn: ``(variables, images [B, ...]) -> logits [B, C]``, evaluation mode.
      variables: opaque.
      x: ``[B, ...]`` clean float images within ``bounds``: centers of the balls.
      y: ``[B]`` integer labels to leave.
      start: ``[B, ...]`` first iterates; ``x`` itself, or
        :func:`unlearn_jax.attacks.random_start`.
      epsilon: radius, ``[]`` or ``[B]``, in units of ``norm``.
      num_steps: gradient steps at most.
      norm: the ball's norm.
      bounds: the image box.
      loss: ``(logits [B, C], y [B]) -> [B]``, to be increased;
        :func:`difference_of_logits_ratio` is the other one of the paper.
      momentum: weight of the new step, the rest goes to the last one (alpha).
      min_rises: share of rising steps below which the step is halved (rho).
      keep: ``"first"`` returns the first misclassified iterate and stops once every
        sample has one; ``"best"`` takes all steps and returns the misclassified iterate
        of the highest loss, for attacks that must transfer.

    Returns:
      The result, as of :func:`unlearn_jax.attacks.pgd`. Failures keep the iterate of
      the highest loss.

    Raises:
      InputError: concrete images that are not float, NaN or outside ``bounds``, no
        steps, or an unknown ``keep``.
    """
    check_images(x, bounds)
    if num_steps < 1 or keep not in ("first", "best"):
        raise InputError("APGD takes at least one step, and keeps 'first' or 'best'")
    epsilon = jnp.broadcast_to(jnp.asarray(epsilon, x.dtype), y.shape)

    def evaluate(images: Array) -> _Point:
        def total(images: Array) -> tuple[Array, tuple[Array, Array]]:
            logits = apply_fn(variables, images)
            losses = loss(logits, y)
            return jnp.sum(losses), (losses, jnp.argmax(logits, -1).astype(jnp.int32))

        gradient, (losses, labels) = jax.grad(total, has_aux=True)(images)
        return _Point(images, gradient, losses, labels)

    def restrict(images: Array) -> Array:
        return jnp.clip(x + jax.vmap(norm.project)(images - x, epsilon), *bounds)

    def done(climb: _Climb) -> Array:
        return (climb.kept.labels != y) if keep == "first" else already

    def advance(climb: _Climb) -> _Climb:
        here, moving = climb.point, ~done(climb)
        step = _spread(climb.step_size, x) * jax.vmap(norm.direction)(here.gradient)
        share = jnp.where(climb.step == 0, 1.0, momentum)
        moved = here.images + share * (restrict(here.images + step) - here.images)
        moved = restrict(moved + (1 - share) * (here.images - climb.previous))
        new = evaluate(jnp.where(_spread(moving, x), moved, here.images))
        wrong, was_wrong = new.labels != y, climb.kept.labels != y
        better = moving & (
            (wrong & ~was_wrong) | ((wrong == was_wrong) & (new.loss > climb.kept.loss))
        )
        return climb._replace(
            step=climb.step + 1,
            point=new,
            previous=here.images,
            best=_choose(new.loss > climb.best.loss, new, climb.best),
            kept=_choose(better, new, climb.kept),
            rises=climb.rises + (new.loss > here.loss),
        )

    window = jnp.asarray(_windows(num_steps))
    first = evaluate(start)
    already = (first.labels != y) & (jax.vmap(norm.measure)(start - x) == 0)
    no_rise, never = jnp.zeros(y.shape, jnp.int32), jnp.zeros(y.shape, bool)
    begin = _Climb(
        jnp.zeros((), jnp.int32),
        first,
        start,
        first,
        first,
        2 * epsilon,
        no_rise,
        never,
        first.loss,
    )
    last = lax.while_loop(
        lambda climb: (climb.step < num_steps) & ~jnp.all(done(climb)),
        lambda climb: _reconsider(advance(climb), window, min_rises),
        begin,
    ).kept
    dead = jax.vmap(lambda gradient: jnp.all(norm.direction(gradient) == 0))(
        last.gradient
    )
    status = jnp.select(
        [already, last.labels != y, dead],
        [
            jnp.int32(Status.ALREADY_WRONG),
            jnp.int32(Status.FOUND),
            jnp.int32(Status.ZERO_GRADIENT),
        ],
        jnp.int32(Status.NOT_FOUND),
    )
    distance = jax.vmap(norm.measure)(last.images - x)
    return AttackResult(
        last.images, last.labels, jnp.where(already, 0.0, epsilon), distance, status
    )


def _reconsider(climb: _Climb, window: Array, min_rises: float) -> _Climb:
    """At a checkpoint: halves the step of the samples for which it no longer pays, and sends them back to their best.

    Algorithm 1 of arXiv 2003.01690, lines 13 to 17: fewer than ``min_rises`` of the
    steps rose, or nothing was gained with a step that was not halved at the last
    checkpoint.
    """
    length = window[climb.step]
    stuck = ~climb.halved & (climb.best.loss <= climb.record)
    halve = (climb.rises < min_rises * length) | stuck
    halve_now = halve & (length > 0)
    return climb._replace(
        point=_choose(halve_now, climb.best, climb.point),
        step_size=jnp.where(halve_now, climb.step_size / 2, climb.step_size),
        rises=jnp.where(length > 0, 0, climb.rises),
        halved=jnp.where(length > 0, halve, climb.halved),
        record=jnp.where(length > 0, climb.best.loss, climb.record),
    )


def _spread(values: Array, images: Array) -> Array:
    return values.reshape(values.shape + (1,) * (images.ndim - 1))


def _choose(where: Array, one: _Point, other: _Point) -> _Point:
    return jax.tree.map(lambda a, b: jnp.where(_spread(where, a), a, b), one, other)


def _windows(num_steps: int) -> np.ndarray:
    """``[num_steps + 1]`` int32: at a checkpoint the number of steps since the last one, 0 elsewhere."""
    found = checkpoints(num_steps)
    window = np.zeros(num_steps + 1, np.int32)
    window[found] = np.diff([0, *found])
    return window


def autoattack_small(
    key: Array,
    apply_fn: ApplyFn,
    variables: PyTree,
    x: Array,
    y: Array,
    *,
    epsilon: float,
    num_steps: int = 100,
    num_targets: int = 9,
    norm: Norm = linf,
    bounds: tuple[float, float] = (0.0, 1.0),
    batch_size: int = 128,
) -> AttackResult:
    """The white-box half of AutoAttack: APGD on cross-entropy, then on the targeted DLR loss, worst case of all.

    The first attack goes for every sample that is classified correctly, the others only
    for those that still are: one attack per target, the classes in descending order of
    the clean logits. Each starts from a point of its own drawn uniformly from the ball.
    FAB and Square, the other half, are not there: a model that hides its gradients
    (rounding, noise, zero gradients) looks more robust here than under the whole of
    AutoAttack; look at the statuses.

    Args:
      key: for the starts; consumed.
      apply_fn: ``(variables, images [B, ...]) -> logits [B, C]``, evaluation mode.
      variables: opaque.
      x: ``[B, ...]`` clean float images within ``bounds``.
      y: ``[B]`` labels to leave.
      epsilon: radius in units of ``norm``.
      num_steps: of each attack.
      num_targets: targeted attacks; at most ``C - 1`` are made. 0 for none.
      norm: the ball's norm.
      bounds: the image box.
      batch_size: samples attacked at a time; changes memory, not values.

    Returns:
      One row per sample, in the order given.

    Raises:
      InputError: unusable images or sizes, or targets in fewer than four classes, where
        the targeted loss is undefined.
    """
    check_images(x, bounds)
    if min(num_steps, batch_size) < 1 or num_targets < 0 or epsilon <= 0:
        raise InputError(
            "epsilon, num_steps and batch_size must be positive, and num_targets not"
            " negative"
        )
    num_classes = jax.eval_shape(apply_fn, variables, x[:1]).shape[-1]
    if num_targets and num_classes < 4:
        raise InputError(
            f"the targeted DLR loss needs four classes, there are {num_classes}: pass"
            " num_targets=0, or use apgd with loss=difference_of_logits_ratio"
        )
    size, y = min(batch_size, len(x)), y.astype(jnp.int32)
    knobs = {"epsilon": epsilon, "num_steps": num_steps, "norm": norm, "bounds": bounds}

    def plain(images: Array, labels: Array, start: Array) -> AttackResult:
        return apgd(apply_fn, variables, images, labels, start, **knobs)

    def targeted(
        images: Array, labels: Array, start: Array, target: Array
    ) -> AttackResult:
        def loss(logits: Array, labels: Array) -> Array:
            return targeted_difference_of_logits_ratio(logits, labels, target)

        return apgd(apply_fn, variables, images, labels, start, loss=loss, **knobs)

    def starts(stage: Array | int) -> Array:
        return random_start(
            jax.random.fold_in(key, stage), x, epsilon=epsilon, norm=norm, bounds=bounds
        )

    logits = lax.map(
        lambda image: apply_fn(variables, image[None])[0], x, batch_size=size
    )
    ranks = jnp.argsort(
        jnp.where(jax.nn.one_hot(y, num_classes, dtype=bool), -jnp.inf, logits),
        descending=True,
    )
    result = _retry(plain, _clean(x, logits, y, epsilon), y, starts(0), batch_size=size)
    if num_targets == 0:
        return result

    def one_target(rank: Array, result: AttackResult) -> AttackResult:
        return _retry(
            targeted, result, y, starts(1 + rank), ranks[:, rank], x=x, batch_size=size
        )

    return lax.fori_loop(0, min(num_targets, num_classes - 1), one_target, result)


def _clean(x: Array, logits: Array, y: Array, epsilon: float) -> AttackResult:
    """Clean images as the result of an attack that has not begun."""
    labels = jnp.argmax(logits, -1).astype(jnp.int32)
    wrong = labels != y
    status = jnp.where(wrong, Status.ALREADY_WRONG, Status.NOT_FOUND).astype(jnp.int32)
    return AttackResult(
        x,
        labels,
        jnp.where(wrong, 0.0, epsilon).astype(x.dtype),
        jnp.zeros(y.shape, x.dtype),
        status,
    )


def _retry(
    attack_batch: Callable[..., AttackResult],
    result: AttackResult,
    y: Array,
    *rest: Array,
    x: Array | None = None,
    batch_size: int,
) -> AttackResult:
    """Attacks those without success once more, gathered into full batches; ``x`` defaults to the result's images."""
    x = result.images if x is None else x
    order = jnp.argsort(result.success)  # stable: the unsolved first
    labels = jnp.where(result.success, NO_CLASS, y)
    again = in_batches(
        attack_batch,
        x[order],
        labels[order],
        *(a[order] for a in rest),
        batch_size=batch_size,
    )
    back = jnp.argsort(order)

    def keep(old: Array, new: Array) -> Array:
        return jnp.where(
            result.success.reshape(-1, *(1,) * (old.ndim - 1)), old, new[back]
        )

    return jax.tree.map(keep, result, again)
