"""Projected gradient descent in a norm ball (Madry et al., arXiv 1706.06083), untargeted, on a whole batch."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from unlearn_jax.attacks.norms import Norm, l2
from unlearn_jax.losses import log_odds
from unlearn_jax.types import ApplyFn, Array, AttackResult, InputError, PyTree, Status

Keep = Literal["first", "last"]


def check_images(images: Array, bounds: tuple[float, float]) -> None:
    """Refuses images outside ``bounds``, or not float; does nothing on traced arrays.

    Raises:
      InputError: integer images, NaN, or values outside the bounds.
    """
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise InputError(
            f"attacks take float images in {list(bounds)}, not {images.dtype}: divide"
            " uint8 images by 255"
        )
    if isinstance(images, Tracer):
        return
    low, high = float(np.min(np.asarray(images))), float(np.max(np.asarray(images)))
    if not (low >= bounds[0] and high <= bounds[1]):
        raise InputError(
            f"attacks take images in {list(bounds)}, these span [{low:.4g},"
            f" {high:.4g}]: scale them, and put any normalization inside the model"
        )


class _Point(NamedTuple):
    """Iterates with what the model says of them: ``images [B, ...]``, ``gradient`` alike, ``labels [B]``."""

    images: Array
    gradient: Array
    labels: Array


def pgd(
    apply_fn: ApplyFn,
    variables: PyTree,
    x: Array,
    y: Array,
    start: Array,
    *,
    epsilon: Array | float,
    num_steps: int = 50,
    step_ratio: Array | float = 0.1,
    norm: Norm = l2,
    bounds: tuple[float, float] = (0.0, 1.0),
    loss: Callable[[Array, Array], Array] = log_odds,
    keep: Keep = "first",
) -> AttackResult:
    """Moves each image up the loss, inside its ball and the image box, until its predicted class changes.

    One step is ``project(z + step_ratio * epsilon * direction(gradient))`` followed by
    clipping to ``bounds``. A sample's path does not depend on the rest of the batch.
    Loops over steps inside the compiled program and stops once every sample is
    misclassified; may be jitted, vmapped over ``epsilon`` or over models.

    Args:
      apply_fn: ``(variables, images [B, ...]) -> logits [B, C]``, evaluation mode.
      variables: first argument of ``apply_fn``, opaque.
      x: ``[B, ...]`` clean float images within ``bounds``: centers of the balls.
      y: ``[B]`` integer labels to leave.
      start: ``[B, ...]`` first iterates; ``x`` itself, or :func:`random_start`.
      epsilon: radius, ``[]`` or ``[B]``, in units of ``norm``.
      num_steps: gradient steps at most.
      step_ratio: step length over ``epsilon``.
      norm: the ball's norm.
      bounds: the image box.
      loss: ``(logits [B, C], y [B]) -> [B]``, to be increased. The default has
        cross-entropy's direction without its underflow on confident samples.
      keep: ``"first"`` returns the first misclassified iterate, ``"last"`` takes all
        steps.

    Returns:
      The result; ``epsilon`` holds the given radius (0 for ``ALREADY_WRONG``). Failures
      keep their last iterate.

    Raises:
      InputError: concrete images that are not float, NaN or outside ``bounds``.
    """
    check_images(x, bounds)
    epsilon = jnp.broadcast_to(jnp.asarray(epsilon, x.dtype), y.shape)

    def spread(values: Array) -> Array:
        return values.reshape(values.shape + (1,) * (x.ndim - 1))

    def evaluate(images: Array) -> _Point:
        def total(images: Array) -> tuple[Array, Array]:
            logits = apply_fn(variables, images)
            return jnp.sum(loss(logits, y)), jnp.argmax(logits, -1).astype(jnp.int32)

        gradient, labels = jax.grad(total, has_aux=True)(images)
        return _Point(images, gradient, labels)

    def move(point: _Point) -> Array:
        step = spread(jnp.asarray(step_ratio, x.dtype) * epsilon) * jax.vmap(
            norm.direction
        )(point.gradient)
        delta = jax.vmap(norm.project)(point.images + step - x, epsilon)
        return jnp.clip(x + delta, *bounds)

    def still(point: _Point) -> Array:
        return already if keep == "last" else point.labels != y

    def advance(carry: tuple[Array, _Point]) -> tuple[Array, _Point]:
        step, point = carry
        return step + 1, evaluate(
            jnp.where(spread(still(point)), point.images, move(point))
        )

    first = evaluate(start)
    already = (first.labels != y) & (jax.vmap(norm.measure)(start - x) == 0)
    _, last = lax.while_loop(
        lambda carry: (carry[0] < num_steps) & ~jnp.all(still(carry[1])),
        advance,
        (jnp.zeros((), jnp.int32), first),
    )
    dead = jax.vmap(lambda g: jnp.all(norm.direction(g) == 0))(last.gradient)
    status = jnp.select(
        [already, last.labels != y, dead],
        [
            jnp.int32(Status.ALREADY_WRONG),
            jnp.int32(Status.FOUND),
            jnp.int32(Status.ZERO_GRADIENT),
        ],
        jnp.int32(Status.NOT_FOUND),
    )
    return AttackResult(
        images=last.images,
        labels=last.labels,
        epsilon=jnp.where(already, 0.0, epsilon),
        distance=jax.vmap(norm.measure)(last.images - x),
        status=status,
    )


def fast_gradient(
    apply_fn: ApplyFn,
    variables: PyTree,
    x: Array,
    y: Array,
    *,
    epsilon: Array | float,
    norm: Norm = l2,
) -> AttackResult:
    """One gradient step of length ``epsilon`` (Goodfellow et al., arXiv 1412.6572): FGSM for ``norm=linf``.

    Arguments and result as in :func:`pgd`.
    """
    return pgd(
        apply_fn,
        variables,
        x,
        y,
        x,
        epsilon=epsilon,
        num_steps=1,
        step_ratio=1.0,
        norm=norm,
    )


def random_start(
    key: Array,
    x: Array,
    *,
    epsilon: Array | float,
    norm: Norm = l2,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Array:
    """Points drawn uniformly from the balls around ``x`` and clipped to the image box.

    Args:
      key: consumed.
      x: ``[B, ...]`` clean images.
      epsilon: radius, ``[]`` or ``[B]``.
      norm: the ball's norm.
      bounds: the image box.

    Returns:
      ``[B, ...]``, each within ``epsilon`` of its image.
    """
    epsilon = jnp.broadcast_to(jnp.asarray(epsilon, x.dtype), x.shape[:1])
    keys = jax.random.split(key, len(x))
    delta = jax.vmap(lambda k, e: norm.project(e * norm.sample(k, x.shape[1:]), e))(
        keys, epsilon
    )
    return jnp.clip(x + delta, *bounds)
