"""Measures of a federated model: masked means, Yeom's attack, overlap, recovery."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.core import Tracer

from unlearn_jax.checks import check_counts, check_mask, check_range, check_shape
from unlearn_jax.types import Array, InputError


def mean_over(values: Array, mask: Array) -> Array:
    """Return the mean ``[]`` of the values in a mask; the others are not read.

    The mean of an empty mask is NaN.

    Args:
      values: ``[N]`` reals or booleans.
      mask: ``[N]`` bool; may be traced.

    Raises:
      InputError: values or a mask that are not one per sample.

    >>> float(mean_over(jnp.array([1.0, 0.0, jnp.nan]), jnp.array([True, True, False])))
    0.5
    """
    values = jnp.asarray(values)
    mask = jnp.asarray(mask)
    check_shape("values", values, (None,))
    check_mask("a mask of values", mask, len(values))
    return jnp.sum(jnp.where(mask, values.astype(jnp.float32), 0.0)) / jnp.sum(mask)


def yeom(losses: Array, forget: Array, retain: Array) -> Array:
    """Return the fraction ``[]`` of forget samples with a loss below the retain mean.

    Yeom et al., arXiv 1709.01604. Compare it with the retrained model's fraction.

    Args:
      losses: ``[N]`` losses of the samples.
      forget: ``[N]`` bool, the forget set.
      retain: ``[N]`` bool, the members.

    Raises:
      InputError: losses or masks that are not one per sample, or (unless traced) a loss
        of either set that is NaN.

    >>> forget = jnp.array([True, True, False, False])
    >>> float(yeom(jnp.array([0.1, 0.9, 0.2, 0.4]), forget, ~forget))
    0.5
    """
    losses = jnp.asarray(losses)
    forget = jnp.asarray(forget)
    threshold = mean_over(losses, retain)
    is_read = forget | jnp.asarray(retain)
    is_nan = jnp.any(jnp.isnan(losses) & is_read)
    if not isinstance(is_nan, Tracer) and is_nan:
        raise InputError("losses contain NaN: the model has diverged")
    return mean_over(losses < threshold, forget)


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
      IoU and Dice per class.

    Raises:
      InputError: maps of different shapes, or classes outside 0..C-1.

    >>> overlap(jnp.array([[[0, 1]]]), jnp.array([[[1, 1]]]), 3).iou.tolist()
    [0.0, 0.5, nan]
    """
    check_counts(num_classes=num_classes)
    predicted = jnp.asarray(predicted)
    labels = jnp.asarray(labels)
    if predicted.shape != labels.shape or labels.ndim != 3:
        raise InputError(
            f"class maps must be [N, H, W], both of the same shape, got"
            f" {predicted.shape} and {labels.shape}"
        )
    for name, classes in (("predicted", predicted), ("labels", labels)):
        if not jnp.issubdtype(classes.dtype, jnp.integer):
            raise InputError(f"{name} are {classes.dtype}: pass integer classes")
        check_range(classes, num_classes, name)
    mask = jnp.ones(len(labels), bool) if mask is None else jnp.asarray(mask)
    check_mask("a mask of images", mask, len(labels))
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
      values: ``[..., T]`` values after rounds 1..T, larger is better. NaN, of a model
        that diverged, reaches no target.
      target: ``[...]`` targets, or a scalar for all.

    Returns:
      ``[...]`` int, the number of rounds (T if the target was never reached), and
      ``[...]`` bool, whether the target was reached.

    Raises:
      InputError: no rounds, or targets that are NaN or of another shape.

    >>> rounds, reached = rounds_to_reach([[0.1, 0.9, 0.8], [0.1, 0.2, 0.3]], 0.8)
    >>> rounds.tolist(), reached.tolist()
    ([2, 3], [True, False])
    """
    values = np.asarray(values)
    if values.ndim < 1 or values.shape[-1] == 0:
        raise InputError("there are no rounds: pass values [..., T] with T at least 1")
    target = np.asarray(target)
    if target.ndim:
        check_shape("target", target, values.shape[:-1])
    if np.isnan(target).any():
        raise InputError("a target is NaN: no value reaches it")
    is_good = values >= target[..., None]
    reached = np.asarray(is_good.any(-1))
    return np.where(reached, is_good.argmax(-1) + 1, values.shape[-1]), reached
