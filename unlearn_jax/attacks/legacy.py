"""PGD as in the released code of LOTOS and FastClip, to compare with its numbers."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from unlearn_jax.attacks._pgd import (
    UNDEFINED,
    ascent_step,
    check_attacked,
    predict_class,
    widened,
)
from unlearn_jax.attacks.norms import linf
from unlearn_jax.attacks.search import in_batches
from unlearn_jax.checks import check_counts, check_not_negative, check_positive
from unlearn_jax.losses import cross_entropy
from unlearn_jax.types import ApplyFn, Array, AttackResult, InputError, PyTree, Status


def _project_exactly(delta: Array, radius: Array) -> Array:
    return jnp.clip(delta, -radius, radius)


_EXACT_LINF = linf._replace(project=_project_exactly, direction=jnp.sign)
"""L-infinity norm that projects exactly onto the ball, as in the released code.

The projection of :data:`unlearn_jax.attacks.linf` ends slightly inside the ball.
"""


def check_normalization(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """Raise on means or standard deviations that cannot normalize images.

    Raises:
      InputError: numbers that are not finite, a deviation that is not positive, or
        different numbers of means and deviations.
    """
    check_positive(std=std)
    if len(mean) != len(std) or not np.all(np.isfinite(mean)):
        raise InputError(
            "mean and std must be finite numbers, one of each per channel, got"
            f" {mean} and {std}"
        )


def legacy_pgd(
    key: Array,
    apply_fn: ApplyFn,
    variables: PyTree,
    images: Array,
    labels: Array,
    *,
    mean: tuple[float, ...] = (0.4914, 0.4822, 0.4465),
    std: tuple[float, ...] = (0.2023, 0.1994, 0.2010),
    epsilon: float | Array = 0.04,
    num_steps: int = 50,
    batch_size: int = 512,
) -> AttackResult:
    """Attack by the protocol of LOTOS's and FastClip's code, **not** a fair attack.

    In that code, the loader normalizes the images. PGD (cross-entropy, L-infinity, step
    ``epsilon / 10``, random start, all steps) runs on the normalized values
    ``(x - mean) / std`` but clips them to [0, 1]. So the radius is 0.04 of a standard
    deviation, about 2/255 in pixel units. The clipping moves every pixel below the
    mean, or more than a standard deviation above it, into that range, far outside the
    ball. Results are not comparable with those of an attack in [0, 1], not even in
    order of magnitude. The attacked model still takes images in [0, 1] and normalizes
    them itself.

    Args:
      key: PRNG key for the random starts; consumed.
      apply_fn: ``(variables, images [B, ...]) -> logits [B, C]``, evaluation mode.
      variables: any pytree.
      images: ``[B, ..., ch]`` clean float images in [0, 1].
      labels: ``[B]`` labels to move away from.
      mean: channel means; CIFAR-10's by default.
      std: channel standard deviations; CIFAR-10's by default.
      epsilon: radius in normalized units; 0.04 in LOTOS, 0.02 in FastClip.
      num_steps: number of gradient steps.
      batch_size: samples attacked at a time; changes memory, not values.

    Returns:
      One row per sample. ``epsilon`` and ``distance`` are both the L-infinity distance
      in pixel units, including the effect of the clipping. Images that are
      misclassified before and after are ``ALREADY_WRONG``, and are moved, too; those
      that the clipping puts right are ``NOT_FOUND``.

    Raises:
      InputError: unusable images, or a number of channels that differs from ``mean``'s.
      AssertionError: shapes that do not fit.
    """
    check_attacked(apply_fn, variables, images, labels, (0.0, 1.0))
    check_counts(num_steps=num_steps, batch_size=batch_size)
    check_not_negative(epsilon=epsilon)
    check_normalization(mean, std)
    images = widened(images)
    shift = np.asarray(mean, np.float32)
    scale = np.asarray(std, np.float32)
    if images.shape[-1] != len(shift):
        raise InputError(
            f"images have {images.shape[-1]} channels: give a mean and a deviation for"
            " each"
        )

    of_channels = (1,) * (images.ndim - 1) + (-1,)
    shift = shift.reshape(of_channels)
    scale = scale.reshape(of_channels)

    def to_pixels(values: Array) -> Array:
        return values * scale + shift

    def attack_batch(images: Array, labels: Array, noise: Array) -> AttackResult:
        clean = (images - shift) / scale
        predicted_clean = predict_class(apply_fn(variables, images))

        def total(values: Array) -> Array:
            logits = apply_fn(variables, to_pixels(values))
            return jnp.sum(cross_entropy(logits, labels))

        def advance(_: int, values: Array) -> Array:
            return ascent_step(
                values,
                jax.grad(total)(values),
                clean,
                step_size=jnp.broadcast_to(epsilon / 10, labels.shape),
                epsilon=jnp.broadcast_to(epsilon, labels.shape),
                norm=_EXACT_LINF,
                bounds=(0.0, 1.0),
            )

        start = jnp.clip(clean + noise, 0.0, 1.0)
        values = lax.fori_loop(0, num_steps, advance, start)
        logits = apply_fn(variables, to_pixels(values))
        predicted = predict_class(logits)
        is_undefined = (predicted == UNDEFINED) | (predicted_clean == UNDEFINED)
        status = jnp.select(
            [is_undefined, predicted == labels, predicted_clean != labels],
            [
                jnp.int32(Status.NOT_FINITE),
                jnp.int32(Status.NOT_FOUND),
                jnp.int32(Status.ALREADY_WRONG),
            ],
            jnp.int32(Status.FOUND),
        )
        predicted = jnp.where(is_undefined, labels, predicted)
        pixels = to_pixels(values)
        distance = jax.vmap(linf.measure)(pixels - images)
        spent = jnp.full(labels.shape, num_steps, jnp.int32)
        return AttackResult(pixels, predicted, distance, distance, status, spent)

    noise = jax.random.uniform(
        key, images.shape, images.dtype, minval=-epsilon, maxval=epsilon
    )
    labels = labels.astype(jnp.int32)
    return in_batches(attack_batch, images, labels, noise, batch_size=batch_size)
