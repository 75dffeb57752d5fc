"""Projected gradient descent in a norm ball (Madry et al., arXiv 1706.06083)."""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import chex
import jax
import jax.numpy as jnp
from jax import lax

from unlearn_jax.attacks.norms import Norm, l2
from unlearn_jax.attacks.parameters import check_bounds, check_functions
from unlearn_jax.checks import (
    check_choice,
    check_counts,
    check_not_negative,
    check_samples,
)
from unlearn_jax.losses import log_odds
from unlearn_jax.types import (
    ApplyFn,
    Array,
    AttackResult,
    Dataset,
    InputError,
    PyTree,
    Status,
    check_apply_fn,
)

Keep = Literal["first", "last"]
AttackLoss = Callable[[Array, Array], Array]
"""``(logits [B, C], labels [B]) -> [B]``, loss to be increased."""


UNDEFINED = -1
"""Class assigned to logits that are not finite; it differs from every label."""


def check_attacked(
    apply_fn: ApplyFn,
    variables: PyTree,
    images: Array,
    labels: Array,
    bounds: tuple[float, float],
) -> None:
    """Raise unless a model can be attacked with these images and labels.

    Traced arrays are checked by shape and type only.

    Raises:
      InputError: ``apply_fn`` is not a function or does not return logits; images or
        labels that are not arrays, are empty, have a wrong type or are out of range; or
        not one label per image.
    """
    check_apply_fn(apply_fn)
    check_bounds(bounds)
    dtype = getattr(images, "dtype", jnp.float32)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise InputError(
            f"attacks take float images in {list(bounds)}, not {dtype}: divide"
            " uint8 images by 255"
        )
    samples = Dataset(images, labels)
    check_samples(apply_fn, variables, samples, "attack", bounds=bounds)


def widened(images: Array) -> Array:
    """Return images as an array of float32 or wider.

    The arithmetic of 16 bits would leave the balls, and distances are float32.
    """
    images = jnp.asarray(images)
    return images.astype(jnp.promote_types(images.dtype, jnp.float32))


def predict_class(logits: Array) -> Array:
    """Return the class ``[...]`` int32 of logits ``[..., C]``.

    The class is ``UNDEFINED`` where the largest logit is not finite. Other logits may
    be minus infinity, which rules out their classes.
    """
    chosen = jnp.argmax(logits, -1).astype(jnp.int32)
    return jnp.where(jnp.isfinite(jnp.max(logits, -1)), chosen, UNDEFINED)


def predicted_classes(
    apply_fn: ApplyFn, variables: PyTree, images: Array, batch_size: int
) -> Array:
    """Return the class ``[B]`` int32 of every image, each classified as a batch of one.

    Args:
      apply_fn: ``(variables, images [B, ...]) -> logits [B, C]``, evaluation mode.
      variables: any pytree.
      images: ``[B, ...]`` float images.
      batch_size: images classified at a time; changes memory, not values.
    """

    def classify_one(image: Array) -> Array:
        return predict_class(apply_fn(variables, image[None])[0])

    return lax.map(classify_one, images, batch_size=min(batch_size, len(images)))


def class_margin(logits: Array, labels: Array) -> Array:
    """Return the margin ``z_y - max_{i != y} z_i`` of the labels.

    Args:
      logits: ``[..., C]`` logits.
      labels: ``[...]`` integer classes.

    Returns:
      ``[...]``, positive where the label is the prediction; minus infinity for labels
      that are not a class, such as -1.
    """
    is_label = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    of_label = jnp.sum(jnp.where(is_label, logits, 0.0), -1)
    of_label = jnp.where(jnp.any(is_label, -1), of_label, -jnp.inf)
    return of_label - jnp.max(jnp.where(is_label, -jnp.inf, logits), -1)


def per_sample(numbers: Array, images: Array) -> Array:
    """Reshape one number per sample, ``[B]``, to broadcast against images."""
    return numbers.reshape(numbers.shape + (1,) * (images.ndim - 1))


def unattacked(images: Array, labels: Array) -> AttackResult:
    """Return the result before any attack: no examples found, no gradients spent."""
    zeros = jnp.zeros(labels.shape, images.dtype)
    return AttackResult(
        images=images,
        labels=labels,
        epsilon=zeros,
        distance=zeros,
        status=jnp.full(labels.shape, Status.NOT_FOUND, jnp.int32),
        num_gradients=jnp.zeros(labels.shape, jnp.int32),
    )


def is_flat(gradient: Array, norm: Norm) -> Array:
    """Return a mask ``[B]`` of gradients ``[B, ...]`` that are zero or not finite."""
    return jax.vmap(lambda one: jnp.all(norm.direction(one) == 0))(gradient)


