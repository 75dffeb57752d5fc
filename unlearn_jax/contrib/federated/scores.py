"""Measures of a federated model: masked means, Yeom's attack, overlap, recovery."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from unlearn_jax.types import Array, InputError


def mean_over(values: Array, mask: Array) -> Array:
    """Return the mean ``[]`` of the values in a mask; the others are not read.

    It is NaN where the mask is empty.

    Args:
      values: ``[N]`` reals or booleans.
      mask: ``[N]`` bool; may be traced.

    >>> float(mean_over(jnp.array([1.0, 0.0, jnp.nan]), jnp.array([True, True, False])))
    0.5
    """
    return jnp.sum(jnp.where(mask, values.astype(jnp.float32), 0.0)) / jnp.sum(mask)


def yeom(losses: Array, forget: Array, retain: Array) -> Array:
    """Return the fraction ``[]`` of forget samples with a loss below the retain mean.

    Yeom et al., arXiv 1709.01604. Compare it with the retrained model's fraction.

    Args:
      losses: ``[N]``.
      forget: ``[N]`` bool.
      retain: ``[N]`` bool, the members.

    >>> forget = jnp.array([True, True, False, False])
    >>> float(yeom(jnp.array([0.1, 0.9, 0.2, 0.4]), forget, ~forget))
    0.5
    """
    return mean_over(losses < mean_over(losses, retain), forget)


class Overlap(NamedTuple):
    """Overlap of predicted and true regions by class; NaN for a class in neither.

    Attributes:
      iou: ``[C]`` intersection over union, in [0, 1].
      dice: ``[C]`` twice the intersection over the sum of sizes, ``2 iou / (1 + iou)``.
    """

    iou: Array
    dice: Array


def overlap(
    predicted: Array, labels: Array, num_classes: int, mask: Array | None = None
) -> Overlap:
    """Return IoU and Dice of class maps, over all pixels of all images together.

    Args:
      predicted: ``[N, H, W]`` integer classes.
      labels: ``[N, H, W]`` integer classes, 0..C-1.
      num_classes: C.
      mask: ``[N]`` bool, the images to count; all if None. May be traced.

    Returns:
      Per class, see :class:`Overlap`.

    Raises:
      InputError: maps of different shapes.

    >>> overlap(jnp.array([[[0, 1]]]), jnp.array([[[1, 1]]]), 3).iou.tolist()
    [0.0, 0.5, nan]
    """
    if predicted.shape != labels.shape or labels.ndim != 3:
        raise InputError(
            f"class maps are [N, H, W], both of one shape; got {predicted.shape} and"
            f" {labels.shape}"
        )
    mask = jnp.ones(len(labels), bool) if mask is None else mask
    hits = jnp.broadcast_to(mask[:, None, None], labels.shape).astype(jnp.float32)
    table = jnp.zeros((num_classes, num_classes)).at[labels, predicted].add(hits)
    both = jnp.diag(table)
    sizes = jnp.sum(table, 0) + jnp.sum(table, 1)
    return Overlap(both / (sizes - both), 2 * both / sizes)


def rounds_to_reach(
    values: npt.ArrayLike, target: npt.ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of rounds after which a value first reaches its target.

    Args:
      values: ``[..., T]`` after rounds 1..T, larger is better.
      target: ``[...]``, or one for all.

    Returns:
      ``[...]`` int rounds, T where it was never reached, and ``[...]`` bool, whether it
      was.

    Raises:
      InputError: no rounds.

    >>> rounds, reached = rounds_to_reach([[0.1, 0.9, 0.8], [0.1, 0.2, 0.3]], 0.8)
    >>> rounds.tolist(), reached.tolist()
    ([2, 3], [True, False])
    """
    values = np.asarray(values)
    if values.ndim < 1 or values.shape[-1] == 0:
        raise InputError("there are no rounds: pass values [..., T] with T at least 1")
    is_good = values >= np.asarray(target)[..., None]
    reached = np.asarray(is_good.any(-1))
    return np.where(reached, is_good.argmax(-1) + 1, values.shape[-1]), reached
