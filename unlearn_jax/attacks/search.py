"""AMUN's adversarial set D_A: the closest adversarial example of every sample.

Algorithm 4 of *Toward Reliable Machine Unlearning* (arXiv 2512.06993), Algorithm 1 of
AMUN (arXiv 2503.00917): attack in a ball of radius ``epsilon_init``; where no other
class is found, double the radius and attack again.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from unlearn_jax.attacks._pgd import (
    AttackLoss,
    Keep,
    check_attacked,
    per_sample,
    pgd,
    unattacked,
    widened,
)
from unlearn_jax.attacks.minimal import linearized_set
from unlearn_jax.attacks.norms import Norm, l2
from unlearn_jax.attacks.parameters import check_functions
from unlearn_jax.checks import (
    check_choice,
    check_counts,
    check_not_negative,
    check_positive,
)
from unlearn_jax.losses import log_odds
from unlearn_jax.types import ApplyFn, Array, AttackResult, InputError, PyTree, Status

Search = Literal["grid", "doubling", "minimal"]
AttackBatch = Callable[..., AttackResult]
"""``(images [B, ...], labels [B], *rest) -> AttackResult`` of one batch."""

NO_CLASS = -2
"""A label that differs from every prediction, so that its sample takes no step."""


def adversarial_set(
    apply_fn: ApplyFn,
    variables: PyTree,
    images: Array,
    labels: Array,
    *,
    epsilon_init: float | Array = 0.04,
    num_radii: int = 12,
    num_steps: int = 50,
    step_ratio: float | Array = 0.1,
    norm: Norm = l2,
    bounds: tuple[float, float] = (0.0, 1.0),
    loss: AttackLoss = log_odds,
    keep: Keep = "first",
    search: Search = "doubling",
    batch_size: int = 128,
    restart: bool = True,
    num_linear: int = 30,
    num_polish: int = 10,
    overshoot: float | Array = 0.02,
    depth: float | Array = 0.0,
) -> AttackResult:
    """Find the closest adversarial example of every sample.

    The radii are ``epsilon_init * 2**k``, ``k < num_radii``. Two searches return the
    success in the smallest radius; with ``restart=True`` they find the same examples:

    * ``"grid"`` attacks in all radii at once (``jax.vmap`` over radii, one trace). It
      does ``num_radii`` times the work of one attack, in one wide program, for
      accelerators.
    * ``"doubling"`` tries one radius after another and gathers the samples still
      unsolved into full batches of fixed shape, so its work per sample is about the
      number of radii that the sample needs. It is the default, and far cheaper on CPU.

    Neither finds the closest example: the result lies up to a step beyond the point
    where the ascent happened to cross the boundary. The third search looks for the
    closest example:

    * ``"minimal"`` linearizes the margin to reach the boundary, then moves along the
      boundary toward the clean image (:mod:`unlearn_jax.attacks.minimal`). This takes
      about ``num_polish + 3`` gradients per sample. Doubling attacks the samples for
      which it finds no example within the last radius. ``epsilon`` is the smallest
      radius whose ball contains the example. This is not the published search: its
      examples are closer, and not as deep in the other class.

    If no radius works, the row of the sample holds its last iterate and its status. No
    sample is dropped, and the search always ends (the released AMUN code has no last
    radius). The function may be jitted, and mapped over models, ``epsilon_init``,
    ``step_ratio`` and ``depth``.

    Args:
      apply_fn: ``(variables, images [B, ...]) -> logits [B, C]``, evaluation mode.
      variables: any pytree.
      images: ``[B, ...]`` clean float images within ``bounds``.
      labels: ``[B]`` labels to move away from.
      epsilon_init: smallest radius, in units of ``norm``; AMUN's is 0.04 for CIFAR-10
        in L2. May be traced.
      num_radii: number of radii; 12 from 0.04 reach 81.92, more than the diagonal of a
        CIFAR image (55.4).
      num_steps: number of gradient steps per radius.
      step_ratio: step length over radius. May be traced.
      norm: norm of the balls.
      bounds: smallest and largest pixel value.
      loss: ``(logits [B, C], labels [B]) -> [B]``, loss to be increased.
      keep: ``"first"`` returns the first misclassified iterate, ``"last"`` takes all
        steps.
      search: ``"doubling"``, ``"grid"`` or ``"minimal"``. With ``"minimal"``,
        ``num_steps``, ``step_ratio``, ``loss`` and ``restart`` apply only to its
        doubling.
      batch_size: samples attacked at a time.
      restart: whether each radius starts from the clean image, as in the paper; False
        continues from the last iterate, as in the released code (``"doubling"`` only).
      num_linear: maximum number of linear steps to the boundary.
      num_polish: number of steps along the boundary; 0 for DeepFool.
      overshoot: fraction of the clean image's margin by which linear steps aim past the
        boundary.
      depth: fraction of the closest example's distance by which the result lies beyond
        it. For the closest example ``x'`` of the image ``x``, the result is
        ``x + (1 + depth) (x' - x)``, clipped to ``bounds``; it costs one more gradient.
        0 returns ``x'``. A result that is classified correctly or lies beyond the last
        radius is replaced by ``x'``. Examples found by doubling are not moved. May be
        traced.

    Returns:
      One row per sample, in the order given.

    Raises:
      InputError: ``apply_fn`` is not a function, unusable images, an unknown search,
        ``restart=False`` with ``"grid"``, ``keep="last"`` with ``"minimal"``, sizes
        that are not integers or below 1, or numbers that are negative or not finite.
      AssertionError: shapes that do not fit.
    """
    check_attacked(apply_fn, variables, images, labels, bounds)
    check_functions(norm=norm, loss=loss)
    check_choice("search", search, get_args(Search))
    check_choice("keep", keep, get_args(Keep))
    if search == "grid" and not restart:
        raise InputError(
            "the grid search attacks all radii at once and cannot continue from the"
            " last iterate: use search='doubling'"
        )
    check_counts(num_radii=num_radii, num_steps=num_steps, batch_size=batch_size)
    check_positive(epsilon_init=epsilon_init, step_ratio=step_ratio)
    check_minimal(num_linear, num_polish, overshoot, depth)
    if search == "minimal":
        check_keep(keep)
    images = widened(images)
    labels = jnp.asarray(labels, jnp.int32)
    radii = epsilon_init * 2.0 ** jnp.arange(num_radii, dtype=images.dtype)

    def attack_batch(
        images: Array, labels: Array, start: Array, radius: Array
    ) -> AttackResult:
        return pgd(
            apply_fn,
            variables,
            images,
            labels,
            start,
            epsilon=radius,
            num_steps=num_steps,
            step_ratio=step_ratio,
            norm=norm,
            bounds=bounds,
            loss=loss,
            keep=keep,
        )

    batch_size = min(batch_size, len(images))
    if search == "grid":
        attack_grid = partial(_grid, attack_batch, radii)
        return in_batches(attack_grid, images, labels, batch_size=batch_size)
    first = unattacked(images, labels)
    if search == "minimal":
        first = linearized_set(
            apply_fn,
            variables,
            images,
            labels,
            radii=radii,
            norm=norm,
            bounds=bounds,
            num_linear=num_linear,
            num_polish=num_polish,
            overshoot=overshoot,
            depth=depth,
            batch_size=batch_size,
        )
    return _doubling(
        attack_batch,
        first,
        images,
        labels,
        radii,
        batch_size=batch_size,
        restart=restart,
    )


def check_minimal(
    num_linear: int, num_polish: int, overshoot: float | Array, depth: float | Array
) -> None:
    """Raise on hyperparameters that the minimal search cannot use.

    Raises:
      InputError: no linear step, a number of steps that is negative or not an integer,
        a depth that is negative or not finite, or an overshoot that is not positive.
    """
    check_counts(num_linear=num_linear)
    check_counts(0, num_polish=num_polish)
    check_positive(overshoot=overshoot)
    check_not_negative(depth=depth)


def check_keep(keep: Keep) -> None:
    """Raise unless the minimal search may return the closest example.

    Raises:
      InputError: ``keep="last"``.
    """
    if keep == "last":
        raise InputError(
            "the minimal search keeps the closest example: use keep='first', and depth"
            " for examples beyond the boundary"
        )


def in_batches(
    attack_batch: AttackBatch,
    images: Array,
    labels: Array,
    *rest: Array,
    batch_size: int,
) -> AttackResult:
    """Attack batches of fixed shape, one after another, in one program.

    Args:
      attack_batch: ``(images, labels, *rest) -> AttackResult``. Padding in the last
        batch has the label ``NO_CLASS``: attacks treat it as misclassified and take no
        step.
      images: ``[B, ...]`` clean images.
      labels: ``[B]`` int32 labels to move away from.
      *rest: further arrays with one row per sample.
      batch_size: number of samples per batch.

    Returns:
      One row per sample.
    """
    # rows of NumPy arrays cannot be gathered by a traced index
    images = widened(images)
    labels = jnp.asarray(labels)
    count = len(images)
    batch_size = min(batch_size, count)
    num_batches = -(-count // batch_size)
    position = jnp.arange(num_batches * batch_size)
    row = position % count
    padded = [images[row], jnp.where(position < count, labels[row], NO_CLASS)]
    padded += [jnp.asarray(array)[row] for array in rest]
    batches = [
        leaf.reshape(num_batches, batch_size, *leaf.shape[1:]) for leaf in padded
    ]
    stacked = lax.map(lambda batch: attack_batch(*batch), batches)

    def join(leaf: Array) -> Array:
        return leaf.reshape(-1, *leaf.shape[2:])[:count]

    return jax.tree.map(join, stacked)


def retry_failures(
    attack_batch: AttackBatch,
    result: AttackResult,
    images: Array,
    labels: Array,
    *rest: Array,
    batch_size: int,
) -> AttackResult:
    """Attack the failed samples again, gathered into full batches.

    Batches of samples that succeeded take no step, so the work is about that of
    attacking the failed samples alone.

    Args:
      attack_batch: ``(images, labels, *rest) -> AttackResult``.
      result: result of the previous attack.
      images: ``[B, ...]`` clean images.
      labels: ``[B]`` int32 labels to move away from.
      *rest: further arrays with one row per sample.
      batch_size: number of samples per batch.

    Returns:
      One row per sample; rows that succeeded before are unchanged.
    """
    order = jnp.argsort(result.success)  # stable: failed samples first, in order
    labels = jnp.where(result.success, NO_CLASS, labels)
    retried = in_batches(
        attack_batch,
        jnp.asarray(images)[order],
        labels[order],
        *(jnp.asarray(array)[order] for array in rest),
        batch_size=batch_size,
    )
    back = jnp.argsort(order)
    spent = retried.num_gradients + result.num_gradients[order]
    retried = retried._replace(num_gradients=spent)

    def choose(old: Array, new: Array) -> Array:
        return jnp.where(per_sample(result.success, old), old, new[back])

    return jax.tree.map(choose, result, retried)


def _grid(
    attack_batch: AttackBatch, radii: Array, images: Array, labels: Array
) -> AttackResult:
    """Attack one batch in all radii and return the success in the smallest one."""

    def attack_radius(radius: Array) -> AttackResult:
        return attack_batch(images, labels, images, radius)

    results = jax.vmap(attack_radius)(radii)  # [K, B, ...]
    smallest = jnp.argmax(results.success, 0)
    has_success = jnp.any(results.success, 0)
    best = jnp.where(has_success, smallest, len(radii) - 1)
    chosen = jax.tree.map(lambda leaf: leaf[best, jnp.arange(len(images))], results)
    return chosen._replace(num_gradients=jnp.sum(results.num_gradients, 0))


def _doubling(
    attack_batch: AttackBatch,
    first: AttackResult,
    images: Array,
    labels: Array,
    radii: Array,
    *,
    batch_size: int,
    restart: bool,
) -> AttackResult:
    """Attack one radius after another, each time only the samples still unsolved.

    Args:
      attack_batch: ``(images, labels, start, radius) -> AttackResult``.
      first: result before the first radius.
      images: ``[B, ...]`` clean images.
      labels: ``[B]`` int32 labels to move away from.
      radii: ``[K]`` ascending radii.
      batch_size: number of samples per batch.
      restart: whether each radius starts from the clean image.
    """
    count = len(images)
    num_padding = -count % batch_size

    def attack_unsolved(k: Array, best: AttackResult) -> AttackResult:
        unsolved = ~best.success
        order = jnp.argsort(~unsolved)  # stable: unsolved samples first, in order
        order = jnp.pad(order, (0, num_padding))
        num_unsolved = jnp.sum(unsolved)

        def attack_one_batch(b: Array, best: AttackResult) -> AttackResult:
            rows = lax.dynamic_slice(order, (b * batch_size,), (batch_size,))
            is_unsolved = b * batch_size + jnp.arange(batch_size) < num_unsolved
            start = images[rows] if restart else best.images[rows]
            to_leave = jnp.where(is_unsolved, labels[rows], NO_CLASS)
            result = attack_batch(images[rows], to_leave, start, radii[k])
            spent = best.num_gradients[rows] + result.num_gradients
            result = result._replace(num_gradients=spent)
            # Rows out of range are dropped: solved samples keep their result.
            rows = jnp.where(is_unsolved, rows, count)
            return jax.tree.map(
                lambda old, new: old.at[rows].set(new, mode="drop"), best, result
            )

        num_batches = (num_unsolved + batch_size - 1) // batch_size
        return lax.fori_loop(0, num_batches, attack_one_batch, best)

    return lax.fori_loop(0, len(radii), attack_unsolved, first)


def status_counts(result: AttackResult) -> dict[str, int]:
    """Count the samples of each :class:`unlearn_jax.types.Status`.

    Args:
      result: result with concrete arrays and any leading axes.

    Returns:
      ``{status name in lower case: count}``, with every status present.
    """
    values = np.asarray(result.status)
    return {status.name.lower(): int(np.sum(values == status)) for status in Status}