def ascent_step(
    points: Array,
    gradient: Array,
    images: Array,
    *,
    step_size: Array,
    epsilon: Array,
    norm: Norm,
    bounds: tuple[float, float],
) -> Array:
    """Move points up a gradient, project them into their balls, and clip their pixels.

    Args:
      points: ``[B, ...]`` iterates.
      gradient: ``[B, ...]`` gradients of the loss at the points.
      images: ``[B, ...]`` centers of the balls.
      step_size: ``[B]`` length of the step, in units of ``norm``.
      epsilon: ``[B]`` radius.
      norm: norm of the balls.
      bounds: smallest and largest pixel value.

    Returns:
      ``[B, ...]``, ``clip(images + project(points + step - images))``.
    """
    step = per_sample(step_size, images) * jax.vmap(norm.direction)(gradient)
    delta = jax.vmap(norm.project)(points + step - images, epsilon)
    return jnp.clip(images + delta, *bounds)


def attack_result(
    images: Array,
    points: Array,
    flat: Array,
    predicted: Array,
    labels: Array,
    already: Array,
    *,
    epsilon: Array,
    norm: Norm,
    num_gradients: Array,
) -> AttackResult:
    """Build the result of an attack from its last iterates.

    Args:
      images: ``[B, ...]`` clean images.
      points: ``[B, ...]`` iterates to return.
      flat: ``[B]`` bool, :func:`is_flat` for the loss gradients at the points.
      predicted: ``[B]`` classes that the model assigns to the points, or ``UNDEFINED``.
      labels: ``[B]`` classes to move away from.
      already: ``[B]`` bool, True where the clean image was misclassified.
      epsilon: ``[B]`` radius.
      norm: norm of the balls.
      num_gradients: ``[B]`` int32, gradients spent on each sample.
    """
    status = jnp.select(
        [predicted == UNDEFINED, already, predicted != labels, flat],
        [
            jnp.int32(Status.NOT_FINITE),
            jnp.int32(Status.ALREADY_WRONG),
            jnp.int32(Status.FOUND),
            jnp.int32(Status.ZERO_GRADIENT),
        ],
        jnp.int32(Status.NOT_FOUND),
    )
    return AttackResult(
        images=points,
        labels=jnp.where(predicted == UNDEFINED, labels, predicted),
        epsilon=jnp.where(already, 0.0, epsilon),
        distance=jax.vmap(norm.measure)(points - images),
        status=status,
        num_gradients=num_gradients,
    )


class _Point(NamedTuple):
    """Iterates and their ``gradient``, ``[B, ...]``, with predicted classes ``labels``.

    ``is_flat`` marks iterates whose gradient has no direction: no step leaves them.
    """

    images: Array
    gradient: Array
    labels: Array
    is_flat: Array


class _Climb(NamedTuple):
    """State of the ascent after ``step`` steps and ``num_gradients [B]`` gradients."""

    step: Array
    point: _Point
    num_gradients: Array


