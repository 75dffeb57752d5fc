"""AMUN's adversarial set D_A: for every sample the closest adversarial example, by a search over radii.

Algorithm 4 of *Toward Reliable Machine Unlearning* (arXiv 2512.06993), Algorithm 1 of
AMUN (arXiv 2503.00917): attack in a ball of radius ``epsilon_init``; where no other
class is found, double the radius and attack again.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from unlearn_jax.attacks._pgd import check_images, pgd
from unlearn_jax.types import ApplyFn, Array, AttackResult, InputError, PyTree, Status

Search = Literal["grid", "doubling"]
NO_CLASS = -1
"""A label that every prediction differs from: attacks are done with such a sample at once."""


def adversarial_set(
    apply_fn: ApplyFn,
    variables: PyTree,
    x: Array,
    y: Array,
    *,
    epsilon_init: float = 0.04,
    num_radii: int = 12,
    num_steps: int = 50,
    search: Search = "doubling",
    batch_size: int = 128,
    restart: bool = True,
    **attack: Any,
) -> AttackResult:
    """The closest adversarial example of every sample, over the radii ``epsilon_init * 2**k``, ``k < num_radii``.

    Both searches return the success in the smallest radius, and the same result where
    both apply:

    * ``"grid"`` attacks in all radii at once (``jax.vmap`` over radii, one trace):
      ``num_radii`` times the work of one attack, in one wide program, for accelerators.
    * ``"doubling"`` goes through the radii and gathers the samples still unsolved into
      full batches of fixed shape, so its work is about the number of radii a sample
      needs; the default, and far cheaper on CPU.

    Where no radius works the sample comes back with its last iterate and a status that
    says so; it is never dropped and the search never runs on (the released AMUN code
    has no last radius). May be jitted and mapped over models.

    Args:
      apply_fn: ``(variables, images [B, ...]) -> logits [B, C]``, evaluation mode.
      variables: opaque.
      x: ``[B, ...]`` clean float images in [0, 1].
      y: ``[B]`` labels to leave.
      epsilon_init: smallest radius; AMUN's is 0.04 for CIFAR-10 in L2.
      num_radii: how many radii; 12 from 0.04 reach 81.92, more than the diagonal of a
        CIFAR image (55.4).
      num_steps: gradient steps per radius.
      search: see above.
      batch_size: samples attacked at a time.
      restart: each radius starts from the clean image, as in the paper; False goes on
        from the last iterate, as the released code does (``"doubling"`` only).
      **attack: further arguments of :func:`unlearn_jax.attacks.pgd`: ``norm``,
      ``step_ratio``, ``loss``, ``keep``, ``bounds``.

    Returns:
      One row per sample, in the order given.

    Raises:
      InputError: unusable images, an unknown search, ``restart=False`` with ``"grid"``,
        or sizes below 1.
    """
    check_images(x, attack.get("bounds", (0.0, 1.0)))
    if search not in ("grid", "doubling"):
        raise InputError(f"unknown search {search!r}: choose 'grid' or 'doubling'")
    if search == "grid" and not restart:
        raise InputError(
            "the grid search attacks all radii at once and cannot go on from the last:"
            " use search='doubling'"
        )
    if min(num_radii, num_steps, batch_size) < 1 or epsilon_init <= 0:
        raise InputError(
            "epsilon_init, num_radii, num_steps and batch_size must be positive"
        )
    radii = epsilon_init * 2.0 ** jnp.arange(num_radii, dtype=x.dtype)

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
            **attack,
        )

    batch_size, y = min(batch_size, len(x)), y.astype(jnp.int32)
    if search == "grid":
        return in_batches(
            partial(_grid, attack_batch, radii), x, y, batch_size=batch_size
        )
    padding = -len(x) % batch_size
    x_padded = jnp.concatenate([x, jnp.zeros((padding, *x.shape[1:]), x.dtype)])
    y_padded = jnp.concatenate([y, jnp.full((padding,), NO_CLASS, jnp.int32)])
    result = _doubling(
        attack_batch, x_padded, y_padded, radii, batch_size=batch_size, restart=restart
    )
    return jax.tree.map(lambda leaf: leaf[: len(x)], result)


def in_batches(
    attack_batch: Callable[..., AttackResult],
    x: Array,
    y: Array,
    *rest: Array,
    batch_size: int,
) -> AttackResult:
    """Attacks batches of fixed shape, one after the other in one program.

    Args:
      attack_batch: ``(images, labels, *rest) -> AttackResult``; ``labels`` are
        ``NO_CLASS`` where the last batch is filled up, which an attack takes for
        misclassified and leaves alone.
      x: ``[B, ...]`` clean images.
      y: ``[B]`` int32 labels to leave.
      *rest: further arrays with a row per sample.
      batch_size: samples at a time.

    Returns:
      One row per sample.
    """
    batch_size = min(batch_size, len(x))
    position = jnp.arange(-(-len(x) // batch_size) * batch_size)
    row = position % len(x)
    labels = jnp.where(position < len(x), y[row], NO_CLASS)
    batches = [
        leaf.reshape(-1, batch_size, *leaf.shape[1:])
        for leaf in (x[row], labels, *(a[row] for a in rest))
    ]
    stacked = lax.map(lambda batch: attack_batch(*batch), batches)
    return jax.tree.map(
        lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[: len(x)], stacked
    )


def _grid(
    attack_batch: Any, radii: Array, images: Array, labels: Array
) -> AttackResult:
    results = jax.vmap(lambda radius: attack_batch(images, labels, images, radius))(
        radii
    )  # [K, B, ...]
    best = jnp.where(
        jnp.any(results.success, 0), jnp.argmax(results.success, 0), len(radii) - 1
    )
    return jax.tree.map(lambda leaf: leaf[best, jnp.arange(len(images))], results)


def _doubling(
    attack_batch: Any,
    x: Array,
    y: Array,
    radii: Array,
    *,
    batch_size: int,
    restart: bool,
) -> AttackResult:
    def attack_unsolved(k: Array, best: AttackResult) -> AttackResult:
        unsolved = ~best.success & (y >= 0)
        order = jnp.argsort(~unsolved)  # stable: the unsolved first, in their order
        count = jnp.sum(unsolved)

        def one_batch(b: Array, best: AttackResult) -> AttackResult:
            rows = lax.dynamic_slice(order, (b * batch_size,), (batch_size,))
            live = b * batch_size + jnp.arange(batch_size) < count
            start = x[rows] if restart else best.images[rows]
            found = attack_batch(
                x[rows], jnp.where(live, y[rows], NO_CLASS), start, radii[k]
            )
            rows = jnp.where(live, rows, len(x))  # out of range: dropped
            return jax.tree.map(
                lambda old, new: old.at[rows].set(new, mode="drop"), best, found
            )

        return lax.fori_loop(0, (count + batch_size - 1) // batch_size, one_batch, best)

    zeros = jnp.zeros(y.shape, x.dtype)
    nothing = AttackResult(
        x, y, zeros, zeros, jnp.full(y.shape, Status.NOT_FOUND, jnp.int32)
    )
    return lax.fori_loop(0, len(radii), attack_unsolved, nothing)


def status_counts(result: AttackResult) -> dict[str, int]:
    """How many samples ended in each :class:`unlearn_jax.types.Status`.

    Args:
      result: with concrete arrays, any leading axes.

    Returns:
      ``{status name in lower case: count}``, every status present.
    """
    values = np.asarray(result.status)
    return {status.name.lower(): int(np.sum(values == status)) for status in Status}