def pgd(
    apply_fn: ApplyFn,
    variables: PyTree,
    images: Array,
    labels: Array,
    start: Array,
    *,
    epsilon: Array | float,
    num_steps: int = 50,
    step_ratio: Array | float = 0.1,
    norm: Norm = l2,
    bounds: tuple[float, float] = (0.0, 1.0),
    loss: AttackLoss = log_odds,
    keep: Keep = "first",
) -> AttackResult:
    """Ascend the loss inside a ball around each image until its class changes.

    One step is ``project(z + step_ratio * epsilon * direction(gradient))`` followed by
    clipping to ``bounds``. A sample's path does not depend on the rest of the batch.
    The loop over steps runs inside the compiled program. It stops once every sample is
    misclassified (with ``keep="last"``, at the clean image) or has a gradient without
    direction. The function may be jitted, and vmapped over ``epsilon`` or over models.

    Args:
      apply_fn: ``(variables, images [B, ...]) -> logits [B, C]``, evaluation mode.
      variables: first argument of ``apply_fn``, any pytree.
      images: ``[B, ...]`` clean float images within ``bounds``, the centers of the
        balls.
      labels: ``[B]`` integer labels to move away from.
      start: ``[B, ...]`` initial iterates: ``images``, or points drawn by
        :func:`random_start`.
      epsilon: radius, ``[]`` or ``[B]``, in units of ``norm``.
      num_steps: maximum number of gradient steps.
      step_ratio: step length over ``epsilon``, ``[]`` or ``[B]``.
      norm: the ball's norm.
      bounds: smallest and largest pixel value.
      loss: ``(logits [B, C], labels [B]) -> [B]``, loss to be increased. The default
        has cross-entropy's direction without its underflow on confident samples.
      keep: ``"first"`` returns the first misclassified iterate, ``"last"`` takes all
        steps.

    Returns:
      The result; ``epsilon`` holds the given radius (0 for ``ALREADY_WRONG``). Failures
      keep their last iterate.

    Raises:
      InputError: ``apply_fn`` is not a function or does not return logits; unusable
        images or labels; numbers that are negative or not finite; a norm that is not a
        :class:`unlearn_jax.attacks.Norm`; a loss that is not a function.
      AssertionError: ``start`` and ``images`` of different shapes.
    """
    check_attacked(apply_fn, variables, images, labels, bounds)
    check_functions(norm=norm, loss=loss)
    check_choice("keep", keep, get_args(Keep))
    check_counts(0, num_steps=num_steps)
    check_not_negative(epsilon=epsilon, step_ratio=step_ratio)
    chex.assert_equal_shape([images, start])
    images = widened(images)
    start = widened(start)
    epsilon = jnp.broadcast_to(jnp.asarray(epsilon, images.dtype), labels.shape)
    step_size = jnp.asarray(step_ratio, images.dtype) * epsilon

    def evaluate(points: Array) -> _Point:
        def total(points: Array) -> tuple[Array, Array]:
            logits = apply_fn(variables, points)
            chex.assert_rank(logits, 2)
            losses = loss(logits, labels)
            chex.assert_equal_shape([losses, labels])
            return jnp.sum(losses), predict_class(logits)

        gradient, predicted = jax.grad(total, has_aux=True)(points)
        return _Point(points, gradient, predicted, is_flat(gradient, norm))

    def is_done(point: _Point) -> Array:
        return point.is_flat | (already if keep == "last" else point.labels != labels)

    def is_running(climb: _Climb) -> Array:
        return (climb.step < num_steps) & ~jnp.all(is_done(climb.point))

    def advance(climb: _Climb) -> _Climb:
        point = climb.point
        moved = ascent_step(
            point.images,
            point.gradient,
            images,
            step_size=step_size,
            epsilon=epsilon,
            norm=norm,
            bounds=bounds,
        )
        done = is_done(point)
        moved = jnp.where(per_sample(done, images), point.images, moved)
        return _Climb(climb.step + 1, evaluate(moved), climb.num_gradients + ~done)

    first = evaluate(start)
    is_clean = jax.vmap(norm.measure)(start - images) == 0
    already = (first.labels != labels) & is_clean
    begin = _Climb(jnp.int32(0), first, jnp.ones(labels.shape, jnp.int32))
    last = lax.while_loop(is_running, advance, begin)
    return attack_result(
        images,
        last.point.images,
        last.point.is_flat,
        last.point.labels,
        labels,
        already,
        epsilon=epsilon,
        norm=norm,
        num_gradients=last.num_gradients,
    )


def fast_gradient(
    apply_fn: ApplyFn,
    variables: PyTree,
    images: Array,
    labels: Array,
    *,
    epsilon: Array | float,
    norm: Norm = l2,
    bounds: tuple[float, float] = (0.0, 1.0),
    loss: AttackLoss = log_odds,
) -> AttackResult:
    """Take one gradient step of length ``epsilon`` (FGSM for ``norm=linf``).

    Goodfellow et al., arXiv 1412.6572.

    Args:
      apply_fn: ``(variables, images [B, ...]) -> logits [B, C]``, evaluation mode.
      variables: any pytree.
      images: ``[B, ...]`` clean float images within ``bounds``.
      labels: ``[B]`` integer labels to move away from.
      epsilon: length of the step, ``[]`` or ``[B]``, in units of ``norm``.
      norm: norm of the step.
      bounds: smallest and largest pixel value.
      loss: ``(logits [B, C], labels [B]) -> [B]``, loss to be increased.

    Returns:
      A result like that of :func:`pgd`.

    Raises:
      InputError: the causes listed for :func:`pgd`.
    """
    return pgd(
        apply_fn,
        variables,
        images,
        labels,
        images,
        epsilon=epsilon,
        num_steps=1,
        step_ratio=1.0,
        norm=norm,
        bounds=bounds,
        loss=loss,
    )


def random_start(
    key: Array,
    images: Array,
    *,
    epsilon: Array | float,
    norm: Norm = l2,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Array:
    """Draw points uniformly from the balls around images, clipped to the bounds.

    Args:
      key: PRNG key; consumed.
      images: ``[B, ...]`` clean images.
      epsilon: radius, ``[]`` or ``[B]``.
      norm: the ball's norm.
      bounds: smallest and largest pixel value.

    Returns:
      ``[B, ...]``, each within ``epsilon`` of its image.

    Raises:
      InputError: a radius that is negative or not finite.
    """
    check_functions(norm=norm)
    check_not_negative(epsilon=epsilon)
    images = widened(images)
    epsilon = jnp.broadcast_to(jnp.asarray(epsilon, images.dtype), images.shape[:1])
    keys = jax.random.split(key, len(images))

    def draw(key: Array, radius: Array) -> Array:
        point = norm.sample(key, images.shape[1:]).astype(images.dtype)
        return norm.project(radius * point, radius)

    return jnp.clip(images + jax.vmap(draw)(keys, epsilon), *bounds)
